"""The parts of the page that its script writes anew: figures, bounds, bars and settings, each marked as what it is."""

from __future__ import annotations

from ..estimator.answer.answer import Answer
from ..estimator.answer.figures import number, power
from .document import figure, shown
from .markup import Markup, element, joined
from .sentences import LIMITED

LABEL_MEANINGS = {
    "measured": "from measurements of this hardware",
    "modelled": "worked out from measurements of other quantities",
    "datasheet": "from the maker's datasheet; nobody has measured it",
}


def value_cell(answer: Answer, model: int, name: str) -> Markup:
    """The expected figure; its `value` is the number in the unit of its name."""
    text, _ = shown(answer, name)
    return _data(text, figure(answer, name).value, model, name)


def power_cell(answer: Answer, model: int) -> Markup:
    """The mean power over the run, in watts."""
    watts = answer.estimate.power_w
    return _data(power(watts), watts, model, "power_w")


def _data(text: str, value: float, model: int, name: str) -> Markup:
    amount, _, unit = text.partition(" ")
    return element(
        "data",
        element("span", amount, class_="number"),
        element("span", f" {unit}", class_="unit"),
        value=repr(value),
        data_model=model,
        data_figure=name,
    )


def bounds_cell(answer: Answer, model: int, name: str) -> Markup:
    _, text = shown(answer, name)
    interval = figure(answer, name)
    return element(
        "span",
        text,
        class_="bounds",
        data_model=model,
        data_bounds=name,
        data_low=repr(interval.low),
        data_high=repr(interval.high),
    )


def interval_bar(answer: Answer, model: int, name: str, end: float) -> Markup:
    """The interval as a band on an axis from 0 to `end`, the expected value as a mark in it, limits as lines."""
    interval = figure(answer, name)
    band = (interval.low, interval.high - interval.low)
    limits = [verdict.limit.amount for verdict in answer.verdicts if LIMITED[verdict.limit.quantity] == name]
    return element(
        "svg",
        element("rect", class_="track", width="100%", height=6, y=5, rx=3),
        element("rect", class_="band", x=_percent(band[0], end), width=_percent(band[1], end), height=6, y=5, rx=3),
        element("rect", class_="mark", x=_percent(interval.value, end), width=3, height=12, y=2, rx=1.5),
        *(element("rect", class_="limit", x=_percent(amount, end), width=2, height=16) for amount in limits),
        class_="interval",
        data_model=model,
        data_bar=name,
        aria_hidden="true",
    )


def _percent(amount: float, end: float) -> str:
    return f"{100 * amount / end if end else 0:.2f}%"


def setting_cell(answer: Answer, name: str) -> Markup:
    """A number that the sliders change: "pue", "carbon" (g/kWh) or "price"."""
    site = answer.site
    values = {"pue": site.pue, "carbon": site.carbon_g_per_kwh, "price": site.price_per_kwh}
    return element("span", number(values[name]), data_setting=name)


def label(source: str) -> Markup:
    """Where a figure comes from, in one word with its meaning at hand."""
    return element("span", source, class_=f"label {source}", title=LABEL_MEANINGS[source])


def table(head: list[str], rows: list[Markup], *, class_: str, caption: str) -> Markup:
    """A table whose cells carry their column's name, for narrow screens."""
    cells = joined(*(element("th", name, scope="col") for name in head))
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", cells)),
        element("tbody", *rows),
        class_=class_,
    )


def cell(column: str, *children: str | None) -> Markup:
    return element("td", *children, data_label=column)
