"""The charts, drawn by matplotlib without its global state: the same functions serve the page and papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..cli.figures import ENERGIES, count, scale, share
from ..estimator.interval import Interval
from .document import Report
from .markup import printable
from .parts import Part
from .svg import ACCENT, INK, LINE, MUTED, PAPER, RC, TRACK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS_PER_INCH = 72
_LOG_RATIO = 8.0  # values further apart than this factor stand on a logarithmic axis
_FEW_DECADES = 200.0  # an axis that spans less than this has 2s and 5s between its powers of ten
_BAR_WIDTH, _ROW, _BAR = 420, 32, 6  # points
_LABEL_CHARACTERS = 52
_PARETO_SIZE = (420, 300)


def sized(width: float, height: float) -> Figure:
    """An empty figure of so many points."""
    return Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH)


# -- bars of a breakdown, for the page -----------------------------------------------------------


def bars(parts: Sequence[Part]) -> Figure:
    """A line of text above each bar, so that a telephone has room for both."""
    with matplotlib.rc_context(RC):
        height = _ROW * len(parts)
        figure = sized(_BAR_WIDTH, height)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, _BAR_WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        longest = max((part.share for part in parts), default=1.0) or 1.0
        for index, part in enumerate(parts):
            top = index * _ROW
            axes.text(0, top + 14, shortened(_label(part), _LABEL_CHARACTERS), color=INK)
            axes.text(_BAR_WIDTH, top + 14, share(part.share), color=MUTED, ha="right")
            for width, colour in ((_BAR_WIDTH, TRACK), (part.share / longest * _BAR_WIDTH, ACCENT)):
                axes.barh(top + 22, width, height=_BAR, color=colour)
    return figure


def _label(part: Part) -> str:
    return f"{part.name} · {part.note}" if part.note else part.name


def shortened(text: str, most: int) -> str:
    """The end of a long name, which tells layers apart, after an ellipsis."""
    text = printable(text)
    return text if len(text) <= most else f"…{text[1 - most :]}"


# -- energy against size or accuracy -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Merit:
    """What energy buys, more of which is better: one value a model; `words` writes a value at the axis."""

    name: str
    values: tuple[float, ...]
    words: Callable[[float], str] = "{:g}".format


def merits(report: Report) -> tuple[Merit, ...]:
    """Accuracy where it is given, and two measures of size."""
    works = [answer.work for answer in report.answers]
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
    """Those that no other model beats with as much merit for less energy, or more for as little; by merit."""

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
        draw_pareto(figure.add_axes((0.13, 0.15, 0.84, 0.80)), report, merit)
    return figure


def draw_pareto(axes: Axes, report: Report, merit: Merit, *, size: float = 11.0) -> None:
    models = points(report, merit)
    best = front(models)
    unit_kwh, unit = scale(max(one.energy_kwh.value for one in models), ENERGIES)
    for one in models:
        colour, fill = (ACCENT, ACCENT) if one in best else (MUTED, PAPER)
        energy = [bound / unit_kwh for bound in (one.energy_kwh.low, one.energy_kwh.value, one.energy_kwh.high)]
        axes.plot([one.merit] * 2, [energy[0], energy[2]], color=colour, linewidth=1.2)
        axes.plot(
            *([one.merit], [energy[1]]),
            marker="o",
            markersize=0.64 * size,
            markerfacecolor=fill,
            markeredgecolor=colour,
        )
    steps = [(one.merit, one.energy_kwh.value / unit_kwh) for one in best]
    axes.plot(*zip(*steps, strict=True), color=ACCENT, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    scaled(axes, "x", merit.values, merit.words)
    scaled(axes, "y", [bound / unit_kwh for one in models for bound in (one.energy_kwh.low, one.energy_kwh.high)])
    axes.set_xlabel(merit.name, color=MUTED, fontsize=size)
    axes.set_ylabel(f"energy, {unit}", color=MUTED, fontsize=size)
    _quiet(axes, size)
    _place_labels(axes, [(one.name, one.merit, one.energy_kwh.value / unit_kwh) for one in models], size)


def scaled(axes: Axes, which: str, values: Sequence[float], words: Callable[[float], str] = "{:g}".format) -> None:
    """An axis ("x" or "y") of round numbers with room around `values`, logarithmic where they are far apart."""
    axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    low, high = min(values), max(values)
    if low > 0 and high / low > _LOG_RATIO:
        margin = (high / low) ** 0.12
        bounds = (low / margin, high * margin)
        steps = (1.0, 2.0, 5.0) if bounds[1] / bounds[0] < _FEW_DECADES else (1.0,)
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        margin = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
        bounds = (low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(5))
    axes.set(**{f"{which}lim": bounds})
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))


def _quiet(axes: Axes, size: float) -> None:
    """Two thin axes and muted figures; nothing that is not data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=MUTED, length=0, labelsize=size - 1)
    axes.set_facecolor("none")


_OFFSETS = ((9, 0, "left"), (-9, 0, "right"), (9, 11, "left"), (9, -11, "left"), (-9, 11, "right"), (-9, -11, "right"))
_CHARACTER = 0.56  # mean width of one, in font sizes

Box = tuple[float, float, float, float]


def _place_labels(axes: Axes, labels: Sequence[tuple[str, float, float]], size: float) -> None:
    """Each name beside its point, on the first side where it covers nothing else and stays inside."""
    marks = [tuple(axes.transData.transform((x, y))) for _, x, y in labels]
    left, _, right, _ = axes.bbox.extents
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in marks]
    for (name, x, y), mark in zip(labels, marks, strict=True):
        text = shortened(name, 28)
        boxes = [_box(mark, offset, size, text) for offset in _OFFSETS]
        free = (
            index
            for index, box in enumerate(boxes)
            if left <= box[0] and box[2] <= right + 8 and not any(_overlap(box, other) for other in taken)
        )
        chosen = next(free, 0)
        across, up, side = _OFFSETS[chosen]
        taken.append(boxes[chosen])
        where = {"xytext": (across, up), "textcoords": "offset points", "ha": side, "va": "center_baseline"}
        axes.annotate(text, (x, y), color=INK, fontsize=size, **where)


def _box(mark: tuple[float, float], offset: tuple[int, int, str], size: float, text: str) -> Box:
    """What `text` covers beside `mark`, in points."""
    across, up, side = offset
    width = _CHARACTER * size * len(text)
    left = mark[0] + across - (width if side == "right" else 0)
    return (left, mark[1] + up - size / 2, left + width, mark[1] + up + size / 2)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
