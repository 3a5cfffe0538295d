"""Configurations that people already have: DeepSpeed, Accelerate, transformers, torchtitan, Megatron-LM and recipes.

Each is read into the fields of a request that it states. What a file leaves to its framework ("auto", "-1") is not
stated.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...base.errors import RequestError
from ...base.files import read_text
from .megatron_args import UnsetError, is_megatron, of_text, of_yaml
from .recipes import KINDS as RECIPES
from .recipes import recipe_of, with_llama_factory
from .stated_run import (
    OutOfRangeError,
    StatedRun,
    count,
    level,
    optimizer_of,
    over,
    part,
    precision,
    sizes,
    unknown_optimizer,
)
from .titan_recipes import titan_recipe

KINDS = (
    "a DeepSpeed JSON, an Accelerate YAML, TrainingArguments in JSON or YAML, a torchtitan TOML, Megatron-LM arguments "
    f"or {RECIPES}"
)


def read_config(path: str | Path) -> StatedRun:
    """The configuration in a file. Raises RequestError for a file that cannot be read or is none of the kinds."""
    place, colon, recipe = str(path).rpartition(".py:")
    path = Path(f"{place}.py") if colon else Path(path)
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RequestError(f"`parallel_config` {path} cannot be read ({why}); give {KINDS}") from error
    try:
        return _torchtitan(titan_recipe(text, recipe if colon else "")) if path.suffix == ".py" else _read(text, path)
    except SyntaxError as error:
        raise RequestError(f"`parallel_config` {path} is not valid Python ({error}); fix the syntax error") from None
    except (OutOfRangeError, UnsetError) as error:
        raise RequestError(f"`parallel_config` {path} has {error}") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        kind = "JSON" if isinstance(error, json.JSONDecodeError) else "TOML"
        raise RequestError(f"`parallel_config` {path} is not valid {kind} ({error}); fix the syntax error") from error
    except _InvalidYamlError as error:
        raise RequestError(f"`parallel_config` {path} is not valid YAML ({error}); fix the syntax error") from error
    except _UnknownKindError:
        raise RequestError(f"`parallel_config` {path} is not a kind that joulecast reads; give {KINDS}") from None


class _UnknownKindError(Exception):
    pass


class _InvalidYamlError(Exception):
    pass


def _read(text: str, path: Path) -> StatedRun:
    suffix = path.suffix.lower()
    if suffix == ".toml":
        return _torchtitan(tomllib.loads(text))
    if suffix == ".json" or text.lstrip().startswith("{"):
        document = json.loads(text)
        if not isinstance(document, dict):
            raise _UnknownKindError
        if any(key.startswith("per_device_") or key in _ARGUMENTS_KEYS for key in document):
            return _training_arguments(document, path)
        if any(key in document for key in _DEEPSPEED_KEYS):
            return _deepspeed(document)
        raise _UnknownKindError
    if is_megatron(text):
        return _megatron(of_text(text))
    document = _yaml(text, path)
    if recipe := recipe_of(document):
        named = _named_deepspeed(document.get("deepspeed"), "deepspeed", path)
        return recipe if named is None else over(replace(named, kind=recipe.kind, parallel=None), recipe)
    if "distributed_type" in document or "compute_environment" in document:
        return _accelerate(document, path)
    if any(key.startswith("per_device_") for key in document):
        return with_llama_factory(_training_arguments(document, path), document)
    if arguments := of_yaml(document):
        return _megatron(arguments)
    raise _UnknownKindError


def _named_deepspeed(name: Any, key: str, path: Path) -> StatedRun | None:
    """The DeepSpeed configuration in the file that `key` of the one at `path` names, seen from its folder or from here.

    Raises OutOfRangeError where it cannot be read.
    """
    if not isinstance(name, str) or not name:
        return None
    for place in (path.parent / name, Path(name)):
        if place.is_file():
            document = json.loads(read_text(place))
            return _deepspeed(document if isinstance(document, dict) else {})
    raise OutOfRangeError(f"{key} {name}, which is not there; give that file instead, or correct the path")


# -- DeepSpeed ------------------------------------------------------------------------------------------------

_DEEPSPEED_KEYS = (
    "zero_optimization",
    "train_micro_batch_size_per_gpu",
    "train_batch_size",
    "gradient_accumulation_steps",
)


def _deepspeed(document: Mapping[str, Any]) -> StatedRun:
    tensor = part(document, "tensor_parallel")
    tp = count(tensor.get("autotp_size")) or count(tensor.get("tp_size"))
    pp = count(part(document, "pipeline").get("stages"))
    clip, zero = document.get("gradient_clipping"), document.get("zero_optimization")
    optimizer = part(document, "optimizer").get("type")
    return StatedRun(
        kind="DeepSpeed",
        parallel=sizes(tp=tp or 1, pp=pp or 1),
        zero=int(zero) if isinstance(zero, bool) else level(part(document, "zero_optimization").get("stage")),
        batch_size=count(document.get("train_micro_batch_size_per_gpu")),
        accumulate=count(document.get("gradient_accumulation_steps")),
        global_batch=count(document.get("train_batch_size")),
        precision=precision(
            part(document, "bf16").get("enabled") or part(document, "bfloat16").get("enabled"),
            part(document, "fp16").get("enabled"),
        ),
        optimizer=optimizer_of(optimizer),
        clip_gradients=clip > 0 if isinstance(clip, int | float) and not isinstance(clip, bool) else None,
        not_modelled=_offloaded(part(document, "zero_optimization")),
        unknown_optimizer=unknown_optimizer(optimizer),
    )


def _offloaded(zero: Mapping[str, Any]) -> tuple[str, ...]:
    """What ZeRO keeps in the memory of the host or on a disk."""
    names = ("offload_optimizer", "offload_param")
    return tuple(name for name in names if str(part(zero, name).get("device", "none")) != "none")


# -- transformers ---------------------------------------------------------------------------------------------


_ARGUMENTS_KEYS = ("output_dir", "gradient_checkpointing")


def _training_arguments(document: Mapping[str, Any], path: Path) -> StatedRun:
    fsdp_config, checkpointing = part(document, "fsdp_config"), document.get("gradient_checkpointing")
    if any(fsdp_config.get(name) is True for name in ("activation_checkpointing", "fsdp_activation_checkpointing")):
        checkpointing = True
    degrees = part(document, "parallelism_config")
    own = StatedRun(
        kind="TrainingArguments",
        parallel=sizes(tp=count(degrees.get("tp_size")) or 1, pp=1, cp=_context(degrees)),
        zero=_fsdp_stage(document.get("fsdp")),
        activation_checkpointing=None if checkpointing is None else "full" if checkpointing else "none",
        batch_size=count(document.get("per_device_train_batch_size")),
        accumulate=count(document.get("gradient_accumulation_steps")),
        precision=precision(document.get("bf16"), document.get("fp16")),
        optimizer=optimizer_of(document.get("optim")),
        sequence_length=count(document.get("max_length")) or count(document.get("max_seq_length")),
        clip_gradients=bool(document.get("max_grad_norm", True)),
        not_modelled=("fsdp offload",) if "offload" in _words(document.get("fsdp")) else (),
        unknown_optimizer=unknown_optimizer(document.get("optim")),
    )
    deepspeed = document.get("deepspeed")
    if isinstance(deepspeed, Mapping):
        return over(_deepspeed(deepspeed), own)
    named = _named_deepspeed(deepspeed, "deepspeed", path)
    return own if named is None else over(named, own)


def _context(degrees: Mapping[str, Any], prefix: str = "") -> int | None:
    """Devices that share a sequence: of ring attention, or of heads that are exchanged (Ulysses, "sp")."""
    return count(degrees.get(f"{prefix}cp_size")) or count(degrees.get(f"{prefix}sp_size"))


def _words(value: Any) -> list[Any]:
    return value if isinstance(value, list) else str(value or "").split()


def _fsdp_stage(value: Any) -> int | None:
    words = _words(value)
    if value is True or not {"full_shard", "hybrid_shard"}.isdisjoint(words):
        return 3
    return 2 if not {"shard_grad_op", "hybrid_shard_zero2"}.isdisjoint(words) else None


# -- Accelerate -----------------------------------------------------------------------------------------------

_FSDP_STRATEGIES = {
    **dict.fromkeys(("FULL_SHARD", "1", "HYBRID_SHARD", "4"), 3),
    **dict.fromkeys(("SHARD_GRAD_OP", "2", "HYBRID_SHARD_ZERO2", "5"), 2),
    **dict.fromkeys(("NO_SHARD", "3"), 0),
}


def _accelerate(document: Mapping[str, Any], path: Path) -> StatedRun:
    fsdp, deepspeed = part(document, "fsdp_config"), part(document, "deepspeed_config")
    megatron, degrees = part(document, "megatron_lm_config"), part(document, "parallelism_config")
    zero: int | None = None
    if fsdp:
        reshard = fsdp.get("fsdp_reshard_after_forward")
        strategy = str(fsdp.get("fsdp_sharding_strategy", "FULL_SHARD" if reshard in (None, True) else reshard))
        zero = _FSDP_STRATEGIES.get(strategy, 3 if strategy == "True" else 2)
    if deepspeed:
        zero = level(deepspeed.get("zero_stage"))
    recompute = fsdp.get("fsdp_activation_checkpointing")
    clip = deepspeed.get("gradient_clipping", megatron.get("megatron_lm_gradient_clipping"))
    mixed = str(document.get("mixed_precision", "no"))
    own = StatedRun(
        kind="Accelerate",
        parallel=sizes(
            tp=count(megatron.get("megatron_lm_tp_degree")) or count(degrees.get("parallelism_config_tp_size")) or 1,
            pp=count(megatron.get("megatron_lm_pp_degree")) or 1,
            cp=_context(degrees, "parallelism_config_"),
        ),
        zero=zero,
        activation_checkpointing="full"
        if recompute
        else "selective"
        if megatron.get("megatron_lm_recompute_activations")
        else None,
        accumulate=count(deepspeed.get("gradient_accumulation_steps"))
        or count(document.get("gradient_accumulation_steps")),
        precision=mixed if mixed in ("bf16", "fp16", "fp8") else None,
        clip_gradients=clip > 0 if isinstance(clip, int | float) else None,
        devices=count(document.get("num_processes")),
        not_modelled=(
            *(("fsdp_offload_params",) if fsdp.get("fsdp_offload_params") is True else ()),
            *(name for name in _OFFLOADS if str(deepspeed.get(name, "none")) != "none"),
        ),
    )
    named = _named_deepspeed(deepspeed.get("deepspeed_config_file"), "deepspeed_config_file", path)
    return own if named is None else over(replace(named, kind="Accelerate"), own)


_OFFLOADS = ("offload_optimizer_device", "offload_param_device")


def _yaml(text: str, path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        if path.suffix.lower() not in (".yaml", ".yml"):
            raise _UnknownKindError from error
        raise _InvalidYamlError(" ".join(str(error).split())) from error
    if not isinstance(document, dict):
        raise _UnknownKindError
    return document


# -- torchtitan -----------------------------------------------------------------------------------------------


def _torchtitan(document: Mapping[str, Any]) -> StatedRun:
    training = part(document, "training")
    if not training:
        raise _UnknownKindError
    # Until 2025, degrees stood in [training] and [experimental].
    parallel = {**training, **part(document, "experimental"), **part(document, "parallelism")}
    optimizer = part(document, "optimizer").get("name")
    shard, replicate = parallel.get("data_parallel_shard_degree"), parallel.get("data_parallel_replicate_degree")
    mode = str(part(document, "activation_checkpoint").get("mode", "selective"))
    pp = count(parallel.get("pipeline_parallel_degree")) or 1
    local, whole = count(training.get("local_batch_size")), count(training.get("global_batch_size"))
    local = local or count(training.get("batch_size"))
    micro, passes = local, None
    if pp > 1 and local:  # the batch of a replica is divided among the stages
        micro = math.gcd(local, count(parallel.get("pipeline_parallel_microbatch_size")) or 1)
        passes = None if whole else local // micro
    return StatedRun(
        kind="torchtitan",
        parallel=sizes(
            tp=count(parallel.get("tensor_parallel_degree")) or 1,
            pp=pp,
            cp=count(parallel.get("context_parallel_degree")),
            ep=count(parallel.get("expert_parallel_degree")),
            etp=count(parallel.get("expert_tensor_parallel_degree")),
        ),
        zero=0 if shard == 1 and count(replicate) else _resharded(parallel, pp),
        activation_checkpointing=mode if mode in ("full", "selective", "none") else None,
        batch_size=micro,
        accumulate=passes,
        global_batch=whole,
        sequence_length=count(training.get("seq_len")),
        precision=_titan_precision(document),
        optimizer=optimizer_of(optimizer),
        clip_gradients=bool(training.get("max_norm", True)),
        unknown_optimizer=unknown_optimizer(optimizer),
    )


def _titan_precision(document: Mapping[str, Any]) -> str | None:
    """FP8 where linear layers are converted to it, otherwise the type that FSDP computes in."""
    converters = part(document, "model").get("converters")
    if any("float8" in str(name) for name in (converters if isinstance(converters, list) else [])):
        return "fp8"
    if part(document, "float8").get("enable_float8_linear") is True:
        return "fp8"
    return "bf16" if part(document, "training").get("mixed_precision_param", "bfloat16") == "bfloat16" else None


def _resharded(parallel: Mapping[str, Any], stages: int) -> int:
    """The ZeRO stage of FSDP: by default, pipelines keep gathered weights from the forward to the backward pass."""
    policy = parallel.get("fsdp_reshard_after_forward", "default")
    return 2 if policy == "never" or (policy == "default" and stages > 1) else 3


# -- Megatron-LM ----------------------------------------------------------------------------------------------


def _megatron(found: Mapping[str, str]) -> StatedRun:
    tp, pp = (
        count(found.get("tensor-model-parallel-size")) or 1,
        count(found.get("pipeline-model-parallel-size")) or 1,
    )
    layers, chunk = count(found.get("num-layers")), count(found.get("num-layers-per-virtual-pipeline-stage"))
    chunks = layers // (pp * chunk) if layers and chunk else count(found.get("num-virtual-stages-per-pipeline-rank"))
    granularity, clip = found.get("recompute-granularity"), found.get("clip-grad")
    if "recompute-activations" in found:
        granularity = "selective"
    if "checkpoint-activations" in found:
        granularity = "full"
    return StatedRun(
        kind="Megatron-LM",
        parallel=sizes(
            tp=tp,
            pp=pp,
            cp=count(found.get("context-parallel-size")),
            ep=count(found.get("expert-model-parallel-size")),
            etp=count(found.get("expert-tensor-parallel-size")),
            vp=chunks,
            sp=None if tp == 1 else int("sequence-parallel" in found),
            eo=1 if "overlap-moe-expert-parallel-comm" in found else None,
            a2a=1 if found.get("moe-token-dispatcher-type") == "alltoall" else None,
        ),
        zero=1 if "use-distributed-optimizer" in found else 0,
        activation_checkpointing=granularity if granularity in ("full", "selective") else "none",
        batch_size=count(found.get("micro-batch-size")),
        global_batch=count(found.get("global-batch-size")),
        sequence_length=count(found.get("seq-length")),
        precision="fp8" if "fp8-format" in found else precision("bf16" in found, "fp16" in found),
        optimizer=optimizer_of(found.get("optimizer", "adam")),
        clip_gradients=not clip or not re.fullmatch(r"0*\.?0*", clip),
        software="megatron" if found.get("transformer-impl") == "local" else "megatron-core",
        unknown_optimizer=unknown_optimizer(found.get("optimizer")),
    )
