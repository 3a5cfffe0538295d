"""The parts of a network that a split distributes: its repeated blocks, and what comes before and after them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...trace.workload import Op, Workload
from ..features import DENSE
from ..fusion import is_product
from .experts import Experts, experts_of

_BLOCK = re.compile(r"^(?P<stack>(?:.*\.)?)(?P<index>\d+)(?:\.|$)")
# A training in FP8 keeps weights, gradients and activations in 16 bits, and exchanges them so.
_ELEMENT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8": 2}
_ELEMENT_BYTES |= {"float8_e4m3fn": 1, "float8_e5m2": 1}  # a network whose weights are in FP8


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A workload as blocks of ops. One forward and backward pass of `batch_size` samples.

    `blocks` holds the ops of each repeated block, in order; `before` and `after` the ops of the layers that run before
    and after them. `boundary_elements` is the size of the tensor that one block passes to the next. `heads` is the
    number of attention heads (0 without attention), `sharded` the paths whose weights tensor parallelism divides,
    `rows` those of them whose inputs it divides (the others' outputs), `widths` the inputs and outputs of layers, and
    `experts` the layers of experts.
    Equal blocks are one object, with the layers of the first.
    """

    blocks: tuple[tuple[Op, ...], ...]
    before: tuple[Op, ...]
    after: tuple[Op, ...]
    boundary_elements: int
    element_bytes: int
    tokens: int
    heads: int
    stack: str
    sharded: frozenset[str]
    rows: frozenset[str] = frozenset()
    widths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    experts: Mapping[str, Experts] = field(default_factory=dict)
    weight_bytes: float | None = None  # of an element of the weights and their gradients; None: `element_bytes`

    def child(self, layer: str) -> str:
        """The first module below a block that `layer` belongs to; "" for the block itself."""
        return _child(layer, self.stack)

    @property
    def boundary_bytes(self) -> int:
        return self.boundary_elements * self.element_bytes

    def gradient_bytes(self, as_weights: bool) -> float:
        """Of an exchanged gradient: of the weights, or of the precision that the network computes in."""
        return self.weight_bytes if as_weights and self.weight_bytes else self.element_bytes

    @property
    def expert_count(self) -> int:
        """Experts of a layer; 1 in a network without any."""
        return next((one.count for one in self.experts.values()), 1)

    @property
    def only_experts(self) -> bool:
        """Whether the modules with experts have no other products than their router's."""
        modules = {self.child(layer) for layer in self.experts}
        others = (layer for layer in self.widths if layer not in self.experts and self.child(layer) in modules)
        return all(self.widths[layer][1] == self.expert_count for layer in others)

    def reached(self, places: int) -> float:
        """How many of `places` devices or nodes, which share the experts evenly, have one of a token's experts."""
        experts = next(iter(self.experts.values()), None)
        return experts.reached(places, self.per_token) if experts else 1.0

    @property
    def per_token(self) -> float:
        """The experts of a token."""
        experts = next(iter(self.experts.values()), None)
        return experts.sent_elements / self.boundary_elements if experts else 1.0

    @property
    def ops(self) -> tuple[Op, ...]:
        return (*self.before, *(op for block in self.blocks for op in block), *self.after)


def dissect(work: Workload, accumulation: int = 1) -> Anatomy:
    """The anatomy of one of the `accumulation` passes of a step. A network without repeated blocks is one block."""
    work = _one_pass(work, accumulation)
    stack = _stack(work)
    members: dict[int, list[Op]] = defaultdict(list)
    before: list[Op] = []
    after: list[Op] = []
    early = _early_layers(work.ops, stack)
    for op in work.ops:
        index = _index(op.layer, stack)
        if index is not None:
            members[index].append(op)
        elif op.layer in early:
            before.append(op)
        else:
            after.append(op)
    blocks = _shared(tuple(tuple(members[index]) for index in sorted(members)), stack) or (tuple(work.ops),)
    if not members:
        before, after = [], []
    return Anatomy(
        blocks=blocks,
        before=tuple(before),
        after=tuple(after),
        boundary_elements=_boundary(work, stack),
        element_bytes=_ELEMENT_BYTES.get(work.precision, 4),
        tokens=work.batch_size * work.tokens_per_sample,
        heads=_heads(work),
        stack=stack,
        sharded=_sharded(blocks, stack),
        rows=_rows(blocks, stack),
        widths={op.layer: (op.dims["k"], op.dims["n"]) for op in (*blocks_once(blocks), *after) if is_product(op)},
        experts=experts_of(blocks_once(blocks)),
        weight_bytes=work.parameter_bytes / work.parameters if work.parameters else None,
    )


