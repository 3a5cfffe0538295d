"""Checks that observations are enough for a fit; each error is one line that says what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..base.digits import counted
from ..base.errors import FitError
from ..cost.features import ANY, EVERY_DENSE, Array, pieces
from .observation import Observation

LEAST_NETWORKS = 4
_MODELLED = ("model", "tdp", "datasheet", "estimate")
_LEAST_SPREAD = 0.02
_FEW_PARAMETERS = 10


def checked(
    observations: Iterable[Observation],
    *,
    least: int = LEAST_NETWORKS,
    one_precision: bool = True,
    unknown: str | None = None,
) -> tuple[Observation, ...]:
    """The observations, if they can be fitted. Raises FitError, which names hardware that is `unknown`."""
    rows = tuple(observations)
    strangers = [type(row).__name__ for row in rows if not isinstance(row, Observation)]
    if strangers:
        raise FitError(f"expected joulecast.Observation objects, got {strangers[0]}")
    if len(rows) < least:
        datasheet = "; without any, jc.load_profile answers from the datasheet" if least == 1 else ""
        stranger = f"; {unknown!r} is not one" if unknown and least > 1 else ""
        raise FitError(
            f"{counted(len(rows), 'observation')}; a fit needs at least {_least(least)}{datasheet}{stranger}"
        )
    for row in rows:
        _check_window(row)
        _check_energy(row)
    _check_same(rows, one_precision)
    if least > 1:
        _check_networks(rows)
        _check_mix(rows)
    return rows


def _least(networks: int) -> str:
    if networks == 1:
        return "one"
    return f"{networks} different networks, or one on a GPU that joulecast knows (by name or in figures)"


def network_of(row: Observation) -> tuple[object, ...]:
    """A key of the network: its operations and parameters, without its batch size and name.

    With almost no parameters (a single pooling layer), bytes per sample distinguish sizes.
    """
    work = row.workload
    sizes = () if work.parameters >= _FEW_PARAMETERS else (round(work.bytes_moved / work.batch_size),)
    return work.parameters, work.train, sizes, tuple((op.name, op.count) for op in work.ops)


def _what(row: Observation) -> str:
    return f"observation of {row.workload.name}"


def _check_window(row: Observation) -> None:
    if row.steps < 1:
        raise FitError(f"{_what(row)} has {row.steps} steps; measure at least one")
    if not (math.isfinite(row.seconds) and row.seconds > 0):
        raise FitError(f"{_what(row)} took {row.seconds} s; a window needs a time above 0")
    if not row.workload.ops:
        raise FitError(f"{_what(row)} has a workload without ops; trace it again")
    if row.op_seconds is not None:
        if len(row.op_seconds) != len(row.workload.ops):
            raise FitError(
                f"{_what(row)} has {len(row.op_seconds)} op times for {len(row.workload.ops)} ops; give one each"
            )
        bad = [value for value in row.op_seconds if value is not None and not 0 <= value < math.inf]
        if bad:
            raise FitError(f"{_what(row)} has an op of {bad[0]} s; give times of 0 or more, None where not timed")


def _check_energy(row: Observation) -> None:
    if row.energy_j is None:
        return
    if not (math.isfinite(row.energy_j) and row.energy_j > 0):
        raise FitError(f"{_what(row)} has {row.energy_j} J; energy is above 0, None where nothing measured it")
    if not row.meter:
        raise FitError(f"{_what(row)} has {row.energy_j:g} J but no meter; name the meter that read it (meter=...)")
    doubts = [text for text in (row.meter, *row.flags) if any(word in text.lower() for word in _MODELLED)]
    if doubts:
        raise FitError(f"{_what(row)} has modelled energy ({doubts[0]}); a fit takes metered energy alone")


def _check_same(rows: Sequence[Observation], one_precision: bool) -> None:
    if sum(row.energy_j is None for row in rows) not in (0, len(rows)):
        known = sum(row.energy_j is not None for row in rows)
        raise FitError(f"{known} of {len(rows)} observations have energy; give it for all or for none")
    for what, values in (
        ("hardware", {row.hardware for row in rows}),
        ("framework", {row.framework or row.workload.framework for row in rows}),
        ("precision", {row.workload.precision for row in rows if one_precision}),
        ("meter", {row.meter for row in rows if row.energy_j is not None}),
    ):
        if len(values) > 1:
            names = ", ".join(sorted(str(value) for value in values))
            raise FitError(f"observations mix {what}: {names}; fit one profile for each")


def _check_networks(rows: Sequence[Observation]) -> None:
    networks = len({network_of(row) for row in rows})
    if networks < LEAST_NETWORKS:
        only = "one network only" if networks == 1 else f"{networks} networks only"
        raise FitError(f"{counted(len(rows), 'observation')} of {only}; a fit needs at least {_least(LEAST_NETWORKS)}")


def _check_mix(rows: Sequence[Observation]) -> None:
    """Networks that all have arithmetic and traffic in one proportion cannot identify both prices."""
    works = {id(row.workload): row for row in rows}
    mix = np.array([_mix(row) for row in works.values()])
    mix /= mix.max(axis=0)
    mix /= mix.sum(axis=1, keepdims=True)
    spread = float(np.ptp(mix[:, 0])) if len(mix) else 0.0
    if spread < _LEAST_SPREAD:
        raise FitError(
            f"observations are collinear: multiply-adds per byte differ by {spread:.1%} among them; "
            f"add networks of other kinds, at least {LEAST_NETWORKS} kinds"
        )


def _mix(row: Observation) -> Array:
    parts = pieces(row.workload.ops)
    macs = parts.values("macs")[parts.mask(EVERY_DENSE, ANY)].sum()
    moved = parts.values("bytes").sum()
    return np.array([max(macs, 1.0), max(moved, 1.0)])
