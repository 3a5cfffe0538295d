"""Recipes of training software in YAML, each with the values that a person reads in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from joulecast.estimator.answer.parallel_config import config_notes, with_config
from joulecast.estimator.answer.request import Request
from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.cost.parallel.configs import read_config
from joulecast.estimator.cost.parallel.stated_run import StatedRun

AXOLOTL = """
base_model: some/model
sequence_len: 8192
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: adamw_torch_8bit
bf16: auto
gradient_checkpointing: true
max_grad_norm: 1.0
tensor_parallel_size: 2
context_parallel_size: 4
dp_shard_size: 4
fsdp_version: 2
fsdp_config: {offload_params: true, reshard_after_forward: true}
adapter: lora
"""
LLAMA_FACTORY = """
model_name_or_path: some/model
stage: sft
finetuning_type: full
cutoff_len: 4096
output_dir: out
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
bf16: true
tensor_model_parallel_size: 4
pipeline_model_parallel_size: 2
expert_model_parallel_size: 2
virtual_pipeline_model_parallel_size: 3
sequence_parallel: true
use_distributed_optimizer: true
recompute_granularity: selective
"""
NANOTRON = """
model: {dtype: bfloat16}
optimizer: {clip_grad: 1.0, optimizer_factory: {name: adamW}, zero_stage: 1}
parallelism: {dp: 8, tp: 4, pp: 2, expert_parallel_size: 1, tp_mode: REDUCE_SCATTER, recompute_layer: true}
tokens: {micro_batch_size: 3, batch_accumulation_per_replica: 5, sequence_length: 4096}
"""
MAXTEXT = """
base_config: base.yml
model_name: some-70b
per_device_batch_size: 0.5
max_target_length: 8192
remat_policy: save_qkv_proj
ici_fsdp_parallelism: 4
ici_tensor_parallelism: 2
dcn_tensor_parallelism: 2
dcn_data_parallelism: -1
quantization: fp8
opt_type: adam_pax
gradient_clipping_threshold: 0
"""
BRIDGE = """
dataset: {seq_length: 8192}
train: {global_batch_size: 256, micro_batch_size: 1}
model: {tensor_model_parallel_size: 4, pipeline_model_parallel_size: 8, virtual_pipeline_model_parallel_size: 5,
        context_parallel_size: 2, sequence_parallel: true}
mixed_precision: bf16_with_fp8_current_scaling_mixed
"""
NEMO = """
trainer: {devices: 8, num_nodes: 4, precision: bf16, gradient_clip_val: 1.0}
model:
  micro_batch_size: 4
  global_batch_size: 2048
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 1
  encoder_seq_length: 2048
  activations_checkpoint_granularity: selective
  optim: {name: distributed_fused_adam}
