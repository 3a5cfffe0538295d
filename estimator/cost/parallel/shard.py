"""The ops of one device: what tensor, context and pipeline parallelism leave of a workload."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ...trace.workload import Op
from ..features import DENSE
from ..fusion import ELEMENT_WISE, is_product
from ..software import FLASH_STACKS, WHOLE_BLOCKS
from .anatomy import Anatomy
from .experts import on_one_device, product_elements
from .plan import Plan

_SELECTED = ("attention", "softmax", "dropout")  # that Megatron-LM's selective checkpointing computes again

# Results over inputs, from which a product is computed again. DeepSeek-V3's latent products widen 16 and 64 times, most
# MLPs 2.7 to 4 times.
_WIDENED = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """One device of the slowest pipeline stage.

    `passes` are the forward and backward ops of one micro-batch, `updates` the optimizer's ops of one step, `blocks`
    the number of blocks, `expert_blocks` of those with experts. `parameters` are the weights of the device, before ZeRO
    divides them, and `expert_parameters` those of them that expert parallelism has divided. `mean_work` is the work of
    the mean stage, in multiply-adds, relative to this one's.
    """

    passes: tuple[Op, ...]
    updates: tuple[Op, ...]
    blocks: int
    parameters: int
    expert_parameters: int = 0
    expert_blocks: int = 0
    mean_work: float = 1.0


def slowest_stage(anatomy: Anatomy, plan: Plan, software: str = "eager") -> Stage:
    """The stage with the most work, its updates divided by ZeRO."""
    return with_zero(without_zero(anatomy, plan, software), anatomy, plan)


def with_zero(stage: Stage, anatomy: Anatomy, plan: Plan) -> Stage:
    """`stage` of `without_zero`, whose updates the replicas of `plan` divide among each other from ZeRO stage 1 on."""
    if not plan.zero:
        return stage
    owners = ((op, plan.expert_replicas if _is_shared(op, anatomy, plan) else plan.replicas) for op in stage.updates)
    return replace(stage, updates=tuple(_divided(op, share) for op, share in owners))


def without_zero(anatomy: Anatomy, plan: Plan, software: str) -> Stage:
    """The stage with the most work: as many blocks as any, the heaviest that follow each other, and an end.

    The ends of the network are on stages with fewer blocks where they take no longer than the blocks that are missing
    there. Otherwise the heavier of those that remain is on this stage.
    """
    blocks = _heaviest(anatomy.blocks, math.ceil(len(anatomy.blocks) / plan.pp))
    chosen = _end_of_slowest(anatomy, plan.pp)
    ops = list(chosen)
    for block, times in _counted(blocks):
        ops += [
            replace(op, count=op.count * times * (1 + _runs_twice(op, plan.checkpointing, software))) for op in block
        ]
        again = _recomputed(block, plan.checkpointing, software)
        ops += [replace(op, phase="backward", count=op.count * times) for op in again]
    divided = [divided_op(op, anatomy, plan) for op in ops if not _is_elsewhere(op, anatomy, plan)]
    updates = tuple(op for op in divided if op.phase == "optimizer")
    shared = [op for op in updates if _is_shared(op, anatomy, plan)]
    return Stage(
        passes=tuple(op for op in divided if op.phase != "optimizer"),
        updates=updates,
        blocks=len(blocks),
        parameters=_parameters(updates),
        expert_parameters=_parameters(shared),
        expert_blocks=sum(times for block, times in _counted(blocks) if _has_experts(block, anatomy)),
        mean_work=_mean_work(anatomy, plan.pp, _work(chosen) + _blocks_work(blocks)),
    )


def _end_of_slowest(anatomy: Anatomy, stages: int) -> tuple[Op, ...]:
    """The ops before and after the blocks that the slowest stage has."""
    if stages == 1:
        return (*anatomy.before, *anatomy.after)
    missing = -len(anatomy.blocks) % stages  # blocks that some stages have fewer than others, in all
    each = _work(anatomy.blocks[-1])
    for end in sorted((anatomy.before, anatomy.after), key=_work, reverse=True):
        if not missing or _work(end) > missing * each:
            return end
        missing -= max(1, math.ceil(_work(end) / each)) if each else 1
    return ()


def _heaviest(blocks: Sequence[tuple[Op, ...]], count: int) -> Sequence[tuple[Op, ...]]:
    """The `count` blocks, one after another, with the most work; of equal ones those with the most weights."""
    different = {id(block): block for block in blocks}
    if len(different) == 1 or count == len(blocks):
        return blocks[:count]
    once = {key: (_work(block), _parameters(_updates(block))) for key, block in different.items()}
    sums = [(0, 0), *accumulate((once[id(block)] for block in blocks), lambda a, b: (a[0] + b[0], a[1] + b[1]))]
    gains = [(end[0] - start[0], end[1] - start[1]) for start, end in zip(sums, sums[count:], strict=False)]
    first = max(range(len(gains)), key=lambda index: gains[index])
    return blocks[first : first + count]


def _counted(blocks: Sequence[tuple[Op, ...]]) -> Iterable[tuple[tuple[Op, ...], int]]:
    """Different blocks, and how often each is there."""
    times = Counter(id(block) for block in blocks)
    return [(block, times[key]) for key, block in {id(block): block for block in blocks}.items()]


def _blocks_work(blocks: Sequence[tuple[Op, ...]]) -> int:
    return sum(times * _work(block) for block, times in _counted(blocks))


def _mean_work(anatomy: Anatomy, stages: int, slowest: int) -> float:
    if stages == 1 or not slowest:
        return 1.0
    return (_work(anatomy.before) + _work(anatomy.after) + _blocks_work(anatomy.blocks)) / stages / slowest


def _has_experts(block: Sequence[Op], anatomy: Anatomy) -> bool:
    return any(op.layer in anatomy.experts for op in block)


def _updates(block: Sequence[Op]) -> Iterable[Op]:
    return (op for op in block if op.phase == "optimizer")


def _is_shared(op: Op, anatomy: Anatomy, plan: Plan) -> bool:
    """Whether devices hold different experts, or other parts than of other layers, of the layer of `op`."""
    return (plan.ep > 1 or plan.expert_stride < plan.tp) and op.layer in anatomy.experts


def _is_elsewhere(op: Op, anatomy: Anatomy, plan: Plan) -> bool:
    return _is_shared(op, anatomy, plan) and anatomy.experts[op.layer].elsewhere(plan.ep)


def _parameters(updates: Iterable[Op]) -> int:
    return sum(op.dims.get("elements", 0) * op.count for op in updates)


def divided_op(op: Op, anatomy: Anatomy, plan: Plan) -> Op:
    """`op` on one device of its expert, tensor and context parallel groups.

    With sequence parallelism each device of the group computes its part of the sequence in norms, dropouts and
    additions (Korthikanti et al. 2022); without it, each computes all of it.
    """
    if _is_shared(op, anatomy, plan):
        op = on_one_device(op, anatomy.experts[op.layer], plan.ep, plan.tp // plan.expert_stride)
        if plan.expert_stride < plan.tp and (op.phase == "optimizer" or op.kind == "matmul"):
            return op if op.phase == "optimizer" else _divided(op, plan.cp)
    if op.phase == "optimizer":
        return _divided(op, plan.tp if _is_sharded(op, anatomy) else 1)
    if plan.tp == 1 and plan.cp == 1:
        return op
    if op.kind == "matmul" and op.layer in anatomy.widths and op.dims.get("b", 1) == 1:
        return _divided_product(op, anatomy, plan)
    whole = anatomy.stack and op.layer.startswith(anatomy.stack) and anatomy.child(op.layer) not in anatomy.sharded
    tp = 1 if whole and not plan.sequence_parallel else plan.tp
    return _divided(op, tp * plan.cp)


def _divided_product(op: Op, anatomy: Anatomy, plan: Plan) -> Op:
    """A product with a weight: tensor parallelism divides its inputs or outputs, context parallelism the tokens."""
    tokens, side = _sides(op.dims, op.phase, anatomy.widths[op.layer], op.layer in anatomy.rows)
    dims = dict(op.dims)
    before = product_elements(dims)
    dims[side] = max(1, dims[side] // plan.tp)
    dims[tokens] = max(1, dims[tokens] // plan.cp)
    scale = product_elements(dims) / before
    return replace(
        op,
        flops=op.flops // (plan.tp * plan.cp),
        bytes_read=round(op.bytes_read * scale),
        bytes_written=round(op.bytes_written * scale),
        dims=dims,
    )


def _sides(dims: Mapping[str, int], phase: str, widths: tuple[int, int], row: bool) -> tuple[str, str]:
    """Which sizes of a product are the tokens and the divided width: the weight's inputs where `row`, else outputs."""
    inputs, outputs = widths
    if phase == "forward":  # tokens x inputs, inputs x outputs
        return "m", "k" if row else "n"
    if (dims["k"], dims["n"]) == (outputs, inputs):  # the gradient of the inputs
        return "m", "n" if row else "k"
    return "k", "m" if dims["m"] == (inputs if row else outputs) else "n"  # the gradient of the weight


