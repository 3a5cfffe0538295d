"""The terms of a budget, and the error of a run that exceeds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..estimator.answer.request import Request
from ..estimator.base.errors import JoulecastError
from ..estimator.base.interval import Interval
from ..estimator.place.budget import BudgetVerdict, End, Limit, verdicts_of_run
from ..estimator.place.site import Site

if TYPE_CHECKING:
    from ..measure.meters.meter import Meter

OnExceed = Literal["raise", "warn", "ask"]


class BudgetExceeded(JoulecastError):  # noqa: N818 - the name says what happened, as StopIteration's does
    """A run that exceeds its budget: `verdict` says by how much, `when` at which point.

    `checkpoint` is what was saved before the run was stopped; None if nothing was.
    """

    def __init__(self, verdict: BudgetVerdict, when: str, checkpoint: str | None = None) -> None:
        super().__init__(f"{verdict}; {when}" + (f", saved as {checkpoint}" if checkpoint else ""))
        self.verdict, self.when, self.checkpoint = verdict, when, checkpoint

    def __reduce__(self) -> tuple[Any, ...]:  # it travels between the processes of one training
        return BudgetExceeded, (self.verdict, self.when, self.checkpoint)


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises JoulecastError for a value that is not one of the Literal `choices`."""
    if value not in get_args(choices):
        raise JoulecastError(f"{name} is {value!r}; choose one of {', '.join(get_args(choices))}")


@dataclass(frozen=True, slots=True)
class Terms:
    """The budget, place and hardware of a run, and what happens when a limit is exceeded.

    `request` is a template without a model: the adapters add the workload and the length of the run.
    Raises JoulecastError for no limit and for an unknown choice.
    """

    request: Request
    on_exceed: OnExceed = "raise"
    meter: str | Meter = "auto"
    log_every: int | None = None
    checkpoint: Path | None = None
    limits: tuple[Limit, ...] = field(init=False)
    site: Site = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", self.request.limits)  # read once: a run compares them at every forecast
        object.__setattr__(self, "site", self.request.site)
        if not self.limits:
            raise JoulecastError('a budget without a limit: give one or more, as in Budget("2 kWh", "10 h")')
        check_choice("on_exceed", self.on_exceed, OnExceed)
        if self.log_every is not None and self.log_every < 1:
            raise JoulecastError(f"log_every is {self.log_every}; give 1 or more steps")

    def verdicts(
        self, seconds: Interval | None, energy_kwh: Interval | None, at: End | None = None
    ) -> tuple[BudgetVerdict, ...]:
        """Each limit against a run of `seconds` and the machine's `energy_kwh`; none where its figure is unknown."""
        at = at or self.request.budget_at
        return verdicts_of_run(self.limits, self.site, seconds=seconds, energy_kwh=energy_kwh, at=at)
