"""Activations that a training stack for language models keeps of a block for its backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ...trace.fp8 import FP8_DTYPE
from ...trace.workload import Op
from ..fusion import as_fused
from ..software import FLASH_STACKS, TRAINING_STACKS, WRITTEN_SCORES
from .anatomy import Anatomy
from .shard import widens


def kept_per_block(anatomy: Anatomy, software: str, checkpointing: str) -> float | None:
    """Bytes of the mean block; None for software and networks whose kernels are not fused."""
    if software not in TRAINING_STACKS or not anatomy.heads:
        return None
    if software in FLASH_STACKS and checkpointing == "selective":
        kept = partial(kept_by_selection, anatomy=anatomy)
    else:
        kept = partial(kept_bytes, anatomy=anatomy, scores=software == WRITTEN_SCORES and checkpointing == "none")
    once = {key: kept(block) for key, block in {id(block): block for block in anatomy.blocks}.items()}
    return sum(once[id(block)] for block in anatomy.blocks) / len(anatomy.blocks)


def kept_bytes(block: Sequence[Op], anatomy: Anatomy, *, scores: bool) -> float:
    """Bytes of one block (Korthikanti et al. 2022, "Reducing Activation Recomputation", section 4.1).

    Results of products and of attention, which the next kernel needs; every other input of a product, once where
    several read it, in FP8 where the product is; a byte for each element of a dropout. With `scores`, attention's
    probabilities too, and again after a dropout.
    """
    size = anatomy.element_bytes
    kept = 0
    results: set[tuple[str, int]] = set()
    inputs: set[tuple[str, int, int]] = set()
    for op in _forward(block):
        child, dims = anatomy.child(op.layer), op.dims
        if op.kind == "attention":
            outputs, probabilities = _results(op), dims["b"] * dims["q"] * dims["s"]
            results.add((child, outputs))
            dropped = bool(dims.get("dropped"))
            kept += op.count * (size * outputs + scores * probabilities * (size + dropped * (size + 1)))
        else:
            batch, m, k = (dims.get(name, 1) for name in ("b", "m", "k"))
            kept += op.count * size * _results(op)
            source = (child, batch * m, k)
            if source not in inputs and (child, batch * m * k) not in results:
                inputs.add(source)
                kept += op.count * _input_bytes(op, size)
    masks = (op for op in block if op.kind == "dropout" and op.phase == "forward")
    return kept + sum(op.count * op.dims.get("elements_out", 0) for op in masks)


def kept_by_selection(block: Sequence[Op], anatomy: Anatomy) -> float:
    """Bytes of one block where norms, activations and products that widen much are computed again.

    Results of attention and of the other products, but those of experts only once for each token; tokens that were
    sent to experts, as the input of their first product.
    """
    size, width = anatomy.element_bytes, anatomy.boundary_elements // max(anatomy.tokens, 1)
    kept = 0
    sent: set[tuple[str, int]] = set()  # a module of experts, and its tokens
    for op in _forward(block):
        if op.kind != "matmul" or op.layer not in anatomy.experts:
            kept += 0 if widens(op) else op.count * size * _results(op)
        elif op.dims["k"] == width:
            kept += op.count * size * _results(op)
            source = (op.layer.rpartition(".")[0], op.dims.get("b", 1) * op.dims["m"])
            if source not in sent:
                sent.add(source)
                kept += op.count * _input_bytes(op, size)
    return kept


def _forward(block: Sequence[Op]) -> Iterator[Op]:
    """Attention and products as one kernel each."""
    for op in as_fused(block):
        if op is None or op.phase != "forward":
            continue
        if (op.kind == "attention" and "q" in op.dims) or (op.kind == "matmul" and "n" in op.dims):
            yield op


def _results(op: Op) -> int:
    dims = op.dims
    if op.kind == "attention":
        return dims["b"] * dims["q"] * dims["dv"]
    return dims.get("b", 1) * dims["m"] * dims["n"]


def _input_bytes(op: Op, size: int) -> int:
    dims = op.dims
    return (1 if op.dtype == FP8_DTYPE else size) * dims.get("b", 1) * dims["m"] * dims["k"]
