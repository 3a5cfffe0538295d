"""Other predictors of training cost, fitted and tested on the same rows as joulecast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from joulecast.estimator.cost.features import DENSE, pieces
from joulecast.estimator.fit.regression import nonnegative_fit
from joulecast.estimator.trace.workload import Workload

Array = np.ndarray[Any, np.dtype[np.float64]]

TDP_W = {"Quadro RTX 6000": 260.0, "RTX 3090": 350.0, "RTX 3060": 170.0, "Titan Xp": 250.0}
"""Vendors' board power: NVIDIA data sheets."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run: its network, steps, seconds and joules."""

    workload: Workload
    steps: int
    seconds: float
    energy_j: float


Traits = Callable[[Workload], Sequence[float]]


def total_flops(work: Workload) -> list[float]:
    return [float(work.flops), 1.0]


def parameters(work: Workload) -> list[float]:
    return [float(work.parameters), 1.0]


_KINDS = ("conv1", "conv", "matmul", "norm", "activation", "elementwise", "pool", "copy")


def per_kind(work: Workload) -> list[float]:
    """Multiply-adds of dense kinds and bytes of the others, kind by kind, and a constant."""
    sums = pieces(work.ops).sums()
    return [
        *(
            sum(values["macs" if kind in DENSE else "bytes"] for (own, _), values in sums.items() if own == kind)
            for kind in _KINDS
        ),
        1.0,
    ]


LINEAR: Mapping[str, Traits] = {
    "total FLOPs": total_flops,
    "parameters": parameters,
    "per kind, linear": per_kind,
}


def linear(traits: Traits, train: Sequence[Cost], test: Sequence[Cost]) -> tuple[Array, Array]:
    """Seconds and joules of the test runs: non-negative in the features, fitted on relative error."""
    known: dict[int, Sequence[float]] = {}

    def columns(rows: Sequence[Cost]) -> Array:
        for row in rows:
            if id(row.workload) not in known:
                known[id(row.workload)] = traits(row.workload)
        return np.array([known[id(row.workload)] for row in rows], dtype=float)

    steps = np.array([row.steps for row in test])
    results = []
    for target in ("seconds", "energy_j"):
        goal = np.array([getattr(row, target) / row.steps for row in train])
        results.append(columns(test) @ nonnegative_fit(columns(train), goal) * steps)
    return results[0], results[1]


def tdp_times_true_time(hardware: str, test: Sequence[Cost]) -> Array:
    """Joules as ML CO2 Impact and Green Algorithms count them, given the true run time."""
    return np.array([TDP_W[hardware] * row.seconds for row in test])
