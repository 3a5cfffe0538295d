"""Figures 4.0.1 and 4.0.2 of the thesis, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...estimator.base.units import SECONDS_PER_HOUR
from ..records.records import Record
from .errors import TrainingError
from .stretches import worst_label
from .thesis import THESIS_ACCURACIES, THESIS_ROWS, TITLES, curve

_COLOURS = {"SimpleNet": "tab:blue", "AlexNet": "tab:orange"}


def draw_figures(runs: Mapping[str, Record], target: float, out: Path) -> tuple[Path, Path]:
    """Writes accuracy by time and energy by time as SVG into `out`. Raises TrainingError when it cannot."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    paths = out / "figure-4.0.1.svg", out / "figure-4.0.2.svg"
    for path, draw in zip(paths, (_accuracy, _energy), strict=True):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        draw(axes, runs, target)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        try:
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": "joulecast"}):  # text stays text
                figure.savefig(path, metadata={"Date": None})
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be written ({error}); free space or give another `out` folder"
            ) from error
    return paths


def _accuracy(axes: Any, runs: Mapping[str, Record], target: float) -> None:
    for name, record in runs.items():
        tested = [point for point in curve(record) if point.accuracy is not None]
        label = f"{TITLES[name]}, this machine{_synthetic(record)}"
        hours, shares = [point.hours for point in tested], [100 * (point.accuracy or 0) for point in tested]
        axes.plot(hours, shares, ".-", color=_COLOURS[TITLES[name]], label=label)
    for title, points in THESIS_ACCURACIES.items():
        hours, shares = [hour for hour, _ in points], [100 * share for _, share in points]
        axes.plot(hours, shares, "x", color=_COLOURS[title], label=f"{title}, thesis")
    axes.axhline(100 * target, color="grey", linewidth=0.8)
    axes.set(title="Figure 4.0.1. Accuracy by time", xlabel="hours of training (logarithmic)")
    axes.set(ylabel="test accuracy (%)", xscale="log", ylim=(0, 100))


def _energy(axes: Any, runs: Mapping[str, Record], target: float) -> None:
    del target
    longest_h = 0.01
    for name, record in runs.items():
        title, points = TITLES[name], curve(record)
        known = [point for point in points if point.energy_kj is not None]
        longest_h = max([longest_h, *(point.hours for point in points)])
        readings = [window.reading for window in record.windows]
        word = worst_label(["missing" if reading is None else reading.label for reading in readings])
        hours = [0.0, *(point.hours for point in known)]
        energies = [0.0, *(point.energy_kj or 0.0 for point in known)]
        label = f"{title}, this machine: {word}{_synthetic(record)}"
        axes.plot(hours if known else [], energies if known else [], ".-", color=_COLOURS[title], label=label)
    for row in THESIS_ROWS:
        power_w = row.power_w or 0.0
        kilojoules = power_w * longest_h * SECONDS_PER_HOUR / 1000
        label = f"{row.model}, thesis: {power_w:g} W measured"
        axes.plot([0, longest_h], [0, kilojoules], "--", color=_COLOURS[row.model], label=label)
    axes.set(title="Figure 4.0.2. Energy by time", xlabel="hours of training", ylabel="energy (kJ)")


def _synthetic(record: Record) -> str:
    return " (synthetic images)" if record.settings["images"]["synthetic"] else ""
