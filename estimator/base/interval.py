"""A number with its 90 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the bounds of its 90 % interval, `low <= value <= high`, all in one unit.

    The unit is in the name of the field (`energy_kwh`, `seconds`).
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.low <= self.value <= self.high):
            raise ValueError(f"not an interval: low {self.low}, value {self.value}, high {self.high}")

    def __mul__(self, factor: float) -> Interval:
        """The interval scaled by `factor >= 0`, such as a unit conversion."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    __rmul__ = __mul__

    def __add__(self, other: Interval) -> Interval:
        """The sum of two figures with fully correlated errors: the bounds add up, which is cautious."""
        return Interval(self.value + other.value, self.low + other.low, self.high + other.high)

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def exact(cls, value: float) -> Interval:
        return cls(value, value, value)
