from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from joulecast.estimator.base.errors import MeterError
from joulecast.measure.meters import perf_event
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.perf_event import _ATTR_BYTES, _SYSCALL, PerfSource, find_events, open_counter
from joulecast.measure.meters.tally import Failure
from joulecast.measure.meters.testing import FakePerf, ManualClock

EVENTS = {"energy-pkg": 2, "energy-cores": 1, "energy-ram": 3, "energy-psys": 5}


def _meter(perf: FakePerf, sysfs: Path, clock: ManualClock) -> SampledMeter:
    return SampledMeter(PerfSource(sysfs, opener=perf.open, read=perf.read, clock=clock), interval_s=None)


def test_linuxs_numbers_of_the_call_and_size_of_its_argument():
    """`perf_event_open` in the kernel's tables of system calls; PERF_ATTR_SIZE_VER0 of its header."""
    assert _SYSCALL == {"x86_64": 298, "i686": 336, "aarch64": 241}
    assert _ATTR_BYTES == 64


def test_one_cpu_per_package_and_units_of_two_to_the_minus_32_joules(tmp_path: Path):
    perf, clock = FakePerf(tmp_path, EVENTS, {0: 0, 24: 1}), ManualClock()
    meter = _meter(perf, tmp_path, clock)
    with meter.window() as window:
        clock.advance(1.0)
        for cpu, package_j in ((0, 30.0), (24, 41.5)):
            perf.draw(EVENTS["energy-pkg"], cpu, package_j)
            perf.draw(EVENTS["energy-cores"], cpu, 20.0)
            perf.draw(EVENTS["energy-ram"], cpu, 2.25)
    energies = {domain.domain: domain.energy_uj for domain in window.reading.domains}
    assert energies == {
        "package-0": 30_000_000,
        "package-0/core": 20_000_000,
        "package-0/dram": 2_250_000,
        "psys": 0,
        "package-1": 41_500_000,
        "package-1/core": 20_000_000,
        "package-1/dram": 2_250_000,
        "psys-1": 0,
    }
    assert window.reading.energy_uj == 76_000_000
    assert window.reading.label == "measured"


def test_a_count_beyond_32_bits_of_joules_does_not_wrap(tmp_path: Path):
    perf, clock = FakePerf(tmp_path, {"energy-pkg": 2}, {0: 0}), ManualClock()
    perf.draw(2, 0, 4_000_000.0)  # weeks
    with _meter(perf, tmp_path, clock).window() as window:
        clock.advance(1.0)
        perf.draw(2, 0, 100.0)
    assert window.reading.energy_uj == 100_000_000


def test_permission_names_what_was_tried_and_the_fix(tmp_path: Path):
    perf = FakePerf(tmp_path, EVENTS, {0: 0})
    perf.refuse = OSError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(MeterError) as caught:
        PerfSource(tmp_path, opener=perf.open)
    message = str(caught.value)
    assert "\n" not in message
    assert "perf_event_open power/energy-*: permission denied" in message
    assert "perf_event_paranoid is" in message
    assert "setcap cap_perfmon=ep" in message


def test_a_kernel_without_the_events_says_so(tmp_path: Path):
    with pytest.raises(MeterError, match="no energy events in this kernel"):
        find_events(tmp_path)


def test_two_dies_of_one_package_are_refused(tmp_path: Path):
    FakePerf(tmp_path, EVENTS, {0: 0, 8: 0})
    with pytest.raises(MeterError, match="2 dies in 1 packages"):
        find_events(tmp_path)


@pytest.mark.parametrize("unit", ["Watts", "Joule", "", "mJ"])
def test_a_unit_that_is_not_joules_is_refused(tmp_path: Path, unit: str):
    FakePerf(tmp_path, EVENTS, {0: 0})
    (tmp_path / "bus/event_source/devices/power/events/energy-pkg.unit").write_text(f"{unit}\n")
    with pytest.raises(MeterError, match=f"energy-pkg counts '{unit}', not 'Joules'"):
        find_events(tmp_path)


@pytest.mark.parametrize("content", [b"", bytes(7), bytes(9)])
def test_an_event_that_ends_is_missing(tmp_path: Path, content: bytes):
    perf, clock = FakePerf(tmp_path, {"energy-pkg": 2}, {0: 0}), ManualClock()
    source = PerfSource(tmp_path, opener=perf.open, read=lambda descriptor, size: content, clock=clock)
    with SampledMeter(source, interval_s=None).window() as window:
        clock.advance(1.0)
    assert window.reading.label == "missing"
    assert window.reading.reasons == ("package-0: package-0: perf event ended (CPU 0 offline?)",)


