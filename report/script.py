"""The data of the page's script: how each figure grows with the run, limits, places, units and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer
from ..estimator.answer.forecast import forecast
from ..estimator.base.interval import Interval
from ..estimator.place.comparisons import load_yardsticks
from ..estimator.place.schedule import Schedule
from ..estimator.place.site import load_regions
from .document import FIGURES, Grid, Report, figure, grid_of, limited, own_grid, ranked_grids
from .sentences import FAR_PERCENT, TEMPLATES

SCHEMA = "joulecast.report/1"
BOUNDS = ("value", "low", "high")


def script_data(report: Report) -> dict[str, Any]:
    """One JSON object, described in docs/report.md."""
    answers, site = report.answers, report.answers[0].site
    own = own_grid(site)
    settings = {"length": length_text(answers), "pue": plain(site.pue), "price": plain(site.price_per_kwh)}
    return {
        "schema": SCHEMA,
        "settings": {**settings, "region": own.code},
        "stops": stops(answers),
        "length_unit": length_unit(answers),
        "own": _row(own),
        "models": [_model(answer, name) for answer, name in zip(answers, report.names, strict=True)],
        "axes": {name: axis_end(answers, name) for name in FIGURES},
        "ranked": list(report.ranked),
        "grids": [_row(grid) for grid in ranked_grids(answers[0]) if grid.code],
        "regions": [_row(grid_of(region)) for region in load_regions()],
        "yardsticks": [
            [one.quantity, one.amount, one.plural, f"{one.source.split(',')[0]}, {one.year}"]
            for one in load_yardsticks()
        ],
        "units": _units(site.currency),
        "words": TEMPLATES,
        "far_percent": FAR_PERCENT,
    }


def _row(grid: Grid) -> list[Any]:
    return [grid.code, grid.name, grid.carbon_g_per_kwh, grid.note]


def _units(currency: str) -> dict[str, Any]:
    """The scales that figures are shown in, as `document.shown` chooses from them."""
    return {
        "seconds": figures.TIMES,
        "energy_kwh": figures.ENERGIES,
        "facility_energy_kwh": figures.ENERGIES,
        "co2e_kg": [(factor, f"{unit} CO2e") for factor, unit in figures.MASSES],
        "cost": figures.money_units(currency),
        "rent": figures.money_units(currency),
        "power_w": figures.POWERS,
    }


def _model(answer: Answer, name: str) -> dict[str, Any]:
    schedule = answer.schedule
    return {
        "name": name,
        "run": {"steps": schedule.steps, "epochs": schedule.epochs, "passes": schedule.validation_steps},
        "steps_per_epoch": schedule.steps_per_epoch,
        "passes_per_epoch": _passes_per_epoch(schedule),
        "growth": growth(answer),
        "rent_per_s": answer.rent.bill(Interval.exact(1.0), answer.estimate.devices).value if answer.rent else 0.0,
        "limits": [
            {
                "text": verdict.limit.text,
                "quantity": verdict.limit.quantity,
                "figure": limited(answer, verdict.limit.quantity),
                "amount": verdict.limit.amount,
                "unit": verdict.limit.given_unit,
                "units_per_given": verdict.limit.units_per_given,
                "bound": "high" if verdict.at == "high" else "value",
                "at": verdict.at,
            }
            for verdict in answer.verdicts
        ],
    }


# -- how figures grow with the run ---------------------------------------------------------------


def growth(answer: Answer) -> dict[str, dict[str, list[float]]]:
    """Each bound of the time and the machine's energy as [start, per step, start, per validation pass].

    A run of n > 0 steps and v passes takes start + n * per step and, where v > 0, the second
    start + v * per pass. Both are straight lines, so that two runs determine each.
    """
    steps, passes = answer.schedule.steps, max(answer.schedule.validation_steps, 1)
    if answer.split is not None:  # without validation, and with a start-up that no cluster's profile has
        return {
            name: {bound: [0.0, getattr(figure(answer, name), bound) / steps, 0.0, 0.0] for bound in BOUNDS}
            for name in ("seconds", "energy_kwh")
        }
    training = replace(answer.schedule, validation_steps=0)
    runs = [
        forecast(answer.profile, answer.workload, schedule)
        for schedule in (
            training,
            replace(training, steps=2 * steps),
            replace(training, validation_steps=passes),
            replace(training, validation_steps=2 * passes),
        )
    ]
    return {
        name: {bound: _line([getattr(getattr(run, name), bound) for run in runs], steps, passes) for bound in BOUNDS}
        for name in ("seconds", "energy_kwh")
    }


def _line(amounts: Sequence[float], steps: int, passes: int) -> list[float]:
    once, twice, checked, checked_twice = amounts
    added = checked_twice - checked
    return [2 * once - twice, (twice - once) / steps, checked - once - added, added / passes]


def _passes_per_epoch(schedule: Schedule) -> int:
    return schedule.validation_steps // ceil(schedule.epochs) if schedule.epochs else 0


def axis_end(answers: Sequence[Answer], name: str) -> float:
    """The end of a figure's bars: the highest upper bound or limit."""
    bounds = [figure(answer, name).high for answer in answers]
    limits = [
        verdict.limit.amount
        for answer in answers
        for verdict in answer.verdicts
        if limited(answer, verdict.limit.quantity) == name
    ]
    return max([*bounds, *limits])