"""


def read(tmp_path: Path, text: str) -> StatedRun:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_config(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            AXOLOTL,
            StatedRun(
                "axolotl",
                parallel="tp=2,pp=1,cp=4",
                zero=3,
                activation_checkpointing="full",
                batch_size=2,
                accumulate=4,
                sequence_length=8192,
                precision="bf16",
                optimizer="adamw_8bit",
                clip_gradients=True,
                not_modelled=("offload_params",),
                trains_adapters=True,
            ),
        ),
        (
            LLAMA_FACTORY,
            StatedRun(
                "LLaMA-Factory",
                parallel="tp=4,pp=2,ep=2,vp=3,sp=1",
                zero=1,
                activation_checkpointing="selective",
                batch_size=2,
                accumulate=8,
                sequence_length=4096,
                precision="bf16",
                clip_gradients=True,
                software="megatron-core",
                trains_adapters=False,
            ),
        ),
        (
            NANOTRON,
            StatedRun(
                "nanotron",
                parallel="tp=4,pp=2,sp=1",
                zero=1,
                activation_checkpointing="full",
                batch_size=3,
                accumulate=5,
                sequence_length=4096,
                precision="bf16",
                optimizer="adamw",
                clip_gradients=True,
                devices=64,
            ),
        ),
        (
            MAXTEXT,  # half a sequence for each of the four devices that share a tensor: two for all of them
            StatedRun(
                "MaxText",
                parallel="tp=4,pp=1",
                zero=3,
                activation_checkpointing="selective",
                batch_size=2,
                sequence_length=8192,
                precision="fp8",
                optimizer="adamw",
                clip_gradients=False,
            ),
        ),
        (
            BRIDGE,
            StatedRun(
                "Megatron-Bridge",
                parallel="tp=4,pp=8,cp=2,vp=5,sp=1",
                batch_size=1,
                global_batch=256,
                sequence_length=8192,
                precision="fp8",
                software="megatron-core",
            ),
        ),
        (
            NEMO,
            StatedRun(
                "NeMo",
                parallel="tp=2,pp=1,sp=0",
                zero=1,
                activation_checkpointing="selective",
                batch_size=4,
                global_batch=2048,
                sequence_length=2048,
                precision="bf16",
                optimizer="adam",
                clip_gradients=True,
                software="megatron-core",
                devices=32,
            ),
        ),
    ],
)
def test_a_recipe(tmp_path: Path, text: str, expected: StatedRun) -> None:
    assert read(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "key", "value", "field", "stated"),
    [
        (AXOLOTL, "gradient_checkpointing", False, "activation_checkpointing", "none"),
        (AXOLOTL, "gradient_checkpointing", None, "activation_checkpointing", None),
        (AXOLOTL, "gradient_checkpointing", "offload", "activation_checkpointing", "full"),
        (AXOLOTL, "fsdp_config", {"reshard_after_forward": False}, "zero", 2),
        (AXOLOTL, "fp8", True, "precision", "fp8"),
        (AXOLOTL, "adapter", None, "trains_adapters", False),
        (AXOLOTL, "optimizer", "adamw_torch_4bit", "unknown_optimizer", "adamw_torch_4bit"),
        (LLAMA_FACTORY, "finetuning_type", "lora", "trains_adapters", True),
        (LLAMA_FACTORY, "recompute_granularity", None, "activation_checkpointing", "full"),
        (LLAMA_FACTORY, "use_muon", True, "optimizer", "muon"),
        (MAXTEXT, "remat_policy", "full", "activation_checkpointing", "full"),
        (MAXTEXT, "remat_policy", None, "activation_checkpointing", None),
        (MAXTEXT, "per_device_batch_size", 0.3, "batch_size", None),
        (MAXTEXT, "per_device_batch_size", 6, "batch_size", 24),
        (MAXTEXT, "quantization", "", "precision", "bf16"),
        (MAXTEXT, "ici_fsdp_parallelism", 1, "zero", 0),
        (BRIDGE, "mixed_precision", "bf16_mixed", "precision", "bf16"),
        (BRIDGE, "ddp", {"use_distributed_optimizer": True}, "zero", 1),
        (BRIDGE, "ddp", {"use_distributed_optimizer": False}, "zero", 0),
    ],
)
def test_values_of_recipes(tmp_path: Path, text: str, key: str, value: object, field: str, stated: object) -> None:
    document = yaml.safe_load(text) | {key: value}
    assert getattr(read(tmp_path, yaml.safe_dump(document)), field) == stated


def test_llama_factory_checkpoints_unless_told_not_to(tmp_path: Path) -> None:
    plain = {"finetuning_type": "full", "per_device_train_batch_size": 1, "output_dir": "out"}
    assert read(tmp_path, yaml.safe_dump(plain)).activation_checkpointing == "full"
    kept = plain | {"disable_gradient_checkpointing": True}
    assert read(tmp_path, yaml.safe_dump(kept)).activation_checkpointing == "none"


def test_a_deepspeed_file_of_axolotl(tmp_path: Path) -> None:
    (tmp_path / "zero2.json").write_text('{"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}}')
    document = yaml.safe_load(AXOLOTL) | {"deepspeed": "zero2.json", "fsdp_config": None, "dp_shard_size": None}
    found = read(tmp_path, yaml.safe_dump(document))
    assert (found.kind, found.zero, found.parallel, found.trains_adapters) == ("axolotl", 2, "tp=2,pp=1,cp=4", True)
    with pytest.raises(RequestError, match=r"has deepspeed gone\.json, which is not there"):
        read(tmp_path, yaml.safe_dump(document | {"deepspeed": "gone.json"}))


def test_a_file_that_trains_adapters_has_a_note(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(AXOLOTL)
    request = Request(model="some.json", steps=1, cluster="4xdgx-h100", parallel_config=path)
    assert any("trains adapters: all weights are counted" in note for note in config_notes(request))
    adapters = Request(model="some.json", steps=1, cluster="4xdgx-h100", parallel_config=path, lora="r=16")
    assert not any("adapters" in note for note in config_notes(adapters))
    found = with_config(request)
    assert found.plan is not None
    assert (found.plan.dp, found.plan.tp, found.plan.cp, found.global_batch) == (4, 2, 4, 4 * 4 * 2)


def test_parallelism_of_training_arguments(tmp_path: Path) -> None:
    path = tmp_path / "arguments.json"
    path.write_text('{"output_dir": "out", "max_length": 4096, "parallelism_config": {"tp_size": 2, "sp_size": 4}}')
    found = read_config(path)
    assert (found.parallel, found.sequence_length) == ("tp=2,pp=1,cp=4", 4096)


TITAN = """
def small():
    return Trainer.Config(
        optimizer=default_adamw(lr=1e-4),
        training=TrainingConfig(num_tokens_per_microbatch_per_dp_rank=8 * 8192, max_context_length=8192, steps=10),
        parallelism=ParallelismConfig(tensor_parallel_degree=8, context_parallel_degree=2),
        activation_checkpoint=FullAC.Config(),
    )


