"""What a prediction says: time, energy and where it goes, every figure with its 90 % interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ..base.interval import Interval
from ..base.units import JOULES_PER_KWH

if TYPE_CHECKING:
    import pandas


STARTUP = "start-up"
"""The part of `breakdown` that a run takes once."""


@dataclass(frozen=True, slots=True)
class Share:
    """One part's expected time and energy, and its share of the energy (0 to 1)."""

    name: str
    seconds: float
    energy_kwh: float
    share: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of `steps` steps on the profile's hardware (`devices` of them).

    `energy_kwh` is the machine's own, before PUE. `power_w` is the mean over the run. `breakdown` is
    by component of eq. 2.2.1 (op kinds and the static power), `layers` by module path; both hold
    expected values that add up to `energy_kwh.value`.
    """

    steps: int
    seconds: Interval
    energy_kwh: Interval
    breakdown: tuple[Share, ...]
    layers: tuple[Share, ...]
    profile: str
    time_source: str  # "measured" or "datasheet"
    power_source: str  # "measured", "modelled" or "datasheet"
    devices: int = 1
    warnings: tuple[str, ...] = ()

    def breakdown_frame(self) -> pandas.DataFrame:
        """Where the energy goes: one row per component, largest first."""
        import pandas

        return pandas.DataFrame([asdict(part) for part in self.breakdown])

    @property
    def step_seconds(self) -> Interval:
        """One step's time, without the start-up that `seconds` holds once. 0 s of an estimate of no steps."""
        if not self.steps:
            return Interval(0.0, 0.0, 0.0)
        startup_s = sum(part.seconds for part in self.breakdown if part.name == STARTUP) / self.devices
        running = self.seconds.value - startup_s
        return self.seconds * (running / self.seconds.value / self.steps)

    @property
    def power_w(self) -> float:
        return self.energy_kwh.value * JOULES_PER_KWH / self.seconds.value if self.seconds.value else 0.0

    def __add__(self, other: Estimate) -> Estimate:
        """Both runs after each other on the same profile, say training and validation."""
        if self.profile != other.profile:
            raise ValueError(f"estimates of two profiles, {self.profile!r} and {other.profile!r}, do not add up")
        return replace(
            self,
            steps=self.steps + other.steps,
            seconds=self.seconds + other.seconds,
            energy_kwh=self.energy_kwh + other.energy_kwh,
            breakdown=with_parts(self.breakdown, other.breakdown),
            layers=with_parts(self.layers, other.layers),
            warnings=tuple(dict.fromkeys((*self.warnings, *other.warnings))),
        )


def towards(own: Estimate, other: Estimate, weight: float) -> Estimate:
    """`own` moved by `weight` (0 to 1) towards `other`'s time, on a logarithmic scale, bounds included.

    The mean power stays `own`'s, whose boundary it is; the energy's relative bounds move as the time's do.
    """

    def between(first: Interval, second: Interval, scale: float = 1.0) -> Interval:
        pairs = ((first.value, second.value), (first.low, second.low), (first.high, second.high))
        return Interval(*(a ** (1 - weight) * (b * scale) ** weight if min(a, b) > 0 else a for a, b in pairs))

    seconds = between(own.seconds, other.seconds)
    slower = seconds.value / own.seconds.value if own.seconds.value else 1.0
    per_watt = own.power_w / other.power_w if other.power_w else 1.0

    def scaled(parts: tuple[Share, ...]) -> tuple[Share, ...]:
        return tuple(
            replace(part, seconds=part.seconds * slower, energy_kwh=part.energy_kwh * slower) for part in parts
        )

    return replace(
        own,
        seconds=seconds,
        energy_kwh=between(own.energy_kwh, other.energy_kwh, per_watt),
        breakdown=scaled(own.breakdown),
        layers=scaled(own.layers),
        time_source=own.time_source if weight <= 0.5 else other.time_source,
    )


def with_parts(first: tuple[Share, ...], second: tuple[Share, ...]) -> tuple[Share, ...]:
    """The parts of both, those of one name added up."""
    seconds: dict[str, float] = {}
    energy: dict[str, float] = {}
    for part in (*first, *second):
        seconds[part.name] = seconds.get(part.name, 0.0) + part.seconds
        energy[part.name] = energy.get(part.name, 0.0) + part.energy_kwh
    return shares(seconds, energy)


def shares(seconds: dict[str, float], energy_kwh: dict[str, float]) -> tuple[Share, ...]:
    """Parts by energy, largest first; `seconds` and `energy_kwh` have the same keys."""
    total = sum(energy_kwh.values())
    return tuple(
        Share(name, seconds[name], energy, energy / total if total else 0.0)
        for name, energy in sorted(energy_kwh.items(), key=lambda item: -item[1])
    )