# -- the sliders ---------------------------------------------------------------------------------

_DECADE = tuple(Fraction(text) for text in ("1", "1.2", "1.5", "2", "2.5", "3", "4", "5", "6", "8"))
_PUE_STOPS = tuple((100 + 2 * step) / 100 for step in range(76))  # 1.00 to 2.50
_REACH = 10  # how far a slider goes beyond the run's own value, as a factor


def length_unit(answers: Sequence[Answer]) -> str | None:
    """What the run's length is changed in: "epochs", "steps", or None if the models differ in it."""
    schedules = [answer.schedule for answer in answers]
    if len({(one.steps, one.steps_per_epoch, one.epochs) for one in schedules}) > 1:
        return None
    return "epochs" if _is_in_epochs(schedules[0]) else "steps"


def _is_in_epochs(schedule: Schedule) -> bool:
    """Whether the steps follow from the epochs; epochs calculated from a number of steps may be rounded."""
    if schedule.epochs is None or schedule.steps_per_epoch is None:
        return False
    return ceil(Fraction(str(schedule.epochs)) * schedule.steps_per_epoch) == schedule.steps


def length_text(answers: Sequence[Answer]) -> str:
    """The run's length in `length_unit`, as a user would type it."""
    schedule = answers[0].schedule
    in_epochs = length_unit(answers) == "epochs" and schedule.epochs is not None
    return plain(schedule.epochs if in_epochs and schedule.epochs else schedule.steps)


def stops(answers: Sequence[Answer]) -> dict[str, list[str]]:
    """The values that each slider steps through, the run's own among them, as a user would type them."""
    site = answers[0].site
    length, price = float(length_text(answers)), site.price_per_kwh
    lengths = (value for value in _round_values(1.0, _REACH * max(length, 2.0)) if value.is_integer())
    prices = _round_values(price / _REACH, price * _REACH) if price else _round_values(0.01, 1.0)
    values = {"length": {length, *lengths}, "pue": {site.pue, *_PUE_STOPS}, "price": {price, *prices}}
    return {name: [plain(value) for value in sorted(options)] for name, options in values.items()}


def _round_values(low: float, high: float) -> list[float]:
    """1, 1.2, 1.5, 2 ... times every power of ten, from `low` to `high`; `low > 0`."""
    power = Fraction(10) ** int(f"{low:e}".partition("e")[2])
    values: list[float] = []
    while power <= high:
        values += [float(step * power) for step in _DECADE]
        power *= 10
    return [value for value in values if low <= value <= high]


def plain(value: float) -> str:
    """The number as a user would type it: 100, not 100.0."""
    return str(int(value)) if value == int(value) else str(value)
