"""What a budget demands of a run, and the error that says that it does not get it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..estimator.base.errors import JoulecastError
from ..estimator.base.interval import Interval
from ..estimator.place.budget import End, Limit, Verdict, judge, judged_figure
from ..estimator.place.site import Site, co2e_kg, cost, facility_energy_kwh

if TYPE_CHECKING:
    from ..measure.meters.meter import Meter

OnExceed = Literal["raise", "warn", "ask"]


class BudgetExceeded(JoulecastError):  # noqa: N818 - it says what happened, which is no mistake
    """A run that does not fit its budget: `verdict` says by how much, `when` at which point.

    `checkpoint` is what was saved before the run was stopped; None where nothing was.
    """

    def __init__(self, verdict: Verdict, when: str, checkpoint: str | None = None) -> None:
        super().__init__(f"{verdict}; {when}" + (f", saved as {checkpoint}" if checkpoint else ""))
        self.verdict, self.when, self.checkpoint = verdict, when, checkpoint

    def __reduce__(self) -> tuple[Any, ...]:  # it travels between the processes of one training
        return BudgetExceeded, (self.verdict, self.when, self.checkpoint)


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits, what turns a run's figures into theirs, and what happens when one is broken.

    Raises JoulecastError for no limit, an unknown choice and a limit in another currency than the price.
    """

    limits: tuple[Limit, ...]
    site: Site
    hardware: str | Path | None = None
    at: End = "high"
    on_exceed: OnExceed = "raise"
    meter: str | Meter = "auto"
    log_every: int | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise JoulecastError('a budget without a limit: give one or more, as in Budget("2 kWh", "10 h")')
        for name, value, choices in (("at", self.at, End), ("on_exceed", self.on_exceed, OnExceed)):
            if value not in get_args(choices):
                raise JoulecastError(f"{name} is {value!r}; choose one of {', '.join(get_args(choices))}")
        if self.log_every is not None and self.log_every < 1:
            raise JoulecastError(f"log_every is {self.log_every}; give 1 or more steps")
        nothing = Interval.exact(0.0)
        self.verdicts(nothing, nothing, self.at)

    def verdicts(self, seconds: Interval | None, energy_kwh: Interval | None, at: End) -> tuple[Verdict, ...]:
        """Each limit against a run of `seconds` and the machine's `energy_kwh`; none where its figure is unknown."""
        facility = None if energy_kwh is None else facility_energy_kwh(energy_kwh, self.site)
        unknown = Interval.exact(0.0)
        found = []
        for limit in self.limits:
            if (seconds if limit.quantity == "time" else facility) is None:
                continue
            figure = judged_figure(
                limit,
                facility_energy_kwh=facility or unknown,
                co2e_kg=co2e_kg(facility or unknown, self.site),
                seconds=seconds or unknown,
                cost=cost(facility or unknown, self.site),
                currency=self.site.currency,
            )
            found.append(judge(limit, figure, at))
        return tuple(found)
