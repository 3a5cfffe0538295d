"""Meters, op times, the suite, traces and budgets on a real NVIDIA GPU."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import joulecast as jc
from joulecast.estimator.cost.profile import read_profile
from joulecast.measure.meters.nvml import GPU_CEILING_W
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.suite import cases
from joulecast.measure.suite.op_timing import Stopwatch, op_times, stopwatch_overhead_s
from joulecast.measure.suite.rounds import build

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")]

BUSY_S = 2.0
STEPS = 1000


def _keep_busy(seconds: float) -> None:
    square = torch.randn(4096, 4096, device="cuda")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for _ in range(20):
            torch.mm(square, square)
        torch.cuda.synchronize()


def _network() -> nn.Module:
    body = (nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(1024, 10))


def test_the_energy_counter_follows_the_work() -> None:
    torch.ones(1, device="cuda")
    with select_meter("nvml") as meter:
        window = meter.open()
        time.sleep(BUSY_S)
        idle = window.close()
        window = meter.open()
        _keep_busy(BUSY_S)
        busy = window.close()
    assert (idle.label, busy.label) == ("measured", "measured")
    assert idle.energy_j is not None
    assert busy.energy_j is not None
    idle_w, busy_w = idle.energy_j / idle.seconds, busy.energy_j / busy.seconds
    assert 3 < idle_w < busy_w < GPU_CEILING_W
    assert busy_w > 1.3 * idle_w


def test_the_counter_agrees_with_the_power_samples() -> None:
    pynvml = pytest.importorskip("pynvml")
    pynvml.nvmlInit()
    handle, watts = pynvml.nvmlDeviceGetHandleByIndex(0), []
    _keep_busy(1.0)
    with select_meter("nvml") as meter:
        window = meter.open()
        for _ in range(10):
            _keep_busy(0.3)
            watts.append(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        reading = window.close()
    assert reading.energy_j is not None
    assert reading.energy_j / reading.seconds == pytest.approx(sum(watts) / len(watts), rel=0.15)


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_op_times_of_a_step_match_the_trace(precision: str | None) -> None:
    case = cases.Case(
        "net", "net", lambda: (_network(), ((torch.randn(512, 3, 64, 64),), {})), "adam", precision=precision
    )
    built = build(case, "gpu")
    watch = Stopwatch(built.step.model, built.step.clock)
    step_s = min(built.step.run(10) / 10 for _ in range(3))
    times = op_times(built.work, [built.step.run_timed(watch) for _ in range(5)], step_s, stopwatch_overhead_s("gpu"))
    assert times.unmatched == 0
    assert 0.5 < times.covered < 2.0
    slowest = max(zip(times.seconds, built.work.ops, strict=True), key=lambda pair: pair[0] or 0.0)
    assert slowest[1].kind in ("conv", "norm", "activation", "pool")


def test_the_stopwatch_costs_a_gpu_less_than_a_launch_or_two() -> None:
    assert 0 <= stopwatch_overhead_s("gpu", 500) < 1e-4


def test_a_trace_allocates_nothing_on_the_gpu_and_moves_nothing() -> None:
    model = _network().cuda()
    before, allocated = copy.deepcopy(model.state_dict()), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work = jc.trace(model, torch.empty(8192, 3, 64, 64, device="meta"), layers=False)
    assert torch.cuda.max_memory_allocated() - allocated < 1e6
    assert work.batch_size == 8192
    for name, tensor in model.state_dict().items():
        assert tensor.is_cuda
        assert torch.equal(tensor, before[name])


def _trained(watched: bool) -> tuple[list[torch.Tensor], Any]:
    """The parameters after some seconds of training under autocast, and the run of the budget."""
    torch.manual_seed(0)
    model = _network().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loop: Any = jc.Budget("2 kWh").watch(model, steps=STEPS, optimizer=optimizer) if watched else nullcontext()
    with loop as run:
        for _ in range(STEPS):
            images, labels = torch.randn(64, 3, 32, 32, device="cuda"), torch.randint(10, (64,), device="cuda")
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if run is not None:
                run.step()
    return [tensor.detach().cpu() for tensor in model.state_dict().values()], run


def test_a_training_ends_the_same_to_the_last_bit_under_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    alone, _ = _trained(watched=False)
    watched, run = _trained(watched=True)
    assert all(torch.equal(one, other) for one, other in zip(alone, watched, strict=True))
    assert run.estimate is not None
    assert run.forecast is not None
    assert run.forecast.energy_label == "measured"


def test_quick_measure_writes_a_measured_profile_that_estimate_uses(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from joulecast.cli.main import measure; sys.exit(measure())"]
    done = subprocess.run(
        [*command, "--budget-s", "20", "--store", str(tmp_path), "--quiet"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "profiles").glob("*.json")
    profile = read_profile(path)
    assert (profile.device, profile.provenance.time, profile.provenance.power) == ("gpu", "measured", "measured")
