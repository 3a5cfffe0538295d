"""The deviation of a known GPU from the population, fitted on one run or more.

Maximum a posteriori. Each trait of a `Deviation` starts at 0 with the spread that it has among GPUs and software, and
each run moves it. How far networks scatter on one GPU is not known beforehand: several noises are weighed by their
likelihood, each with the share of GPUs that have it as its prior. Without runs the answer is the datasheet's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..base.digits import counted, short
from ..base.errors import FitError, HardwareError
from ..cost.bounds import ErrorModel
from ..cost.datasheet import datasheet_profile
from ..cost.deviation import (
    ALIKE_SHARE,
    TAIL,
    TRAITS,
    alike,
    deviated,
    log_of_alike,
    log_spread,
    log_step,
    noise_variance,
    prior_correlations,
    prior_spread,
    traits,
    values_of,
)
from ..cost.features import Array
from ..cost.hardware import Hardware
from ..cost.library import contradict, hardware_of
from ..cost.piece_time import Seconds
from ..cost.pieces import merged, pieces
from ..cost.population import Deviation, Population, PopulationTime, load_population
from ..cost.profile import NINETY_PERCENT, Profile, Provenance
from ..trace.workload import Op
from .evidence import network_of
from .observation import Observation
from .regression import folds
from .watts import covers_host, with_watts

_ROUNDS, _REWEIGHTINGS, _SETTLED = 12, 8, 0.01
_MOST_ALIKE = 200
"""Runs up to which networks alike are compared; the work grows with their cube, and many runs need it less."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known before any run: `spread` in the order of `TRAITS`, `networks` as `Population` has them.

    `alike` is the share of the variance among networks that networks alike have in common. `correlations`, shape
    (traits, traits), are those of the traits among devices; None where they are independent.
    """

    spread: Array
    networks: tuple[tuple[float, float], ...]
    alike: float = 0.0
    correlations: Array | None = None

    @classmethod
    def of(cls, population: Population, amd: bool) -> Prior:
        return cls(prior_spread(population, amd), population.networks, ALIKE_SHARE, prior_correlations(population))

    @property
    def covariance(self) -> Array:
        together = np.eye(len(self.spread)) if self.correlations is None else self.correlations
        return np.asarray(self.spread[:, None] * together * self.spread, dtype=float)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One network's step: its pieces before any deviation and their traits, and the logarithm of its seconds."""

    seconds: Seconds
    traits: Array
    log_s: float
    weight: float = 1.0


def known_gpu(hardware: str | None, rows: Sequence[Observation]) -> Hardware | None:
    """The GPU that the rows were measured on, of the table or in figures, or None."""
    own = next((row.hardware for row in rows if isinstance(row, Observation) and row.hardware), None)
    if hardware and own and contradict(hardware, own):
        raise FitError(f"`hardware` {hardware} and the observations' {own} contradict: leave out `hardware`")
    found = _part(hardware or own)
    return found if found is not None and found.kind == "gpu" else None


def _part(text: str | None) -> Hardware | None:
    if not text:
        return None
    try:
        return hardware_of(text)
    except HardwareError:
        if "=" in text:  # figures that cannot be used, not a name that no table has
            raise
        return None


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
        _check_unit(row, time)
        _check_watts(row, hardware)
    evidence = _evidence(rows, time)
    deviation = _no_wider(learnt(evidence, _prior(time), time.parameters["sharpness"]), evidence, start)
    networks = float(len({network_of(row) for row in rows}))
    metered = rows[0].energy_j is not None
    profile = replace(
        start,
        name=name,
        time=replace(time, deviation=deviation),
        time_error=_typical(evidence, deviation, time.parameters["sharpness"]),
        provenance=Provenance(
            time="measured",
            power="measured" if metered else "datasheet",
            sources=(f"{counted(len(rows), 'run')} on {hardware.name}", *start.provenance.sources),
            fitted_on=f"{counted(len(rows), 'run')} of {counted(int(networks), 'network')}, "
            "deviation from the population of GPUs",
            created=created,
            boundary=start.provenance.boundary,
            notes=(_what_was_learnt(evidence, deviation), *_limits(evidence), *_above_the_board(rows, hardware)),
        ),
        scores={"observations": float(len(rows)), "families": networks},
        host=dict(rows[0].host),
    )
    return with_watts(profile, rows, start)


