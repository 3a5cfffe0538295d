"""The page's charts: where each model's energy goes, and what it buys."""

from __future__ import annotations

from ..estimator.answer.answer import Answer
from ..estimator.answer.figures import count, share
from .cells import cell, table
from .charts import Merit, bars, front, merits, pareto, points
from .document import Report, shown
from .markup import Markup, element
from .parts import Part, component_parts, layer_parts
from .svg import inline_svg

_TABLE_ROWS = 200


def breakdowns(report: Report) -> Markup:
    """Layers and components of every model; of several, all but the first stand folded."""
    if len(report.answers) == 1:
        content = [_breakdown(report.answers[0], 0)]
    else:
        content = [
            element("details", element("summary", name), _breakdown(answer, index), open=index == 0)
            for index, (name, answer) in enumerate(zip(report.names, report.answers, strict=True))
        ]
    key = element("p", "Shares of the expected energy, of the run as it was asked for.", class_="key")
    return element("section", element("h2", "Where the energy goes"), *content, key)


def _breakdown(answer: Answer, model: int) -> Markup:
    charts = (
        _chart(layer_parts(answer), f"layers-{model}", "By layer, in the order of the network"),
        _chart(component_parts(answer), f"components-{model}", "By component of the machine's power"),
    )
    return element("div", element("div", *charts, class_="charts"), _layer_table(answer))


def _chart(parts: tuple[Part, ...], key: str, title: str) -> Markup:
    said = ", ".join(f"{part.name} {share(part.share)}" for part in parts)
    drawn = inline_svg(bars(parts), key=key, label=f"Bar chart. {title}: {said}")
    return element("figure", element("figcaption", title), drawn)


def _layer_table(answer: Answer) -> Markup:
    """Every module; of very large networks those of most energy, in their order."""
    rows = answer.layer_rows()
    largest = sorted(range(len(rows)), key=lambda index: -rows[index]["energy_share"])[:_TABLE_ROWS]
    kept = [rows[index] for index in sorted(largest)]
    left_out = len(rows) - len(kept)
    more = f"; {left_out:,} more in estimate --layers" if left_out else ""
    head = ["layer", "kind", "output", "multiply-adds", "parameters", "energy"]
    lines = [
        element(
            "tr",
            element("th", row["path"] or "(all)", scope="row"),
            cell("kind", row["kind"]),
            cell("output", " x ".join(map(str, row["output_shape"]))),
            cell("multiply-adds", count(row["forward_flops"])),
            cell("parameters", count(row["parameters"])),
            cell("energy", share(row["energy_share"])),
        )
        for row in kept
    ]
    caption = f"A step, forward; the energy is that of the layer and all below it{more}"
    listing = table(head, lines, class_="layers", caption=caption)
    return element("details", element("summary", f"All {len(rows):,} layers"), listing, class_="all-layers")


def fronts(report: Report) -> Markup:
    """Energy against accuracy, parameters and multiply-adds."""
    charts = [_front(report, merit, f"front-{index}") for index, merit in enumerate(merits(report))]
    words = "Filled points are on the front: no other has as much for less. Lines: 90 % intervals of the run as asked."
    return element(
        "section",
        element("h2", "What the energy buys"),
        element("div", *charts, class_="charts"),
        element("p", words, class_="key"),
    )


def _front(report: Report, merit: Merit, key: str) -> Markup:
    best = ", ".join(point.name for point in front(points(report, merit)))
    values = zip(report.names, merit.values, report.answers, strict=True)
    said = "; ".join(f"{name} {merit.words(value)} for {shown(one, 'energy_kwh')[0]}" for name, value, one in values)
    title = f"Energy of the machine against {merit.name}"
    drawn = inline_svg(pareto(report, merit), key=key, label=f"Scatter plot. {title}: {said}. On the front: {best}")
    return element("figure", element("figcaption", title), drawn)
