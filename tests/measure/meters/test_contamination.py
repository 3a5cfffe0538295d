"""Disturbances: by hand, on fake trees, and on this machine with a real second process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from joulecast.measure.meters.contamination import Conditions, SystemCounters, disturbances, oversubscription

QUIET = Conditions(
    at_s=0.0, own_cpu_s=0.0, busy_s=100.0, steal_s=1.0, throttles=3, quota_throttled_s=0.0, frequency_hz=3e9
)
# Two seconds later, this process having kept two cores busy.
LATER = replace(QUIET, at_s=2.0, own_cpu_s=3.96, busy_s=103.96)


def test_a_quiet_window_is_clean():
    assert disturbances(QUIET, LATER) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"busy_s": 104.56}, "other processes used 30% of a core"),
        ({"steal_s": 1.4}, "gave 20% of a core to other guests"),
        ({"throttles": 5}, "thermal throttling (2 events)"),
        ({"quota_throttled_s": 1.0}, "stopped the run for 50% of the time"),
        ({"frequency_hz": 2.4e9}, "the clock went from 3.00 to 2.40 GHz"),
    ],
)
def test_each_disturbance_is_named_with_its_size(change: dict[str, float], said: str):
    found = disturbances(QUIET, replace(LATER, **change))
    assert len(found) == 1
    assert said in found[0]


def test_several_disturbances_are_all_named():
    both = replace(LATER, steal_s=2.0, throttles=4)
    assert len(disturbances(QUIET, both)) == 2


def test_some_ticks_in_a_short_window_are_no_proof():
    """The kernel counts in ticks of 10 ms: in 50 ms, two of them may belong to any process."""
    short = replace(QUIET, at_s=0.05, own_cpu_s=0.1, busy_s=100.12)
    assert disturbances(QUIET, short) == ()


@pytest.mark.parametrize(("cpus", "clean"), [(1, False), (4, False), (64, True)])
def test_each_cpu_may_be_a_tick_off(cpus: int, clean: bool):
    """In 100 ms, 0.1 s of other processes are ten ticks of 10 ms: another process on a few CPUs, rounding on 64."""
    after = replace(QUIET, at_s=0.1, own_cpu_s=0.1, busy_s=100.2, steal_s=1.1, cpus=cpus)
    assert (disturbances(QUIET, after) == ()) == clean


def test_what_the_machine_does_not_say_is_no_disturbance():
    blind = Conditions(0.0, 0.0, None, None, None, None, None)
    assert disturbances(blind, replace(blind, at_s=1.0)) == ()


def test_more_threads_than_processors_are_flagged():
    assert oversubscription(8, 2) == ("8 threads on 2 cores",)
    assert oversubscription(2, 2) == oversubscription(1, 2) == ()


# -- fake trees --------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _tree(root: Path, *, user: int = 500, steal: int = 7, throttles: int = 0, khz: int = 3_000_000) -> None:
    row = f"{user} 0 100 9000 50 0 0 {steal} 0 0"
    _write(root / "proc/stat", f"cpu  {row}\ncpu0 {row}\nintr 5\nctxt 6\nprocs_running 1\n")
    for core in (0, 1, 10):
        folder = root / f"sys/devices/system/cpu/cpu{core}"
        _write(folder / "thermal_throttle/core_throttle_count", f"{throttles}\n")
        _write(folder / "thermal_throttle/package_throttle_count", "0\n")
        _write(folder / "cpufreq/scaling_cur_freq", f"{khz}\n")
    _write(root / "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1\n")
    _write(root / "proc/self/cgroup", "0::/box\n")
    _write(root / "sys/fs/cgroup/box/cpu.stat", "usage_usec 5\nthrottled_usec 250000\n")


def test_counters_are_read_from_the_tree(tmp_path: Path):
    _tree(tmp_path, throttles=4)
    found = SystemCounters(tmp_path, own_cpu_s=lambda: 1.5, clock=lambda: 9.0).read()
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert found == Conditions(
        at_s=9.0,
        own_cpu_s=1.5,
        busy_s=600 * tick_s,
        steal_s=7 * tick_s,
        throttles=12,
        quota_throttled_s=0.25,
        frequency_hz=3e9,
        cpus=1,
    )


def test_a_tree_that_says_nothing_reads_as_not_known(tmp_path: Path):
    found = SystemCounters(tmp_path, own_cpu_s=lambda: 0.0, clock=lambda: 0.0).read()
    assert found == Conditions(0.0, 0.0, None, None, None, None, None)


def test_a_neighbour_in_the_tree_is_flagged(tmp_path: Path):
    times = iter((0.0, 2.0))
    counters = SystemCounters(tmp_path, own_cpu_s=lambda: 0.0, clock=lambda: next(times))
    _tree(tmp_path)
    before = counters.read()
    _tree(tmp_path, user=500 + 2 * os.sysconf("SC_CLK_TCK"), khz=2_000_000)
    found = disturbances(before, counters.read())
    assert any("other processes used 100% of a core" in flag for flag in found)
    assert any("3.00 to 2.00 GHz" in flag for flag in found)


# -- this machine ------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat here")
def test_a_real_neighbour_is_seen():
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        counters = SystemCounters()
        before = counters.read()
        time.sleep(0.5)
        assert any("other processes" in flag for flag in disturbances(before, counters.read()))
    finally:
        neighbour.kill()
        neighbour.wait()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat here")
def test_this_process_is_no_neighbour_of_its_own():
    """The busy time of other processes does not grow with this process's own work."""
    counters = SystemCounters()
    before = counters.read()
    deadline = time.process_time() + 0.5
    while time.process_time() < deadline:
        pass
    after = counters.read()
    assert after.own_cpu_s - before.own_cpu_s >= 0.5
    assert before.busy_s is not None
    assert after.busy_s is not None
    assert after.busy_s - before.busy_s >= 0.5 - 0.03


