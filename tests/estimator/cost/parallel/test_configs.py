"""Configurations of five kinds, each written as its framework's documentation writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.cost.parallel.configs import StatedRun, read_config

DEEPSPEED = {
    "train_batch_size": 512,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 3, "overlap_comm": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
}
ACCELERATE = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP   # fully sharded
mixed_precision: bf16
fsdp_config:
  fsdp_activation_checkpointing: true
  fsdp_sharding_strategy: FULL_SHARD
  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer
num_machines: 2
num_processes: 16
"""
TITAN = """
[training]
local_batch_size = 2
global_batch_size = 1024
seq_len = 8192
[parallelism]
data_parallel_shard_degree = -1
tensor_parallel_degree = 8
pipeline_parallel_degree = 4
[activation_checkpoint]
mode = "full"
[optimizer]
name = "AdamW"
"""
MEGATRON = """
torchrun pretrain_gpt.py \\
    --tensor-model-parallel-size 8 \\
    --pipeline-model-parallel-size 4 --num-layers 48 --num-layers-per-virtual-pipeline-stage 3 \\
    --micro-batch-size 1 --global-batch-size 1536 --seq-length 4096 \\
    --sequence-parallel --use-distributed-optimizer \\
    --recompute-granularity selective --bf16 --clip-grad 0.0
"""


def read(tmp_path: Path, name: str, text: str | dict) -> StatedRun:  # type: ignore[type-arg]
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return read_config(path)


def test_deepspeed(tmp_path: Path):
    assert read(tmp_path, "ds.json", DEEPSPEED) == StatedRun(
        kind="DeepSpeed",
        parallel="tp=1,pp=1",
        zero=3,
        batch_size=2,
        global_batch=512,
        precision="bf16",
        optimizer="adamw",
        clip_gradients=True,
    )


def test_accelerate(tmp_path: Path):
    found = read(tmp_path, "default_config.yaml", ACCELERATE)
    assert found == StatedRun("Accelerate", "tp=1,pp=1", 3, "full", precision="bf16")
    zero2 = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 2\n  gradient_accumulation_steps: 4\n"
    assert read(tmp_path, "zero2.yaml", zero2) == StatedRun("Accelerate", "tp=1,pp=1", 2, accumulate=4)


def test_training_arguments(tmp_path: Path):
    arguments = {
        "output_dir": "out",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "bf16": True,
        "gradient_checkpointing": True,
        "optim": "adamw_torch_fused",
        "fsdp": "full_shard auto_wrap",
    }
    assert read(tmp_path, "args.json", arguments) == StatedRun(
        "TrainingArguments", "tp=1,pp=1", 3, "full", 4, 8, precision="bf16", optimizer="adamw", clip_gradients=True
    )
    inside = read(tmp_path, "both.json", {"output_dir": "out", "deepspeed": DEEPSPEED})
    assert (inside.zero, inside.batch_size, inside.global_batch) == (3, 2, 512)


def test_torchtitan(tmp_path: Path):
    assert read(tmp_path, "train.toml", TITAN) == StatedRun(
        kind="torchtitan",
        parallel="tp=8,pp=4",
        zero=3,
        activation_checkpointing="full",
        batch_size=2,
        global_batch=1024,
        sequence_length=8192,
        precision="bf16",
        optimizer="adamw",
        clip_gradients=True,
    )


@pytest.mark.parametrize(
    ("degree", "parallel"),
    [
        ("", "tp=1,pp=1"),
        ("tensor_parallel_degree = 8", "tp=8,pp=1"),
        ("pipeline_parallel_degree = 4", "tp=1,pp=4"),
        ("context_parallel_degree = 2", "tp=1,pp=1,cp=2"),
        ("expert_parallel_degree = 2", "tp=1,pp=1,ep=2"),
    ],
)
def test_degrees_of_torchtitan_that_are_not_given_are_one(tmp_path: Path, degree: str, parallel: str):
    text = f"[training]\nlocal_batch_size = 2\n[parallelism]\n{degree}\n"
    assert read(tmp_path, "train.toml", text).parallel == parallel


@pytest.mark.parametrize(
    ("part", "parallel"),
    [
        ("", "tp=1,pp=1"),
        ("parallelism_config:\n  parallelism_config_tp_size: 4\n", "tp=4,pp=1"),
        ("parallelism_config:\n  parallelism_config_cp_size: 2\n", "tp=1,pp=1,cp=2"),
        ("megatron_lm_config:\n  megatron_lm_pp_degree: 2\n", "tp=1,pp=2"),
        ("megatron_lm_config:\n  megatron_lm_tp_degree: 8\n", "tp=8,pp=1"),
    ],
)
def test_degrees_of_accelerate_that_are_not_given_are_one(tmp_path: Path, part: str, parallel: str):
    assert read(tmp_path, "a.yaml", f"distributed_type: FSDP\nmixed_precision: bf16\n{part}").parallel == parallel


def test_megatron(tmp_path: Path):
    assert read(tmp_path, "run.sh", MEGATRON) == StatedRun(
        kind="Megatron-LM",
        parallel="tp=8,pp=4,vp=4,sp=1",  # 48 layers over 4 stages of chunks of 3
        zero=1,
        activation_checkpointing="selective",
        batch_size=1,
        global_batch=1536,
        sequence_length=4096,
        precision="bf16",
        optimizer="adam",
        clip_gradients=False,
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not valid JSON"),
        ("a.toml", "[", "is not valid TOML"),
        ("a.json", '{"hidden_size": 8}', "is not a kind that joulecast reads; give a DeepSpeed JSON"),
        ("a.json", "[]", "is not a kind that joulecast reads"),
        ("a.yaml", "steps: 3\n", "is not a kind that joulecast reads"),
        ("a.yaml", "- 1\n", "is not a kind that joulecast reads"),
        ("a.yaml", "a: [1\n", "is not valid YAML"),
        ("a.toml", "x = 1", "is not a kind that joulecast reads"),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(RequestError, match=message) as caught:
        read(tmp_path, name, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path):
    with pytest.raises(RequestError, match=r"none\.json cannot be read"):
        read_config(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("setting", "zero"),
    [
        ("fsdp_sharding_strategy: FULL_SHARD", 3),
        ("fsdp_sharding_strategy: HYBRID_SHARD", 3),
        ("fsdp_sharding_strategy: SHARD_GRAD_OP", 2),
        ("fsdp_sharding_strategy: HYBRID_SHARD_ZERO2", 2),
        ("fsdp_sharding_strategy: NO_SHARD", 0),
        ("fsdp_reshard_after_forward: true", 3),
        ("fsdp_reshard_after_forward: false", 2),
        ("fsdp_version: 2", 3),
    ],
)
def test_what_fsdp_shards(tmp_path: Path, setting: str, zero: int):
    text = f"distributed_type: FSDP\nfsdp_config:\n  {setting}\nnum_processes: 8\n"
    assert read(tmp_path, "accelerate.yaml", text).zero == zero


@pytest.mark.parametrize(
    ("fsdp", "zero"),
    [
        (True, 3),
        (False, None),
        (None, None),
        ("", None),
        ("full_shard", 3),
        ("shard_grad_op offload", 2),
        (["shard_grad_op", "auto_wrap"], 2),
        (["full_shard"], 3),
        ("offload", None),
    ],
)
def test_what_training_arguments_shard(tmp_path: Path, fsdp: object, zero: int | None):
    arguments = {"output_dir": "out", "per_device_train_batch_size": 4, "fsdp": fsdp}
    assert read(tmp_path, "args.json", arguments).zero == zero
