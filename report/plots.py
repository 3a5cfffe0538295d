"""The page's charts: where each model's energy goes, and what it buys."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ..estimator.answer.answer import Answer
from ..estimator.answer.figures import count, share
from .charts import Merit, bars, front, merits, pareto, points
from .document import Report, shown
from .parts import Part, component_parts, layer_parts
from .svg import inline_svg

_TABLE_ROWS = 200
Chart = tuple[str, Markup]  # its title, and the drawing


def breakdown_charts(answer: Answer, model: int) -> list[Chart]:
    return [
        _chart(layer_parts(answer), f"layers-{model}", "By layer, in the order of the network"),
        _chart(component_parts(answer), f"components-{model}", "By component of the machine's power"),
    ]


def _chart(parts: tuple[Part, ...], key: str, title: str) -> Chart:
    spoken = ", ".join(f"{part.name} {share(part.share)}" for part in parts)
    return title, inline_svg(bars(parts), key=key, label=f"Bar chart. {title}: {spoken}")


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Every module, or of very large networks those with the most energy, in their order."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: str
    more: str  # how many are left out, for the caption


def layer_table(answer: Answer) -> LayerTable:
    rows = answer.layer_rows()
    largest = sorted(range(len(rows)), key=lambda index: -rows[index]["energy_share"])[:_TABLE_ROWS]
    left_out = len(rows) - len(largest)
    return LayerTable(
        head=("layer", "kind", "output", "multiply-adds", "parameters", "energy"),
        rows=tuple(
            (
                row["path"] or "(all)",
                row["kind"],
                " x ".join(map(str, row["output_shape"])),
                count(row["forward_flops"]),
                count(row["parameters"]),
                share(row["energy_share"]),
            )
            for row in (rows[index] for index in sorted(largest))
        ),
        total=f"{len(rows):,}",
        more=f"; {left_out:,} more in estimate --layers" if left_out else "",
    )


def front_charts(report: Report) -> list[Chart]:
    """Energy against accuracy, parameters and multiply-adds."""
    return [_front(report, merit, f"front-{index}") for index, merit in enumerate(merits(report))]


def _front(report: Report, merit: Merit, key: str) -> Chart:
    best = ", ".join(point.name for point in front(points(report, merit)))
    values = zip(report.names, merit.values, report.answers, strict=True)
    spoken = "; ".join(f"{name} {merit.words(value)} for {shown(one, 'energy_kwh')[0]}" for name, value, one in values)
    title = f"Energy of the machine against {merit.name}"
    return title, inline_svg(
        pareto(report, merit), key=key, label=f"Scatter plot. {title}: {spoken}. On the front: {best}"
    )
