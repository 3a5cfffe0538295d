"""Forecasts of a running training: its total, from the prediction and what was measured so far.

    total = measured so far + remaining units x pace

A pace (seconds per step, seconds per validation, watts) combines the prediction and the measurement, each weighted by
its certainty: a normal prior and a normal measurement of the logarithm. Pure: no clock, no meter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from ..estimator.base.interval import Interval

Z90 = 1.6448536269514722  # a normal variable is within this many standard deviations with 90 %

# Assumptions about what a short measurement cannot show, as standard deviations of the logarithm: between units,
# between the remaining units and those measured, between the warm-up and later units, and of the best prediction.
UNIT_SPREAD = 0.05
DRIFT = 0.02
WARM_UP_DOUBT = 0.7
LEAST_DOUBT = 0.05

_BLOCKS = 64
_LEAST_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """The mean of one unit, and its relative standard error for the remaining units."""

    mean: float
    error: float


@dataclass(slots=True)
class Samples:
    """Measurements of consecutive units of work, in at most 64 blocks of equal length.

    Once there are later units, the first `warm_up` units count only towards `units` and `total`: allocation,
    compilation and cold caches make them unlike the rest.
    """

    warm_up: float = 0
    units: float = field(default=0.0, init=False)
    settled: float = field(default=0.0, init=False)  # units after the warm-up
    total: float = field(default=0.0, init=False)
    _blocks: list[float] = field(default_factory=list, init=False)  # means of one unit
    _length: float = field(default=1.0, init=False)
    _open: float = field(default=0.0, init=False)
    _open_units: float = field(default=0.0, init=False)
    _cold: float = field(default=0.0, init=False)  # the latest unit of the warm-up

    def add(self, amount: float, units: float = 1.0) -> None:
        """Adds `units` units that took `amount` in total."""
        self.units += units
        self.total += amount
        if self.units - units < self.warm_up:
            self._cold = amount / units
            return
        self.settled += units
        self._open += amount
        self._open_units += units
        if self._open_units >= self._length:
            self._blocks.append(self._open / self._open_units)
            self._open = self._open_units = 0.0
            if len(self._blocks) == _BLOCKS:
                pairs = zip(self._blocks[::2], self._blocks[1::2], strict=True)
                self._blocks = [(first + second) / 2 for first, second in pairs]
                self._length *= 2

    def pace(self) -> MeasuredPace | None:
        """The mean of one unit, at first the latest unit of the warm-up; None before anything ran.

        The largest and the smallest block are replaced by their neighbours: a single stall is ignored, while two
        count as typical of the rest of the run.
        """
        blocks = self._blocks
        if not blocks and self._open_units:
            blocks = [self._open / self._open_units]
        if not blocks:
            return MeasuredPace(self._cold, WARM_UP_DOUBT) if self._cold > 0 else None
        if len(blocks) > 2:
            ranked = sorted(blocks)
            blocks = [min(max(block, ranked[1]), ranked[-2]) for block in blocks]
        mean = fmean(blocks)
        if mean <= 0:
            return None
        seen = standard_error(blocks) / mean
        return MeasuredPace(mean, math.sqrt(seen**2 + UNIT_SPREAD**2 / max(self.settled, 1.0) + DRIFT**2))


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of a time series; 0 for a single value.

    Correlated neighbours carry less information than their number suggests. Values are therefore averaged in pairs
    as long as four remain, and the largest error of all rounds is used (Flyvbjerg and Petersen, J. Chem. Phys. 91,
    461, 1989).
    """
    error = 0.0
    while len(values) > 1:
        error = max(error, stdev(values) / math.sqrt(len(values)))
        if len(values) < 2 * _LEAST_BLOCKS:
            break
        values = [(first + second) / 2 for first, second in zip(values[::2], values[1::2], strict=False)]
    return error


def corrected(predicted: Interval | None, measured: MeasuredPace | None) -> Interval | None:
    """The expected pace of the rest of a run; None if neither is known.

    A prediction that disagrees with the measurement by more than both uncertainties explain loses weight accordingly.
    """
    if measured is None:
        return predicted
    centre, deviation = math.log(measured.mean), measured.error
    if predicted is not None and predicted.value > 0:
        prior, doubt = math.log(predicted.value), _deviation(predicted)
        gap = (prior - centre) ** 2 / (doubt**2 + deviation**2)
        prior_weight, weight = 1 / (doubt**2 * max(1.0, gap)), 1 / deviation**2
        centre = (prior_weight * prior + weight * centre) / (prior_weight + weight)
        deviation = 1 / math.sqrt(prior_weight + weight)
    value, factor = math.exp(centre), math.exp(Z90 * deviation)
    return Interval(value, value / factor, value * factor)


def _deviation(interval: Interval) -> float:
    """The standard deviation of the logarithm that makes `interval` a 90 % interval."""
    if interval.low > 0:
        deviation = math.log(interval.high / interval.low) / (2 * Z90)
    else:
        deviation = math.log(interval.high / interval.value) / Z90
    return max(deviation, LEAST_DOUBT)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of a run: seconds of one step and of one validation; watts of the whole machine."""

    step_s: Interval
    watts: Interval
    validation_s: Interval | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of a running training. `seconds` and `energy_j` are totals of the whole run, None if unknown.

    `energy_so_far_j` is None if it could not be read. `energy_label` is "measured", "modelled" (power
    from utilisation, or predicted watts over the measured time) or "missing".
    """

    steps: int
    total_steps: int | None
    so_far_s: float
    energy_so_far_j: float | None
    energy_label: str
    seconds: Interval | None
    energy_j: Interval | None


def seconds_to_come(
    prediction: Prediction | None, steps: Samples, steps_left: int, validations: Samples, validations_left: int
) -> Interval | None:
    """The seconds of the rest of the run; None if neither prediction nor measurement gives a pace.

    Before the first validation, its prediction is scaled by the ratio of measured to predicted steps; without a
    prediction, validations are left out until one was measured.
    """
    pace = corrected(prediction.step_s if prediction else None, steps.pace())
    if steps_left and pace is None:
        return None
    rest = pace * steps_left if steps_left and pace else Interval.exact(0.0)
    if validations_left:
        prior = prediction.validation_s if prediction else None
        if prior is not None and prediction is not None and pace is not None and prediction.step_s.value > 0:
            prior = prior * (pace.value / prediction.step_s.value)
        validation = corrected(prior, validations.pace())
        rest = rest + validation * validations_left if validation else rest
    return rest


def from_now(so_far: float, rest: Interval) -> Interval:
    """What was measured, without uncertainty, plus the rest."""
    return Interval.exact(so_far) + rest


def energy_j(so_far_j: float | None, so_far_s: float, rest: Interval | None, watts: Interval | None) -> Interval | None:
    """Joules of the whole run: those measured, and `watts` over the rest, or over all of it if none were measured.

    None if unknown. The bounds of time and power are multiplied, as if their errors were fully correlated.
    """
    if rest is None:
        return None
    if so_far_j is not None and rest.high == 0:
        return Interval.exact(so_far_j)
    if watts is None:
        return None
    seconds = from_now(so_far_s, rest) if so_far_j is None else rest
    drawn = Interval(watts.value * seconds.value, watts.low * seconds.low, watts.high * seconds.high)
    return from_now(so_far_j or 0.0, drawn)
