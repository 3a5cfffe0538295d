"""What stands behind the figures: other grids, notes, sources, the method and the command."""

from __future__ import annotations

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer
from ..estimator.base.interval import Interval
from ..estimator.base.units import GRAMS_PER_KG
from ..estimator.place.site import DEFAULT_PUE
from .cells import cell, table
from .document import Grid, Report, ranked_grids
from .markup import Markup, element, joined
from .sentences import TEMPLATES

_DEFAULT_PUE_SOURCE = "the world's average data centre, Uptime Institute 2018"
_METHOD = (
    "One training step is read off the model, operation by operation, without running it on data: "
    "multiply-adds (one multiply and one add count as one), bytes and layers.",
    "The profile gives the seconds of each operation, and the watts of each component of the machine "
    "(P = sum of activity x weight, plus a static power).",
    "Steps times seconds and watts are the machine's energy; times PUE the building's; times the grid's "
    "intensity CO2e; times the price the cost of electricity.",
    "Intervals hold for 90 % of networks that the profile was never fitted on; they widen outside of the fitted range.",
)


# -- other grids ---------------------------------------------------------------------------------


def grids(report: Report) -> Markup:
    """The same run on grids that readers know, cleanest first. The script writes the rows anew."""
    first = report.answers[0]
    several = len(report.answers) > 1
    columns = [report.names[index] if several else "CO2e" for index in report.ranked]
    ranked = ranked_grids(first)
    most = max(grid.carbon_g_per_kwh for grid in ranked)
    rows = [_grid_row(report, grid, columns, most) for grid in ranked]
    caption = "Yearly means of the electricity's life cycle; direct: of the power stations alone"
    return element(
        "section",
        element("h2", "The same run on other grids"),
        table(["region", "g CO2e per kWh", *columns], rows, class_="grids", caption=caption),
        id="grids",
    )


def _grid_row(report: Report, grid: Grid, columns: list[str], most: float) -> Markup:
    notes = [TEMPLATES["this_run"]] if grid.own else []
    notes += [grid.note] if grid.note else []
    width = f"{100 * grid.carbon_g_per_kwh / most if most else 0:.2f}%"
    bar = element(
        "svg", element("rect", class_="level", width=width, height=6, rx=3), class_="level-bar", aria_hidden="true"
    )
    cells = [
        cell(column, _gas(report.answers[index], grid)) for column, index in zip(columns, report.ranked, strict=True)
    ]
    return element(
        "tr",
        element("th", grid.name, *(element("small", note) for note in notes), scope="row"),
        element("td", element("span", figures.number(grid.carbon_g_per_kwh)), bar, data_label="g CO2e per kWh"),
        *cells,
        data_region=grid.code,
        aria_current="true" if grid.own else None,
    )


def _gas(answer: Answer, grid: Grid) -> Markup:
    kg = answer.facility_energy_kwh.value * (grid.carbon_g_per_kwh / GRAMS_PER_KG)
    return element("data", figures.carbon(Interval.exact(kg))[0], value=repr(kg))


# -- what is to be known -------------------------------------------------------------------------


def notes(report: Report) -> Markup | None:
    """Each note once; of several models with the names of those that it is about, unless all are."""
    about: dict[str, list[str]] = {}
    for answer, name in zip(report.answers, report.names, strict=True):
        for note in answer.notes:
            about.setdefault(note, []).append(name)
    if not about:
        return None
    items = []
    for note, names in about.items():
        who = element("strong", f"{', '.join(names)}: ") if len(names) < len(report.answers) else None
        items.append(element("li", who, note))
    return element("section", element("h2", "What to know"), element("ul", *items, class_="notes"), id="notes")


def method(report: Report) -> Markup:
    """Where every figure comes from."""
    first = report.answers[0]
    profile, site, provenance = first.profile, first.site, first.profile.provenance
    pue_source = _DEFAULT_PUE_SOURCE if site.pue == DEFAULT_PUE else "given"
    facts = {
        "Profile": f"{profile.name}: {profile.hardware} with {profile.framework}",
        "Time": first.estimate.time_source,
        "Power": first.estimate.power_source,
        "Covers": provenance.boundary,
        "Fitted on": provenance.fitted_on,
        "Made": provenance.created,
        "PUE": f"{figures.number(site.pue)}, {pue_source}",
        "CO2e": f"{figures.number(site.carbon_g_per_kwh)} g per kWh, {site.carbon_source}",
        "Price": f"{figures.number(site.price_per_kwh)} {site.currency} per kWh, {site.price_source}",
        "Sources": "; ".join(provenance.sources),
    }
    rows = (joined(element("dt", name), element("dd", fact)) for name, fact in facts.items() if fact)
    return element(
        "section",
        element("h2", "Where the figures come from"),
        element("dl", *rows),
        element("h3", "Method"),
        element("ol", *(element("li", line) for line in _METHOD), class_="method"),
    )


def foot(report: Report) -> Markup:
    day = f"{report.made.day} {report.made:%B %Y}"
    return element(
        "footer",
        element("h2", "The command"),
        element("pre", element("code", report.command)),
        element("p", f"Made by joulecast {report.version} on {day}.", class_="key"),
    )
