"""`--figure`: one column wide, for papers. PNG, SVG or PDF by the file's suffix."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..estimator.base.errors import JoulecastError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .document import Report
    from .parts import Part

SUFFIXES = (".png", ".svg", ".pdf")
_WIDTH = 245  # points: one column of a two-column page, 86 mm
_ROW, _FONT = 13, 8
_PNG_DPI = 300
# No dates, so that the same run gives the same file.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": "joulecast"},
    ".svg": {"Date": None, "Creator": "joulecast"},
    ".pdf": {"CreationDate": None, "Creator": "joulecast", "Producer": None},
}


def figure_format(path: Path) -> str:
    """The suffix of the format. Raises JoulecastError if the format is unknown."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise JoulecastError(f"--figure {path} has the suffix {path.suffix!r}: give .png, .svg or .pdf")
    return suffix


def figure_bytes(report: Report, suffix: str) -> bytes:
    """The file for papers: one model by component and layer, several side by side; `suffix` of `SUFFIXES`."""
    import matplotlib

    from .svg import RC

    stream = io.BytesIO()
    with matplotlib.rc_context({**RC, "font.size": _FONT, "pdf.fonttype": 42}):
        drawn = _breakdown(report) if len(report.answers) == 1 else _comparison(report)
        drawn.savefig(stream, format=suffix[1:], dpi=_PNG_DPI, metadata=_METADATA[suffix])
    return stream.getvalue()


# -- one model -----------------------------------------------------------------------------------


def _breakdown(report: Report) -> Figure:
    from .charts import sized
    from .parts import component_parts, layer_parts

    (answer,) = report.answers
    panels = {"by component": component_parts(answer), "by layer": layer_parts(answer)}
    rows = sum(len(parts) for parts in panels.values())
    height = _ROW * rows + 75
    figure = sized(_WIDTH, height)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[max(len(parts), 1) for parts in panels.values()])
    for axes, (title, parts) in zip((upper, lower), panels.items(), strict=True):
        _draw_shares(axes, parts, title)
    lower.set_xlabel("share of the energy, %")
    figure.subplots_adjust(left=0.41, right=0.92, top=1 - 18 / height, bottom=32 / height, hspace=75 / height)
    return figure


def _draw_shares(axes: Axes, parts: Sequence[Part], title: str) -> None:
    from .charts import shortened
    from .svg import ACCENT, INK, MUTED

    shares = [100 * part.share for part in parts]
    places = range(len(parts))
    axes.barh(places, shares, height=0.62, color=ACCENT)
    for place, value in zip(places, shares, strict=True):
        axes.text(
            value, place, f" {value:.1f}" if value >= 0.05 else " <0.1", va="center", color=MUTED, fontsize=_FONT - 1
        )
    axes.set_yticks(places, [shortened(part.name, 22) for part in parts])
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=_FONT, color=INK)
    _plain(axes)


# -- several models ------------------------------------------------------------------------------


def _comparison(report: Report) -> Figure:
    from .charts import draw_pareto, merits, sized

    merit = merits(report)[0]
    dots_height, pareto_height = _ROW * len(report.answers) + 45, 190
    height = dots_height + pareto_height
    figure = sized(_WIDTH, height)
    dots = figure.add_axes((0.36, (pareto_height + 32) / height, 0.60, _ROW * len(report.answers) / height))
    _draw_dots(dots, report)
    cloud = figure.add_axes((0.16, 36 / height, 0.76, (pareto_height - 54) / height))
    draw_pareto(cloud, report, merit, size=_FONT)
    _plain(cloud)
    return figure


def _draw_dots(axes: Axes, report: Report) -> None:
    """One line per model: the expected energy and its 90 % interval."""
    from ..estimator.answer.figures import ENERGIES, scale
    from .charts import scaled, shortened
    from .svg import ACCENT

    energies = [answer.estimate.energy_kwh for answer in report.answers]
    unit_kwh, unit = scale(max(energy.value for energy in energies), ENERGIES)
    for place, energy in enumerate(energies):
        low, value, high = (bound / unit_kwh for bound in (energy.low, energy.value, energy.high))
        axes.plot([low, high], [place, place], color=ACCENT, linewidth=1.2)
        axes.plot([value], [place], marker="o", markersize=4, color=ACCENT)
    scaled(axes, "x", [bound / unit_kwh for energy in energies for bound in (energy.low, energy.high)])
    axes.set_yticks(range(len(energies)), [shortened(name, 22) for name in report.names])
    axes.set_ylim(len(energies) - 0.4, -0.6)
    axes.set_xlabel(f"energy and its 90 % interval, {unit}")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", width=0.6, length=2.5)
