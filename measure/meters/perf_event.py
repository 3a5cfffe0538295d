"""RAPL through the kernel's perf events: `power/energy-*`, for users with CAP_PERFMON and no root.

The events count units of 2^-32 J in 64 bits, so they never wrap, on one CPU per package (`cpumask`).
(perf_event_open(2); arch/x86/events/rapl.c; /sys/bus/event_source/devices/power)
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ...estimator.base.errors import MeterError
from .rapl import CEILING_W, COUNTED, SystemClock, read_text, system_clock
from .tally import Domain, Failure, Mirror, Sample

SYSFS = Path("/sys")

_KINDS = {
    "energy-pkg": "package",
    "energy-ram": "dram",
    "energy-cores": "core",
    "energy-gpu": "uncore",
    "energy-psys": "psys",
}
_SYSCALL = {"x86_64": 298, "i686": 336, "aarch64": 241}
_ATTR_BYTES = 64  # PERF_ATTR_SIZE_VER0: type, size, config, and zeros
_CLOSE_ON_EXEC = 8

Open = Callable[[int, int, int], int]
ReadBytes = Callable[[int, int], bytes]


def open_counter(event_type: int, config: int, cpu: int) -> int:
    """perf_event_open(2) for all processes on one CPU: the descriptor. Raises OSError."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"perf_event_open is not known for {platform.machine()}")
    attributes = struct.pack("=IIQ", event_type, _ATTR_BYTES, config).ljust(_ATTR_BYTES, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (attributes, -1, cpu, -1, _CLOSE_ON_EXEC)
    converted = (ctypes.c_char_p(arguments[0]), *(ctypes.c_long(number) for number in arguments[1:]))
    descriptor = int(libc.syscall(ctypes.c_long(number), *converted))
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor


@dataclass(frozen=True, slots=True)
class EnergyEvent:
    """One energy event on one CPU; `unit_uj` is the energy of one count."""

    domain: Domain
    event_type: int
    config: int
    cpu: int
    unit_uj: Fraction


def find_events(sysfs: Path = SYSFS) -> list[EnergyEvent]:
    """The energy events of the kernel. Raises MeterError if there are none."""
    device = sysfs / "bus/event_source/devices/power"
    try:
        event_type = int(read_text(device / "type"))
        cpus = _cpu_list(read_text(device / "cpumask"))
        names = sorted(path.name for path in (device / "events").iterdir() if path.name in _KINDS)
        packages = {cpu: _package(sysfs, cpu) for cpu in cpus}
        events = [
            _event(device / "events" / name, event_type, cpu, package)
            for cpu, package in packages.items()
            for name in names
        ]
    except FileNotFoundError as error:
        raise MeterError(
            f"{error.filename}: no energy events in this kernel (CONFIG_PERF_EVENTS_INTEL_RAPL)"
        ) from error
    except (OSError, ValueError) as error:
        raise MeterError(f"{device}: cannot be used ({error}); use the powercap tree") from error
    if not events:
        raise MeterError(f"{device}/events: no energy-* event; the processor has no RAPL counter")
    if len(set(packages.values())) < len(cpus):
        raise MeterError(
            f"{device}/cpumask: {len(cpus)} dies in {len(set(packages.values()))} packages, and events that"
            " start at zero cannot show whether two dies share a counter; use the powercap tree"
        )
    return events


def _cpu_list(text: str) -> list[int]:
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _package(sysfs: Path, cpu: int) -> int:
    return int(read_text(sysfs / f"devices/system/cpu/cpu{cpu}/topology/physical_package_id"))


def _event(path: Path, event_type: int, cpu: int, package: int) -> EnergyEvent:
    matched = re.search(r"event=(0x[0-9a-fA-F]+|\d+)", read_text(path))
    if matched is None:
        raise ValueError(f"{path.name} has no event number")
    unit = read_text(path.with_name(f"{path.name}.unit"))
    if unit != "Joules":
        raise ValueError(f"{path.name} counts {unit!r}, not 'Joules'")
    scale = Fraction(read_text(path.with_name(f"{path.name}.scale")))
    kind = _KINDS[path.name]
    name = f"package-{package}" if kind == "package" else f"package-{package}/{kind}"
    if kind == "psys":
        name = "psys" if package == 0 else f"psys-{package}"
    domain = Domain(name, kind, kind in COUNTED, CEILING_W[kind])
    return EnergyEvent(domain, event_type, int(matched[1], 0), cpu, scale * 1_000_000)


class PerfSource:
    """Opens every energy event. Raises MeterError when one cannot be opened."""

    name = "perf_event"

    def __init__(
        self,
        sysfs: Path = SYSFS,
        *,
        opener: Open = open_counter,
        read: ReadBytes = os.read,
        clock: SystemClock = system_clock,
    ) -> None:
        self._read, self._clock = read, clock
        self._events = find_events(sysfs)
        self.domains = tuple(event.domain for event in self._events)
        self.notes: tuple[str, ...] = ()
        self.failures: tuple[str, ...] = ()
        self._descriptors: list[int] = []
        try:
            for event in self._events:
                self._descriptors.append(opener(event.event_type, event.config, event.cpu))
        except OSError as error:
            self.close()
            raise MeterError(_explain(error)) from error

    def sample(self) -> Sample:
        began_ns, _ = self._clock()
        if self._descriptors:
            values = tuple(map(self._value, self._events, self._descriptors))
        else:
            values = tuple(Failure("perf event is closed", fatal=True) for _ in self._events)
        ended_ns, slept_ns = self._clock()
        return Sample(began_ns, ended_ns, slept_ns, values)

    def mirrors(self) -> Mapping[int, Mirror]:
        return {}

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _value(self, event: EnergyEvent, descriptor: int) -> int | Failure:
        try:
            content = self._read(descriptor, 8)
        except OSError as error:
            return Failure(f"{event.domain.name}: perf event: {error.strerror}")
        if len(content) != 8:  # the event is in error, as after its CPU went offline
            return Failure(f"{event.domain.name}: perf event ended (CPU {event.cpu} offline?)", fatal=True)
        return int(int.from_bytes(content, "little") * event.unit_uj)


def _explain(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            paranoid = read_text(Path("/proc/sys/kernel/perf_event_paranoid"))
        except OSError:
            paranoid = "unknown"
        return (
            f"perf_event_open power/energy-*: permission denied to uid {os.getuid()} (perf_event_paranoid"
            f" is {paranoid}); fix: sudo sysctl kernel.perf_event_paranoid=0, or give the interpreter the"
            ' capability: sudo setcap cap_perfmon=ep "$(readlink -f "$(command -v python3)")"'
        )
    return f"perf_event_open power/energy-*: {error.strerror}; use the powercap tree"
