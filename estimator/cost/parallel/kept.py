"""Activations that a training stack for language models keeps of a block for its backward pass."""

from __future__ import annotations

from collections.abc import Sequence

from ...trace.workload import Op
from ..fusion import as_fused
from ..software import TRAINING_STACKS, WRITTEN_SCORES
from .anatomy import Anatomy


def kept_per_block(anatomy: Anatomy, software: str, checkpointing: str) -> float | None:
    """Bytes of the mean block; None for software and networks whose kernels are not fused."""
    if software not in TRAINING_STACKS or not anatomy.heads:
        return None
    scores = software == WRITTEN_SCORES and checkpointing == "none"
    once = {id(block): kept_bytes(block, anatomy, scores=scores) for block in anatomy.blocks}
    return sum(once[id(block)] for block in anatomy.blocks) / len(anatomy.blocks)


def kept_bytes(block: Sequence[Op], anatomy: Anatomy, *, scores: bool) -> float:
    """Bytes of one block (Korthikanti et al. 2022, "Reducing Activation Recomputation", section 4.1).

    Results of products and of attention, which the next kernel needs; every other input of a product, once where
    several read it; a byte for each element of a dropout. With `scores`, attention's probabilities too, and again
    after a dropout.
    """
    size = anatomy.element_bytes
    kept = 0
    results: set[tuple[str, int]] = set()
    inputs: set[tuple[str, int, int]] = set()
    for op in as_fused(block):
        if op is None or op.phase != "forward":
            continue
        child, dims = anatomy.child(op.layer), op.dims
        if op.kind == "attention" and "q" in dims:
            outputs, probabilities = dims["b"] * dims["q"] * dims["dv"], dims["b"] * dims["q"] * dims["s"]
            results.add((child, outputs))
            dropped = bool(dims.get("dropped"))
            kept += op.count * (size * outputs + scores * probabilities * (size + dropped * (size + 1)))
        elif op.kind == "matmul" and "n" in dims:
            batch, m, k, n = (dims.get(name, 1) for name in ("b", "m", "k", "n"))
            kept += op.count * size * batch * m * n
            source = (child, batch * m, k)
            if source not in inputs and (child, batch * m * k) not in results:
                inputs.add(source)
                kept += op.count * size * batch * m * k
    masks = (op for op in block if op.kind == "dropout" and op.phase == "forward")
    return kept + sum(op.count * op.dims.get("elements_out", 0) for op in masks)
