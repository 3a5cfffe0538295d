"""Recipes in YAML: axolotl, LLaMA-Factory, nanotron, MaxText, Megatron-Bridge and NeMo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .megatron_args import of_yaml
from .stated_run import StatedRun, count, optimizer_of, part, sizes, unknown_optimizer

KINDS = "an axolotl, LLaMA-Factory, nanotron, MaxText, Megatron-Bridge or NeMo YAML"


def recipe_of(document: Mapping[str, Any]) -> StatedRun | None:
    """What a recipe states; None for a document of another kind."""
    if "micro_batch_size" in document and ("base_model" in document or "sequence_len" in document):
        return _axolotl(document)
    if part(document, "parallelism") and part(document, "tokens"):
        return _nanotron(document)
    if "per_device_batch_size" in document or any(f"ici_{axis}_parallelism" in document for axis in _AXES):
        return _maxtext(document)
    if _BRIDGE.intersection(part(document, "model")) and not document.get("language_model"):
        return _bridge(document)
    return None


# -- axolotl --------------------------------------------------------------------------------------------------


def _axolotl(document: Mapping[str, Any]) -> StatedRun:
    fsdp, optimizer = part(document, "fsdp_config"), document.get("optimizer")
    shard, replicate = document.get("dp_shard_size"), document.get("dp_replicate_size")
    zero = None
    if fsdp or document.get("fsdp") or (count(shard) or 1) > 1:
        zero = 2 if fsdp.get("reshard_after_forward") is False else 3
    elif count(shard) == 1 and count(replicate):
        zero = 0
    recomputed = fsdp.get("activation_checkpointing") or document.get("gradient_checkpointing")
    clip = document.get("max_grad_norm")
    return StatedRun(
        kind="axolotl",
        parallel=sizes(
            tp=count(document.get("tensor_parallel_size")) or 1,
            pp=1,
            cp=count(document.get("context_parallel_size")) or count(document.get("sequence_parallel_degree")),
            ep=count(document.get("expert_parallel_size")),
        ),
        zero=zero,
        activation_checkpointing="full" if recomputed else "none" if recomputed is False else None,
        batch_size=count(document.get("micro_batch_size")),
        accumulate=count(document.get("gradient_accumulation_steps")),
        sequence_length=count(document.get("sequence_len")),
        precision=_first(document, fp8="fp8", bf16="bf16", fp16="fp16"),
        optimizer=optimizer_of(optimizer),
        clip_gradients=None if clip is None else bool(clip),
        not_modelled=(
            *(("offload_params",) if fsdp.get("offload_params") is True else ()),
            *(("activation_offloading",) if document.get("activation_offloading") else ()),
        ),
        unknown_optimizer=unknown_optimizer(optimizer),
        trains_adapters=bool(document.get("adapter")),
    )


def _first(document: Mapping[str, Any], **formats: str) -> str | None:
    """The format of the first key that is set, to "auto" too."""
    return next((text for key, text in formats.items() if document.get(key) in (True, "auto", "full")), None)


# -- LLaMA-Factory --------------------------------------------------------------------------------------------


def with_llama_factory(own: StatedRun, document: Mapping[str, Any]) -> StatedRun:
    """What LLaMA-Factory adds to the arguments of transformers, `own`. Its trainings checkpoint unless told not to."""
    if "cutoff_len" not in document and "finetuning_type" not in document:
        return own
    kept = document.get("disable_gradient_checkpointing") is True
    megatron = _megatron_parts(document)
    return replace(
        own,
        kind="LLaMA-Factory",
        parallel=megatron.parallel if megatron else own.parallel,
        zero=megatron.zero if megatron and own.zero is None else own.zero,
        software=megatron.software if megatron else own.software,
        activation_checkpointing=(megatron.activation_checkpointing if megatron else None)
        or own.activation_checkpointing
        or ("none" if kept else "full"),
        sequence_length=count(document.get("cutoff_len")),
        optimizer="muon" if document.get("use_muon") is True else own.optimizer,
        trains_adapters=str(document.get("finetuning_type", "lora")) in ("lora", "oft"),
    )


# -- nanotron -------------------------------------------------------------------------------------------------


def _nanotron(document: Mapping[str, Any]) -> StatedRun:
    parallel, tokens, optimizer = (part(document, name) for name in ("parallelism", "tokens", "optimizer"))
    degrees = {name: count(parallel.get(name)) or 1 for name in ("dp", "tp", "pp", "context_parallel_size")}
    name = part(optimizer, "optimizer_factory").get("name")
    recomputed = part(document, "parallelism").get("recompute_layer")
    clip = optimizer.get("clip_grad")
    return StatedRun(
        kind="nanotron",
        parallel=sizes(
            tp=degrees["tp"],
            pp=degrees["pp"],
            cp=degrees["context_parallel_size"],
            ep=count(parallel.get("expert_parallel_size")),
            sp=None if degrees["tp"] == 1 else int(str(parallel.get("tp_mode")).upper() == "REDUCE_SCATTER"),
        ),
        zero=1 if optimizer.get("zero_stage") == 1 else 0,
        activation_checkpointing="full" if recomputed else "none",
        batch_size=count(tokens.get("micro_batch_size")),
        accumulate=count(tokens.get("batch_accumulation_per_replica")),
        sequence_length=count(tokens.get("sequence_length")),
        precision={"bfloat16": "bf16", "float16": "fp16"}.get(str(part(document, "model").get("dtype"))),
        optimizer=optimizer_of(name),
        clip_gradients=None if clip is None else bool(clip),
        devices=math.prod(degrees.values()),
        unknown_optimizer=unknown_optimizer(name),
    )


# -- MaxText --------------------------------------------------------------------------------------------------

_AXES = {
    "tensor": "tp",
    "tensor_sequence": "tp",
    "tensor_transpose": "tp",
    "pipeline": "pp",
    "context": "cp",
    "sequence": "cp",
    "context_usp_ulysses": "cp",
    "expert": "ep",
}
_REMAT = {"none": "none", "full": "full"}  # the others keep some results


def _maxtext(document: Mapping[str, Any]) -> StatedRun:
    """Axes of a node (ici) and between nodes (dcn) multiply; -1 is what is left, by default for full sharding.

    The batch is that of a device: a group of devices that share the model takes as much for each of them.
    """
    degrees = dict.fromkeys(_AXES.values(), 1)
    for axis, size in _AXES.items():
        degrees[size] *= (count(document.get(f"ici_{axis}_parallelism")) or 1) * (
            count(document.get(f"dcn_{axis}_parallelism")) or 1
        )
    sharded = [document.get(f"{level}_fsdp_parallelism", default) for level, default in (("ici", -1), ("dcn", 1))]
    batch = document.get("per_device_batch_size")
    samples = batch * degrees["tp"] * degrees["pp"] * degrees["cp"] if isinstance(batch, int | float) else 0
    policy, optimizer = document.get("remat_policy"), document.get("opt_type")
    clip, quantization = document.get("gradient_clipping_threshold"), str(document.get("quantization") or "")
    return StatedRun(
        kind="MaxText",
        parallel=sizes(**degrees),
        zero=3 if any(size != 1 for size in sharded) else 0,
        activation_checkpointing=None if policy is None else _REMAT.get(str(policy), "selective"),
        batch_size=count(int(samples)) if samples == int(samples) else None,
        accumulate=count(document.get("gradient_accumulation_steps")),
        sequence_length=count(document.get("max_target_length")),
        precision="fp8" if "fp8" in quantization else {"bfloat16": "bf16"}.get(str(document.get("dtype", "bfloat16"))),
        optimizer=optimizer_of("adamw" if optimizer == "adam_pax" else optimizer),
        clip_gradients=None if clip is None else bool(clip),
        unknown_optimizer=None if optimizer == "adam_pax" else unknown_optimizer(optimizer),
    )


# -- Megatron-Bridge and NeMo ---------------------------------------------------------------------------------

_BRIDGE = frozenset({"tensor_model_parallel_size", "pipeline_model_parallel_size"})
_NEMO_PRECISIONS = {"16": "fp16", "bf16": "bf16", "16-mixed": "fp16", "bf16-mixed": "bf16"}


def _bridge(document: Mapping[str, Any]) -> StatedRun:
    """A file of Megatron-Bridge or NeMo changes a recipe: what it does not state is the recipe's."""
    found = _megatron_parts(document)
    model, trainer = part(document, "model"), part(document, "trainer")
    options = of_yaml(document)
    nodes, each = count(trainer.get("num_nodes")), count(trainer.get("devices"))
    name = options.get("mixed-precision", "")
    plain = name[:4] if name[:4] in ("bf16", "fp16") else _NEMO_PRECISIONS.get(str(trainer.get("precision")))
    clip = options.get("clip-grad") or trainer.get("gradient_clip_val")
    optimizer = options.get("optimizer") or part(model, "optim").get("name")
    return replace(
        found or StatedRun("Megatron-Bridge"),
        kind="NeMo" if trainer else "Megatron-Bridge",
        batch_size=count(options.get("micro-batch-size")),
        global_batch=count(options.get("global-batch-size")),
        sequence_length=count(options.get("seq-length")) or count(options.get("encoder-seq-length")),
        precision="fp8" if "fp8" in name or model.get("fp8") else plain,
        optimizer=optimizer_of(optimizer),
        unknown_optimizer=unknown_optimizer(optimizer),
        clip_gradients=None if clip is None else float(clip) > 0,
        devices=nodes * each if nodes and each else None,
    )


def _megatron_parts(document: Mapping[str, Any]) -> StatedRun | None:
    """The split, sharding and checkpointing by Megatron-Core's names; None where a document has no degrees."""
    options = of_yaml(document)
    if not options:
        return None
    tp = count(options.get("tensor-model-parallel-size")) or 1
    sharded = options.get("use-distributed-optimizer", "False") == "" or "distributed" in options.get("name", "")
    stated = sharded or part(document, "ddp").get("use_distributed_optimizer") is False
    granularity = options.get("recompute-granularity") or options.get("activations-checkpoint-granularity")
    return StatedRun(
        kind="Megatron-Bridge",
        parallel=sizes(
            tp=tp,
            pp=count(options.get("pipeline-model-parallel-size")) or 1,
            cp=count(options.get("context-parallel-size")),
            ep=count(options.get("expert-model-parallel-size")),
            etp=count(options.get("expert-tensor-parallel-size")),
            vp=count(options.get("virtual-pipeline-model-parallel-size")),
            sp=None if tp == 1 else int("sequence-parallel" in options),
        ),
        zero=int(sharded) if stated else None,
        activation_checkpointing=granularity if granularity in ("full", "selective") else None,
        software="megatron-core",
    )
