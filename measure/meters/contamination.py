"""What disturbed a window: other processes on the cores, steal time, throttling, a changed clock rate.

The system's counters are read at both ends of a window and compared. A counter that does not exist (a virtual machine
has no thermal sensors) is skipped and is not an error.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...estimator.base.errors import MeterError
from .procstat import read_proc_stat

# Shares of the window's wall time. A kernel tick is 10 ms and each CPU's count is off by up to one, so a few ticks are
# not significant.
OTHERS_SHARE = 0.05
STEAL_SHARE = 0.03
FREQUENCY_SHARE = 0.10
TICKS_OF_DOUBT = 3


@dataclass(frozen=True, slots=True)
class Conditions:
    """The machine's counters at one moment. None: this machine has no such counter."""

    at_s: float
    own_cpu_s: float
    busy_s: float | None  # of all CPUs together, this process included
    steal_s: float | None
    throttles: int | None  # thermal throttle events of all cores and packages
    quota_throttled_s: float | None  # stopped by the cgroup's CPU quota
    frequency_hz: float | None  # mean over the cores
    cpus: int = 1  # that `busy_s` and `steal_s` are summed over


@dataclass(frozen=True, slots=True)
class SystemCounters:
    """Reads `Conditions` from `root`/proc and `root`/sys."""

    root: Path = Path("/")
    own_cpu_s: Callable[[], float] = lambda: _own_cpu_s()
    clock: Callable[[], float] = time.monotonic

    def read(self) -> Conditions:
        busy_s, steal_s, cpus = self._cpu_seconds()
        return Conditions(
            at_s=self.clock(),
            own_cpu_s=self.own_cpu_s(),
            busy_s=busy_s,
            steal_s=steal_s,
            throttles=self._throttles(),
            quota_throttled_s=self._quota_throttled_s(),
            frequency_hz=self._frequency_hz(),
            cpus=cpus,
        )

    def _cpu_seconds(self) -> tuple[float | None, float | None, int]:
        """Busy and stolen seconds, and the number of CPUs."""
        try:
            found = read_proc_stat(self.root / "proc")
        except MeterError:
            return None, None, 1
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        return found.times.busy / ticks_per_s, found.times.steal / ticks_per_s, found.cpus

    def _throttles(self) -> int | None:
        folder = self.root / "sys/devices/system/cpu"
        counts = [_whole(path) for path in folder.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def _frequency_hz(self) -> float | None:
        folder = self.root / "sys/devices/system/cpu"
        found = [_whole(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
        known = [khz for khz in found if khz]
        return 1e3 * sum(known) / len(known) if known else None

    def _quota_throttled_s(self) -> float | None:
        """From this process's own cgroup (version 2)."""
        try:
            lines = (self.root / "proc/self/cgroup").read_text().splitlines()
            group = next(line[3:].lstrip("/") for line in lines if line.startswith("0::"))
            text = (self.root / "sys/fs/cgroup" / group / "cpu.stat").read_text()
        except (OSError, StopIteration):
            return None
        fields = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
        return int(fields["throttled_usec"]) / 1e6 if "throttled_usec" in fields else None


def disturbances(before: Conditions, after: Conditions) -> tuple[str, ...]:
    """What disturbed the window between two reads, one phrase each; empty for a clean window. Pure."""
    wall_s = after.at_s - before.at_s
    doubt_s = max(TICKS_OF_DOUBT, after.cpus) / os.sysconf("SC_CLK_TCK")
    found = []
    if before.busy_s is not None and after.busy_s is not None:
        own_s = after.own_cpu_s - before.own_cpu_s
        others_s = after.busy_s - before.busy_s - own_s
        if others_s > max(OTHERS_SHARE * wall_s, doubt_s):
            found.append(f"other processes used {others_s / wall_s:.0%} of a core")
    if before.steal_s is not None and after.steal_s is not None:
        steal_s = after.steal_s - before.steal_s
        if steal_s > max(STEAL_SHARE * wall_s, doubt_s):
            found.append(f"the hypervisor gave {steal_s / wall_s:.0%} of a core to other guests")
    if before.throttles is not None and after.throttles is not None and after.throttles > before.throttles:
        found.append(f"thermal throttling ({after.throttles - before.throttles} events)")
    if before.quota_throttled_s is not None and after.quota_throttled_s is not None:
        held_s = after.quota_throttled_s - before.quota_throttled_s
        if held_s > OTHERS_SHARE * wall_s:
            found.append(f"the cgroup's CPU quota stopped the run for {held_s / wall_s:.0%} of the time")
    if before.frequency_hz and after.frequency_hz:
        change = after.frequency_hz / before.frequency_hz - 1
        if abs(change) > FREQUENCY_SHARE:
            found.append(f"the clock went from {before.frequency_hz / 1e9:.2f} to {after.frequency_hz / 1e9:.2f} GHz")
    return tuple(found)


def oversubscription(threads: int, cores: int) -> tuple[str, ...]:
    """A flag if there are more computing threads than cores. Pure."""
    return (f"{threads} threads on {cores} cores",) if threads > cores else ()


def _own_cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _whole(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
