"""The probe: its figures are physical, cached by CPU and cores, and measured again if the cache is broken."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from joulecast.estimator.cost import probe
from joulecast.estimator.cost.probe import SCHEMA, CpuProbe, measure_cpu, probe_cpu


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOULECAST_CACHE", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> CpuProbe:
        self.calls += 1
        return CpuProbe(0.5, 20.0, self.calls)


def test_a_probe_is_measured_once_for_a_cpu_and_its_cores(cache: Path) -> None:
    measure = Counted()
    first = probe_cpu("AMD EPYC", 2, measure)
    assert probe_cpu("AMD EPYC", 2, measure) == first
    assert measure.calls == 1
    probe_cpu("AMD EPYC", 4, measure)
    probe_cpu("Intel", 2, measure)
    assert measure.calls == 3
    (document,) = [
        json.loads(path.read_text()) for path in cache.glob("probes/*.json") if '"cores": 4' in path.read_text()
    ]
    assert (document["schema"], document["cpu_name"], document["cores"]) == (SCHEMA, "AMD EPYC", 4)


def test_threads_have_a_probe_of_their_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Counted()
    probe_cpu("AMD EPYC", 2, measure)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    probe_cpu("AMD EPYC", 2, measure)
    assert measure.calls == 2


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"schema": "joulecast.probe/0"}', f'{{"schema": "{SCHEMA}", "fp32_tflops": -1}}', "null"],
)
def test_a_broken_cache_is_measured_again(cache: Path, content: str) -> None:
    measure = Counted()
    probe_cpu("AMD EPYC", 2, measure)
    (path,) = cache.glob("probes/*.json")
    path.write_text(content)
    assert probe_cpu("AMD EPYC", 2, measure).threads == 2
    assert probe_cpu("AMD EPYC", 2, measure).threads == 2


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JOULECAST_CACHE", str(tmp_path / "file"))
    assert probe_cpu("AMD EPYC", 2, Counted()).fp32_tflops == 0.5


def test_the_measurement_is_physical_quick_and_leaves_the_threads(cache: Path) -> None:
    import torch

    threads, begin = torch.get_num_threads(), time.perf_counter()
    probe = measure_cpu()
    assert time.perf_counter() - begin < 30  # two seconds on an idle machine
    assert torch.get_num_threads() == threads == probe.threads
    assert 0.002 * threads < probe.fp32_tflops < 0.6 * threads
    assert 0.5 < probe.bandwidth_gb_per_s < 2000


def test_rates_follow_from_the_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of 256 x 256 x 256 in 2 ms with one thread, and a copy of 4 kB in 1 ms alone and 0.5 ms together."""
    times = iter((0.01, 0.002, 0.001, 0.0005))
    monkeypatch.setattr(probe, "_best", lambda action, seconds, clock: next(times))
    monkeypatch.setattr(probe, "_BUFFER_BYTES", 4096)
    before = torch.get_num_threads()
    found = probe.measure_cpu()
    assert found.threads == torch.get_num_threads() == before
    assert found.fp32_tflops == pytest.approx(before * 2 * 256**3 / 0.002 / 1e12)
    assert found.bandwidth_gb_per_s == pytest.approx(2 * 4096 / 0.0005 / 1e9)  # read and written


def test_products_grow_until_they_hide_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0039, 0.0041, 0.004, 1.0, 1.0))
    monkeypatch.setattr(probe, "_best", lambda action, seconds, clock: next(times))
    monkeypatch.setattr(probe, "_BUFFER_BYTES", 4096)
    assert probe.measure_cpu().fp32_tflops == pytest.approx(torch.get_num_threads() * 2 * 512**3 / 0.004 / 1e12)


def test_what_is_timed_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread by its own time: the growing product, the last one for half a second, a copy; then all threads."""
    timed: list[tuple[str, int, float, object, int]] = []

    def best(action: functools.partial[object], seconds: float, clock: object) -> float:
        name = "product" if action.func is product else "copy"
        timed.append((name, action.args[0].numel(), seconds, clock, torch.get_num_threads()))
        return 0.004

    def product(*_: torch.Tensor, out: torch.Tensor) -> None:
        pass

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(probe, "_best", best)
    monkeypatch.setattr(probe, "_BUFFER_BYTES", 4096)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert probe.measure_cpu().threads == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert timed == [
        ("product", 256**2, 0.0, time.thread_time, 1),
        ("product", 256**2, 0.5, time.thread_time, 1),
        ("copy", 1024, 0.5, time.thread_time, 1),
        ("copy", 1024, 0.5, time.perf_counter, 2),
    ]


def test_products_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "mm", lambda *_, out: None)
    monkeypatch.setattr(probe, "_best", lambda action, seconds, clock: 0.001)
    monkeypatch.setattr(probe, "_BUFFER_BYTES", 4096)
    assert probe.measure_cpu().fp32_tflops == pytest.approx(torch.get_num_threads() * 2 * 2048**3 / 0.001 / 1e12)


def test_copies_are_larger_than_caches() -> None:
    assert probe._BUFFER_BYTES == 256 * 2**20


@pytest.mark.parametrize(
    ("seconds", "walls", "times", "expected"),
    [
        (0.0, (5.0, 5.0), (1.0, 1.5), 0.5),  # at least one call
        (1.0, (5.0, 5.5, 5.9, 6.0), (1.0, 1.5, 2.0, 2.25, 3.0, 4.0), 0.25),  # three calls until 6.0
        (1.0, (5.0, 5.5, 6.5), (1.0, 2.0, 3.0, 3.5), 0.5),
        (0.0, (5.0, 5.0), (1.0, 1.0), 1e-9),  # a clock that did not move
    ],
)
def test_the_best_of_the_calls_that_fit(
    seconds: float, walls: tuple[float, ...], times: tuple[float, ...], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, wall, clock = [], iter(walls), iter(times)
    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: next(wall)))
    assert probe._best(lambda: calls.append(1), seconds, lambda: next(clock)) == expected
    assert len(calls) == len(times) // 2
    assert (next(wall, None), next(clock, None)) == (None, None)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, False),
        ({"threads": "7"}, False),
        ({"fp32_tflops": 0}, True),
        ({"fp32_tflops": -1}, True),
        ({"bandwidth_gb_per_s": 0}, True),
        ({"bandwidth_gb_per_s": 0.5, "fp32_tflops": 0.5}, False),
        ({"bandwidth_gb_per_s": "fast"}, True),
        ({"threads": None}, True),
        ({"schema": "joulecast.probe/2"}, True),
    ],
)
def test_figures_of_the_cache_that_are_used(cache: Path, changes: dict[str, object], again: bool) -> None:
    probe_cpu("AMD EPYC", 2, Counted())
    (path,) = cache.glob("probes/*.json")
    assert len(path.stem) == 16
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    measure = Counted()
    probe_cpu("AMD EPYC", 2, measure)
    assert measure.calls == again


@pytest.mark.parametrize(("length", "again"), [(2**16, False), (2**16 + 1, True)])
def test_a_cache_that_is_too_large_is_measured_again(cache: Path, length: int, again: bool) -> None:
    probe_cpu("AMD EPYC", 2, Counted())
    (path,) = cache.glob("probes/*.json")
    path.write_text(path.read_text().ljust(length))
    measure = Counted()
    probe_cpu("AMD EPYC", 2, measure)
    assert measure.calls == again
