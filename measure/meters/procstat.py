"""/proc/stat and /proc/cpuinfo as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...estimator.base.errors import MeterError

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Ticks since boot, summed over the CPUs (proc(5): /proc/stat); guests are within `user`, `nice`."""

    user: int
    nice: int
    system: int
    idle: int
    iowait: int
    irq: int
    softirq: int
    steal: int

    @property
    def total(self) -> int:
        return self.busy + self.idle + self.iowait + self.steal

    @property
    def busy(self) -> int:
        """Ticks that this machine's CPUs worked; stolen ticks went to other guests of the host."""
        return self.user + self.nice + self.system + self.irq + self.softirq


@dataclass(frozen=True, slots=True)
class ProcStat:
    """One read of /proc/stat. `running` is the run queue at that moment, with the reader itself."""

    times: CpuTimes
    cpus: int
    context_switches: int
    interrupts: int
    running: int


def read_proc_stat(procfs: Path = PROC) -> ProcStat:
    """Raises MeterError if the file does not exist or is not the kernel's."""
    path = procfs / "stat"
    try:
        return parse_proc_stat(path.read_text())
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise MeterError(f"{path}: cannot be read ({error}); CPU columns need Linux' /proc") from error


def parse_proc_stat(text: str) -> ProcStat:
    """Raises KeyError, IndexError or ValueError on a text that is not /proc/stat. Pure."""
    rows = {fields[0]: fields[1:] for line in text.splitlines() if (fields := line.split())}
    ticks = [int(value) for value in rows["cpu"][:8]]
    if len(ticks) < 4:
        raise ValueError(f"the cpu line has {len(ticks)} figures, at least 4 are needed")
    ticks += [0] * (8 - len(ticks))  # kernels before 2.6.11 have no steal time
    return ProcStat(
        times=CpuTimes(*ticks),
        cpus=sum(1 for name in rows if re.fullmatch(r"cpu\d+", name)),
        context_switches=int(rows["ctxt"][0]),
        interrupts=int(rows["intr"][0]),
        running=int(rows["procs_running"][0]),
    )


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The processor as /proc/cpuinfo describes it; `threads_per_core` is 1 if it is unknown."""

    model: str
    vendor: str
    threads_per_core: int


def read_cpu_info(procfs: Path = PROC) -> CpuInfo:
    """Empty strings for what /proc/cpuinfo does not contain."""
    try:
        text = (procfs / "cpuinfo").read_text()
    except OSError:
        text = ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    siblings, cores = int(fields.get("siblings", "1")), int(fields.get("cpu cores", "1"))
    return CpuInfo(fields.get("model name", ""), fields.get("vendor_id", ""), max(1, siblings // max(1, cores)))
