"""The thesis's table from its own power and hours, and `measure thesis` as a command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulecast.cli import main as commands
from joulecast.cli.train import thesis as thesis_command
from joulecast.measure.meters.reading import DomainReading, Reading
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.records.store import Store
from joulecast.measure.training.thesis import (
    THESIS_ROWS,
    curve,
    notes_of,
    read_runs,
    row_of,
    run_trainings,
    write_outcome,
)
from joulecast.measure.training.thesis_figures import draw_figures

THESIS = ["thesis", "--only=simplenet", "--width=0.05"]
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120"}


def window(hours: float, watts: float | None, accuracy: float | None = None, tested: int = 0) -> MeasuredWindow:
    seconds = hours * 3600
    if watts is None:
        domain = DomainReading("machine", "machine", "missing", None, True, reason="no energy counter")
    else:
        domain = DomainReading("package-0", "package", "measured", round(watts * seconds * 1e6), True)
    figures: dict[str, float] = {"epoch": 1, "step": 100, "test_seconds": 36.0}
    if accuracy is not None:
        figures |= {"accuracy": accuracy, "tested": tested}
    return MeasuredWindow("epoch 1", 100, seconds, Reading("rapl", seconds, (domain,)), (), figures)


def record(family: str, *windows: MeasuredWindow, flags: tuple[str, ...] = ()) -> Record:
    return Record(
        id=family,
        kind="training",
        name=family,
        created="2026-01-01T00:00:00+00:00",
        status="complete",
        host={"cpu_name": "Intel Core i7-4770"},
        windows=windows,
        run=family,
        family=family,
        meter={"name": "rapl", "domains": [], "notes": []},
        settings={
            "framework": "pytorch 2",
            "device": "cpu",
            "recipe": "SGD",
            "images": {"source": "CIFAR-10", "synthetic": False, "train": 50_000, "test": 10_000},
            "checkpoint": None,
        },
        figures={"interruptions": 0},
        flags=flags,
    )


@pytest.mark.parametrize(("family", "row"), [("simplenet", THESIS_ROWS[0]), ("alexnet", THESIS_ROWS[1])])
def test_the_thesis_power_and_hours_give_its_table(family: str, row: Any) -> None:
    """Table 4.0.1: 49.49 W for half an hour are 0.039 kWh with PUE and 0.037 lb; 27.77 W for 6 h, 0.263 and 0.25."""
    half = window(row.hours / 2, row.power_w)
    done = record(family, half, window(row.hours / 2, row.power_w, 0.61, 10_000), window(6, 99.0, 0.9, 10_000))
    found = row_of(done, 0.6)
    assert found.model == row.model
    assert found.hours == pytest.approx(row.hours), "what came after the target does not count"
    assert found.power_w == pytest.approx(row.power_w)
    assert found.kwh_pue == pytest.approx(row.power_w * row.hours * 1.58 / 1000)
    assert found.kwh_pue == pytest.approx(row.kwh_pue, abs=5e-4)
    assert found.co2_lb == pytest.approx(row.co2_lb, rel=0.01)
    assert found.label == "measured"
    assert found.note == "61.0 % on 10000 test images"


def test_a_sample_of_the_test_set_reaches_nothing() -> None:
    done = record("alexnet", window(1, 30.0, 0.65, 2000), window(1, 30.0, 0.59, 10_000))
    found = row_of(done, 0.6)
    assert (found.hours, found.kwh_pue, found.co2_lb) == (None, None, None)
    assert found.power_w == pytest.approx(30.0)
    assert found.note == "not reached after 2 h, best 65.0 %"


def test_one_window_without_energy_leaves_the_hours_alone() -> None:
    done = record("alexnet", window(1, 30.0), window(1, None), window(1, 30.0, 0.7, 10_000))
    found = row_of(done, 0.6)
    assert found.hours == pytest.approx(3.0)
    assert (found.power_w, found.kwh_pue, found.co2_lb, found.label) == (None, None, None, "missing")
    assert [point.energy_kj for point in curve(done)] == [pytest.approx(108.0), None, None]


def test_notes_say_what_both_share_once() -> None:
    notes = notes_of({
        "simplenet": record("simplenet", window(1, 30.0)),
        "alexnet": record("alexnet", window(1, 30.0), flags=("killed after step 9",)),
    })  # fmt: skip
    assert "SimpleNet and AlexNet: pytorch 2 on cpu; SGD" in notes
    assert "AlexNet: killed after step 9" in notes
    assert "SimpleNet and AlexNet: 0.01 h of testing are not part of its hours and energy" in notes


def test_the_outcome_and_the_figures_are_labelled(tmp_path: Path) -> None:
    runs = {
        "simplenet": record("simplenet", window(0.5, 40.0, 0.4, 2000), window(0.5, 40.0, 0.6, 10_000)),
        "alexnet": record("alexnet", window(1, None, 0.5, 10_000)),
    }
    outcome = json.loads(write_outcome(tmp_path, runs, 0.6).read_text())
    assert [row["label"] for row in outcome["rows"]] == ["measured", "missing"]
    assert outcome["rows"][1]["hours"] is None
    assert outcome["runs"]["alexnet"]["curve"][0]["energy_kj"] is None
    assert outcome["runs"]["simplenet"]["curve"][1]["energy_kj"] == pytest.approx(144.0)
    accuracy, energy = (path.read_text() for path in draw_figures(runs, 0.6, tmp_path))
    assert "Figure 4.0.1. Accuracy by time" in accuracy
    assert "SimpleNet, this machine: measured" in energy
    assert "AlexNet, this machine: missing" in energy
    assert "AlexNet, thesis: 27.77 W measured" in energy


@pytest.mark.parametrize(("signals", "status", "trained"), [(":", 0, 2), ("kill -INT $PPID; sleep 1", 130, 1)])
def test_ctrl_c_in_the_last_test_begins_no_other_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: str, status: int, trained: int
) -> None:
    """A training that is in its final test completes."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntrap '' INT\necho $4 >> '{tmp_path}/trained'\n{signals}\nexit 0\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert run_trainings(["simplenet", "alexnet"], [], tmp_path) == status
    assert (tmp_path / "trained").read_text().split() == ["simplenet", "alexnet"][:trained]


