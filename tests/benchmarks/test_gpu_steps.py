"""The networks and steps behind shipped GPU profiles, on CPU tensors."""

from __future__ import annotations

import csv
import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from joulecast.estimator.base.interval import Interval

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def rows_of(part: str) -> list[dict[str, str]]:
    with (BENCHMARKS / "measured" / f"{part}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("part", "count", "memory_bytes"),
    [
        ("h100-sxm", {"eager": 133, "channels-last": 12, "compiled": 35, "compiled-float8": 2}, 80e9),
        ("h200", {"eager": 59, "channels-last": 6}, 141e9),
    ],
)
def test_every_measured_row_names_a_network_and_has_possible_figures(
    load, part: str, count: dict[str, int], memory_bytes: float
) -> None:
    networks, steps = load("gpu_networks"), load("gpu_steps")
    rows = rows_of(part)
    assert Counter(row["software"] for row in rows) == count
    assert tuple(rows[0]) == steps.COLUMNS
    for row in rows:
        assert row["model"] in networks.BY_NAME
        assert row["optimizer"] in networks.OPTIMIZERS
        assert 76 < float(row["watts"]) < 1.05 * 700  # idle, and the power limit, which a window of 1 s may exceed
        assert 1e-3 < float(row["seconds_per_step"]) < 1
        assert 1e8 < int(row["peak_memory_bytes"]) < memory_bytes


def test_settings_are_all_different(load) -> None:
    settings = list(load("gpu_networks").settings())
    assert len(set(settings)) == len(settings)
    assert {one.precision for one in settings} == {"float32", "bfloat16", "pure-bfloat16"}


def test_the_loss_is_the_models_own_or_cross_entropy_of_its_scores(load) -> None:
    loss_of = load("gpu_steps").loss_of
    own = torch.tensor(3.0)
    assert loss_of(SimpleNamespace(loss=own, logits=torch.zeros(2, 5))) is own
    even = torch.log(torch.tensor(5.0))
    assert loss_of(SimpleNamespace(loss=None, logits=torch.zeros(2, 5))) == pytest.approx(even)
    assert loss_of(torch.zeros(2, 7, 5)) == pytest.approx(even)
    images = torch.zeros(2, 5, 4, 4)
    images[:, 0] = 100.0  # the score of class 0
    assert loss_of(images) == pytest.approx(0.0)


def test_a_measured_step_has_its_time_and_the_counters_watts(load, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = load("gpu_steps")
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(steps, "time", clock)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def step() -> None:
        now[0] += 0.02

    count, step_s, watts = steps.measured(step, lambda: 250.0 * now[0])
    assert step_s == pytest.approx(0.02)
    assert watts == pytest.approx(250.0)
    assert count * step_s == pytest.approx(steps.WINDOW_S, rel=0.1)


def test_scores_are_of_predictions_against_measurements(load) -> None:
    profile: ModuleType = load("gpu_profile")
    row = SimpleNamespace(step_seconds=1.0, energy_j=200.0, steps=2)
    found = profile.scores(
        [
            (row, Interval(1.1, 0.9, 1.3), Interval(50.0, 40.0, 60.0)),
            (row, Interval(0.8, 0.7, 0.9), Interval.exact(100)),
        ]
    )
    assert found["time_mean_error"] == pytest.approx(0.15)
    assert found["time_coverage"] == 0.5
    assert found["energy_mean_error"] == pytest.approx(0.25)
    assert found["energy_coverage"] == 0.5


def test_the_energy_counter_reads_the_first_gpus_millijoules(load, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"GPU 0": 5_250}
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"GPU {index}",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counted[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    joules = load("gpu_steps").energy_counter()
    assert joules() == 5.25
    counted["GPU 0"] = 6_000
    assert joules() == 6.0