def blocks_once(blocks: Sequence[tuple[Op, ...]]) -> Iterator[Op]:
    """The ops of different blocks."""
    for block in {id(block): block for block in blocks}.values():
        yield from block


def _shared(blocks: tuple[tuple[Op, ...], ...], stack: str) -> tuple[tuple[Op, ...], ...]:
    """The blocks, equal ones as one object."""
    seen: dict[tuple[object, ...], tuple[Op, ...]] = {}
    return tuple(seen.setdefault(tuple(_signature(op, stack) for op in block), block) for block in blocks)


def _signature(op: Op, stack: str) -> tuple[object, ...]:
    """Equal for ops that do the same at the same place of two blocks."""
    place = op.layer[len(stack) :].partition(".")[2]
    figures = (op.flops, op.bytes_read, op.bytes_written, op.count, *op.dims.items())
    return (op.name, op.kind, op.phase, place, op.dtype, *figures)


def _rows(blocks: Sequence[tuple[Op, ...]], stack: str) -> frozenset[str]:
    """The last layer with a product in each child of a block: the one whose inputs tensor parallelism divides."""
    firsts: dict[tuple[int, str], str] = {}
    lasts: dict[tuple[int, str], str] = {}
    for block in blocks:
        for op in block:
            if is_product(op) and (child := _child(op.layer, stack)):
                firsts.setdefault((id(block), child), op.layer)
                lasts[id(block), child] = op.layer
    return frozenset(layer for key, layer in lasts.items() if layer != firsts[key])


def _one_pass(work: Workload, accumulation: int) -> Workload:
    if accumulation == 1:
        return work
    ops = tuple(op if op.phase == "optimizer" else replace(op, count=op.count // accumulation) for op in work.ops)
    return replace(work, batch_size=work.batch_size // accumulation, ops=ops)


def _stack(work: Workload) -> str:
    """The container whose numbered children hold the most work, as in `model.layers.`; "" for none."""
    weight: Counter[str] = Counter()
    indices: dict[str, set[str]] = defaultdict(set)
    for op in work.ops:
        match = _BLOCK.match(op.layer)
        if match:
            weight[match["stack"]] += op.count * (op.flops + op.bytes_moved)
            indices[match["stack"]].add(match["index"])
    stacks = [stack for stack in weight if len(indices[stack]) > 1]
    return max(stacks, key=lambda stack: weight[stack], default="")


def _index(layer: str, stack: str) -> int | None:
    if not stack or not layer.startswith(stack):
        return None
    first = layer[len(stack) :].partition(".")[0]
    return int(first) if first.isdigit() else None


def _early_layers(ops: Sequence[Op], stack: str) -> frozenset[str]:
    """Layers whose first forward op comes before the first block's."""
    early = set()
    for op in ops:
        if op.phase != "forward":
            continue
        if _index(op.layer, stack) is not None:
            break
        early.add(op.layer)
    return frozenset(early)


def _boundary(work: Workload, stack: str) -> int:
    """Elements of a block's output, from the layer table, else from its last forward op."""
    if stack:
        sizes = [
            math.prod(layer.output_shape)
            for layer in work.layers
            if _index(layer.path, stack) is not None and layer.path[len(stack) :].isdigit()
        ]
        if any(sizes):
            return max(sizes)
    last: dict[int, int] = {}
    for op in work.ops:
        index = _index(op.layer, stack)
        if index is not None and op.phase == "forward" and "elements_out" in op.dims:
            last[index] = op.dims["elements_out"]
    return max(last.values(), default=0)


def _heads(work: Workload) -> int:
    """Heads of fused attention, or of attention by hand: products of batches in a layer with a softmax."""
    by_hand = {op.layer for op in work.ops if op.kind == "softmax"}
    heads = {
        op.dims.get("b", 0) // work.batch_size
        for op in work.ops
        if op.kind == "attention" or (op.kind == "matmul" and op.layer in by_hand)
    }
    return max(heads, default=0)


def _sharded(blocks: Sequence[Sequence[Op]], stack: str) -> frozenset[str]:
    """Names of a block's direct children that contain matrix products, as in `self_attn` and `mlp`."""
    return frozenset(
        _child(op.layer, stack) for block in blocks for op in block if op.kind in DENSE and _child(op.layer, stack)
    )


def _child(layer: str, stack: str) -> str:
    return layer[len(stack) :].partition(".")[2].partition(".")[0] if layer.startswith(stack) else ""
