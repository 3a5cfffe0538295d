"""Real trainings with Keras' `fit` on TensorFlow and a Budget in `callbacks=[...]`; see keras_fits.py."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import made_up_machine, write_power

STEPS = 40
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None or importlib.util.find_spec("tensorflow") is None,
    reason="needs joulecast[tensorflow]",
)


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("keras")
    arguments = [made_up_machine(folder, 1e-4), write_power(folder, 1000.0), write_power(folder, 1000.0, 0.1), folder]
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("keras_fits.py")), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert process.returncode == 0, process.stderr[-4000:]
    result: dict[str, dict[str, Any]] = json.loads(process.stdout.splitlines()[-1])
    return result


def test_training_is_the_same_under_watch(fits: dict[str, Any]) -> None:
    alone, watched = fits["alone"], fits["watched"]
    for metric in ("loss", "val_loss"):
        assert watched["history"][metric] == alone["history"][metric]
    assert watched["weights"] == alone["weights"]
    first, *_, last = watched["lines"]
    assert first.startswith("40 steps of net (batch 4, momentum, float32) on made-up will take")
    assert "energy is measured by replay" in first
    assert last.startswith("40 steps took")


def test_figures_go_to_the_logs_of_each_epoch(fits: dict[str, Any]) -> None:
    history = fits["watched"]["history"]
    joules, seconds = history["joulecast/energy_measured_j"], history["joulecast/seconds"]
    assert len(joules) == 2
    assert joules[0] < joules[1]
    assert joules == pytest.approx([1000 * value for value in seconds], rel=0.2)
    narrowing = [
        high - low
        for high, low in zip(
            history["joulecast/forecast_seconds_high"], history["joulecast/forecast_seconds_low"], strict=True
        )
    ]
    assert narrowing[1] == 0 < narrowing[0]


def test_loggers_that_stand_before_it_see_them_too(fits: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(fits["watched"]["csv"])))
    assert len(rows) == 2
    assert all(float(row["joulecast/energy_measured_j"]) > 0 for row in rows)


def test_what_does_not_fit_is_not_begun(fits: dict[str, Any]) -> None:
    assert "before the first of 40 steps" in fits["too much"]["error"]
    assert fits["too much"]["steps"] == 0


def test_what_breaks_its_budget_is_saved_and_stopped(fits: dict[str, Any]) -> None:
    stopped = fits["stopped"]
    assert "stopped after" in stopped["error"]
    assert "energy measured, saved as" in stopped["error"]
    assert 0 < stopped["steps"] < STEPS
    assert Path(stopped["checkpoint"]).is_file()


def test_warn_stops_names_the_checkpoint_and_fit_returns(fits: dict[str, Any]) -> None:
    warned = fits["warned"]
    assert warned["error"] is None
    assert 0 < warned["steps"] < STEPS
    assert [line for line in warned["lines"] if "stopped after" in line and line.endswith("kept.keras")]
    assert warned["loads"] == pytest.approx(warned["weights"][0])


def test_a_meter_that_fails_ends_no_training(fits: dict[str, Any]) -> None:
    failed = fits["meter fails"]
    assert failed["steps"] == STEPS
    assert len([line for line in failed["lines"] if "the energy meter failed" in line]) == 1
    assert len(failed["history"].get("joulecast/energy_measured_j", [])) < 2


def test_a_layer_that_nobody_else_can_make_is_trained_and_metered(fits: dict[str, Any]) -> None:
    own = fits["own layer"]
    assert own["steps"] == STEPS
    assert "the prediction failed (Mine" in own["lines"][0]
    assert len(own["history"]["joulecast/energy_measured_j"]) == 2


def test_batches_run_together_are_all_counted(fits: dict[str, Any]) -> None:
    assert fits["in fives"]["lines"][-1].startswith("40 steps took")


def test_a_network_is_traced_once_however_it_is_compiled(fits: dict[str, Any]) -> None:
    assert fits["traced"] == 1
