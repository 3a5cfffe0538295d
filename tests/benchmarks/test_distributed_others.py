"""How published trainings on many GPUs that are not language models are read, on made-up rows."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.trace.workload import Op

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CONV = Op(
    *("conv2d", "conv", "forward", "", 10**10, 10**8, 10**8, "float32"),
    {"b": 1, "m": 10**6, "k": 100, "n": 100},
)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("distributed_others")


def seconds(profile) -> float:  # type: ignore[no-untyped-def]
    return float(np.sum(profile.time.seconds([CONV])))


def test_software_of_a_year_follows_the_fitted_trend(module: ModuleType) -> None:
    """Today's is of 2024. A step of 2021 takes the trend of three years longer, one of 2020 that of four."""
    today = datasheet_profile(find_hardware("a100-sxm4-80gb")).for_software("vendor-tuned")
    trend = today.time.parameters["yearly_conv"]
    assert trend > 1
    assert seconds(module.of_year(today, 2024)) == pytest.approx(seconds(today), rel=1e-12)
    for year in (2020, 2021):
        of_then = module.of_year(today, year)
        assert of_then.time.parameters["yearly_conv"] ** 3 == pytest.approx(trend ** (year - 2021), rel=1e-12)
        assert seconds(of_then) > seconds(today)
    assert seconds(module.of_year(today, 2020)) > seconds(module.of_year(today, 2021))
    assert today.time.parameters["yearly_conv"] == trend


COLUMNS = ("gpu", "gpu_key", "n_gpus", "network", "batch_per_gpu", "precision", "year", "samples_per_s")
COLUMNS += ("system", "suspect")


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """ResNet-50 and Transformer-XL on one and on two GPUs of three kinds of machine."""
    rows = []
    for network in ("ResNet-50 v1.5", "Transformer-XL base"):
        for system, gpu, year in (
            ("A100_80GB_SXM4_v1", "a100-sxm4-80gb", 2022),
            ("A100_80GB_SXM4", "a100-sxm4-80gb", 2021),
            ("H100_80GB_SXM5_v1", "h100-sxm", 2023),
        ):
            one = ("", gpu, 1, network, 8, "tf32", year, 1000, system, "")
            rows += [one, ("", gpu, 2, network, 8, "tf32", year, 1500, f"2x{system}", "")]
    rows.append(("", "rtx-2080-ti", 1, "ResNet-50 v1.5", 8, "fp32", 2020, 1000, "2080Ti", ""))
    rows.append(("", "rtx-2080-ti", 2, "ResNet-50 v1.5", 8, "fp32", 2020, 1900, "2x2080TiNVlink_trt", ""))
    (tmp_path / "lambda").mkdir()
    with (tmp_path / "lambda" / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *rows])
    return tmp_path


def test_lambdas_runs_as_their_scripts_say(module: ModuleType, measured: Path) -> None:
    """Peer access was off in those of 2022, and Transformer-XL exchanges no gradients."""
    found = {
        (pair.step.label.split()[0], pair.step.machine): (pair.devices, round(pair.factor, 9), pair.path, pair.alone)
        for pair in module._lambda_pairs(measured)
    }
    assert found == {
        ("ResNet-50", "A100_80GB_SXM4_v1"): (2, 1.5, ":no-p2p", False),
        ("ResNet-50", "A100_80GB_SXM4"): (2, 1.5, "", False),
        ("ResNet-50", "H100_80GB_SXM5_v1"): (2, 1.5, "", False),
        ("ResNet-50", "2080Ti"): (2, 1.9, ":nvlink", False),
        ("Transformer-XL", "A100_80GB_SXM4_v1"): (2, 1.5, ":no-p2p", True),
        ("Transformer-XL", "A100_80GB_SXM4"): (2, 1.5, "", True),
        ("Transformer-XL", "H100_80GB_SXM5_v1"): (2, 1.5, "", True),
    }