def _is_sharded(op: Op, anatomy: Anatomy) -> bool:
    """Whether tensor parallelism divides the weight that `op` updates: all but those of norms."""
    inside = op.layer.startswith(anatomy.stack) if anatomy.stack else False
    return anatomy.child(op.layer) in anatomy.sharded if inside else op.dims.get("elements", 0) > anatomy.tokens


def _runs_twice(op: Op, checkpointing: str, software: str) -> bool:
    """Whether selective checkpointing of software with flash attention runs the forward kernel of `op` again."""
    selective = checkpointing == "selective" and software in FLASH_STACKS and op.phase == "forward"
    return selective and (op.kind in ELEMENT_WISE or widens(op))


def widens(op: Op) -> bool:
    """Whether this product makes so much of so little that it is rather computed again than kept.

    As those of multi-head latent attention, which DeepSeek-V3 computes again (DeepSeek-AI 2024, section 3.2.3).
    """
    return is_product(op) and op.dims["n"] >= _WIDENED * op.dims["k"]


def _recomputed(block: Sequence[Op], checkpointing: str, software: str) -> Sequence[Op]:
    """The forward ops of a block that are computed again for its backward pass, without those that run twice.

    With full checkpointing these are all that come before the last tensor that the backward pass needs, or with some
    software the whole block. It does not need the sum at the end, nor the result of a product that is only added to
    something.
    """
    forward = [op for op in block if op.phase == "forward"]
    if checkpointing != "full":
        selected = checkpointing == "selective" and software not in FLASH_STACKS
        return [op for op in forward if selected and op.kind in _SELECTED]
    if software not in WHOLE_BLOCKS:
        while forward and forward[-1].kind == "elementwise" and forward[-1].name.startswith("add"):
            forward.pop()
        if forward and forward[-1].kind == "matmul":
            forward.pop()
    return forward


def _divided(op: Op, share: int) -> Op:
    """A `share`-th of the op. A matrix product is divided along its widest dimension, attention by its heads."""
    if share == 1:
        return op
    dims = dict(op.dims)
    if op.kind == "matmul" and "n" in dims:
        widest = max(("n", "k", "m"), key=lambda name: dims[name])
        before = product_elements(dims)
        dims[widest] = max(1, dims[widest] // share)
        scale = product_elements(dims) / before if before else 1 / share
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


def _work(ops: Iterable[Op]) -> int:
    """Multiply-adds of dense ops: what makes an end of the network slow."""
    return sum(op.flops * op.count for op in ops if op.kind in DENSE)
