"""The content of a report: answers that belong together, and how each figure is shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import cast

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer
from ..estimator.base.interval import Interval
from ..estimator.place.site import Region, Site, load_regions
from .sentences import LIMITED, TEMPLATES

FIGURES = ("seconds", "energy_kwh", "facility_energy_kwh", "co2e_kg", "cost")
# Well-known grids, from low to high carbon intensity.
FAMILIAR_REGIONS = (
    *("SE", "NO", "FR", "CH", "CA", "BR", "GB", "ES", "US-CA", "DE"),
    *("NL", "US", "JP", "KR", "WORLD", "US-TX", "CN", "AU", "PL", "IN", "ZA"),
)
_RANKED_MODELS = 3


@dataclass(frozen=True, slots=True)
class Report:
    """Answers for one site and schedule. `accuracies` has one figure per answer, or is empty."""

    answers: tuple[Answer, ...]
    command: str
    version: str
    made: date
    accuracies: tuple[float, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """One name per answer: the short one if these differ, otherwise the one given."""
        short = tuple(answer.workload.name for answer in self.answers)
        return short if len(set(short)) == len(short) else tuple(answer.model for answer in self.answers)

    @property
    def ranked(self) -> tuple[int, ...]:
        """The models in the table of grids: all if there are few, else those with the least and the most energy."""
        order = sorted(range(len(self.answers)), key=lambda index: self.answers[index].facility_energy_kwh.value)
        return tuple(sorted(order if len(order) <= _RANKED_MODELS else (order[0], order[-1])))


def figure(answer: Answer, name: str) -> Interval:
    """One of `FIGURES`, or "rent", in the unit of its name. The energy is that of whole nodes on a cluster."""
    if name in ("energy_kwh", "rent"):
        return cast(Interval, answer.machine_kwh if name == "energy_kwh" else answer.bill)
    home = answer.estimate if name == "seconds" else answer
    return cast(Interval, getattr(home, name))


def limited(answer: Answer, quantity: str) -> str:
    """The figure that a budget of that quantity limits: in money the rent, where one is given."""
    return "rent" if quantity == "cost" and answer.rent and answer.rent.given else LIMITED[quantity]


def shown(answer: Answer, name: str) -> tuple[str, str]:
    """One of `FIGURES` as people read it: ("1.23 kWh", "0.98 to 1.60 kWh")."""
    interval = figure(answer, name)
    if name in ("cost", "rent"):
        return figures.money(interval, answer.site.currency)
    show = {"seconds": figures.seconds, "co2e_kg": figures.carbon}.get(name, figures.energy)
    return show(interval)


@dataclass(frozen=True, slots=True)
class Grid:
    """One line of the ranked regions; `code` is empty for an intensity of no region, `own` marks the run's."""

    code: str
    name: str
    carbon_g_per_kwh: float
    note: str = ""  # how its figure differs from life-cycle figures
    own: bool = False


def grid_of(region: Region, *, own: bool = False) -> Grid:
    notes = ["this hour"] if region.live else []
    notes += [] if region.basis == "life cycle" else [region.basis]
    return Grid(region.code, region.name, region.carbon_g_per_kwh, ", ".join(notes), own)


def own_grid(site: Site) -> Grid:
    """The run's own grid: a region, or the intensity given."""
    if site.region is not None:
        return grid_of(site.region, own=True)
    name = TEMPLATES["as_given"] if site.carbon_source == "given" else site.carbon_source
    return Grid("", name, site.carbon_g_per_kwh, own=True)


def ranked_grids(answer: Answer) -> tuple[Grid, ...]:
    """The run's own grid, the other regions asked for and well-known ones, cleanest first."""
    regions = {region.code: region for region in load_regions()}
    own = own_grid(answer.site)
    asked = (place.region for place in answer.places)
    grids = [grid_of(region) for region in (*asked, *(regions[code] for code in FAMILIAR_REGIONS))]
    by_code = {grid.code: grid for grid in reversed([own, *grids])}  # the first of two with the same code
    return tuple(sorted(by_code.values(), key=lambda grid: (grid.carbon_g_per_kwh, grid.code)))
