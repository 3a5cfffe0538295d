"""Experts as training stacks compute them: each for the tokens that are sent to it, in the run's number format.

Some code computes every token in every expert and multiplies by zero (Llama 4 in transformers), or keeps the products
of experts in 32 bits, which autocast does not convert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...trace.fp8 import FP8, as_fp8
from ...trace.workload import Op, Workload
from .experts import Experts, experts_of, product_elements

_HALVES = {"bfloat16": "bfloat16", "float16": "float16", FP8: "bfloat16"}
_SIZES = ("elements", "elements_in", "elements_out")


@dataclass(frozen=True, slots=True)
class _Dense:
    """A module in which each of `count` experts computes all `tokens`, of which it needs a `share`.

    Tensors of the tokens of all experts have at least `least` elements.
    """

    count: int
    tokens: int
    share: float
    least: int


def with_routed_experts(work: Workload) -> Workload:
    """`work` with the products that experts need."""
    experts = experts_of(work.ops)
    if not experts:
        return work
    dense = dict(_dense(work.ops, experts))
    half = _HALVES.get(work.precision)
    ops = tuple(_in_half(_routed(op, dense), experts, half) for op in work.ops)
    if ops == work.ops:
        return work
    found = replace(work, ops=ops)
    return as_fp8(found) if work.precision == FP8 else found


def _dense(ops: Sequence[Op], experts: Mapping[str, Experts]) -> Iterator[tuple[str, _Dense]]:
    """The modules whose experts compute more than the tokens that their router chose, by the module's path."""
    for layer, one in experts.items():
        parent = layer.rpartition(".")[0]
        own = [op for op in ops if _is_in(op, parent) and op.phase == "forward"]
        chosen = max((op.dims["elements_out"] for op in own if op.name == "topk"), default=0)
        if one.place is None and 0 < chosen < one.count * one.tokens:
            widths = [min(op.dims["k"], op.dims["n"]) for op in own if op.kind == "matmul" and op.layer == layer]
            least = one.count * one.tokens * min(widths)
            yield parent, _Dense(one.count, one.tokens, chosen / (one.count * one.tokens), least)


def _routed(op: Op, dense: Mapping[str, _Dense]) -> Op:
    found = next((one for path, one in dense.items() if _is_in(op, path)), None)
    if found is None or op.phase == "optimizer":
        return op
    if op.kind == "matmul":
        return _fewer_tokens(op, found) if op.dims.get("b") == found.count else op
    large = {name: op.dims[name] for name in _SIZES if op.dims.get(name, 0) >= found.least}
    if not large:
        return op
    dims = {**op.dims, **{name: round(size * found.share) for name, size in large.items()}}
    moved = sum(dims.get(name, 0) for name in _SIZES) / sum(op.dims.get(name, 0) for name in _SIZES)
    return _fewer(op, found.share, moved, dims)


def _is_in(op: Op, module: str) -> bool:
    return op.layer == module or op.layer.startswith(module + ".")


def _fewer_tokens(op: Op, dense: _Dense) -> Op:
    of_weights = op.phase == "backward" and op.dims["m"] != dense.tokens
    side = "k" if of_weights else "m"
    dims = {**op.dims, side: max(1, round(op.dims[side] * dense.share))}
    moved = product_elements(dims) / product_elements(op.dims)
    return _fewer(op, dense.share, moved, dims)


def _fewer(op: Op, share: float, moved: float, dims: dict[str, int]) -> Op:
    """`op` with a share of its multiply-adds and of its bytes."""
    return replace(
        op,
        flops=round(op.flops * share),
        bytes_read=round(op.bytes_read * moved),
        bytes_written=round(op.bytes_written * moved),
        dims=dims,
    )


def _in_half(op: Op, experts: Mapping[str, Experts], half: str | None) -> Op:
    if half is None or op.kind != "matmul" or op.dtype != "float32" or op.layer not in experts:
        return op
    return replace(op, dtype=half, bytes_read=op.bytes_read // 2, bytes_written=op.bytes_written // 2)
