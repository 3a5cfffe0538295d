"""The report as one HTML page: the verdict first, then the figures, what they would be elsewhere, and why.

`template.html` is the page; this module has the values and sentences that it asks for.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from markupsafe import Markup

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer
from ..estimator.base.interval import Interval
from ..estimator.base.notes import Note, Topic
from ..estimator.base.units import GRAMS_PER_KG
from ..estimator.place.comparisons import familiar
from ..estimator.place.site import DEFAULT_PUE_SOURCE
from .document import Grid, Report, figure, limited, ranked_grids, shown
from .markup import asset, environment
from .plots import breakdown_charts, front_charts, layer_table
from .script import axis_end, length_unit, script_data
from .sentences import (
    TEMPLATES,
    comparison_headline,
    fill,
    verdict_headline,
    verdict_note,
    verdict_sentence,
)
from .split import split_sentence, split_tables

_TIME_REPLACED = "time replaced"
LABELS = {  # what a figure is based on: a label, and its explanation
    "measured": ("profile measured", "predicted with a profile from measurements of this hardware"),
    "modelled": ("profile modelled", "predicted with a profile calculated from measurements of other quantities"),
    "datasheet": ("from datasheet", "predicted from the maker's datasheet, without measurements"),
    "probed": ("profile probed", "predicted from a short probe of this machine or from its driver"),
    "given": ("figures given", "predicted from figures that the user gave"),
    "assumed": ("assumed", "predicted from what this class of hardware usually has"),
    _TIME_REPLACED: ("datasheet x watts", "predicted from the datasheet's time and the watts of the measured profile"),
}
_COLUMNS = {"CO2e": "co2e_kg", "time": "seconds", "cost": "cost"}
_DEFAULT_PUE_SOURCE = "the world's average data centre, Uptime Institute 2018"
_METHOD = (
    "One training step is traced, operation by operation, without running it on data: multiply-adds (one multiply "
    "and one add count as one), bytes and layers.",
    "The profile gives the seconds of each operation, and the watts of each component of the machine "
    "(P = sum of activity x weight, plus a static power).",
    "Steps times seconds and watts are the machine's energy; times PUE the building's; times the grid's "
    "intensity CO2e; times the price the cost of electricity.",
    "Intervals cover 90 % of networks that were left out of the fit; they widen outside the measured range.",
)


def render(report: Report) -> str:
    """The whole page. The same report gives the same text."""
    style, script = asset("style.css"), f"{asset('numbers.js')}\n{asset('recompute.js')}"
    first, grids = report.answers[0], ranked_grids(report.answers[0])
    several = len(report.answers) > 1
    values: dict[str, Any] = {
        "report": report,
        "about": report,
        "policy": page_policy(style, script),
        "title": _title(report),
        "style": Markup(style),
        "script": Markup(script),
        "data_json": Markup(script_json(script_data(report))),
        "length_unit": length_unit(report.answers),
        "grids": grids,
        "grid_columns": [report.names[index] if several else "CO2e" for index in report.ranked],
        "most_carbon": max(grid.carbon_g_per_kwh for grid in grids),
        "notes": _notes(report),
        "facts": _facts(first),
    }
    return environment().get_template("template.html", globals=_GLOBALS).render(values) + "\n"


def page_policy(style: str, script: str) -> str:
    """What the page may do: run its own style and script, identified by their hashes, and nothing else."""
    sources = {"style-src": _hash(style), "script-src": _hash(script), "img-src": "data:"}
    closed = ("default-src 'none'", "base-uri 'none'", "form-action 'none'")
    return "; ".join((*closed, *(f"{name} {source}" for name, source in sources.items())))


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def script_json(document: dict[str, Any]) -> str:
    """JSON that cannot end the element around it."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# -- the head ------------------------------------------------------------------------------------


def _title(report: Report) -> str:
    first = report.answers[0]
    what = report.names[0] if len(report.answers) == 1 else f"{len(report.answers)} models"
    return f"{'Training' if first.workload.train else 'Running'} {what} on {first.profile.hardware}"


def _lede(report: Report) -> str:
    first = report.answers[0]
    work = first.workload
    facts = [first.length, f"{work.precision}{f' with {work.optimizer}' if work.optimizer else ''}"]
    return "; ".join([*facts, _size(first)] if len(report.answers) == 1 else facts)