def test_a_window_that_outlives_its_source_is_missing_and_never_raises(tmp_path: Path):
    perf, clock = FakePerf(tmp_path, EVENTS, {0: 0}), ManualClock()
    meter = _meter(perf, tmp_path, clock)
    window = meter.open()
    meter.close()
    clock.advance(1.0)
    reading = window.close()
    assert {domain.label for domain in reading.domains} == {"missing"}
    assert reading.reasons[0] == "package-0/core: perf event is closed"


def test_the_real_system_call_counts(tmp_path: Path):
    """The kernel's software clock (type 1, event 0: nanoseconds on a CPU) in place of the RAPL PMU."""
    try:
        os.close(open_counter(1, 0, 0))
    except OSError as error:
        pytest.skip(f"perf_event_open: {error.strerror}")
    FakePerf(tmp_path, {"energy-pkg": 0}, {0: 0})
    (tmp_path / "bus/event_source/devices/power/type").write_text("1\n")
    meter = SampledMeter(PerfSource(tmp_path), interval_s=None)
    begun_s = time.monotonic()
    with meter.window() as window:
        inside_s = time.monotonic()
        time.sleep(0.2)
        inside_s = time.monotonic() - inside_s
    around_s = time.monotonic() - begun_s
    seconds = window.reading.energy_uj / 1e6 * 2**32 / 1e9
    assert 0.99 * inside_s <= seconds <= 1.01 * around_s  # however long a busy machine stops this process
    assert inside_s <= window.reading.seconds <= around_s
    meter.close()


@pytest.mark.parametrize(("answer", "errno_"), [(7, 0), (0, 0), (-1, errno.EACCES)])
def test_the_system_call_is_made_as_its_manual_says(monkeypatch: pytest.MonkeyPatch, answer: int, errno_: int):
    """All processes (-1) on CPU 3, no group (-1), closed on exec (8); version 0 of the attributes has 64 bytes."""
    calls = []

    def syscall(*arguments: Any) -> int:
        number, attributes, *rest = arguments
        calls.append((number.value, ctypes.string_at(attributes, 64), [one.value for one in rest]))
        return answer

    def library(name: None, *, use_errno: bool) -> SimpleNamespace:
        assert (name, use_errno) == (None, True)  # without use_errno the reason of a failure is lost
        return SimpleNamespace(syscall=syscall)

    monkeypatch.setattr(ctypes, "CDLL", library)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno_)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    if answer < 0:
        with pytest.raises(PermissionError):
            open_counter(22, 2, 3)
    else:
        assert open_counter(22, 2, 3) == answer
    assert calls == [(298, struct.pack("=IIQ", 22, 64, 2) + bytes(48), [-1, 3, -1, 8])]


def test_a_read_that_raises_is_a_failed_read_and_not_the_end(tmp_path: Path):
    def read(descriptor: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    perf = FakePerf(tmp_path, {"energy-pkg": 2}, {0: 0})
    source = PerfSource(tmp_path, opener=perf.open, read=read)
    assert source.sample().values == (Failure("package-0: perf event: Input/output error"),)
    source.close()


def _no_file(path: Path) -> str:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.mark.parametrize(("read", "shown"), [(lambda path: "4", "4"), (_no_file, "unknown")])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_refusal_states_the_kernels_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], str], shown: str, number: int
):
    perf = FakePerf(tmp_path, EVENTS, {0: 0})
    perf.refuse = OSError(number, "refused")
    events = find_events(tmp_path)
    monkeypatch.setattr(perf_event, "find_events", lambda sysfs: events)
    monkeypatch.setattr(perf_event, "read_text", read)
    with pytest.raises(MeterError, match=rf"\(perf_event_paranoid is {shown}\); fix: sudo sysctl"):
        PerfSource(tmp_path, opener=perf.open)


def test_another_error_of_the_call_points_to_the_powercap_tree(tmp_path: Path):
    perf = FakePerf(tmp_path, EVENTS, {0: 0})
    perf.refuse = OSError(errno.ENOENT, "No such file or directory")
    with pytest.raises(MeterError) as caught:
        PerfSource(tmp_path, opener=perf.open)
    assert str(caught.value) == "perf_event_open power/energy-*: No such file or directory; use the powercap tree"