def large():
    config = small()
    config.parallelism.pipeline_parallel_degree = 4
    config.parallelism.num_pp_microbatches = 16
    config.training.num_tokens_per_train_step = 512 * 8192
    config.activation_checkpoint = SelectiveAC.Config()
    config.model_spec = model_registry("405B", converters=[Float8LinearConverter.Config()])
    return config


raise SystemExit("a file that is read is not run")
"""


def test_recipes_of_torchtitan_in_python(tmp_path: Path) -> None:
    path = tmp_path / "recipes.py"
    path.write_text(TITAN)
    small = read_config(f"{path}:small")
    assert (small.kind, small.parallel, small.zero) == ("torchtitan", "tp=8,pp=1,cp=2", 3)
    assert (small.batch_size, small.accumulate, small.global_batch, small.sequence_length) == (8, None, None, 8192)
    assert (small.activation_checkpointing, small.precision, small.optimizer) == ("full", "bf16", "adamw")
    large = read_config(f"{path}:large")
    assert (large.parallel, large.batch_size, large.global_batch) == ("tp=8,pp=4,cp=2", 8, 512)
    assert (large.activation_checkpointing, large.precision) == ("selective", "fp8")
    with pytest.raises(RequestError, match=r"has several recipes; name one after a colon, as FILE.py:NAME: small, l"):
        read_config(path)
    with pytest.raises(RequestError, match=r"has no recipe 'huge'; name one .*: small, large"):
        read_config(f"{path}:huge")
    path.write_text(TITAN.replace("num_tokens_per_train_step", "steps"))
    assert (read_config(f"{path}:large").batch_size, read_config(f"{path}:large").accumulate) == (8, 16)
    path.write_text(TITAN.partition("def large")[0])
    assert read_config(path) == small


def test_python_that_is_no_recipe_of_torchtitan(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text("def train():\n    return 3\n")
    with pytest.raises(RequestError, match=r"recipe\.py has no recipe of torchtitan$"):
        read_config(path)
    path.write_text("def train(:\n")
    with pytest.raises(RequestError, match=r"is not valid Python"):
        read_config(path)
