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
COLUMNS += ("system", "host", "suspect")
EPYC, XEON = "AMD EPYC 7542 32-Core Processor", "Intel(R) Xeon(R) Platinum 8480+"
MACHINES = (
    ("", "A100_80GB_SXM4_v1", "a100-sxm4-80gb", 2022, EPYC),
    ("", "A100_80GB_SXM4", "a100-sxm4-80gb", 2021, EPYC),
    ("", "H100_80GB_SXM5_v1", "h100-sxm", 2023, XEON),
    ("", "AdaA6000_v1", "rtx-6000-ada", 2023, ""),
    ("LambdaCloud_", "QuadroRTX6000", "quadro-rtx-6000", 2020, "AMD EPYC Processor (with IBPB)"),
    ("LambdaCloud_", "A6000", "rtx-a6000", 2021, "AMD EPYC-Rome Processor"),
)


def write(path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *rows])


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Two networks on one and on two GPUs of six kinds of machine, and one with bridges."""
    rows: list[tuple[object, ...]] = []
    for network in ("ResNet-50 v1.5", "Transformer-XL base"):
        for place, name, gpu, year, host in MACHINES:
            step = (network, 8, "tf32", year)
            rows.append(("", gpu, 1, *step, 1000, f"{place}{name}", host, ""))
            rows.append(("", gpu, 2, *step, 1500, f"{place}2x{name}", host, ""))
    rows.append(("", "rtx-2080-ti", 1, "ResNet-50 v1.5", 8, "fp32", 2020, 1000, "2080Ti", "", ""))
    rows.append(("", "rtx-2080-ti", 2, "ResNet-50 v1.5", 8, "fp32", 2020, 1900, "2x2080TiNVlink_trt", "Intel", ""))
    for devices, rate in ((1, 1000), (2, 1900), (4, 3500)):
        system = f"{devices}x2080Ti" if devices > 1 else "2080Ti"
        rows.append(
            ("", "rtx-2080-ti", devices, "Tacotron 2 (NVIDIA)", 72, "amp-fp16", 2020, rate, system, "Intel", "")
        )
    write(tmp_path / "lambda" / "train.csv", COLUMNS, rows)
    return tmp_path


def test_lambdas_runs_as_their_scripts_say(module: ModuleType, measured: Path) -> None:
    """Peer access was off in those of 2022 and in one of January 2023, and Transformer-XL exchanges no gradients."""
    found = {
        (pair.step.label.split()[0], pair.step.machine): (pair.devices, round(pair.factor, 9), pair.path, pair.alone)
        for pair in module._lambda_pairs(measured)
        if "Tacotron" not in pair.step.label
    }
    paths = {
        "A100_80GB_SXM4_v1": ":no-p2p:amd-host",
        "A100_80GB_SXM4": ":amd-host",
        "H100_80GB_SXM5_v1": ":intel-host",
        "AdaA6000_v1": ":no-p2p",
        "LambdaCloud_QuadroRTX6000": ":no-p2p:amd-host",  # NCCL 2.5 in a virtual machine
        "LambdaCloud_A6000": ":amd-host",
    }
    expected = {("ResNet-50", machine): (2, 1.5, path, False) for machine, path in paths.items()}
    expected |= {("Transformer-XL", machine): (2, 1.5, path, True) for machine, path in paths.items()}
    expected["ResNet-50", "2080Ti"] = (2, 1.9, ":nvlink:intel-host", False)
    assert found == expected


def test_a_step_of_tacotron_waits_for_the_latest_batch(module: ModuleType, measured: Path) -> None:
    """The mean latest of 2, 4, 8 and 16 normal values, drawn; other networks read no clips."""
    drawn = np.random.default_rng(1).standard_normal((200_000, 16))
    for devices, latest in module._LATEST_OF.items():
        assert latest == pytest.approx(drawn[:, :devices].max(axis=1).mean(), abs=0.01)
    pairs = list(module._lambda_pairs(measured))
    waits = {pair.devices: pair.loader_s for pair in pairs if "Tacotron" in pair.step.label}
    assert waits == {2: pytest.approx(0.35 * 0.564), 4: pytest.approx(0.35 * 1.029)}
    assert all(pair.loader_s == 0 for pair in pairs if "Tacotron" not in pair.step.label)


def test_the_wait_for_batches_makes_several_gpus_slower(
    module: ModuleType, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 x 1 s on one GPU, 1.25 s and 0.35 s of wait on two: 1.25 times as fast; 1.9 times was measured."""

    class Cost:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

    monkeypatch.setattr(module, "_cost", lambda step, devices, *_: Cost(1.0 if devices == 1 else 1.25))
    pair = next(pair for pair in module._lambda_pairs(measured) if "Tacotron" in pair.step.label)
    waiting = module.replace(pair, loader_s=0.35)
    assert module._scaling_ratio(waiting, tmp_path) == pytest.approx(2 * 1.0 / 1.6 / 1.9)
    assert module._scaling_ratio(module.replace(pair, loader_s=0.0), tmp_path) == pytest.approx(2 / 1.25 / 1.9)


