"""The accuracy benchmark's results as tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from accuracy import Row
    from rivals import Array


@dataclass(frozen=True, slots=True)
class Single:
    """One phase of one whole network on one CPU; `true_j` is None where the counter wrapped."""

    machine: str
    network: str
    phase: str
    seconds: float
    true_s: float
    energy_j: float
    true_j: float | None
    inside_s: bool
    inside_j: bool


def _error(predicted: Array | None, true: Array) -> str:
    if predicted is None:
        return "-"
    errors = np.abs(predicted / true - 1.0)
    return f"{100 * errors.mean():.1f} ({100 * np.median(errors):.1f})"


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| split | runs | energy: target | energy | time: target | time | in 90 % interval: energy, time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {len(row.true_s)} | {100 * row.target_energy:.1f} | {_error(row.energy_j, row.true_j)} "
            f"| {100 * row.target_time:.1f} | {_error(row.seconds, row.true_s)} "
            f"| {100 * row.inside_j.mean():.0f} %, {100 * row.inside_s.mean():.0f} % |"
        )
    return lines


def _rival_table(rows: Sequence[Row]) -> list[str]:
    names = ["joulecast", *dict.fromkeys(name for row in rows for name in row.rivals)]
    lines = ["| split | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for what, side in (("energy", 1), ("time", 0)):
        for row in rows:
            truth = row.true_j if side else row.true_s
            ours = row.energy_j if side else row.seconds
            cells = [_error(row.rivals[name][side], truth) if name in row.rivals else "-" for name in names[1:]]
            lines.append(f"| {row.name}, {what} | **{_error(ours, truth)}** | " + " | ".join(cells) + " |")
    return lines


def _single_table(singles: Sequence[Single]) -> list[str]:
    lines = [
        "| CPU | network | phase | seconds a batch | predicted | error | joules a batch | predicted | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in singles:
        energy = (
            "the counter wrapped | | "
            if one.true_j is None
            else (f"{one.true_j:.2f} | {one.energy_j:.2f} | {_signed(one.energy_j, one.true_j, one.inside_j)}")
        )
        lines.append(
            f"| {one.machine} | {one.network} | {one.phase} | {one.true_s:.3f} | {one.seconds:.3f} "
            f"| {_signed(one.seconds, one.true_s, one.inside_s)} | {energy} |"
        )
    return lines


def _signed(predicted: float, true: float, inside: bool) -> str:
    """The error, in bold where it is within 12 %, with a cross where the measurement is outside the interval."""
    error = predicted / true - 1.0
    text = f"{100 * error:+.0f} %"
    return (f"**{text}**" if abs(error) <= 0.12 else text) + ("" if inside else " x")


def _plots(rows: Sequence[Row], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    folder.mkdir(parents=True, exist_ok=True)
    shown = [row for row in rows if not row.name.startswith("the same")]
    figure, axes = plt.subplots(2, len(shown), figsize=(3.2 * len(shown), 6.4), squeeze=False)
    for column, row in enumerate(shown):
        for line, (predicted, true, unit) in enumerate(
            ((row.energy_j / 1e3, row.true_j / 1e3, "kJ"), (row.seconds, row.true_s, "s"))
        ):
            axis = axes[line][column]
            ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
            axis.plot(ends, ends, color="0.7", linewidth=1)
            axis.plot(true, predicted, ".", markersize=2)
            axis.set(xscale="log", yscale="log", xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(LogLocator(subs=(1, 2, 5)))
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                side.set_minor_formatter(NullFormatter())
            if line == 0:
                axis.set_title(row.name.split(":")[0], fontsize=9)
    figure.tight_layout()
    figure.savefig(folder / "accuracy-scatter.png", dpi=110)
    plt.close(figure)
    _error_plot({row.name: _errors(row) for row in rows}, folder / "accuracy-errors.png")
    first = rows[0]
    families = {family: np.array([own == family for own in first.families]) for family in sorted(set(first.families))}
    by_family = {
        f"{family} ({int(mask.sum())} networks)": tuple(error[mask] for error in _errors(first))
        for family, mask in families.items()
    }
    _error_plot(by_family, folder / "accuracy-families.png")


def _errors(row: Row) -> tuple[Array, Array]:
    """Signed errors of energy and time, %."""
    return 100 * (row.energy_j / row.true_j - 1), 100 * (row.seconds / row.true_s - 1)


def _error_plot(errors: Mapping[str, tuple[Array, ...]], path: Path) -> None:
    """Boxes of energy and time errors, a pair for each name."""
    from matplotlib import pyplot as plt

    count = len(errors)
    figure, axis = plt.subplots(figsize=(9, 0.55 * count + 1.2))
    for side, (what, offset, color) in enumerate((("energy", 0.2, "tab:blue"), ("time", -0.2, "tab:orange"))):
        data = [pair[side] for pair in errors.values()]
        places = [count - index + offset for index in range(count)]
        boxes = axis.boxplot(
            data, positions=places, orientation="horizontal", widths=0.3, whis=(5, 95), showfliers=False
        )
        for box in (*boxes["boxes"], *boxes["medians"]):
            box.set_color(color)
        axis.plot([], [], color=color, label=what)
    axis.axvline(0, color="0.7", linewidth=1)
    axis.set_yticks([count - index for index in range(count)], list(errors), fontsize=8)
    axis.set_xlabel("predicted over measured - 1, %: 5th, 25th, 50th, 75th, 95th percentile")
    axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(rows: Sequence[Row], singles: Sequence[Single], docs: Path) -> str:
    """Writes docs/accuracy.md and its plots; returns the text."""
    _plots(rows, docs / "img")
    notes = (Path(__file__).parent / "accuracy_notes.md").read_text(encoding="utf-8")
    lines = [
        "# Accuracy on published measurements",
        "",
        "`python benchmarks/accuracy.py --measured FOLDER` writes this page; do not edit it. "
        "Errors are mean (median) absolute percentages.",
        "",
        *_table(rows),
        "",
        "## Comparison with the alternatives, on the same rows",
        "",
        *_rival_table(rows),
        "",
        "## From random layers to whole networks, on two CPUs under RAPL",
        "",
        "The target is 12 % for each row (bold where reached). An x marks results outside the 90 % interval.",
        "",
        *_single_table(singles),
        "",
        "![Predicted against measured](img/accuracy-scatter.png)",
        "",
        "![Errors by split](img/accuracy-errors.png)",
        "",
        "The first split's errors by family, the number of 3x3 convolutions in a cell:",
        "",
        "![Errors by family](img/accuracy-families.png)",
        "",
        notes.rstrip(),
        "",
    ]
    text = "\n".join(lines)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "accuracy.md").write_text(text, encoding="utf-8")
    return text
