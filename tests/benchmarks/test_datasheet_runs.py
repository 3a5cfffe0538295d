"""Published runs, read from small files in the format of their sources. Only one network is traced."""

from __future__ import annotations

import csv
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="the benchmarks' networks come from timm")


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("datasheet", "datasheet_runs", "fvcore_agreement", "architectures"):
        sys.modules.pop(name, None)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def zeus_row(batch: int, limit: int, seconds: float) -> dict[str, object]:
    return {
        "dataset": "imagenet",
        "network": "resnet50",
        "batch_size": batch,
        "optimizer": "adadelta",
        "power_limit": limit,
        "time_per_epoch": seconds,
        "average_power": 200.0,
    }


def test_zeus_takes_the_highest_power_limit_and_counts_an_epoch(tmp_path: Path) -> None:
    from datasheet_runs import zeus

    for gpu in ("v100", "a40", "p100", "rtx6000"):
        rows = [zeus_row(128, 100, 9000.0), zeus_row(128, 250, 3600.0), zeus_row(100, 250, 1.0)]
        write(tmp_path / "zeus-trace" / f"summary_power_{gpu}.csv", rows)
    runs = list(zeus(tmp_path))
    assert [run.hardware for run in runs] == ["v100-pcie-16gb", "a40", "p100-pcie", "quadro-rtx-6000"]
    assert {(run.seconds, run.joules, run.steps) for run in runs} == {(3600.0, 720_000.0, 1_281_167 / 128)}


def test_del_rey_takes_medians_of_an_epoch(tmp_path: Path) -> None:
    from datasheet_runs import del_rey

    rows = [
        {
            "gpu model": "NVIDIA GeForce RTX 3070",
            "architecture": "resnet50",
            "training duration (h)": hours,
            "energy (MJ)": 1.0,
            "trained epochs": 100,
        }
        for hours in (1.0, 2.0, 50.0)
    ]
    write(tmp_path / "delrey-seaa2023" / "runs.csv", rows)
    (run,) = del_rey(tmp_path)
    assert (run.hardware, run.seconds, run.joules) == ("rtx-3070", 72.0, 10_000.0)


def test_a_run_as_predicted_scores_one_and_lies_inside_and_a_slow_one_outside() -> None:
    from datasheet import score
    from datasheet_runs import PublishedRun
    from torch import nn, zeros

    from joulecast.estimator.cost.datasheet import datasheet_profile
    from joulecast.estimator.cost.names import find_hardware
    from joulecast.estimator.trace.trace import trace

    work = trace(nn.Linear(1000, 1000), zeros(1000, 1000), layers=False)
    step = datasheet_profile(find_hardware("a40")).predict(work, steps=50, devices=2)
    seconds, joules = step.seconds.value, step.energy_kwh.value * 3_600_000
    good = score(PublishedRun("x", "a40", "linear", lambda: work, 50, seconds, joules, devices=2))
    assert good.time == pytest.approx(1.0)
    assert good.energy == pytest.approx(1.0)
    assert (good.time_inside, good.energy_inside) == (True, True)
    slow = score(PublishedRun("x", "a40", "linear", lambda: work, 50, 10 * seconds, None, devices=2))
    assert slow.time == pytest.approx(10.0)
    assert (slow.energy, slow.time_inside, slow.energy_inside) == (None, False, None)


def test_flops_by_hand_counts_groups_and_leaves_out_the_first_input_gradient() -> None:
    import torch
    from fvcore_agreement import flops_by_hand
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 5))
    forward, total = flops_by_hand(net, torch.zeros(2, 3, 6, 6))
    first, depthwise, linear = 2 * 36 * 3 * 8, 2 * 16 * 9 * 8, 2 * 128 * 5
    assert forward == first + depthwise + linear
    assert total == 2 * first + 3 * depthwise + 3 * linear
