"""From one run on: a known GPU's deviation from the population, updated by what was measured on it.

Maximum a posteriori: each `Deviation` starts at 0 with the spread that it has among GPUs, each network measured is
evidence with the spread that networks have on one GPU. No runs give the datasheet's answer, many give their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np

from ..base.errors import FitError, HardwareError
from ..cost.bounds import ErrorModel
from ..cost.datasheet import datasheet_profile
from ..cost.features import Array
from ..cost.hardware import Hardware
from ..cost.names import find_hardware
from ..cost.population import Deviation, PopulationTime, load_population, step_seconds
from ..cost.profile import PowerModel, Profile, Provenance
from .evidence import network_of
from .observation import Observation

NETWORK_SPREAD = 0.20
"""Standard deviation of the logarithm of measured over predicted among networks on one GPU, software known."""
_STEPS = 20


def known_gpu(hardware: str | None, rows: Sequence[Observation]) -> Hardware | None:
    """The GPU of the table that the rows were measured on, or None."""
    text = hardware or next((row.hardware for row in rows if isinstance(row, Observation) and row.hardware), None)
    if not text:
        return None
    try:
        found = find_hardware(text)
    except HardwareError:
        return None
    return found if found.kind == "gpu" else None


def left_out_seconds(rows: Sequence[Observation], families: Sequence[str], fitted: Profile) -> Array:
    """Seconds per step of every row, each predicted with the deviation that the other families tell."""
    time = fitted.time
    assert isinstance(time, PopulationTime)
    parts = np.array([replace(time, deviation=Deviation()).parts(row.workload.ops) for row in rows])
    measured, weights = np.log([row.step_seconds for row in rows]), _weights(rows)
    sharpness, names, result = time.parameters["sharpness"], np.asarray(families), np.zeros(len(rows))
    for family in set(families):
        test = names == family
        deviation = _deviation(parts[~test], measured[~test], weights[~test], sharpness)
        result[test] = np.exp(_log_step(parts[test], np.array(astuple(deviation)), sharpness))
    return result


def fit_few(
    rows: Sequence[Observation], hardware: Hardware, *, name: str, software: str | None = None, created: str = ""
) -> Profile:
    """The population's profile of `hardware` with its deviation fitted on `rows`, of one network or more.

    Raises FitError for runs that exceed the part's peak: the unit of their times is wrong.
    """
    start = datasheet_profile(hardware).for_software(software or _software_of(rows[0]))
    time = start.time
    assert isinstance(time, PopulationTime)
    for row in rows:
        _check_peak(row, time)
    parts = np.array([time.parts(row.workload.ops) for row in rows])
    measured = np.log([row.step_seconds for row in rows])
    weights = _weights(rows)
    deviation = _deviation(parts, measured, weights, time.parameters["sharpness"])
    fitted = replace(time, deviation=deviation)
    networks = float(len({network_of(row) for row in rows}))
    profile = replace(
        start,
        name=name,
        time=fitted,
        time_error=_narrowed(start.time_error, networks),
        energy_error=_narrowed(start.energy_error, networks if rows[0].energy_j is not None else 0.0),
        provenance=Provenance(
            time="measured",
            power="measured" if rows[0].energy_j is not None else "datasheet",
            sources=(f"{len(rows)} runs on {hardware.name}", *start.provenance.sources),
            fitted_on=f"{len(rows)} runs of {int(networks)} networks, deviation from the population of GPUs",
            created=created,
            boundary=start.provenance.boundary,
            notes=(_what_was_learnt(deviation), *_limits(parts)),
        ),
        scores={"observations": float(len(rows)), "families": networks},
        host=dict(rows[0].host),
    )
    return _with_power(profile, rows)


def _software_of(row: Observation) -> str:
    return "tensorflow" if row.workload.framework == "keras" else "eager"


def _weights(rows: Sequence[Observation]) -> Array:
    """Repeated runs of one network count as one."""
    names = [network_of(row) for row in rows]
    return np.array([1.0 / names.count(name) for name in names])


def _log_step(parts: Array, deviation: Array, sharpness: float) -> Array:
    """`parts`, shape (runs, 4): seconds of compute, memory, floor and host of one step."""
    factors = np.exp(np.array([deviation[0], deviation[1], deviation[2] / 2, deviation[2]]))
    scaled = parts * factors
    return np.log(step_seconds(scaled[:, 3], scaled[:, :3].sum(axis=1), sharpness))


def _deviation(parts: Array, measured: Array, weights: Array, sharpness: float) -> Deviation:
    """Gauss-Newton on the logarithms; robust against single networks that the population does not fit."""
    spread = load_population().spread
    prior = np.array([spread["compute"], spread["memory"], spread["launch"]])
    values = np.zeros(3)
    for _ in range(_STEPS):
        base = _log_step(parts, values, sharpness)
        slopes = np.stack(
            [(_log_step(parts, values + 1e-4 * unit, sharpness) - base) / 1e-4 for unit in np.eye(3)], axis=1
        )
        residual = measured - base
        robust = weights / (NETWORK_SPREAD**2 * np.sqrt(1.0 + (residual / (2 * NETWORK_SPREAD)) ** 2))
        matrix = slopes.T @ (slopes * robust[:, None]) + np.diag(prior**-2)
        move = np.linalg.solve(matrix, slopes.T @ (residual * robust) - values / prior**2)
        values = values + np.clip(move, -0.5, 0.5)
        if float(np.abs(move).max()) < 1e-6:
            break
    return Deviation(*(float(value) for value in values))


def _narrowed(error: ErrorModel, networks: float) -> ErrorModel:
    """Bounds after runs of `networks` networks: what GPUs differ by shrinks, what networks differ by stays."""
    alone = math.exp(1.645 * NETWORK_SPREAD)

    def bound(value: float, sign: float) -> float:
        whole, own = math.log(value) ** 2, math.log(alone) ** 2
        left = own * (1.0 + 0.5 / max(networks, 1.0)) + max(whole - own, 0.0) / (1.0 + 2.0 * networks)
        return math.exp(sign * math.sqrt(min(left, whole)))

    return replace(error, low=bound(error.low, -1.0), high=bound(error.high, 1.0))


def _with_power(profile: Profile, rows: Sequence[Observation]) -> Profile:
    """The board's watts scaled by what was metered, towards 1 as the spread of the population says."""
    known = [row for row in rows if row.power_w is not None]
    if not known:
        return profile
    ratios = [math.log(float(row.power_w or 0.0) / profile.predict(row.workload, steps=1).power_w) for row in known]
    spread, noise = load_population().spread["power"], 0.08
    share = len(ratios) / (len(ratios) + (noise / spread) ** 2)
    factor = math.exp(share * float(np.median(ratios)))

    def scaled(power: PowerModel) -> PowerModel:
        return PowerModel({name: watts * factor for name, watts in power.weights_w.items()}, power.static_w * factor)

    half = scaled(profile.half_power) if profile.half_power else None
    return replace(profile, power=scaled(profile.power), half_power=half)


