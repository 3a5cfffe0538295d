"""The report on a sweep as one HTML page: the total, the budgets, the front as a chart, and a table with filters.

`sweep.html` is the page. The page's script, `sweep.js`, draws the chart and the table again for what the reader
chooses, from the columns that this module writes into the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import matplotlib
from markupsafe import Markup

from ..estimator.answer import figures
from ..estimator.base.digits import is_number
from ..estimator.base.interval import Interval
from ..estimator.place.budget import BudgetVerdict
from .charts import POINTS_PER_INCH, scaled, sized
from .markup import asset, environment
from .page import LABELS, page_policy, script_json
from .sentences import fill, headline_of, verdict_sentence
from .svg import ACCENT, LINE, MUTED, RC, inline_svg

SCHEMA = "joulecast.sweep-report/1"
ENERGY = "energy_kwh"
_FIGURES = {  # columns of figures, their names, and the scale they are shown in
    ENERGY: ("energy", figures.ENERGIES),
    "co2e_kg": ("CO2e", tuple((factor, f"{unit} CO2e") for factor, unit in figures.MASSES)),
    "seconds": ("time", figures.TIMES),
    "cost": ("cost", None),  # that of the currency
    "parameters": ("parameters", "count"),
    "step_flops": ("step FLOPs", "count"),
}
_COSTS = frozenset(["energy_kwh", "co2e_kg", "seconds", "cost"])  # better when small
_DIGITS = 6  # of a figure in the page
_WHOLE = 1e15  # whole numbers below this are shown with all their digits
_ROWS = 50  # of the table at once
_REASONS = 100  # of failures
_CHART_POINTS = 1000  # that are not on the front, in the chart of a page without scripts
_CHART_SIZE = (540, 330)
_TOTALS = {
    "facility_energy_kwh": "Energy with PUE",
    "energy_kwh": "Energy of the machines",
    "co2e_kg": "CO2e",
    "seconds": "Time",
    "cost": "Cost",
}


@dataclass(slots=True)
class SweepTable:
    """The columns of a sweep's candidates, collected one candidate at a time."""

    indices: list[int] = field(default_factory=list)
    asked: dict[str, list[Any]] = field(default_factory=dict)
    figures: dict[str, list[float | None]] = field(default_factory=dict)
    over_budget: list[bool] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds a result: `index`, what was `asked`, and a `row` of figures or an `error`."""
        row = result.get("row", {})
        count = len(self.indices)
        self.indices.append(result["index"])
        for name in result["asked"]:
            self.asked.setdefault(name, [None] * count)
        for name, values in self.asked.items():
            values.append(result["asked"].get(name))
        for name in (*_FIGURES, f"{ENERGY}_low", f"{ENERGY}_high"):
            self.figures.setdefault(name, []).append(_rounded(row.get(name)))
        self.over_budget.append(bool(row.get("over_budget")))
        self.errors.append(result.get("error", ""))


@dataclass(frozen=True, slots=True)
class SweepPage:
    """What the page shows. `failures` are all reasons, most frequent first; `more_is_better` corrects the direction of
    columns; `front_column` is what the chart starts with."""

    table: SweepTable
    totals: Mapping[str, Interval]
    verdicts: Sequence[BudgetVerdict]
    failures: Sequence[tuple[str, int]]
    sources: Sequence[str]
    currency: str
    front_column: str
    more_is_better: Mapping[str, bool]
    candidates_from: str
    command: str
    version: str
    made: date


def render_sweep(page: SweepPage) -> str:
    """The whole page. The same sweep gives the same text."""
    style = f"{asset('style.css')}\n{asset('sweep.css')}"
    script = f"{asset('numbers.js')}\n{asset('sweep.js')}"
    columns = _columns(page)
    chosen = next(column for column in columns if column["name"] == _front_column(page, columns))
    rows, count = _first_rows(page.table), len(page.table.indices)
    values: dict[str, Any] = {
        "page": page,
        "about": page,
        "policy": page_policy(style, script),
        "style": Markup(style),
        "script": Markup(script),
        "data_json": Markup(script_json(_data(page, columns, chosen))),
        "title": f"A sweep of {count:,} candidate{'' if count == 1 else 's'}",
        "headline": _headline(page),
        "state": _state(page.verdicts),
        "totals": _total_rows(page),
        "labels": [LABELS[source] for source in page.sources if source in LABELS],
        "columns": columns,
        "asked": len(columns) - len(_FIGURES),
        "rows": [_cells(page.table, columns, row) for row in rows],
        "chart": _chart(page.table, chosen),
        "chosen": chosen,
        "reasons": page.failures[:_REASONS],
        "more_reasons": max(0, len(page.failures) - _REASONS),
    }
    return (
        environment().get_template("sweep.html", globals={"verdict_sentence": verdict_sentence}).render(values) + "\n"
    )


# -- the columns of the table ----------------------------------------------------------------------


def _columns(page: SweepPage) -> list[dict[str, Any]]:
    """Each column with its values as the page's script reads them: numbers, or places in a list of words."""
    columns = [_asked_column(name, values) for name, values in page.table.asked.items() if name not in _FIGURES]
    for name, (label, units) in _FIGURES.items():
        units = figures.money_units(page.currency) if name == "cost" else units
        columns.append({"name": name, "label": label, "units": units, "values": page.table.figures.get(name, [])})
    for column in columns:
        if "words" not in column:
            column["more"] = page.more_is_better.get(column["name"], column["name"] not in _COSTS)
    return columns


