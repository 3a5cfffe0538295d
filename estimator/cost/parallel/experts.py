"""Experts of a mixture: the layers that hold them, and what expert parallelism leaves of their ops on one device.

Each of `ep` devices holds a share of a layer's experts and computes them for the tokens of all `ep` devices: as many
tokens in total, but more for each expert (Lepikhin et al. 2020, "GShard", section 3).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...trace.workload import Op

_FEWEST = 2  # experts of a list


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer, computed by grouped products, or one expert of a list of modules.

    `count` experts receive `sent_elements` numbers in all, and `tokens` tokens each; the expert at `place` in a list
    receives `tokens`, and the mean one `mean_tokens`. `weights` are the sizes of the layer's parameters, those of
    grouped products for all experts together. A router that limits a token to some groups of experts (node-limited
    routing) chooses `kept_groups` of `groups`.
    """

    count: int
    tokens: int
    sent_elements: int
    weights: frozenset[int]
    groups: int = 1
    kept_groups: int = 1
    place: int | None = None
    mean_tokens: float = 0.0

    def elsewhere(self, ep: int) -> bool:
        """Whether this expert of a list is on another of `ep` devices: a device has the first of the list."""
        return self.place is not None and self.place >= self.count // ep

    def reached(self, places: int, per_token: float) -> float:
        """How many of `places` devices or nodes, which share the experts evenly, have one of a token's experts."""
        among = places * self.kept_groups / self.groups if places % self.groups == 0 else float(places)
        return among * (1.0 - math.pow(1.0 - 1.0 / among, per_token)) if among > 1 else 1.0


def experts_of(ops: Iterable[Op]) -> dict[str, Experts]:
    """The layers whose batched products have a weight for each member of the batch, and those of listed experts."""
    ops = tuple(ops)
    weights: Mapping[str, set[int]] = defaultdict(set)
    for op in ops:
        if op.phase == "optimizer" and "elements" in op.dims:
            weights[op.layer].add(op.dims["elements"])
    found: dict[str, Experts] = {}
    for op in ops:
        if op.kind != "matmul" or op.phase != "forward" or op.dims.get("b", 1) == 1 or op.layer in found:
            continue
        b, m, k, n = (op.dims[name] for name in ("b", "m", "k", "n"))
        if b * k * n in weights[op.layer]:
            kept_groups, groups = _groups(ops, op.layer, b)
            found[op.layer] = Experts(b, m, b * m * k, frozenset(weights[op.layer]), groups, kept_groups)
    return {**_listed(ops), **found}


def _listed(ops: Sequence[Op]) -> dict[str, Experts]:
    """Layers of experts in a list of modules: a product around the list scores each member, which gets some tokens."""
    products = [op for op in ops if op.kind == "matmul" and op.phase == "forward" and op.dims.get("b", 1) == 1]
    products = [op for op in products if "n" in op.dims]
    tokens = max((op.dims["m"] for op in products), default=0)
    found: dict[str, Experts] = {}
    for container, members in _lists(ops).items():
        parent = container.rpartition(".")[0]
        around = parent + "." if parent else ""
        firsts = [next((op for op in products if op.layer in own), None) for own in members]
        sent = [(op.dims["m"], op.dims["k"]) for op in firsts if op is not None]
        scored = any(op.dims["n"] == len(members) and op.layer.startswith(around) for op in products)
        if len(members) < _FEWEST or not scored or not sent or max(sent)[0] >= tokens:
            continue
        mean_tokens, elements = sum(m for m, _ in sent) / len(members), sum(m * k for m, k in sent)
        kept_groups, groups = _groups(ops, container, len(members))
        for place, (layers, first) in enumerate(zip(members, firsts, strict=True)):
            weights = frozenset(op.dims["elements"] for op in ops if op.phase == "optimizer" and op.layer in layers)
            one = Experts(len(members), first.dims["m"] if first else 0, elements, weights, groups, kept_groups)
            found |= dict.fromkeys(layers, replace(one, place=place, mean_tokens=mean_tokens))
    return found


