"""Errors of a fit on families left out: its scores, and its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..cost.bounds import ErrorModel
from ..cost.curves import Curves
from ..cost.features import Array
from ..cost.profile import effective_ops
from .observation import Observation
from .regression import bounds, relative_errors, shared_error

FACTOR_PER_DECADE = 1.6
"""Widening of an interval for each power of ten outside: fits on small layers missed AlexNet by that."""


@dataclass(frozen=True, slots=True)
class LeftOutErrors:
    """Bounds of measured over predicted, and mean and median errors; energy's are time's where none was measured."""

    time_error: ErrorModel
    energy_error: ErrorModel
    scores: Mapping[str, float]


def out_of_sample(
    rows: Sequence[Observation], families: Sequence[str], step_s: Array, step_j: Array, curves: Curves | None
) -> LeftOutErrors:
    """`step_s` and `step_j`, shape (rows,), are each row's step as predicted by a fit without its family.

    `curves` give the number of ops that a row's time is spread over; None if single ops were not timed.
    """
    ops = None if curves is None else np.array([_effective_ops(row, curves) for row in rows])
    measured_s = np.array([row.step_seconds for row in rows])
    scores = scores_of("time", step_s, measured_s)
    time_error = energy_error = _error_model(rows, families, np.log(measured_s / step_s), ops)
    if rows[0].energy_j is not None:
        measured_j = np.array([(row.energy_j or 0.0) / row.steps for row in rows])
        scores |= scores_of("energy", step_j, measured_j)
        energy_error = _error_model(rows, families, np.log(measured_j / step_j), ops)
    return LeftOutErrors(time_error, energy_error, scores)


def _effective_ops(row: Observation, curves: Curves) -> float:
    return effective_ops(row.workload.ops, curves.seconds(row.workload.ops).sum(axis=1))


def _error_model(
    rows: Sequence[Observation], families: Sequence[str], log_ratios: Array, ops: Array | None
) -> ErrorModel:
    """Bounds that cover the worst of the observed sessions (`host["session"]`), because a new run is a new session."""
    shared = 1.0 if ops is None else shared_error(log_ratios, ops)
    scale = np.ones(len(rows)) if ops is None else np.sqrt(shared**2 + 1.0 / ops)
    sessions = np.array([str(row.host.get("session", "")) for row in rows])
    names = np.asarray(families)
    found = [bounds((log_ratios / scale)[sessions == one], names[sessions == one].tolist()) for one in set(sessions)]
    low, high = min(low for low, _ in found), max(high for _, high in found)
    reach = float(np.log(high))
    per_decade = float(np.log(FACTOR_PER_DECADE)) / max(reach * float(np.median(scale)), 1e-3)
    return ErrorModel(
        low=low**shared,
        high=high**shared,
        per_decade=max(per_decade, 0.5),
        per_op=0.0 if ops is None else reach,
    )


def scores_of(what: str, predicted: Array, measured: Array) -> dict[str, float]:
    """Mean and median relative error, by name; arrays of one shape and unit."""
    errors = relative_errors(predicted, measured)
    return {f"{what}_mean_error": float(errors.mean()), f"{what}_median_error": float(np.median(errors))}