def _check_peak(row: Observation, time: PopulationTime) -> None:
    """Raises FitError where a run computes faster than the device can."""
    half = row.workload.precision in ("float16", "bfloat16")
    peak = max(time.specs["half" if half else "fp32"], 0.0 if half else time.specs["tf32"])
    dense = sum(op.flops * op.count for op in row.workload.ops if op.kind in ("conv", "matmul", "attention", "rnn"))
    rate = dense / row.step_seconds
    if rate > 2.25 * peak:  # fast convolutions need up to 2.25 times fewer multiplications
        raise FitError(
            f"run of {row.workload.name} computes {2 * rate / 1e12:.3g} TFLOPS, the part's peak is "
            f"{2 * peak / 1e12:.3g}: check the unit of its time (seconds per step, or samples per second) and its batch"
        )


def _what_was_learnt(deviation: Deviation) -> str:
    names = ("arithmetic", "memory", "waiting for the host")
    changes = [f"{name} {math.expm1(value):+.0%}" for name, value in zip(names, astuple(deviation), strict=True)]
    return f"seconds against the population of GPUs: {', '.join(changes)}"


def _limits(parts: Array) -> tuple[str, ...]:
    """What the runs cannot teach."""
    device, host = parts[:, :3].sum(axis=1), parts[:, 3]
    if (host > 2.0 * device).all():
        return ("every run waits for the host most of the time: it teaches the host's speed, not the device's",)
    return ()