def _asked_column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if all(is_number(value) for value in known) and known:
        short = [value if isinstance(value, int) else _rounded(value) for value in values]
        return {"name": name, "label": name, "units": None, "values": short}
    words = dict.fromkeys(str(value) for value in known)
    codes = {word: code for code, word in enumerate(words)}
    return {
        "name": name,
        "label": name,
        "words": list(words),
        "values": [-1 if value is None else codes[str(value)] for value in values],
    }


def _rounded(value: Any) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if is_number(value) else None


def _front_column(page: SweepPage, columns: Sequence[Mapping[str, Any]]) -> str:
    """The column of the chart: the one asked for, otherwise the parameters."""
    numbers = {column["name"] for column in columns if "words" not in column} - {ENERGY}
    return page.front_column if page.front_column in numbers else "parameters"


def _data(page: SweepPage, columns: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script reads; docs/sweep.md describes it."""
    table = page.table
    reasons = list(dict.fromkeys(error for error in table.errors if error))
    places = {reason: place for place, reason in enumerate(reasons)}
    return {
        "schema": SCHEMA,
        "rows_at_once": _ROWS,
        "chart": chosen["name"],
        "candidates": table.indices,
        "columns": columns,
        "asked": len(columns) - len(_FIGURES),
        "energy": [table.figures.get(f"{ENERGY}_{end}", []) for end in ("low", "high")],
        "over_budget": [row for row, over in enumerate(table.over_budget) if over],
        "reasons": reasons,
        "failed": {str(row): places[error] for row, error in enumerate(table.errors) if error},
    }


def _first_rows(table: SweepTable) -> list[int]:
    """The rows that need the least energy, then those that failed."""
    energies = table.figures.get(ENERGY, [])
    order = sorted(range(len(table.indices)), key=lambda row: (energies[row] is None, energies[row] or 0.0, row))
    return order[:_ROWS]


def _cells(table: SweepTable, columns: Sequence[Mapping[str, Any]], row: int) -> dict[str, Any]:
    return {
        "candidate": table.indices[row],
        "cells": [(column["label"], cell_text(column, column["values"][row])) for column in columns],
        "error": table.errors[row],
        "over_budget": table.over_budget[row],
    }


def cell_text(column: Mapping[str, Any], value: Any) -> str:
    """A value as the table shows it; the page's script writes the same."""
    if "words" in column:
        return "" if value < 0 else str(column["words"][value])
    if value is None:
        return ""
    if column["units"] == "count":
        return figures.count(value)
    if column["units"] is None:
        return str(int(value)) if value == int(value) and abs(value) < _WHOLE else f"{value:.4g}"
    factor, unit = figures.scale(value, column["units"])
    return f"{figures.number(value / factor)} {unit}"


# -- the head --------------------------------------------------------------------------------------


def _state(verdicts: Sequence[BudgetVerdict]) -> str:
    if not verdicts:
        return "none"
    return "exceeds" if any(verdict.exceeded for verdict in verdicts) else "fits"


def _headline(page: SweepPage) -> str:
    """In one sentence: whether the whole sweep fits, or what it takes."""
    if not page.totals:
        return "No candidate has figures"
    if page.verdicts:
        return headline_of(page.verdicts)
    names = ("facility_energy_kwh", "co2e_kg", "cost", "seconds")
    return fill("figures", **{name: _shown(page, name)[0] for name in names})


def _shown(page: SweepPage, name: str) -> tuple[str, str]:
    interval = page.totals[name]
    if name == "cost":
        return figures.money(interval, page.currency)
    return {"seconds": figures.seconds, "co2e_kg": figures.carbon}.get(name, figures.energy)(interval)


def _total_rows(page: SweepPage) -> list[tuple[str, str, str]]:
    return [(label, *_shown(page, name)) for name, label in _TOTALS.items() if name in page.totals]


# -- the chart of a page without scripts -----------------------------------------------------------


def front_rows(table: SweepTable, column: Mapping[str, Any]) -> list[int]:
    """The rows that no other row beats in both energy and the column, least energy first."""
    sign = -1.0 if column["more"] else 1.0
    points = [
        (energy, sign * value, row)
        for row, (energy, value) in enumerate(zip(table.figures.get(ENERGY, []), column["values"], strict=True))
        if energy is not None and value is not None and not table.over_budget[row]
    ]
    kept: list[int] = []
    best = (math.inf, math.inf)
    for energy, loss, row in sorted(points):
        if loss < best[1] or (energy, loss) == best:
            kept.append(row)
            best = (energy, loss)
    return kept


def _chart(table: SweepTable, column: Mapping[str, Any]) -> Markup:
    """Energy against the column: the front as filled dots on a line, other candidates as small dots."""
    best = front_rows(table, column)
    energies, values = table.figures.get(ENERGY, []), column["values"]
    rows = [row for row, energy in enumerate(energies) if energy is not None and values[row] is not None]
    if not rows:
        return Markup("")
    step = max(1, len(rows) // _CHART_POINTS)
    factor, unit = figures.scale(max(energies[row] or 0.0 for row in rows), figures.ENERGIES)
    across, up = _axis_unit(column, rows), (factor, unit)
    with matplotlib.rc_context(RC):
        figure = sized(*_CHART_SIZE)
        assert figure.dpi == POINTS_PER_INCH
        axes = figure.add_axes((0.12, 0.15, 0.85, 0.80))
        drawn = ((rows[::step], {"marker": "o", "markersize": 2.5, "linestyle": "none", "color": MUTED}),)
        line = {"marker": "o", "markersize": 5, "color": ACCENT, "linewidth": 0.8, "linestyle": (0, (3, 3))}
        for some, look in (*drawn, (best, line)):
            axes.plot([values[row] / across[0] for row in some], [energies[row] / up[0] for row in some], **look)  # type: ignore[operator, arg-type]
        words = figures.count if column["units"] == "count" else "{:g}".format
        scaled(axes, "x", [values[row] / across[0] for row in rows], words)
        scaled(axes, "y", [(energies[row] or 0.0) / up[0] for row in rows])
        axes.set_xlabel(f"{column['label']}{f', {across[1]}' if across[1] else ''}")
        axes.set_ylabel(f"energy, {unit}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.tick_params(colors=MUTED, length=0)
        axes.xaxis.label.set_color(MUTED)
        axes.yaxis.label.set_color(MUTED)
        axes.set_facecolor("none")
    names = ", ".join(str(table.indices[row]) for row in best[:20])
    more = f" and {len(best) - 20} more" if len(best) > 20 else ""
    label = f"Scatter plot. Energy against {column['label']} of {len(rows):,} candidates. On the front: {names}{more}"
    return inline_svg(figure, key="front", label=label)


def _axis_unit(column: Mapping[str, Any], rows: Sequence[int]) -> tuple[float, str]:
    if column["units"] in (None, "count"):
        return 1.0, ""
    return figures.scale(max(column["values"][row] for row in rows), column["units"])
