"""Repeats the thesis's comparison on this machine: SimpleNet and AlexNet to 60 % on CIFAR-10.

Its Table 4.0.1 and Figures 4.0.1 and 4.0.2 were measured with RAPL on an Intel Core i7-4770. The two trainings run one
after the other, each in its own process, and continue where they were interrupted.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...estimator.base.files import write_json
from ...estimator.base.interval import Interval
from ...estimator.base.units import GRAMS_PER_KG, GRAMS_PER_LB, SECONDS_PER_HOUR, joules_to_kwh
from ...estimator.place.site import Site, co2e_kg, facility_energy_kwh
from ..meters.reading import Label
from ..records.records import MODELLED_FLAG, Record
from ..records.store import Store
from ..signals import StopSignals
from .errors import TrainingError
from .stretches import worst_label

SCHEMA = "joulecast.thesis/1"
TITLES = {"simplenet": "SimpleNet", "alexnet": "AlexNet"}
FRAMEWORK_OF = {"simplenet": "pytorch", "alexnet": "tensorflow"}
NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class ThesisRow:
    """A row of Table 4.0.1. None if the energy is missing or the target was not reached.

    `power_w` is the mean while training, `kwh_pue` the building's energy (eq. 3.5.2) and `co2_lb` its
    emissions (eq. 3.5.3), both up to the first test of the whole test set at the target or above.
    """

    model: str
    power_w: float | None
    hours: float | None
    kwh_pue: float | None
    co2_lb: float | None
    label: str
    note: str = ""


# Table 4.0.1. The text of chapter 4 gives SimpleNet 49.79 W (46.73 W package and 3.06 W DRAM).
THESIS_ROWS = (
    ThesisRow("SimpleNet", 49.49, 0.5, 0.039, 0.037, "measured"),
    ThesisRow("AlexNet", 27.77, 6.0, 0.263, 0.25, "measured"),
)
# Chapter 4: accuracy by hours, where the text states it.
THESIS_ACCURACIES = {
    "SimpleNet": ((0.5, 0.60), (12.0, 0.8999)),
    "AlexNet": ((6.0, 0.60), (12.0, 0.598)),
}


@dataclass(frozen=True, slots=True)
class Point:
    """A run after `hours` of training: energy so far (None if unknown) and accuracy, if it was tested then."""

    hours: float
    energy_kj: float | None
    accuracy: float | None
    tested: int


def curve(record: Record) -> tuple[Point, ...]:
    """Running sums over the windows of a training. Hours and energy exclude the tests."""
    points, seconds = [], 0.0
    energy_j: float | None = 0.0
    for window in record.windows:
        seconds += window.seconds
        drawn_j = None if window.reading is None else window.reading.energy_j
        energy_j = None if energy_j is None or drawn_j is None else energy_j + drawn_j
        points.append(
            Point(
                seconds / SECONDS_PER_HOUR,
                None if energy_j is None else energy_j / 1000,
                window.figures.get("accuracy"),
                int(window.figures.get("tested", 0)),
            )
        )
    return tuple(points)


def row_of(record: Record, target: float) -> ThesisRow:
    """What a training needed to classify the whole test set with `target` accuracy (a share)."""
    title = TITLES.get(record.family, record.name)
    points = curve(record)
    whole = int(record.settings["images"]["test"])
    reached = [
        at
        for at, one in enumerate(points)
        if one.tested == whole and one.accuracy is not None and one.accuracy >= target
    ]
    count = reached[0] + 1 if reached else len(points)
    label = worst_label([_label(record, at) for at in range(count)])
    until = points[count - 1] if points else Point(0.0, None, None, 0)
    energy_j = None if until.energy_kj is None else until.energy_kj * 1000
    power_w = energy_j / (until.hours * SECONDS_PER_HOUR) if energy_j is not None and until.hours else None
    if not reached:
        tested = [one.accuracy for one in points if one.accuracy is not None]
        best = f"best {max(tested):.1%}".replace("%", " %") if tested else "never tested"
        return ThesisRow(title, power_w, None, None, None, label, f"{NOT_REACHED} after {until.hours:.3g} h, {best}")
    kwh_pue, co2_lb = (None, None) if energy_j is None else _facility(energy_j)
    found = f"{until.accuracy:.1%}".replace("%", " %")
    return ThesisRow(title, power_w, until.hours, kwh_pue, co2_lb, label, f"{found} on {until.tested} test images")


def _label(record: Record, at: int) -> Label:
    reading = record.windows[at].reading
    return "missing" if reading is None else reading.label


def _facility(energy_j: float) -> tuple[float, float]:
    """kWh with PUE 1.58 and pounds of CO2 at 0.954 lb/kWh, as in the thesis."""
    site = Site()
    energy_kwh = facility_energy_kwh(Interval.exact(joules_to_kwh(energy_j)), site)
    return energy_kwh.value, co2e_kg(energy_kwh, site).value * GRAMS_PER_KG / GRAMS_PER_LB


# -- running -------------------------------------------------------------------------------------


def run_trainings(networks: Sequence[str], options: Sequence[str], out: Path) -> int:
    """Trains each network with `measure train` and keeps its record in `out`; a finished one is not repeated.

    Signals are passed on to the running training. Returns 0, or the first exit status that is not 0; a signal counts
    even if the training then ended with 0. The networks after it are not trained.
    """
    for network in networks:
        arguments = [network, "--framework", FRAMEWORK_OF[network], "--run", network, "--store", str(out)]
        command = [sys.executable, "-m", "joulecast.cli.train", "train", *arguments, *options]
        with StopSignals() as stop:
            status = _wait(subprocess.Popen(command, process_group=0), stop)
        if status := status or (128 + stop.number if stop.received else 0):
            return status
    return 0


def _wait(child: subprocess.Popen[bytes], stop: StopSignals) -> int:
    """The exit status of `child`. It has its own process group, so that it receives a signal once."""
    handed_on = False
    try:
        while (status := child.poll()) is None:
            if stop.received is not None and not handed_on:
                child.send_signal(stop.number)
                handed_on = True
            time.sleep(0.1)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    return status if status >= 0 else 128 - status


def read_runs(out: Path, networks: Sequence[str] = tuple(TITLES)) -> dict[str, Record]:
    """The records in `out` of those networks that were trained."""
    store = Store(out)
    return {name: store.read(name) for name in networks if (store.records_folder / f"{name}.json").is_file()}


def write_outcome(out: Path, runs: Mapping[str, Record], target: float) -> Path:
    """Writes `outcome.json` in `out`: the table, the curves, and how they were obtained."""
    document = {
        "schema": SCHEMA,
        "target": target,
        "thesis": [asdict(row) for row in THESIS_ROWS],
        "rows": [asdict(row_of(record, target)) for record in runs.values()],
        "runs": {name: _described(record) for name, record in runs.items()},
    }
    try:
        return write_json(out / "outcome.json", document)
    except OSError as error:
        raise TrainingError(
            f"{out / 'outcome.json'} cannot be written ({error}); free space or give another `out` folder"
        ) from error


def _described(record: Record) -> dict[str, Any]:
    return {
        "status": record.status,
        "interruptions": int(record.figures["interruptions"]),
        "flags": list(record.flags),
        "framework": record.settings["framework"],
        "device": record.settings["device"],
        "recipe": record.settings["recipe"],
        "images": record.settings["images"],
        "host": dict(record.host),
        "meter": {"name": record.meter["name"], "notes": record.meter["notes"]},
        "label": record.label,
        "disturbed_windows": sum(bool(window.flags) for window in record.windows),
        "windows": len(record.windows),
        "curve": [asdict(point) for point in curve(record)],
    }


def notes_of(runs: Mapping[str, Record]) -> list[str]:
    """The notes below the table: recipes, data, meters, disturbances and interruptions, without repetition."""
    titles: dict[str, list[str]] = {}
    for name, record in runs.items():
        for note in _notes(record):
            titles.setdefault(note, []).append(TITLES[name])
    return [f"{' and '.join(names)}: {note}" for note, names in titles.items()]


def _notes(record: Record) -> list[str]:
    images, settings = record.settings["images"], record.settings
    disturbed = sum(bool(window.flags) for window in record.windows)
    test_h = sum(window.figures.get("test_seconds", 0.0) for window in record.windows) / SECONDS_PER_HOUR
    notes = [
        f"{settings['framework']} on {settings['device']}; {settings['recipe']}",
        f"{images['source']}; {images['train']} images for training, {images['test']} for the test",
        f"{test_h:.3g} h of testing are not part of its hours and energy",
    ]
    if disturbed:
        notes.append(f"{disturbed} of {len(record.windows)} windows were disturbed (see its record)")
    notes += [flag for flag in record.flags if flag != MODELLED_FLAG]
    return notes + [f"energy {record.label}: {note}" for note in record.meter["notes"]]