def left_out_seconds(rows: Sequence[Observation], families: Sequence[str], fitted: Profile) -> Array:
    """Seconds per step of every row, each predicted with a deviation fitted on the other families."""
    time = fitted.time
    assert isinstance(time, PopulationTime)
    evidence, sharpness, result = _evidence(rows, time), time.parameters["sharpness"], np.zeros(len(rows))
    for train, test in folds(families):
        deviation = learnt([evidence[index] for index in np.flatnonzero(train)], _prior(time), sharpness)
        for index in np.flatnonzero(test):
            one = evidence[index]
            result[index] = math.exp(predicted(one, deviation, sharpness)[0])
    return result


def predicted(one: Evidence, deviation: Deviation, sharpness: float) -> tuple[float, Array]:
    """Logarithm of the seconds of a step on the device, and its slope along each of `TRAITS`."""
    base, slopes = log_step(one.seconds, one.traits, values_of(deviation), sharpness)
    return base + log_of_alike(deviation, slopes), slopes


def learnt(evidence: Sequence[Evidence], prior: Prior, sharpness: float) -> Deviation:
    """The most probable deviation, how uncertain it is, and the noise among networks (docs/method.md)."""
    values, measured = np.zeros(len(TRAITS)), np.array([one.log_s for one in evidence])
    weights = np.array([one.weight for one in evidence])
    if len(evidence) > _MOST_ALIKE:
        prior = replace(prior, alike=0.0)
    covariance, noise = prior.covariance, 0.0
    slopes, target = np.zeros((0, len(TRAITS))), measured
    for _ in range(_ROUNDS):
        steps = [log_step(one.seconds, one.traits, values, sharpness) for one in evidence]
        slopes = np.array([slope for _, slope in steps]).reshape(-1, len(TRAITS))
        target = measured - np.array([base for base, _ in steps]) + slopes @ values
        found, covariance, noise = posterior(slopes, target, weights, prior)
        move = np.clip(found - values, -0.5, 0.5)
        values = values + move
        if float(np.abs(move).max()) < 1e-5:
            break
    logs = {name: float(value) for name, value in zip(TRAITS, values, strict=True)}
    deviation = Deviation(logs, _rounded(covariance), noise)
    if not prior.alike or not len(evidence):
        return deviation
    return replace(deviation, runs=_rounded(slopes), pull=_rounded(_pull(slopes, target, weights, prior)[None, :])[0])


