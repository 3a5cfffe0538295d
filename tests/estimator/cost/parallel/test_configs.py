"""Configurations of five kinds, each written as its framework's documentation writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.cost.parallel.configs import read_config
from joulecast.estimator.cost.parallel.stated_run import StatedRun

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
    assert found == StatedRun("Accelerate", "tp=1,pp=1", 3, "full", precision="bf16", devices=16)
    zero2 = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 2\n  gradient_accumulation_steps: 4\n"
    assert read(tmp_path, "zero2.yaml", zero2) == StatedRun("Accelerate", "tp=1,pp=1", 2, accumulate=4)


def test_what_is_moved_to_the_host_is_named(tmp_path: Path):
    zero = {"stage": 3, "offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "none"}}
    assert read(tmp_path, "ds.json", {"zero_optimization": zero}).not_modelled == ("offload_param",)
    fsdp = "distributed_type: FSDP\nfsdp_config:\n  fsdp_offload_params: true\n"
    assert read(tmp_path, "fsdp.yaml", fsdp).not_modelled == ("fsdp_offload_params",)
    deepspeed = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  offload_optimizer_device: cpu\n"
    assert read(tmp_path, "ds.yaml", deepspeed).not_modelled == ("offload_optimizer_device",)


def test_a_zero_stage_that_does_not_exist(tmp_path: Path):
    with pytest.raises(RequestError, match=r"ds.json has ZeRO stage 7; give one from 0 to 3$"):
        read(tmp_path, "ds.json", {"zero_optimization": {"stage": 7}})


def test_a_file_that_does_not_exist(tmp_path: Path):
    with pytest.raises(RequestError, match=r"none.json cannot be read \(No such file or directory\); give"):
        read_config(tmp_path / "none.json")


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
        zero=2,  # gathered weights stay for all micro-batches of a pipeline
        activation_checkpointing="full",
        batch_size=1,  # torchtitan's default of the micro-batch
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
        software="megatron-core",
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


def test_a_deepspeed_file_that_states_little(tmp_path: Path):
    assert read(tmp_path, "ds.json", {"train_batch_size": "auto"}) == StatedRun("DeepSpeed", "tp=1,pp=1")


@pytest.mark.parametrize(
    ("key", "value", "field", "stated"),
    [
        ("zero_optimization", {"stage": 0}, "zero", 0),
        ("zero_optimization", {"stage": "1"}, "zero", 1),
        ("zero_optimization", {"stage": 3}, "zero", 3),
        ("zero_optimization", {"stage": -1}, "zero", None),
        ("zero_optimization", {"stage": True}, "zero", None),
        ("zero_optimization", {"stage": "auto"}, "zero", None),
        ("zero_optimization", "auto", "zero", None),
        ("train_micro_batch_size_per_gpu", 1, "batch_size", 1),
        ("train_micro_batch_size_per_gpu", "16", "batch_size", 16),
        ("train_micro_batch_size_per_gpu", 0, "batch_size", None),
        ("train_micro_batch_size_per_gpu", True, "batch_size", None),
        ("train_micro_batch_size_per_gpu", 1.5, "batch_size", None),
        ("gradient_accumulation_steps", 8, "accumulate", 8),
        ("gradient_clipping", 0, "clip_gradients", False),
        ("gradient_clipping", -1, "clip_gradients", False),
        ("gradient_clipping", 0.5, "clip_gradients", True),
        ("gradient_clipping", True, "clip_gradients", None),
        ("gradient_clipping", "auto", "clip_gradients", None),
        ("bfloat16", {"enabled": True}, "precision", "bf16"),
        ("fp16", {"enabled": True}, "precision", "fp16"),
        ("fp16", {"enabled": False}, "precision", None),
        ("fp16", {"enabled": "auto"}, "precision", None),
        ("tensor_parallel", {"autotp_size": 4}, "parallel", "tp=4,pp=1"),
        ("tensor_parallel", {"tp_size": 2}, "parallel", "tp=2,pp=1"),
        ("pipeline", {"stages": 2}, "parallel", "tp=1,pp=2"),
        ("optimizer", {"type": "DeepSpeedCPUAdam"}, "optimizer", "adam"),
        ("optimizer", {"type": "OfMyOwn"}, "optimizer", None),
        ("optimizer", {"type": 3}, "optimizer", None),
    ],
)
def test_values_of_deepspeed(tmp_path: Path, key: str, value: object, field: str, stated: object):
    document = {"train_batch_size": 512, key: value}
    assert getattr(read(tmp_path, "ds.json", document), field) == stated


@pytest.mark.parametrize(
    ("key", "value", "field", "stated"),
    [
        ("max_grad_norm", 0, "clip_gradients", False),
        ("max_grad_norm", 0.3, "clip_gradients", True),
        ("gradient_checkpointing", False, "activation_checkpointing", "none"),
        ("fp16", True, "precision", "fp16"),
        ("fp16", False, "precision", None),
        ("optim", "fused_adamw", "optimizer", "adamw"),
        ("optim", "adamw_apex_fused", "optimizer", "adamw"),
        ("optim", "sgd", "optimizer", "sgd"),
    ],
)
def test_values_of_training_arguments(tmp_path: Path, key: str, value: object, field: str, stated: object):
    assert getattr(read(tmp_path, "args.json", {"output_dir": "out", key: value}), field) == stated


@pytest.mark.parametrize("key", ["output_dir", "gradient_checkpointing", "per_device_train_batch_size"])
def test_one_key_tells_training_arguments(tmp_path: Path, key: str):
    assert read(tmp_path, "args.json", {key: 4}).kind == "TrainingArguments"


@pytest.mark.parametrize("key", ["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"])
def test_one_key_tells_deepspeed(tmp_path: Path, key: str):
    assert read(tmp_path, "ds.json", {key: 4}).kind == "DeepSpeed"


def test_json_is_told_by_its_first_brace_where_the_name_does_not(tmp_path: Path):
    assert read(tmp_path, "ds.cfg", "\n " + json.dumps(DEEPSPEED)).kind == "DeepSpeed"


def test_training_arguments_keep_what_their_deepspeed_part_leaves_open(tmp_path: Path):
    inside = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}
    arguments = {"per_device_train_batch_size": 4, "bf16": True, "deepspeed": inside}
    found = read(tmp_path, "args.json", arguments)
    assert (found.kind, found.zero, found.batch_size, found.precision) == ("DeepSpeed", 2, 4, "bf16")


@pytest.mark.parametrize(
    ("part", "field", "stated"),
    [
        ("fsdp_config:\n  fsdp_sharding_strategy: true\n", "zero", 3),
        ("fsdp_config:\n  fsdp_sharding_strategy: 1\n", "zero", 3),
        ("fsdp_config:\n  fsdp_sharding_strategy: 2\n", "zero", 2),
        ("fsdp_config:\n  fsdp_sharding_strategy: 3\n", "zero", 0),
        ("fsdp_config:\n  fsdp_sharding_strategy: 4\n", "zero", 3),
        ("fsdp_config:\n  fsdp_sharding_strategy: 5\n", "zero", 2),
        ("fsdp_config:\n  fsdp_version: 2\n", "activation_checkpointing", None),
        ("megatron_lm_config:\n  megatron_lm_recompute_activations: true\n", "activation_checkpointing", "selective"),
        ("megatron_lm_config:\n  megatron_lm_gradient_clipping: 1.0\n", "clip_gradients", True),
        ("megatron_lm_config:\n  megatron_lm_gradient_clipping: 0\n", "clip_gradients", False),
        ("deepspeed_config:\n  gradient_clipping: 0.5\n", "clip_gradients", True),
        ("deepspeed_config:\n  gradient_clipping: auto\n", "clip_gradients", None),
        ("gradient_accumulation_steps: 4\n", "accumulate", 4),
        ("mixed_precision: fp16\n", "precision", "fp16"),
        ("mixed_precision: fp8\n", "precision", "fp8"),
        ("mixed_precision: 'no'\n", "precision", None),
    ],
)
def test_values_of_accelerate(tmp_path: Path, part: str, field: str, stated: object):
    assert getattr(read(tmp_path, "a.yaml", f"compute_environment: LOCAL_MACHINE\n{part}"), field) == stated


def test_either_key_tells_accelerate(tmp_path: Path):
    for line in ("compute_environment: LOCAL_MACHINE", "distributed_type: FSDP"):
        assert read(tmp_path, "a.yaml", f"{line}\n").kind == "Accelerate"


@pytest.mark.parametrize(
    ("training", "parallelism", "field", "stated"),
    [
        ("max_norm = 0.0", "", "clip_gradients", False),
        ("max_norm = 0.5", "", "clip_gradients", True),
        ("batch_size = 4", "", "batch_size", 4),
        ('mixed_precision_param = "float32"', "", "precision", None),
        ('mixed_precision_param = "bfloat16"', "", "precision", "bf16"),
        ("seq_len = 2048", "", "activation_checkpointing", "selective"),  # torchtitan's default
        ("local_batch_size = 8", "pipeline_parallel_degree = 2", "accumulate", 8),
        (
            "local_batch_size = 8",
            "pipeline_parallel_degree = 2\npipeline_parallel_microbatch_size = 4",
            "accumulate",
            2,
        ),
        (
            "local_batch_size = 8",
            "pipeline_parallel_degree = 2\npipeline_parallel_microbatch_size = 4",
            "batch_size",
            4,
        ),
        ("local_batch_size = 8\nglobal_batch_size = 64", "pipeline_parallel_degree = 2", "accumulate", None),
        ("local_batch_size = 8", "", "accumulate", None),
        ("seq_len = 2048", "pipeline_parallel_degree = 2", "zero", 2),
        ("seq_len = 2048", 'pipeline_parallel_degree = 2\nfsdp_reshard_after_forward = "always"', "zero", 3),
        ("seq_len = 2048", 'fsdp_reshard_after_forward = "never"', "zero", 2),
        ("seq_len = 2048", "data_parallel_shard_degree = 1", "zero", 3),
        ("seq_len = 2048", "data_parallel_replicate_degree = 8", "zero", 3),
        ("seq_len = 2048", "data_parallel_shard_degree = 1\ndata_parallel_replicate_degree = 8", "zero", 0),
        ("seq_len = 2048", "data_parallel_shard_degree = -1\ndata_parallel_replicate_degree = 8", "zero", 3),
        ("seq_len = 2048", "data_parallel_shard_degree = 2\ndata_parallel_replicate_degree = 8", "zero", 3),
    ],
)
def test_values_of_torchtitan(tmp_path: Path, training: str, parallelism: str, field: str, stated: object):
    text = f"[training]\n{training}\n[parallelism]\n{parallelism}\n"
    assert getattr(read(tmp_path, "train.toml", text), field) == stated


@pytest.mark.parametrize(
    ("mode", "stated"), [("full", "full"), ("selective", "selective"), ("none", "none"), ("memory_budget", None)]
)
def test_checkpointing_of_torchtitan(tmp_path: Path, mode: str, stated: str | None):
    text = f'[training]\nseq_len = 1\n[activation_checkpoint]\nmode = "{mode}"\n'
    assert read(tmp_path, "train.toml", text).activation_checkpointing == stated


@pytest.mark.parametrize(
    ("options", "field", "stated"),
    [
        ("", "parallel", "tp=1,pp=1"),
        ("--tensor-model-parallel-size 2", "parallel", "tp=2,pp=1,sp=0"),
        ("--tensor-model-parallel-size=2 --sequence-parallel", "parallel", "tp=2,pp=1,sp=1"),
        ("--pipeline-model-parallel-size 4", "parallel", "tp=1,pp=4"),
        ("--context-parallel-size 2", "parallel", "tp=1,pp=1,cp=2"),
        ("--expert-model-parallel-size 8", "parallel", "tp=1,pp=1,ep=8"),
        ("--num-layers 24 --num-layers-per-virtual-pipeline-stage 6", "parallel", "tp=1,pp=1,vp=4"),
        ("--num-layers 24", "parallel", "tp=1,pp=1"),
        ("--num-virtual-stages-per-pipeline-rank 4", "parallel", "tp=1,pp=1,vp=4"),
        ("--transformer-impl local", "software", "megatron"),
        ("--transformer-impl transformer_engine", "software", "megatron-core"),
        ("--num-layers-per-virtual-pipeline-stage 6", "parallel", "tp=1,pp=1"),
        ("", "zero", 0),
        ("--use-distributed-optimizer", "zero", 1),
        ("", "activation_checkpointing", "none"),
        ("--recompute-activations", "activation_checkpointing", "selective"),
        ("--checkpoint-activations", "activation_checkpointing", "full"),
        ("--recompute-granularity full", "activation_checkpointing", "full"),
        ("--recompute-granularity other", "activation_checkpointing", "none"),
        ("", "precision", None),
        ("--fp16", "precision", "fp16"),
        ("", "optimizer", "adam"),
        ("--optimizer sgd", "optimizer", "sgd"),
        ("", "clip_gradients", True),
        ("--clip-grad 0.5", "clip_gradients", True),
        ("--clip-grad 0", "clip_gradients", False),
        ("--seq-length 2048 \\\n --bf16", "sequence_length", 2048),
    ],
)
def test_values_of_megatron(tmp_path: Path, options: str, field: str, stated: object):
    assert getattr(read(tmp_path, "run.sh", f"pretrain_gpt.py --micro-batch-size 1 {options}"), field) == stated


@pytest.mark.parametrize("option", ["tensor-model-parallel-size", "micro-batch-size", "pipeline-model-parallel-size"])
def test_one_option_tells_megatron(tmp_path: Path, option: str):
    assert read(tmp_path, "run.sh", f"pretrain_gpt.py --{option} 2").kind == "Megatron-LM"


def test_megatron_states_exchanges_of_experts_that_are_hidden(tmp_path: Path):
    path = tmp_path / "train.sh"
    path.write_text("--micro-batch-size 1 --expert-model-parallel-size 8 --overlap-moe-expert-parallel-comm\n")
    assert read_config(path).parallel == "tp=1,pp=1,ep=8,eo=1"


@pytest.mark.parametrize(("dispatcher", "stated"), [("alltoall", ",a2a=1"), ("flex", ""), ("allgather", "")])
def test_megatron_states_how_tokens_travel_to_experts(tmp_path: Path, dispatcher: str, stated: str):
    path = tmp_path / "train.sh"
    path.write_text(f"--micro-batch-size 1 --expert-model-parallel-size 8 --moe-token-dispatcher-type {dispatcher}\n")
    assert read_config(path).parallel == f"tp=1,pp=1,ep=8{stated}"


def test_a_script_of_megatron_with_variables(tmp_path: Path):
    script = "TP=4\nMBS=2\ntorchrun pretrain.py --tensor-model-parallel-size $TP --micro-batch-size ${MBS} --bf16\n"
    found = read(tmp_path, "train.sh", script)
    assert (found.parallel, found.batch_size, found.precision) == ("tp=4,pp=1,sp=0", 2, "bf16")
    with pytest.raises(RequestError, match=r"train.sh has --micro-batch-size \$\{MBS\}, and does not set MBS"):
        read(tmp_path, "train.sh", script.replace("MBS=2\n", ""))


def test_yaml_of_megatron(tmp_path: Path):
    text = (
        "model_parallel:\n  tensor_model_parallel_size: 8\n  pipeline_model_parallel_size: 2\nglobal_batch_size: 64\n"
    )
    found = read(tmp_path, "gpt.yaml", text)
    assert (found.kind, found.parallel, found.global_batch) == ("Megatron-LM", "tp=8,pp=2,sp=0", 64)


def test_a_script_that_states_no_split_is_no_faulty_yaml(tmp_path: Path):
    with pytest.raises(RequestError, match=r"env\.sh is not a kind that joulecast reads"):
        read(tmp_path, "env.sh", "RED='[0;31m'\nfunction f { echo; }\n")


def test_degrees_of_torchtitan_before_2025(tmp_path: Path):
    text = (
        "[training]\nbatch_size = 16\nseq_len = 8192\ntensor_parallel_degree = 8\n"
        "[experimental]\npipeline_parallel_degree = 16\n[float8]\nenable_float8_linear = true\n"
    )
    found = read(tmp_path, "old.toml", text)
    assert (found.parallel, found.precision) == ("tp=8,pp=16", "fp8")
    new = '[training]\nlocal_batch_size = 1\n[model]\nconverters = ["float8"]\n'
    assert read(tmp_path, "new.toml", new).precision == "fp8"


@pytest.mark.parametrize("kind", ["accelerate", "arguments"])
def test_a_deepspeed_file_that_another_file_names_is_read(tmp_path: Path, kind: str):
    (tmp_path / "zero.json").write_text(json.dumps(DEEPSPEED))
    text: str | dict[str, object] = {"per_device_train_batch_size": 4, "deepspeed": "zero.json"}
    if kind == "accelerate":
        text = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: zero.json\nnum_processes: 8\n"
    found = read(tmp_path, "args.json" if kind == "arguments" else "acc.yaml", text)
    assert (found.zero, found.batch_size, found.global_batch, found.precision) == (3, 2, 512, "bf16")
    (tmp_path / "zero.json").unlink()
    with pytest.raises(RequestError, match=r"zero\.json, which is not there; give that file instead"):
        read(tmp_path, "args.json" if kind == "arguments" else "acc.yaml", text)


def test_arguments_that_state_no_checkpointing(tmp_path: Path):
    stated = {"per_device_train_batch_size": 1, "gradient_checkpointing": False}
    assert read(tmp_path, "a.json", stated).activation_checkpointing == "none"
    fsdp = {
        "per_device_train_batch_size": 1,
        "fsdp": "hybrid_shard offload",
        "fsdp_config": {"activation_checkpointing": True},
    }
    found = read(tmp_path, "b.json", fsdp)
    assert (found.zero, found.activation_checkpointing, found.not_modelled) == (3, "full", ("fsdp offload",))


def test_training_arguments_in_yaml(tmp_path: Path):
    found = read(tmp_path, "sft.yaml", "per_device_train_batch_size: 4\nbf16: true\noptim: adamw_torch\n")
    assert (found.kind, found.batch_size, found.precision, found.optimizer) == ("TrainingArguments", 4, "bf16", "adamw")


def test_precision_of_accelerate_in_fp8(tmp_path: Path):
    assert read(tmp_path, "a.yaml", "distributed_type: FSDP\nmixed_precision: fp8\n").precision == "fp8"


@pytest.mark.parametrize(
    ("name", "known", "unknown"),
    [("OneBitAdam", "adam", None), ("ZeroOneAdam", "adam", None), ("OneBitLamb", "lamb", None), ("Foo", None, "Foo")],
)
def test_optimizers_of_deepspeed(tmp_path: Path, name: str, known: str | None, unknown: str | None):
    found = read(tmp_path, "ds.json", {"train_batch_size": 8, "optimizer": {"type": name}})
    assert (found.optimizer, found.unknown_optimizer) == (known, unknown)


def test_a_stage_of_zero_that_old_files_switch_on(tmp_path: Path):
    assert read(tmp_path, "ds.json", {"train_batch_size": 8, "zero_optimization": True}).zero == 1
