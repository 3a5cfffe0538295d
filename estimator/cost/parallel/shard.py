"""The ops of one device: what tensor, context and pipeline parallelism leave of a workload."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...trace.workload import Op
from ..features import DENSE
from .anatomy import Anatomy
from .plan import Plan


@dataclass(frozen=True, slots=True)
class Stage:
    """One device of the slowest pipeline stage.

    `passes` are the forward and backward ops of one micro-batch, `updates` the optimizer's ops of one step, `blocks`
    the number of blocks. `parameters` are the weights of the device, before ZeRO divides them.
    """

    passes: tuple[Op, ...]
    updates: tuple[Op, ...]
    blocks: int
    parameters: int


def slowest_stage(anatomy: Anatomy, plan: Plan) -> Stage:
    """The stage with the most work: as many blocks as any, with the heavier of both ends of the network."""
    blocks = math.ceil(len(anatomy.blocks) / plan.pp)
    ends = (anatomy.before, anatomy.after)
    chosen = [op for end in ends for op in end] if plan.pp == 1 else list(max(ends, key=_work))
    ops = [*(op for block in anatomy.blocks[:blocks] for op in block), *chosen]
    if plan.checkpointing != "none":
        again = [op for block in anatomy.blocks[:blocks] for op in block if _recomputed(op, plan.checkpointing)]
        ops += [replace(op, phase="backward") for op in again]
    divided = [divided_op(op, anatomy, plan) for op in ops]
    updates = tuple(op for op in divided if op.phase == "optimizer")
    parameters = sum(op.dims.get("elements", 0) * op.count for op in updates)
    share = plan.dp if plan.zero else 1
    return Stage(
        passes=tuple(op for op in divided if op.phase != "optimizer"),
        updates=tuple(_divided(op, share) for op in updates),
        blocks=blocks,
        parameters=parameters,
    )


def divided_op(op: Op, anatomy: Anatomy, plan: Plan) -> Op:
    """`op` on one device of its tensor and context parallel groups.

    Norms, dropouts and additions between the sharded modules are divided too: with sequence parallelism each device of
    the group computes its part of the sequence (Korthikanti et al. 2022).
    """
    if op.phase == "optimizer":
        return _divided(op, plan.tp if _is_sharded(op, anatomy) else 1)
    return _divided(op, plan.tp * plan.cp)


def _is_sharded(op: Op, anatomy: Anatomy) -> bool:
    """Whether tensor parallelism divides the weight that `op` updates: all but those of norms."""
    inside = op.layer.startswith(anatomy.stack) if anatomy.stack else False
    return anatomy.child(op.layer) in anatomy.sharded if inside else op.dims.get("elements", 0) > anatomy.tokens


def _recomputed(op: Op, checkpointing: str) -> bool:
    return op.phase == "forward" and (checkpointing == "full" or op.kind in ("attention", "softmax", "dropout"))


def _divided(op: Op, share: int) -> Op:
    """A `share`-th of the op. A matrix product is divided along its widest dimension, attention by its heads."""
    if share == 1:
        return op
    dims = dict(op.dims)
    if op.kind == "matmul":
        widest = max(("n", "k", "m"), key=lambda name: dims.get(name, 0))
        before = _product_elements(dims)
        dims[widest] = max(1, dims[widest] // share)
        scale = _product_elements(dims) / before if before else 1 / share
    else:
        names = ("b",) if op.kind == "attention" else ("elements", "elements_in", "elements_out", "tokens", "c_out")
        dims |= {name: max(1, dims[name] // share) for name in names if dims.get(name)}
        scale = 1 / share
    return replace(
        op,
        flops=op.flops // share,
        bytes_read=round(op.bytes_read * scale),
        bytes_written=round(op.bytes_written * scale),
        dims=dims,
    )


def _product_elements(dims: dict[str, int]) -> int:
    m, k, n = (dims.get(name, 1) for name in ("m", "k", "n"))
    return m * k + k * n + m * n


def _work(ops: Iterable[Op]) -> int:
    """Multiply-adds of dense ops: what makes an end of the network slow."""
    return sum(op.flops * op.count for op in ops if op.kind in DENSE)
