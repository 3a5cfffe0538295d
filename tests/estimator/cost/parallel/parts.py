"""Parts of a split, made by hand."""

from __future__ import annotations

from dataclasses import replace

from joulecast.estimator.cost.parallel.anatomy import Anatomy, dissect
from joulecast.estimator.cost.parallel.memory import memory_of
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.shard import Stage, slowest_stage
from joulecast.estimator.trace.workload import Layer, Op, Workload

from .decoder import decoder

# Three blocks, two of whose children hold products; 1000 values of 2 bytes from one to the next.
ANATOMY = Anatomy(((), (), ()), (), (), 1000, 2, 128, 8, "model.", frozenset({"attn", "mlp"}))


STAGE = Stage((), (), 3, 600)


def product(layer: str = "model.0.mlp.up", **sizes: int) -> Op:
    dims = {"b": 1, "m": 10, "k": 20, "n": 40, **sizes}
    m, k, n = dims["m"], dims["k"], dims["n"]
    return Op("mm", "matmul", "forward", layer, m * k * n, 4 * (m * k + k * n), 4 * m * n, dims=dims)


def op(kind: str, layer: str = "", phase: str = "forward", count: int = 1, **dims: int) -> Op:
    return Op(kind, kind, phase, layer, 80, 40, 20, dims=dims, count=count)


def anatomy(*blocks: tuple[Op, ...], before: tuple[Op, ...] = (), after: tuple[Op, ...] = ()) -> Anatomy:
    return replace(ANATOMY, blocks=blocks, before=before, after=after)


def memory(plan: Plan, **values: object):
    work = decoder()
    found = replace(dissect(work), **values)  # type: ignore[arg-type]
    return memory_of(work, found, slowest_stage(found, plan), plan)


def work(*ops: Op, layers: tuple[Layer, ...] = (), precision: str = "float32") -> Workload:
    return Workload("net", "pytorch", 2, True, "sgd", precision, 0, 0, 0, 0, layers, ops, tokens_per_sample=5)