GPT3 = ("benchmark", "round", "gpu_key", "n_gpus", "division", "global_batch", "grad_accum", "run_s")
GPT3 += ("samples_per_s", "suspect")


def test_hours_of_gpt3_take_the_micro_batch_of_the_submission(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 GPUs are 16 replicas of 32: 2,048 sequences in 64 passes are two at a time, in 128 passes one."""
    rows = [
        ("gpt3", "v4.0", "h100-sxm", 512, "closed", 2048, 64, 3412, 200, ""),
        ("gpt3", "v4.0", "h100-sxm", 512, "closed", 2048, 64, 3412, 200, ""),  # the same run in another submission
        ("gpt3", "v3.0", "h100-sxm", 512, "closed", 2048, 128, 3856, 170, ""),
        ("gpt3", "v3.0", "h100-sxm", 768, "closed", 3072, 128, 2653, 252, ""),
        ("gpt3", "v3.0", "gaudi2", 384, "closed", 2048, 1, 3856, 170, ""),
        ("gpt3", "v3.0", "h100-sxm", 512, "open", 2048, 128, 1, 170, ""),
        ("gpt3", "v3.0", "h100-sxm", 512, "closed", 2048, "", 2, 170, ""),  # passes are not stated
        ("gpt3", "v3.0", "h100-sxm", 512, "closed", 2048, 100, 3, 170, ""),  # 1.28 sequences at a time
        ("gpt3", "v3.0", "h100-sxm", 48, "closed", 2048, 128, 4, 170, ""),  # one replica and a half
        ("gpt3", "v3.0", "h100-sxm", "", "closed", 2048, 128, 5, 170, ""),
        ("bert", "v3.0", "h100-sxm", 512, "closed", 2048, 128, 2, 170, ""),
    ]
    write(tmp_path / "mlperf-training" / "results.csv", GPT3, rows)
    asked = []

    def gpt3(devices, batch, micro, cluster, cache):  # type: ignore[no-untyped-def]
        asked.append((devices, batch, micro, cluster.devices))
        return module.StepCost(12.0, *[0.0] * 8)

    monkeypatch.setattr(module, "_gpt3", gpt3)
    ratios = list(module._gpt3_hours(tmp_path, tmp_path))
    assert asked == [(512, 2048, 2, 512), (512, 2048, 1, 512)]
    assert ratios == pytest.approx([12.0 * 200 / 2048, 12.0 * 170 / 2048])


def run_of(module: ModuleType, **stated: object):  # type: ignore[no-untyped-def]
    row = {"source": "a paper, arXiv 2301.00001", "model": "A"}
    return module.WholeRun(row, devices=8, **{"steps_s": 8e6, "published_s": 16e6, "searched_s": 8e6, **stated})


def test_a_run_takes_what_other_papers_searched_splits_took(module: ModuleType) -> None:
    """One took twice, one three times its fastest steps: each is predicted with what the other took."""
    other = run_of(module, published_s=24e6)
    other.row["source"] = "another paper"
    runs = [run_of(module), other]
    assert module.long_runs(runs) == pytest.approx(6**0.5 - 1)
    days = 8e6 / 8 / 86_400
    first, second = (ratio for _, ratio in module.left_out_runs(runs))
    assert first == pytest.approx((1 + 2 * (1 - 1 / days)) * 8 / 16)
    assert second == pytest.approx((1 + 1 * (1 - 1 / days)) * 8 / 24)


def test_hours_of_steps_have_no_overhead_of_runs(module: ModuleType) -> None:
    """With a stated split they are those of the steps; with a searched one, of a slower split."""
    other = run_of(module, published_s=24e6)
    other.row["source"] = "another paper"
    stated = run_of(module, stated=True, of_steps=True)
    assert next(ratio for _, ratio in module.left_out_runs([stated, other])) == 8 / 16
    days = 8e6 / 8 / 86_400
    searched = run_of(module, of_steps=True)
    more = 3 / (1 + module.OVERHEAD) - 1
    assert next(ratio for _, ratio in module.left_out_runs([searched, other])) == pytest.approx(
        (1 + more * (1 - 1 / days)) * 8 / 16
    )
    assert module.long_runs([searched]) == pytest.approx(2 * (1 + module.OVERHEAD) - 1)


def test_every_stated_split_is_of_a_known_run_and_whole(module: ModuleType) -> None:
    for model, row in module.splits().items():
        assert row["reference"], model
        if row["dp"]:
            plan = module._plan(row)
            assert plan.accumulate * plan.dp * int(row["micro_batch"]) == int(row["samples"]), model
