"""`benchmarks/on_a_gpu.py` on CPU tensors under a fake NVML."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.cost.profile import read_profile
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.nvml import NvmlSource
from joulecast.measure.meters.testing import FakeGpu, FakeNvml
from joulecast.measure.records.records import describe_host
from joulecast.measure.records.store import Store
from joulecast.measure.suite import suite
from joulecast.measure.suite.cases import Case
from joulecast.measure.suite.rounds import CasePlan

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WATTS = 123.0


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import importlib

    return importlib.import_module("on_a_gpu")


@contextmanager
def _meter() -> Iterator[SampledMeter]:
    """A GPU that draws WATTS on the real clock."""
    nvml, stop = FakeNvml([FakeGpu(name="Test GPU", watts=WATTS)]), threading.Event()

    def drive() -> None:
        last = time.monotonic()
        while not stop.wait(0.005):
            now = time.monotonic()
            nvml.advance(now - last)
            last = now

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    try:
        with SampledMeter(NvmlSource(nvml, environ={})) as meter:
            yield meter
    finally:
        stop.set()
        thread.join()


def _case(name: str, width: int) -> Case:
    def build() -> tuple[torch.nn.Module, object]:
        layers = [torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 8)]
        return torch.nn.Sequential(*layers), ((torch.randn(width // 4, 64),), {})

    return Case(name, name, build, "sgd")


def _broken() -> tuple[torch.nn.Module, object]:
    raise RuntimeError("out of memory")


@pytest.mark.usefixtures("only_new_objects")  # garbage is collected after each case
def test_a_run_leaves_records_profile_and_summary(on_a_gpu: ModuleType, tmp_path: Path, monkeypatch) -> None:
    one_round = CasePlan(window_s=0.2, case_s=0.0, rounds=1)  # other tests disturb rounds, which then repeat
    monkeypatch.setattr(on_a_gpu.rounds, "metered", lambda pace, meter: one_round)
    monkeypatch.setattr(suite, "IDLE_S", 0.2)
    cases = [_case(f"case {width}", width) for width in (64, 128, 256, 512, 1024)]
    held = [_case("held", 384), Case("broken", "broken", _broken, "sgd")]
    with _meter() as meter:
        host = describe_host(1, "cpu")
        tests = lambda path: path.write_text("2 passed") > 0  # noqa: E731
        results = on_a_gpu.run(tmp_path, meter, host, held, cases, suite_s=60, case_s=0.0, tests=tests)
    assert results.tests_passed
    assert [one.name for one in results.comparisons] == ["held"]
    assert results.failed == {"broken": "RuntimeError: out of memory"}
    held_one = results.comparisons[0]
    assert held_one.energy_j == pytest.approx(WATTS * held_one.seconds, rel=0.25)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["networks"][0]["after_time_error"] == held_one.after[0].value / held_one.seconds - 1
    assert summary["suite_cases"] == 5
    assert "| held | 96 |" in (tmp_path / "summary.md").read_text()
    assert read_profile(tmp_path / "profile.json").provenance.time == "measured"
    assert {record.name for record in Store(tmp_path / "store").records()} >= {"held", "case 64"}


def test_the_summary_marks_measurements_outside_the_interval(on_a_gpu: ModuleType) -> None:
    before, after = (Interval(2.0, 1.5, 2.5),) * 2, (Interval(1.1, 0.9, 1.3),) * 2
    row = on_a_gpu.Comparison("net", 8, 1.0, None, before, after).row()
    assert row == {
        "name": "net",
        "batch_size": 8,
        "step_s": 1.0,
        "step_j": None,
        "before_time_error": 1.0,
        "after_time_error": pytest.approx(0.1),
        "before_time_inside": False,
        "after_time_inside": True,
    }


def test_every_held_network_exists(on_a_gpu: ModuleType) -> None:
    pytest.importorskip("transformers")
    assert {network.name for network, _ in on_a_gpu.held_networks()} == set(on_a_gpu.HELD)


def test_without_a_gpu_it_ends_with_one_line(on_a_gpu: ModuleType, tmp_path: Path, monkeypatch, capsys) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(sys, "argv", ["on_a_gpu.py", "--out", str(tmp_path)])
    assert on_a_gpu.main() == 2
    assert "no CUDA GPU is visible" in capsys.readouterr().err