def _rounded(table: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{value:.5g}") for value in row) for row in table)


def _pull(slopes: Array, target: Array, weights: Array, prior: Prior) -> Array:
    """What each row adds to the logarithm of the seconds of a network like it."""
    shares, found = mixed(slopes, target, weights, prior)
    pulls = [_inverse_noise(slopes, one.weights, prior.alike) @ (target - slopes @ one.mean) for one in found]
    return np.asarray(prior.alike * (shares @ np.array(pulls)), dtype=float)


def _inverse_noise(slopes: Array, weights: Array, share: float) -> Array:
    """Inverse of the rows' noise over its variance; networks alike have a share of it in common."""
    own = (1.0 - share) / weights
    return np.asarray(np.linalg.inv(share * alike(slopes, slopes) + np.diag(own)), dtype=float)


@dataclass(frozen=True, slots=True)
class _Found:
    """The values at one noise, what each row counts for, and the logarithm of how probable the noise makes the rows."""

    mean: Array
    covariance: Array
    weights: Array
    log: float


def posterior(slopes: Array, target: Array, weights: Array, prior: Prior) -> tuple[Array, Array, float]:
    """Mean, covariance and noise of target = slopes @ values + noise, shape (rows,), mixed over the prior's noises."""
    shares, found = mixed(slopes, target, weights, prior)
    mean = np.sum([share * one.mean for share, one in zip(shares, found, strict=True)], axis=0)
    covariance = np.sum(
        [
            share * (one.covariance + np.outer(one.mean - mean, one.mean - mean))
            for share, one in zip(shares, found, strict=True)
        ],
        axis=0,
    )
    squares = [share * noise**2 for share, (noise, _) in zip(shares, prior.networks, strict=True)]
    return mean, covariance, math.sqrt(noise_variance(prior.alike) * sum(squares))


def mixed(slopes: Array, target: Array, weights: Array, prior: Prior) -> tuple[Array, list[_Found]]:
    """How probable each of the prior's noises is after the rows, and what `_with_noise` finds with it."""
    found = [_with_noise(slopes, target, weights, prior, noise) for noise, _ in prior.networks]
    logs = np.array([math.log(max(share, 1e-9)) for _, share in prior.networks]) + np.array([one.log for one in found])
    shares = np.exp(logs - logs.max())
    return shares / shares.sum(), found


def _with_noise(slopes: Array, target: Array, weights: Array, prior: Prior, noise: float) -> _Found:
    """The values at one noise. What a row has for itself follows Student's t, so that a row far off counts less."""
    known = prior.covariance
    precision = np.asarray(np.linalg.inv(known), dtype=float)
    own, far = 1.0 - prior.alike, np.ones(len(target))
    change = 1.0
    for left_over in range(_REWEIGHTINGS, -1, -1):
        inverse = _inverse_noise(slopes, weights * far, prior.alike)
        mean, covariance = _gaussian(slopes, target, inverse / noise**2, precision)
        if change < _SETTLED or not left_over:
            break
        variance, told = own / (weights * far), inverse @ slopes
        error = variance * (inverse @ (target - slopes @ mean))
        left = np.diag(inverse) - ((told @ covariance) * told).sum(axis=1) / noise**2
        unknown = variance - variance**2 * left  # of the error, over noise**2
        before, far = far, (TAIL + 1.0) / (TAIL + ((error / noise) ** 2 + unknown) / own)
        change = float(np.abs(far - before).max(initial=0.0))
    plain = inverse / noise**2
    square = float(target @ (plain @ target) - (slopes.T @ (plain @ target)) @ mean)
    volume = 2 * float(weights.sum()) * math.log(noise) + float(np.linalg.slogdet(known)[1])
    volume -= float(np.linalg.slogdet(covariance)[1]) + float(np.linalg.slogdet(inverse)[1])
    volume += float(np.log(weights).sum() + (1.0 - weights) @ np.log(far))  # a repeated row is not more evidence
    tails = 0.5 * TAIL * float(weights @ (np.log(far) - far + 1.0))
    return _Found(mean, covariance, weights * far, tails - 0.5 * (square + volume))


def _gaussian(slopes: Array, target: Array, weights: Array, precision: Array) -> tuple[Array, Array]:
    covariance = np.asarray(np.linalg.inv(precision + slopes.T @ weights @ slopes), dtype=float)
    return covariance @ (slopes.T @ (weights @ target)), covariance


def _prior(time: PopulationTime) -> Prior:
    return Prior.of(load_population(), amd=bool(time.specs["amd"]))


def _evidence(rows: Sequence[Observation], time: PopulationTime) -> list[Evidence]:
    """Repeated runs of one network count as one."""
    known: dict[int, tuple[Seconds, Array]] = {}
    names = [network_of(row) for row in rows]
    counts, result = Counter(names), []
    for row, name in zip(rows, names, strict=True):
        if id(row.workload) not in known:
            known[id(row.workload)] = _pieces(row.workload.ops, time)
        result.append(Evidence(*known[id(row.workload)], math.log(row.step_seconds), 1.0 / counts[name]))
    return result


def _pieces(ops: Sequence[Op], time: PopulationTime) -> tuple[Seconds, Array]:
    x = time.seconds_of(parts := merged(pieces(ops, time.software)), train=any(op.phase != "forward" for op in ops))
    return x, traits(parts)


def _no_wider(deviation: Deviation, evidence: Sequence[Evidence], start: Profile) -> Deviation:
    """The deviation with its spread reduced where the runs would make bounds wider than they are without them.

    Both were measured on GPUs left out, each in its own way, and differ by a few per cent.
    """
    assert isinstance(start.time, PopulationTime)
    reach = math.log(_typical(evidence, deviation, start.time.parameters["sharpness"]).high)
    share = min(1.0, math.log(start.time_error.high) / reach, -math.log(start.time_error.low) / reach)
    covariance = tuple(tuple(share**2 * value for value in row) for row in deviation.covariance)
    return replace(deviation, covariance=covariance, noise=share * deviation.noise)


def _typical(evidence: Sequence[Evidence], deviation: Deviation, sharpness: float) -> ErrorModel:
    """Bounds for networks like those that were run; `Profile.predict` makes its own for each network."""
    values = values_of(deviation)
    slopes = np.mean([log_step(one.seconds, one.traits, values, sharpness)[1] for one in evidence], axis=0)
    reach = NINETY_PERCENT * log_spread(deviation, slopes)
    return ErrorModel(math.exp(-reach), math.exp(reach))


def _software_of(row: Observation) -> str:
    return "tensorflow" if row.workload.framework == "keras" else "eager"


def _check_peak(row: Observation, time: PopulationTime) -> None:
    """Raises FitError where a run computes faster than the device can."""
    half = row.workload.precision in ("float16", "bfloat16")
    peak = max(time.specs["half" if half else "fp32"], 0.0 if half else time.specs["tf32"])
    dense = sum(op.flops * op.count for op in row.workload.ops if op.kind in ("conv", "matmul", "attention", "rnn"))
    rate = dense / row.step_seconds
    if rate > 2.25 * peak:  # fast convolutions need up to 2.25 times fewer multiplications
        raise FitError(
            f"run of {row.workload.name} computes {short(2 * rate / 1e12)} TFLOPS, the part's peak is "
            f"{short(2 * peak / 1e12)}: check the unit of its time (seconds per step, or samples per second) and its "
            f"batch{_likely_unit(row, time)}"
        )


def _likely_unit(row: Observation, time: PopulationTime) -> str:
    """What the time seems to be of, where it is too short by a factor that has a name."""
    work, short = row.workload, float(time.seconds(row.workload.ops).sum()) / row.step_seconds
    names = {
        "one sample, not of one step": float(work.batch_size),
        "one token, not of one step (a rate in tokens per second)": work.input_bytes / 8.0,
        "a step in kiloseconds": 1e3,
    }
    name, factor = min(names.items(), key=lambda item: abs(math.log(short / max(item[1], 1.0))))
    return f"; it seems to be the time of {name}" if factor > 1 and 1 / 4 < short / factor < 4 else ""


_SWAPPED_WITHIN = 4.0
_SMALLER_UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_FAR_TOO_LONG = 200.0


def _check_unit(row: Observation, time: PopulationTime) -> None:
    """Raises FitError where a run takes so much longer than the population expects that its unit must be another."""
    ratio = row.step_seconds / float(time.seconds(row.workload.ops).sum())
    if ratio > _FAR_TOO_LONG:
        unit = min(_SMALLER_UNITS, key=lambda name: abs(math.log(ratio / _SMALLER_UNITS[name])))
        fault = f"its time seems to be in {unit}; give seconds"
        # Seconds in the place of a rate were divided by: the batch over what is called seconds here.
        swapped = row.workload.batch_size / row.step_seconds * ratio / row.step_seconds
        off = abs(math.log(swapped))
        if off < min(math.log(_SWAPPED_WITHIN), abs(math.log(ratio / _SMALLER_UNITS[unit]))):
            fault = "it seems to give the seconds of a step as samples per second; give them as seconds per step"
        raise FitError(
            f"run of {row.workload.name} takes {short(row.step_seconds)} s per step, {ratio:.0f} times what the part "
            f"needs: {fault}"
        )


_LEAST_SHARE, _MOST_SHARE = 0.01, 2.0
_ENERGY_UNITS = {"kilowatts or kilojoules": 1e3, "watt-hours": 3600.0, "milliwatts or millijoules": 1e-3}


def _check_watts(row: Observation, hardware: Hardware) -> None:
    """Raises FitError where a run draws what no board of this kind does: less than it needs to be on, or far more."""
    if row.power_w is None or covers_host(row):
        return
    share = row.power_w / hardware.power_w
    if _LEAST_SHARE <= share <= _MOST_SHARE:
        return
    unit = next((name for name, factor in _ENERGY_UNITS.items() if 0.05 <= share * factor <= 1.5), None)
    fault = f"its energy seems to be in {unit}; give watts or joules" if unit else "give those of one board"
    raise FitError(
        f"run of {row.workload.name} draws {short(row.power_w)} W, and the board of {hardware.name} at most "
        f"{short(hardware.power_w)} W: {fault}"
    )


_ABOVE_BOARD = 1.1


def _above_the_board(rows: Sequence[Observation], hardware: Hardware) -> tuple[str, ...]:
    """A note where runs draw more than the board can; a meter that covers the host's CPUs may show more."""
    most = max((row.power_w or 0.0 for row in rows if not covers_host(row)), default=0.0)
    if most <= _ABOVE_BOARD * hardware.power_w:
        return ()
    return (
        f"runs draw up to {short(most)} W, the board's limit is {short(hardware.power_w)} W: their watts seem to be "
        "those of the whole machine or of several devices; give those of one board",
    )


_GROUPS = {
    "convolutions": ("conv", "conv1", "grouped", "depthwise"),
    "matrix products": ("matmul", "batched", "attention", "rnn"),
    "other ops": ("norm", "pointwise", "reduce", "pool", "optimizer", "gather"),
}


def _what_was_learnt(evidence: Sequence[Evidence], deviation: Deviation) -> str:
    """Seconds after over before, by groups of ops and for the host, where the runs have any."""
    values, changes = values_of(deviation), []
    after = [deviated(one.seconds, one.traits, values) for one in evidence]
    for name, kinds in _GROUPS.items():
        places = [TRAITS.index(kind) - 3 for kind in kinds]
        masks = [one.traits[:, places].any(axis=1) for one in evidence]
        before_s = sum(float(_device(one.seconds)[mask].sum()) for one, mask in zip(evidence, masks, strict=True))
        after_s = sum(float(_device(x)[mask].sum()) for x, mask in zip(after, masks, strict=True))
        if before_s > 0:
            changes.append(f"{name} {after_s / before_s - 1:+.0%}")
    changes.append(f"host {math.expm1(values[TRAITS.index('launch')]):+.0%}")
    return f"seconds compared with the population of GPUs: {', '.join(changes)}"


def _device(x: Seconds) -> Array:
    return x.compute + x.memory + x.floor


def _limits(evidence: Sequence[Evidence]) -> tuple[str, ...]:
    """Notes on what the runs do not determine."""
    if all(float(one.seconds.host.sum()) > 2.0 * float(_device(one.seconds).sum()) for one in evidence):
        return (
            "every run waits for the host most of the time: the fit learns the host's speed, not the device's; "
            "add a run with a larger batch",
        )
    return ()