def _size(answer: Answer) -> str:
    work = answer.workload
    multiply_adds = figures.count(work.forward_flops / work.batch_size)
    return f"{figures.count(work.parameters)} parameters, {multiply_adds} multiply-adds a sample"


def _state(answers: Sequence[Answer]) -> str:
    if not answers[0].verdicts:
        return "none"
    return "exceeds" if any(answer.exceeded for answer in answers) else "fits"


def _headline(report: Report) -> str:
    """In one sentence: whether it fits and by how much, or what it takes."""
    answers = report.answers
    if len(answers) > 1:
        energies = [shown(answer, "facility_energy_kwh")[0] for answer in answers]
        return comparison_headline(answers, report.names, energies)
    (answer,) = answers
    if answer.verdicts:
        return verdict_headline(answer)
    names = ("facility_energy_kwh", "co2e_kg", "cost", "seconds")
    return fill("figures", **{name: shown(answer, name)[0] for name in names})


# -- the figures ---------------------------------------------------------------------------------


def _percent(amount: float, end: float) -> str:
    return f"{100 * amount / end if end else 0:.2f}%"


def _setting_value(answer: Answer, name: str) -> float:
    """A number that the sliders change: "pue", "carbon" (g/kWh) or "price"."""
    site = answer.site
    return {"pue": site.pue, "carbon": site.carbon_g_per_kwh, "price": site.price_per_kwh}[name]


def _comparisons(answer: Answer) -> list[str]:
    found = familiar(answer.facility_energy_kwh.value, answer.co2e_kg.value)
    return [f"{one} ({one.yardstick.source.split(',')[0]}, {one.yardstick.year})" for one in found]


def _co2e_on(answer: Answer, grid: Grid) -> float:
    return answer.facility_energy_kwh.value * (grid.carbon_g_per_kwh / GRAMS_PER_KG)


def _carbon(kg: float) -> str:
    return figures.carbon(Interval.exact(kg))[0]


# -- what is to be known -------------------------------------------------------------------------


def _notes(report: Report) -> Mapping[str, Sequence[str]]:
    """Each note once, the most important first, with the names of the models that it is about."""
    about: dict[str, list[str]] = {}
    for answer, name in zip(report.answers, report.names, strict=True):
        for note in answer.notes:
            about.setdefault(note, []).append(name)
    return dict(sorted(about.items(), key=lambda item: -Note.of(item[0], Topic.PROFILE).weight))


def _energy_source(answer: Answer) -> str:
    return _TIME_REPLACED if answer.time_replaced else answer.estimate.power_source


def _facts(first: Answer) -> dict[str, str]:
    """Where every figure comes from; empty facts are left out."""
    profile, site, provenance = first.profile, first.site, first.profile.provenance
    pue_source = _DEFAULT_PUE_SOURCE if site.pue_source == DEFAULT_PUE_SOURCE else site.pue_source
    return {
        "Profile": f"{profile.name}: {profile.hardware} with {profile.framework}",
        "Time": first.time_basis,
        "Power": first.power_basis,
        "Covers": provenance.boundary,
        "Fitted on": provenance.fitted_on,
        "Made": provenance.created,
        "PUE": f"{figures.number(site.pue)}, {pue_source}",
        "CO2e": f"{figures.number(site.carbon_g_per_kwh)} g per kWh, {site.carbon_source}",
        "Price": f"{figures.number(site.price_per_kwh)} {site.currency} per kWh, {site.price_source}",
        "Sources": "; ".join(provenance.sources),
    }


_GLOBALS: dict[str, Any] = {
    "LABELS": LABELS,
    "COLUMNS": _COLUMNS,
    "limited": limited,
    "split_sentence": split_sentence,
    "split_tables": split_tables,
    "METHOD": _METHOD,
    "TEMPLATES": TEMPLATES,
    "axis_end": axis_end,
    "breakdown_charts": breakdown_charts,
    "co2e_on": _co2e_on,
    "energy_source": _energy_source,
    "comparisons": _comparisons,
    "figure": figure,
    "front_charts": front_charts,
    "headline": _headline,
    "layer_table": layer_table,
    "lede": _lede,
    "percent": _percent,
    "setting_value": _setting_value,
    "shown": shown,
    "size": _size,
    "state": _state,
    "verdict_note": verdict_note,
    "verdict_sentence": verdict_sentence,
}
environment().filters.update(carbon=_carbon, number=figures.number, power=figures.power, repr=repr)
