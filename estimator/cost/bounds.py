"""How far a prediction may be off: bounds of measured over predicted, and the fitted range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..base.interval import Interval


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """Bounds of measured / predicted that held for 90 % of networks never fitted on.

    `per_decade` widens both (as a factor on their logarithm) for each power of ten by which the
    workload lies outside of the fitted range. `per_op` is what one op alone adds to the logarithm:
    errors of single ops partly cancel in a network of many, so it counts by the root of their number.
    """

    low: float
    high: float
    per_decade: float = 0.5
    per_op: float = 0.0

    def interval(self, value: float, decades_outside: float = 0.0, ops: float = math.inf) -> Interval:
        """`ops`: how many ops the time is spread over (`effective_ops`)."""
        stretch = 1.0 + self.per_decade * decades_outside
        low, high = (math.hypot(math.log(bound), self.per_op / math.sqrt(ops)) for bound in self._bounds)
        return Interval(value, value * math.exp(-low * stretch), value * math.exp(high * stretch))

    @property
    def _bounds(self) -> tuple[float, float]:
        return min(self.low, 1.0), max(self.high, 1.0)


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest value of one feature among the fitted workloads."""

    low: float
    high: float

    def decades_outside(self, value: float) -> float:
        if self.low <= value <= self.high or value <= 0:
            return 0.0
        edge = self.low if value < self.low else self.high
        return abs(float(np.log10(value / edge))) if edge > 0 else 0.0
