"""The report as one HTML page: the verdict first, then the figures, what they would be elsewhere, and why."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Any

from ..estimator.answer.answer import Answer
from ..estimator.answer.figures import count
from ..estimator.place.comparisons import familiar
from .background import foot, grids, method, notes
from .cells import bounds_cell, cell, interval_bar, label, power_cell, setting_cell, table, value_cell
from .document import Report, shown
from .markup import Markup, element, escaped, joined
from .plots import breakdowns, fronts
from .script import axis_end, length_unit, script_data
from .sentences import comparison_headline, fill, verdict_headline, verdict_note, verdict_sentence


def render(report: Report) -> str:
    """The whole page. The same report gives the same text."""
    style, script = _asset("style.css"), _asset("recompute.js")
    sections: list[Markup | None] = [_mast(report), _verdict(report)]
    sections += [_comparison(report), fronts(report)] if len(report.answers) > 1 else [_figures(report)]
    sections += [_what_if(report), breakdowns(report), grids(report), notes(report), method(report), foot(report)]
    return Template(_asset("template.html")).substitute(
        policy=_policy(style, script),
        title=escaped(_title(report)),
        version=escaped(report.version),
        style=style,
        body="\n".join(section for section in sections if section),
        data=_json(script_data(report)),
        script=script,
    )


def _asset(name: str) -> str:
    return files("joulecast.report").joinpath(name).read_text(encoding="utf-8").strip()


def _policy(style: str, script: str) -> str:
    """What the page may do: its own style and script, to the letter, and nothing else."""
    sources = {"style-src": _hash(style), "script-src": _hash(script), "img-src": "data:"}
    closed = ("default-src 'none'", "base-uri 'none'", "form-action 'none'")
    return "; ".join((*closed, *(f"{name} {source}" for name, source in sources.items())))


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _json(document: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# -- the head ------------------------------------------------------------------------------------


def _title(report: Report) -> str:
    first = report.answers[0]
    what = report.names[0] if len(report.answers) == 1 else f"{len(report.answers)} models"
    return f"{'Training' if first.workload.train else 'Running'} {what} on {first.profile.hardware}"


def _mast(report: Report) -> Markup:
    first = report.answers[0]
    work = first.workload
    facts = [first.length, f"{work.precision}{f' with {work.optimizer}' if work.optimizer else ''}"]
    if len(report.answers) == 1:
        size = (
            f"{count(work.parameters)} parameters, {count(work.forward_flops / work.batch_size)} multiply-adds a sample"
        )
        facts.append(size)
    return element(
        "header",
        element("p", "joulecast: a forecast before the first step", class_="overline"),
        element("h1", _title(report)),
        element("p", "; ".join(facts), class_="lede"),
        class_="mast",
    )


def _verdict(report: Report) -> Markup:
    """In one sentence: whether it fits and by how much, or what it takes."""
    answers = report.answers
    state = "none"
    if answers[0].verdicts:
        state = "exceeds" if any(answer.exceeded for answer in answers) else "fits"
    return element(
        "section",
        element("h2", _headline(report), id="headline"),
        _limits(answers[0]) if len(answers) == 1 else None,
        class_="verdict",
        id="verdict",
        data_state=state,
        aria_live="polite",
    )


def _headline(report: Report) -> str:
    answers = report.answers
    if len(answers) > 1:
        energies = [shown(answer, "facility_energy_kwh")[0] for answer in answers]
        return comparison_headline(answers, report.names, energies)
    (answer,) = answers
    if answer.verdicts:
        return verdict_headline(answer)
    names = ("facility_energy_kwh", "co2e_kg", "cost", "seconds")
    return fill("figures", **{name: shown(answer, name)[0] for name in names})


def _limits(answer: Answer) -> Markup | None:
    """Each limit with the figure held against it, then what would fit where one is exceeded."""
    if not answer.verdicts:
        return None
    lines = [
        element(
            "li",
            element("strong", verdict.limit.text),
            ": ",
            element("span", verdict_sentence(verdict)),
            data_limit=index,
            data_state="exceeds" if verdict.exceeded else "fits",
        )
        for index, verdict in enumerate(answer.verdicts)
    ]
    would = element("ul", *(element("li", line) for line in answer.fits), id="would-fit")
    return joined(element("ul", *lines, class_="limits"), would)


# -- the figures ---------------------------------------------------------------------------------


def _figures(report: Report) -> Markup:
    (answer,) = report.answers
    estimate, currency = answer.estimate, answer.site.currency
    power, time = estimate.power_source, estimate.time_source
    machine = joined(value_cell(answer, 0, "energy_kwh"), " by the machine, times PUE ", setting_cell(answer, "pue"))
    cards = [
        _card(answer, "facility_energy_kwh", "Energy", power, machine),
        _card(answer, "co2e_kg", "CO2e", power, joined("at ", setting_cell(answer, "carbon"), " g per kWh")),
        _card(answer, "seconds", "Time", time, joined(power_cell(answer, 0), " on average")),
        _card(answer, "cost", "Cost", power, joined("at ", setting_cell(answer, "price"), f" {currency} per kWh")),
    ]
    return element(
        "section",
        element("h2", "Figures", class_="unseen"),
        element("div", *cards, class_="cards"),
        _key(answer),
        _familiar(answer),
        class_="figures",
    )


def _card(answer: Answer, name: str, title: str, source: str, aside: Markup) -> Markup:
    end = axis_end([answer], name)
    return element(
        "div",
        element("h3", title, " ", label(source)),
        element("p", value_cell(answer, 0, name), class_="big"),
        interval_bar(answer, 0, name, end),
        element("p", bounds_cell(answer, 0, name)),
        element("p", aside, class_="aside"),
        class_="card",
    )


def _key(answer: Answer) -> Markup:
    budget = "; the line is the budget" if answer.verdicts else ""
    return element("p", f"Bands are 90 % intervals, the mark in them is the expected figure{budget}.", class_="key")


def _familiar(answer: Answer) -> Markup:
    sayings = familiar(answer.facility_energy_kwh.value, answer.co2e_kg.value)
    return element("ul", *(element("li", _saying(saying)) for saying in sayings), class_="familiar", id="familiar")


def _saying(saying: Any) -> str:
    yardstick = saying.yardstick
    return f"{saying} ({yardstick.source.split(',')[0]}, {yardstick.year})"


# -- several models ------------------------------------------------------------------------------

_COLUMNS = {"CO2e": "co2e_kg", "time": "seconds", "cost": "cost"}


def _comparison(report: Report) -> Markup:
    first = report.answers[0]
    accuracy = ["accuracy"] if report.accuracies else []
    budget = ["budget"] if first.verdicts else []
    head = ["model", *accuracy, "energy with PUE", *_COLUMNS, *budget]
    rows = [_model_row(report, index) for index in range(len(report.answers))]
    return element(
        "section",
        element("h2", "Side by side"),
        table(head, rows, class_="comparison", caption="The same run of each model; bands are 90 % intervals"),
        element(
            "p",
            *("Energy ", label(first.estimate.power_source), " time ", label(first.estimate.time_source)),
            *(" PUE ", setting_cell(first, "pue"), ", ", setting_cell(first, "carbon"), " g CO2e per kWh, "),
            *(setting_cell(first, "price"), f" {first.site.currency} per kWh"),
            class_="key",
        ),
    )


def _model_row(report: Report, index: int) -> Markup:
    answer, energy = report.answers[index], "facility_energy_kwh"
    end = axis_end(report.answers, energy)
    cells = [
        cell(
            "energy with PUE",
            *(value_cell(answer, index, energy), interval_bar(answer, index, energy, end)),
            bounds_cell(answer, index, energy),
        ),
        *(cell(name, value_cell(answer, index, key)) for name, key in _COLUMNS.items()),
    ]
    if report.accuracies:
        cells.insert(0, cell("accuracy", f"{report.accuracies[index]:g}"))
    if answer.verdicts:
        state = "exceeds" if answer.exceeded else "fits"
        note = element("span", verdict_note(answer), data_model=index, data_verdict=True, data_state=state)
        cells.append(cell("budget", note))
    head = element("th", report.names[index], element("small", _size(answer)), scope="row")
    return element("tr", head, *cells)


def _size(answer: Answer) -> str:
    work = answer.workload
    return f"{count(work.parameters)} parameters, {count(work.forward_flops / work.batch_size)} multiply-adds a sample"


# -- the sliders, which the script reveals -------------------------------------------------------


def _what_if(report: Report) -> Markup:
    """Controls without a function of their own: hidden until the script can give them one."""
    first, unit = report.answers[0], length_unit(report.answers)
    controls = [
        _slider("pue", "PUE", 1.0),
        _place(first),
        _slider("price", f"Price, {first.site.currency} per kWh", 0.0),
    ]
    if unit is not None:
        controls.insert(0, _slider("length", unit.capitalize(), 0.0))
    return element(
        "section",
        element("button", "As asked for", type="button", id="reset"),
        element("h2", "What if"),
        element("p", "Figures, verdicts and grids on this page follow.", class_="aside"),
        element("div", *controls, class_="controls"),
        class_="what-if",
        id="what-if",
        hidden=True,
    )


def _slider(key: str, name: str, least: float) -> Markup:
    """A number to type, and a slider through round values of it."""
    return element(
        "div",
        element("label", name, for_=key),
        element("input", type="number", id=key, min=f"{least:g}", step="any", inputmode="decimal"),
        element("input", type="range", id=f"{key}-slider", min=0, step=1, aria_label=name),
        element("span", class_="aside", id="steps") if key == "length" else None,
        class_="control",
    )


def _place(answer: Answer) -> Markup:
    return element(
        "div",
        element("label", "Region", for_="region"),
        element("select", id="region"),
        element("p", setting_cell(answer, "carbon"), " g CO2e per kWh", class_="aside"),
        class_="control",
    )