def _lists(ops: Iterable[Op]) -> dict[str, list[set[str]]]:
    """The layers of each member of every list of modules, by the list's path."""
    members: dict[str, dict[int, set[str]]] = {}
    for layer in {op.layer for op in ops}:
        parts = layer.split(".")
        for position, part in enumerate(parts):
            if part.isdigit():
                own = members.setdefault(".".join(parts[:position]), {})
                own.setdefault(int(part), set()).add(layer)
    return {container: [own[index] for index in sorted(own)] for container, own in members.items()}


def _groups(ops: Iterable[Op], layer: str, count: int) -> tuple[int, int]:
    """The groups of experts that the router of `layer` keeps for a token, and those that it has: it takes the best."""
    around = layer.rpartition(".")[0] + "."
    chosen = [op.dims for op in ops if op.name == "topk" and op.phase == "forward" and op.layer.startswith(around)]
    tokens = max((dims["elements_in"] for dims in chosen), default=0) // count
    for dims in chosen:
        groups = dims["elements_in"] // tokens if tokens else 1
        if 1 < groups < count and count % groups == 0:
            return dims["elements_out"] // tokens, groups
    return 1, 1


def on_one_device(op: Op, experts: Experts, ep: int, tokens_among: int = 1) -> Op:
    """`op` of a layer with experts, on one of `ep` devices that share them, and has this one.

    Products have a share of the tokens where `tokens_among` devices divide a micro-batch, and not the experts.
    """
    if experts.place is not None:
        among = tokens_among if op.kind == "matmul" else 1
        return _of_more_tokens(op, experts, ep / among * experts.mean_tokens / max(experts.tokens, 1))
    if op.phase == "optimizer":
        return _share(op, ep, ("elements",)) if op.dims.get("elements") in experts.weights else op
    if op.kind == "matmul" and op.dims.get("b") == experts.count:
        return _grouped_product(op, experts, ep, tokens_among)
    sizes = ("elements_in", "elements_out")
    return _share(op, ep, sizes) if any(op.dims.get(name) in experts.weights for name in sizes) else op


def _grouped_product(op: Op, experts: Experts, ep: int, tokens_among: int) -> Op:
    b, m, n = (op.dims[name] for name in ("b", "m", "n"))
    of_weights = op.phase == "backward" and m != experts.tokens  # the gradient of the weights: tokens are summed over
    side = "k" if of_weights else "m"
    dims = {**op.dims, "b": b // ep, side: max(1, op.dims[side] * ep // tokens_among)}
    tokens, weights = 1.0 / tokens_among, 1.0 / ep
    read, written = (tokens, weights) if of_weights else ((m * tokens + n * weights) / (m + n), tokens)
    return replace(
        op,
        flops=op.flops // tokens_among,
        bytes_read=round(op.bytes_read * read),
        bytes_written=round(op.bytes_written * written),
        dims=dims,
    )


def _of_more_tokens(op: Op, experts: Experts, times: float) -> Op:
    """`op` of an expert that gets so many times its tokens; its updates and copies of its weights stay."""
    dims = op.dims
    if op.phase == "optimizer" or {dims.get("elements_in"), dims.get("elements_out")} & experts.weights:
        return op
    if op.kind == "matmul" and "n" in dims:
        of_weights = op.phase == "backward" and dims["m"] * dims["n"] in experts.weights
        sizes: tuple[str, ...] = ("k",) if of_weights else ("m",)
    else:
        sizes = ("elements", "elements_in", "elements_out", "tokens")
    scaled = {**dims, **{name: round(dims[name] * times) for name in sizes if name in dims}}
    moved = product_elements(scaled) / product_elements(dims) if "n" in dims and product_elements(dims) else times
    return replace(
        op,
        flops=round(op.flops * times),
        bytes_read=round(op.bytes_read * moved),
        bytes_written=round(op.bytes_written * moved),
        dims=scaled,
    )


def product_elements(dims: Mapping[str, int]) -> int:
    """Of both factors of a product and its result."""
    m, k, n = dims["m"], dims["k"], dims["n"]
    return m * k + k * n + m * n


def _share(op: Op, ep: int, names: Iterable[str]) -> Op:
    sizes = {name: op.dims[name] // ep for name in names if name in op.dims}
    return replace(op, bytes_read=op.bytes_read // ep, bytes_written=op.bytes_written // ep, dims={**op.dims, **sizes})
