"""What the components draw: four shares of the board's power, fitted on steps whose watts are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from population_fit import Fit
from population_rows import Rows, chip, seconds_of
from scipy.optimize import least_squares

from joulecast.estimator.cost.population import SPECS

Array = np.ndarray[Any, np.dtype[np.float64]]
NAMES = ("idle", "waiting", "compute", "memory")
_GUESS = np.log([0.10, 0.15, 0.80, 0.50])
_SPREAD = np.array([0.2, 0.5, 0.5, 0.5])


def _activity(rows: Rows, made: Fit) -> Array:
    """Shares of the measured time: compute, memory, waiting. What the model does not explain is waiting."""
    x = seconds_of(rows, made.values)
    own = np.exp(np.stack([made.deviations.get(gpu, np.zeros(3)) for gpu in rows.gpu.tolist()]))
    size = len(rows.steps)
    compute = np.bincount(rows.row, weights=x.compute, minlength=size) * own[:, 0]
    memory = np.bincount(rows.row, weights=x.memory, minlength=size) * own[:, 1]
    whole = np.maximum(np.exp(rows.log_s), compute + memory)
    shares = np.stack([compute, memory], axis=1) / whole[:, None]
    return np.hstack([shares, 1.0 - shares.sum(axis=1, keepdims=True)])


def fit_power(rows: Rows, made: Fit) -> tuple[dict[str, float], Array]:
    """The shares, and the logarithm of predicted over measured watts with each chip left out."""
    first = np.searchsorted(rows.row, np.arange(len(rows.steps)))
    spec = {name: rows.specs[name][first] for name in SPECS}
    board, values = spec["power"], made.values
    joules = values["energy_mac"] * 1e-12 * (spec["nm"] / 12.0) ** values["energy_nm"]
    dynamic = np.minimum(joules * spec["fp32"], 0.85 * board)
    activity = _activity(rows, made)
    measured = np.log(np.minimum([step.watts or 0.0 for step in rows.steps], board))
    groups = list(zip(rows.source.tolist(), rows.gpu.tolist(), strict=True))
    weight = np.array([groups.count(group) ** -0.3 for group in groups])

    def watts(logs: Array) -> Array:
        idle, waiting, compute, memory = np.exp(logs)
        wait = np.minimum((idle + waiting) * board, board)
        busy, moving = np.minimum(wait + compute * dynamic, board), np.minimum(wait + memory * board, board)
        return activity[:, 0] * busy + activity[:, 1] * moving + activity[:, 2] * wait

    def solve(used: Array) -> Array:
        def error(logs: Array) -> Array:
            return np.concatenate([(weight * (np.log(watts(logs)) - measured))[used] / 0.1, (logs - _GUESS) / _SPREAD])

        return np.asarray(least_squares(error, _GUESS, loss="soft_l1").x)

    chips = np.array([chip(gpu) for gpu in rows.gpu.tolist()])
    error = np.zeros(len(measured))
    for name in set(chips.tolist()):
        error[chips == name] = (np.log(watts(solve(chips != name))) - measured)[chips == name]
    shares = np.exp(solve(np.ones(len(measured), dtype=bool)))
    return dict(zip(NAMES, shares.tolist(), strict=True)), error
