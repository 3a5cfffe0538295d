"""Re-forecasting: what a run will have taken at its end, from its prediction and what was measured so far.

    total = measured so far + what is still to come x its pace

A pace (seconds of a step, seconds of a validation, watts) is the prediction's and the measured one, each
weighted by how well it is known: a normal prior and a normal measurement of the logarithm. Pure: no clock,
no meter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from ..estimator.base.interval import Interval

Z90 = 1.6448536269514722  # a normal variable lies within this many deviations with 90 %

# Assumptions on what a short measurement cannot show, as standard deviations of the logarithm: one unit against
# another, the units to come against those seen, a unit of the warm-up against later ones, and the best
# prediction there is.
UNIT_SPREAD = 0.05
DRIFT = 0.02
WARM_UP_DOUBT = 0.7
LEAST_DOUBT = 0.05

_BLOCKS = 64
_LEAST_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """What one unit takes on average, and the relative standard error of that for the units to come."""

    mean: float
    error: float


@dataclass(slots=True)
class Samples:
    """What units of work took, one after the other, in at most 64 blocks of equal length.

    The first `warm_up` units count towards `units` and `total` alone once there are others: allocation,
    compilation and cold caches say little of these.
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
        """`units` more took `amount` together."""
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
        """The mean of one unit, at first what the latest of the warm-up took; None before anything ran.

        The largest and the smallest block count as the one next to them: one stall is an accident, and
        two make a habit that the rest of the run has to expect.
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
    """Of the mean of values in the order in which they came; 0 for a single one.

    Neighbours that resemble each other say less than their number promises. So they are averaged two by two as
    long as four remain, and the largest error of all these rounds stands (Flyvbjerg and Petersen, J. Chem.
    Phys. 91, 461, 1989).
    """
    error = 0.0
    while len(values) > 1:
        error = max(error, stdev(values) / math.sqrt(len(values)))
        if len(values) < 2 * _LEAST_BLOCKS:
            break
        values = [(first + second) / 2 for first, second in zip(values[::2], values[1::2], strict=False)]
    return error


def corrected(predicted: Interval | None, measured: MeasuredPace | None) -> Interval | None:
    """The pace that the rest of a run is expected to keep; None where neither is known.

    A prediction that the measurement contradicts loses weight: by as much as the two differ beyond what
    both doubts explain.
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
    """What a run was predicted to take: one step and one validation, seconds; watts of the whole machine."""

    step_s: Interval
    watts: Interval
    validation_s: Interval | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run under way. `seconds` and `energy_j` are of the whole run, None where nothing tells them.

    `energy_so_far_j` is None where it could not be read. `energy_label` is "measured", "modelled" (power
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
    """The rest of the run; None where neither prediction nor measurement tells the pace.

    A validation that nobody has seen yet is expected to miss its prediction as the steps miss theirs;
    without a prediction the first ones are left out until one was measured.
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
    """What was measured, exactly, and what is still to come."""
    return Interval.exact(so_far) + rest


def energy_j(so_far_j: float | None, so_far_s: float, rest: Interval | None, watts: Interval | None) -> Interval | None:
    """Joules of the whole run: those measured, and `watts` over the rest; over all of it where none were measured.

    None where nothing tells. The doubts of time and power go together, as the cautious product has it.
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