Thesis = Callable[..., tuple[int, str, str]]


@pytest.fixture
def thesis(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Thesis:
    """Status, output and errors of `measure thesis` in this process; its training has one of its own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def call(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [*THESIS, *options])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            commands.run(thesis_command, "measure")
        return (int(end.value.code or 0), *capfd.readouterr())

    return call


def test_the_command_trains_once_and_compares(tmp_path: Path, thesis: Thesis) -> None:
    options = ["--synthetic=200", "--meter=none", "--target=1", "--max-epochs=2", f"--out={tmp_path}"]
    status, output, errors = thesis(*options)
    assert status == 0, errors
    lines = [line.rstrip() for line in output.splitlines()]
    table = next(index for index, line in enumerate(lines) if line.startswith("Table 4.0.1: to 1 % accuracy"))
    assert lines[table + 1].split("  ")[0].strip() == "model"
    assert lines[table + 2].startswith("SimpleNet  thesis (to 60 %) ")
    assert lines[table + 2].split()[5:] == ["49.5", "0.500", "0.0390", "0.0370", "measured"]
    ours = lines[table + 3].split()
    assert ours[:3] == ["SimpleNet", "this", "machine"]
    assert ours[3] == "-"
    assert ours[5:] == ["-", "-", "missing"]
    assert float(ours[4]) > 0
    assert "synthetic images: times are real, accuracy has no meaning" in output
    assert {path.name for path in tmp_path.iterdir()} == {
        "outcome.json", "figure-4.0.1.svg", "figure-4.0.2.svg", "records", "checkpoints"
    }  # fmt: skip
    first = Store(tmp_path).read("simplenet")
    status, _, errors = thesis(*options)
    assert status == 0, errors
    assert Store(tmp_path).read("simplenet").windows == first.windows


def test_a_signal_reaches_the_training_once_and_the_command_goes_on(tmp_path: Path, thesis: Thesis) -> None:
    options = ["--synthetic=400", "--meter=none", "--target=100", f"--out={tmp_path}"]
    path = tmp_path / "records" / "simplenet.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "joulecast.cli.train", *THESIS, *options, "--max-epochs=100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not (path.is_file() and json.loads(path.read_text())["windows"]):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert "a training ended with status 143; run the same command to continue" in errors
    assert "Traceback" not in errors
    assert "not reached after" in output
    left = read_runs(tmp_path)["simplenet"]
    assert left.status == "interrupted"
    assert left.flags[-1].startswith("interrupted by SIGTERM after step")
    epochs = left.steps // 7 + 1
    status, _, errors = thesis(*options, f"--max-epochs={epochs}")
    assert status == 0, errors
    finished = read_runs(tmp_path)["simplenet"]
    assert (finished.status, finished.steps) == ("complete", 7 * epochs)
    assert finished.windows[: len(left.windows)] == left.windows
