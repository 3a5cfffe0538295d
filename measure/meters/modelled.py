"""Power from CPU utilisation and the hardware table, for machines without a counter. Its label is "modelled"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...estimator.base.errors import HardwareError, MeterError, UnknownHardwareError
from ...estimator.base.suggest import clipped
from .procstat import PROC, CpuInfo, ProcStat, read_cpu_info, read_proc_stat
from .rapl import SystemClock, system_clock
from .tally import Domain, Failure, Mirror, Sample

# Share of full power drawn when idle, for parts whose table row has no figure. This is an assumption, and every use
# states it. Cloud Carbon Footprint's watts from SPECpower are 16 % (Skylake) to 32 % (Haswell) for whole servers.
ASSUMED_IDLE_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class UtilisationModel:
    """Power by utilisation u in [0, 1]: `idle_w + (full_w - idle_w) * u`; `basis` states the source."""

    idle_w: float
    full_w: float
    basis: str


def utilisation_model(
    name: str, power_w: float, idle_w: float | None, part_cores: int | None, cores: int
) -> UtilisationModel:
    """The model of `cores` cores of a part with `part_cores`; `basis` states each assumption. Pure."""
    share = 1.0 if part_cores is None else cores / part_cores
    basis = f"CPU utilisation x {name} ({power_w:g} W"
    if idle_w is None:
        idle_w = ASSUMED_IDLE_SHARE * power_w
        basis += f", idle assumed {ASSUMED_IDLE_SHARE:.0%} of it)"
    else:
        basis += f", idle {idle_w:g} W)"
    if part_cores is None:
        basis += ", taken as one whole part"
    elif share != 1:
        basis += f", {cores} of its {part_cores} cores assumed to draw their share"
    return UtilisationModel(idle_w * share, power_w * share, basis)


class ModelledSource:
    """The machine as one domain, "modelled". Raises MeterError if the CPU is not in the table.

    `hardware`: the name to look up; None takes the name in /proc/cpuinfo.
    """

    name = "modelled"

    def __init__(self, hardware: str | None = None, *, procfs: Path = PROC, clock: SystemClock = system_clock) -> None:
        self._procfs, self._clock = procfs, clock
        start = read_proc_stat(procfs)
        self._model = _model_of(hardware, read_cpu_info(procfs), start)
        ceiling_w = 4 * int(self._model.full_w) + 4  # ticks are coarse, so one read can contain a burst
        note = f"modelled: {self._model.basis}"
        self.domains = (Domain("machine", "machine", True, ceiling_w, None, "modelled", "utilisation model", note),)
        self.notes: tuple[str, ...] = (note,)
        self.failures: tuple[str, ...] = ()
        self._start_ns = clock()[0]
        self._start_busy = start.times.busy

    def sample(self) -> Sample:
        began_ns, _ = self._clock()
        try:
            stat = read_proc_stat(self._procfs)
        except MeterError as error:
            stat, failure = None, Failure(str(error))
        ended_ns, slept_ns = self._clock()
        value = failure if stat is None else self._energy_uj(stat, ended_ns)
        return Sample(began_ns, ended_ns, slept_ns, (value,))

    def mirrors(self) -> Mapping[int, Mirror]:
        return {}

    def close(self) -> None:
        """Nothing is kept open."""

    def _energy_uj(self, stat: ProcStat, now_ns: int) -> int:
        """Since the start: idle power all the time, and the rest while CPUs were busy."""
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        busy_s = (stat.times.busy - self._start_busy) / ticks_per_s / max(1, stat.cpus)
        idle_j = self._model.idle_w * (now_ns - self._start_ns) / 1e9
        return round(1e6 * (idle_j + (self._model.full_w - self._model.idle_w) * busy_s))


def _model_of(hardware: str | None, cpu: CpuInfo, stat: ProcStat) -> UtilisationModel:
    from ...estimator.cost.hardware import default_user_file, user_file
    from ...estimator.cost.names import find_hardware, near_names

    name = hardware or cpu.model
    if not name:
        raise MeterError("/proc/cpuinfo names no processor; give its name as `hardware`")
    try:
        row = find_hardware(name)
    except UnknownHardwareError as error:
        near, table = ", ".join(near_names(name)) or "none", user_file() or default_user_file()
        raise MeterError(
            f"no power is known for the CPU {clipped(name)!r}; give a CPU of similar power as `hardware` (near names: "
            f"{near}), or add its row to {table} (columns as in datasets/hardware.csv)"
        ) from error
    except HardwareError as error:
        raise MeterError(str(error)) from error
    if row.kind != "cpu":
        raise MeterError(f"{row.name} is a {row.kind}, and only a CPU's utilisation is known; name a CPU")
    cores = max(1, stat.cpus // cpu.threads_per_core)
    return utilisation_model(row.name, row.power_w, row.idle_w, row.cores, cores)
