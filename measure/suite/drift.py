"""How much slower a machine was while it was measured than it can be, and step times corrected for it.

A fixed piece of work, the reference, is timed before and after the windows of every case. Its quiet time is the low
end of all these times. How far a step slows down when the reference does is learnt from the windows of single cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...estimator.fit.observation import Observation
from ..records.records import MeasuredWindow, Record
from .op_timing import CpuClock, CudaClock

REFERENCE_S = "reference_s"
"""Name of a window's figure: mean seconds of the reference before and after it."""
QUIET = 0.1
"""This share of a machine's windows is taken as quiet."""
_SIDE, _ELEMENTS, _TARGET_S = 384, 2_000_000, 0.02
_DOUBT = 0.1  # variance of log(reference) that windows must show before their slope counts half
_WORTH_A_NOTE = 1.03


class Reference:
    """Matrix products and additions of about 20 ms on the device that is calibrated."""

    def __init__(self, device: str = "cpu") -> None:
        where = "cuda" if device == "gpu" else "cpu"
        self._clock = CudaClock() if device == "gpu" else CpuClock()
        self._square, self._long = torch.ones(_SIDE, _SIDE, device=where), torch.ones(_ELEMENTS, device=where)
        self._repeats = 1
        self._repeats = max(round(_TARGET_S / min(self.seconds() for _ in range(5))), 1)

    def seconds(self) -> float:
        """Seconds of one repeat, the mean of as many as take about 20 ms."""
        with torch.no_grad():
            self._clock.wait()
            began = self._clock.stamp()
            for _ in range(self._repeats):
                torch.mm(self._square, self._square)
                self._long.add(1.0)
            ended = self._clock.stamp()
            self._clock.wait()
        return float(self._clock.seconds(began, ended)) / self._repeats


@dataclass(frozen=True, slots=True)
class Drift:
    """A machine's quiet reference time, the range of 90 % of its windows over it, and how far steps follow (0 to 1)."""

    quiet_s: float
    low: float
    high: float
    follows: float

    def factor(self, record: Record) -> float:
        """How many times too long the record's steps took; 1 without a reference time or on a quiet machine."""
        times = [seconds for window in record.windows if (seconds := window.figures.get(REFERENCE_S))]
        if not times:
            return 1.0
        return float(max(float(np.median(times)) / self.quiet_s, 1.0) ** self.follows)

    @property
    def note(self) -> str | None:
        """What the user should know; None where the machine was as fast as it can be."""
        if self.high < _WORTH_A_NOTE:
            return None
        what = f"this machine took {self.low:.2f} to {self.high:.2f} times its quiet time for the same work"
        if self.follows * math.log(self.high) < math.log(_WORTH_A_NOTE):
            return f"{what} while it was measured; its step times did not follow and are not corrected"
        return f"{what} while it was measured; step times are divided by that to the power of {self.follows:.2f}"


def drift_of(records: Sequence[Record]) -> Drift | None:
    """The drift over all windows of the records; None if none has a reference time."""
    cases = [[window for window in record.windows if window.figures.get(REFERENCE_S)] for record in records]
    times = np.array([window.figures[REFERENCE_S] for windows in cases for window in windows])
    if not len(times):
        return None
    quiet_s = float(np.quantile(times, QUIET))
    low, high = np.quantile(times, [0.05, 0.95]) / quiet_s
    return Drift(quiet_s, float(low), float(high), _slope(cases))


def _slope(cases: Sequence[Sequence[MeasuredWindow]]) -> float:
    """Slope of log(step time) along log(reference time) among windows of one case, all cases together.

    With little variation to learn from, it is near 0.
    """
    product = square = 0.0
    for windows in cases:
        reference = np.log([window.figures[REFERENCE_S] for window in windows])
        step = np.log([window.seconds / window.steps for window in windows])
        if len(windows) > 1:
            product += float(((reference - reference.mean()) * (step - step.mean())).sum())
            square += float(((reference - reference.mean()) ** 2).sum())
    return min(max(product / (square + _DOUBT), 0.0), 1.0)


def corrected(observation: Observation, factor: float) -> Observation:
    """The observation as a quiet machine would have made it: times and energy divided by `factor`, power unchanged."""
    if factor == 1.0:
        return observation
    ops, energy_j = observation.op_seconds, observation.energy_j
    return replace(
        observation,
        seconds=observation.seconds / factor,
        op_seconds=None if ops is None else tuple(None if one is None else one / factor for one in ops),
        energy_j=None if energy_j is None else energy_j / factor,
    )