@pytest.mark.parametrize(
    ("change", "flagged"),
    [
        # over two seconds: more than 5 % of a core by others, 3 % stolen, 5 % held by the quota, 10 % of the clock
        ({"busy_s": 104.05}, False),
        ({"busy_s": 104.07}, True),
        ({"steal_s": 1.05}, False),
        ({"steal_s": 1.07}, True),
        ({"quota_throttled_s": 0.09}, False),
        ({"quota_throttled_s": 0.11}, True),
        ({"frequency_hz": 3.29e9}, False),
        ({"frequency_hz": 3.31e9}, True),
        ({"frequency_hz": 2.71e9}, False),
        ({"frequency_hz": 2.69e9}, True),
        ({"throttles": 2}, False),  # a counter that began again
        ({"throttles": 4}, True),
    ],
)
def test_how_much_disturbs(change: dict[str, float], flagged: bool):
    assert bool(disturbances(QUIET, replace(LATER, **change))) is flagged


@pytest.mark.parametrize("name", ["busy_s", "steal_s", "throttles", "quota_throttled_s", "frequency_hz"])
def test_what_is_not_known_at_both_ends_says_nothing(name: str):
    worse = replace(LATER, busy_s=110.0, steal_s=5.0, throttles=9, quota_throttled_s=2.0, frequency_hz=1e9)
    assert len(disturbances(QUIET, worse)) == 5
    assert len(disturbances(replace(QUIET, **{name: None}), worse)) == 4
    assert len(disturbances(QUIET, replace(worse, **{name: None}))) == 4


def test_lines_and_sensors_that_cannot_be_read_are_left_out(tmp_path: Path):
    _tree(tmp_path, throttles=4)
    _write(tmp_path / "sys/fs/cgroup/box/cpu.stat", "alone\nusage_usec 5\none two three\nthrottled_usec 500000\n")
    core = tmp_path / "sys/devices/system/cpu/cpu1"
    _write(core / "cpufreq/scaling_cur_freq", "<unknown>\n")
    (core / "thermal_throttle/core_throttle_count").unlink()
    (core / "thermal_throttle/core_throttle_count").mkdir()  # reading it is an OSError
    found = SystemCounters(tmp_path, own_cpu_s=lambda: 0.0, clock=lambda: 0.0).read()
    assert (found.quota_throttled_s, found.throttles, found.frequency_hz) == (0.5, 8, 3e9)
