"""The charts, drawn with matplotlib, without its global state. The page and the figures for papers share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..estimator.answer.figures import ENERGIES, count, scale, share
from ..estimator.base.interval import Interval
from .document import Report
from .labels import Box, Whisker, place
from .markup import printable
from .parts import Part
from .svg import ACCENT, INK, LINE, MUTED, PAPER, RC, TRACK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS_PER_INCH = 72
_LOG_RATIO = 8.0  # values further apart than this factor get a logarithmic axis
_FEW_DECADES = 200.0  # an axis that spans less than this has 2s and 5s between its powers of ten
_BAR_WIDTH, _ROW, _BAR = 360, 32, 6  # points, about the width of a telephone
_LABEL_CHARACTERS, _NAME_CHARACTERS = 44, 28
_CHARACTER = 0.56  # mean width of a character, in font sizes
_FONT = 11.5
_MARGIN = 0.15  # of an axis, around its values
_PARETO_SIZE = (360, 270)


def sized(width: float, height: float) -> Figure:
    """An empty figure; width and height are in points."""
    return Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH)


# -- bars of a breakdown, for the page -----------------------------------------------------------


def bars(parts: Sequence[Part]) -> Figure:
    """A line of text above each bar, so that both fit on a telephone."""
    with matplotlib.rc_context(RC):
        height = _ROW * len(parts)
        figure = sized(_BAR_WIDTH, height)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, _BAR_WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        longest = max((part.share for part in parts), default=1.0) or 1.0
        for index, part in enumerate(parts):
            top = index * _ROW
            axes.text(0, top + 14, shortened(_label(part), _LABEL_CHARACTERS), color=INK, fontsize=_FONT)
            axes.text(_BAR_WIDTH, top + 14, share(part.share), color=MUTED, ha="right", fontsize=_FONT)
            for width, colour in ((_BAR_WIDTH, TRACK), (part.share / longest * _BAR_WIDTH, ACCENT)):
                axes.barh(top + 22, width, height=_BAR, color=colour)
    return figure


def _label(part: Part) -> str:
    return f"{part.name} · {part.note}" if part.note else part.name


def shortened(text: str, most: int) -> str:
    """The end of a long name after an ellipsis: the end is what differs between layers."""
    text = printable(text)
    return text if len(text) <= most else f"…{text[1 - most :]}"


# -- energy against size or accuracy -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Merit:
    """A quantity of which more is better, one value per model; `words` formats a value for the axis."""

    name: str
    values: tuple[float, ...]
    words: Callable[[float], str] = "{:g}".format


def merits(report: Report) -> tuple[Merit, ...]:
    """Accuracy if it is given, and two measures of size."""
    works = [answer.workload for answer in report.answers]
    given = (Merit("accuracy, as given", report.accuracies),) if report.accuracies else ()
    return (
        *given,
        Merit("parameters", tuple(float(work.parameters) for work in works), count),
        Merit("multiply-adds a sample", tuple(work.forward_flops / work.batch_size for work in works), count),
    )


@dataclass(frozen=True, slots=True)
class Point:
    """One model and its machine's own energy."""

    name: str
    merit: float
    energy_kwh: Interval


def points(report: Report, merit: Merit) -> list[Point]:
    rows = zip(report.names, merit.values, report.answers, strict=True)
    return [Point(name, value, answer.estimate.energy_kwh) for name, value, answer in rows]


def front(models: Sequence[Point]) -> list[Point]:
    """The Pareto front by merit: no other model has as much merit for less energy, or more merit for as little."""

    def beaten(one: Point) -> bool:
        return any(
            other.merit >= one.merit
            and other.energy_kwh.value <= one.energy_kwh.value
            and (other.merit, other.energy_kwh.value) != (one.merit, one.energy_kwh.value)
            for other in models
        )

    return sorted((one for one in models if not beaten(one)), key=lambda one: (one.merit, one.energy_kwh.value))


def pareto(report: Report, merit: Merit) -> Figure:
    """Energy, with its interval, against merit; filled points are on the front."""
    with matplotlib.rc_context(RC):
        figure = sized(*_PARETO_SIZE)
        axes = figure.add_axes((0.13, 0.16, 0.80, 0.76))
        draw_pareto(axes, report, merit, size=_FONT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.tick_params(colors=MUTED, length=0, labelsize=_FONT - 1)
        axes.xaxis.label.set_color(MUTED)
        axes.yaxis.label.set_color(MUTED)
        axes.set_facecolor("none")
    return figure


def draw_pareto(axes: Axes, report: Report, merit: Merit, *, size: float) -> None:
    """Points, whiskers, the front and names in type of `size` points; the caller styles the frame."""
    models = points(report, merit)
    best = front(models)
    unit_kwh, unit = scale(max(one.energy_kwh.value for one in models), ENERGIES)
    energies = [one.energy_kwh * (1 / unit_kwh) for one in models]
    for one, energy in zip(models, energies, strict=True):
        colour, fill = (ACCENT, ACCENT) if one in best else (MUTED, PAPER)
        axes.plot([one.merit] * 2, [energy.low, energy.high], color=colour, linewidth=1.2)
        axes.plot([one.merit], [energy.value], marker="o", markersize=0.6 * size, color=colour, markerfacecolor=fill)
    steps = [(one.merit, one.energy_kwh.value / unit_kwh) for one in best]
    axes.plot(*zip(*steps, strict=True), color=ACCENT, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    scaled(axes, "x", merit.values, merit.words)
    scaled(axes, "y", [bound for energy in energies for bound in (energy.low, energy.high)])
    axes.set_xlabel(merit.name)
    axes.set_ylabel(f"energy, {unit}")
    _write_names(axes, models, energies, size)


def _write_names(axes: Axes, models: Sequence[Point], energies: Sequence[Interval], size: float) -> None:
    def height(x: float, y: float) -> float:
        return float(axes.transData.transform((x, y))[1])

    whiskers = [
        Whisker(
            float(axes.transData.transform((one.merit, energy.value))[0]),
            *(height(one.merit, bound) for bound in (energy.low, energy.value, energy.high)),
        )
        for one, energy in zip(models, energies, strict=True)
    ]
    names = [shortened(one.name, _NAME_CHARACTERS) for one in models]
    sizes = [(_CHARACTER * size * len(name), size) for name in names]
    left, low, _, _ = axes.bbox.extents
    _, _, right, high = axes.figure.bbox.extents
    for name, spot in zip(names, place(whiskers, sizes, Box(left, low, right, high)), strict=True):
        axes.annotate(
            name,
            (spot.x, spot.y),
            xycoords="figure points",
            ha=spot.across,
            va="center_baseline",
            color=INK,
            fontsize=size,
        )


def scaled(axes: Axes, which: str, values: Sequence[float], words: Callable[[float], str] = "{:g}".format) -> None:
    """An axis ("x" or "y") of round numbers with room around `values`, logarithmic if they are far apart."""
    axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    low, high = min(values), max(values)
    if low > 0 and high / low > _LOG_RATIO:
        margin = (high / low) ** _MARGIN
        bounds = (low / margin, high * margin)
        steps = (1.0, 2.0, 5.0) if bounds[1] / bounds[0] < _FEW_DECADES else (1.0,)
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        margin = _MARGIN * (high - low) or 0.1 * abs(high) or 1.0
        bounds = (low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(5))
    axes.set(**{f"{which}lim": bounds})
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
