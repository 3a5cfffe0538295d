"""Experts of a mixture: the layers that hold them, and what expert parallelism leaves of their ops on one device.

Each of `ep` devices holds a share of a layer's experts and computes them for the tokens of all `ep` devices: as many
tokens in total, but more for each expert (Lepikhin et al. 2020, "GShard", section 3).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ...trace.workload import Op


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer, computed by grouped products.

    `count` experts receive `tokens` tokens each, `sent_elements` numbers in all. `weights` are the sizes of the layer's
    parameters, each of all experts together. A router that limits a token to some groups of experts (node-limited
    routing) chooses `kept_groups` of `groups`.
    """

    count: int
    tokens: int
    sent_elements: int
    weights: frozenset[int]
    groups: int = 1
    kept_groups: int = 1

    def reached(self, places: int, per_token: float) -> float:
        """How many of `places` devices or nodes, which share the experts evenly, have one of a token's experts."""
        among = places * self.kept_groups / self.groups if places % self.groups == 0 else float(places)
        return among * (1.0 - math.pow(1.0 - 1.0 / among, per_token)) if among > 1 else 1.0


def experts_of(ops: Iterable[Op]) -> dict[str, Experts]:
    """The layers whose batched products have a weight for each member of the batch."""
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
    return found


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


def on_one_device(op: Op, experts: Experts, ep: int) -> Op:
    """`op` of a layer with experts, on one of `ep` devices that share them."""
    if op.phase == "optimizer":
        return _share(op, ep, ("elements",)) if op.dims.get("elements") in experts.weights else op
    if op.kind == "matmul" and op.dims.get("b") == experts.count:
        return _grouped_product(op, experts, ep)
    sizes = ("elements_in", "elements_out")
    return _share(op, ep, sizes) if any(op.dims.get(name) in experts.weights for name in sizes) else op


def _grouped_product(op: Op, experts: Experts, ep: int) -> Op:
    b, m, n = (op.dims[name] for name in ("b", "m", "n"))
    of_weights = op.phase == "backward" and m != experts.tokens  # the gradient of the weights: tokens are summed over
    side = "k" if of_weights else "m"
    dims = {**op.dims, "b": b // ep, side: op.dims[side] * ep}
    read, written = (1.0, 1.0 / ep) if of_weights else ((m + n / ep) / (m + n), 1.0)
    return replace(
        op, bytes_read=round(op.bytes_read * read), bytes_written=round(op.bytes_written * written), dims=dims
    )


def _share(op: Op, ep: int, names: Iterable[str]) -> Op:
    sizes = {name: op.dims[name] // ep for name in names if name in op.dims}
    return replace(op, bytes_read=op.bytes_read // ep, bytes_written=op.bytes_written // ep, dims={**op.dims, **sizes})
