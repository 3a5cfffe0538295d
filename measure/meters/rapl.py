"""RAPL over the powercap tree of sysfs: zones to domains (pure), and the reader around it.

The `name` file identifies a zone; folder numbers only say which zone is the parent of which.
(Documentation/power/powercap/powercap.rst; drivers/powercap/intel_rapl_common.c, intel_rapl_msr.c)
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ...estimator.base.errors import MeterError
from .tally import Domain, Failure, Mirror, Sample

POWERCAP = Path("/sys/class/powercap")

# More than any part on the market draws. A ceiling that is too high only makes windows ambiguous sooner.
CEILING_W = {"package": 1500, "core": 1500, "uncore": 1500, "dram": 600, "psys": 6000}
COUNTED = ("package", "dram")
# Dies may refresh their copy of one counter at different times, a millisecond or two apart.
MIRROR_SKEW_NS = 2_000_000

_ZONE = re.compile(r"(intel-rapl[a-z-]*):(\d+(?::\d+)*)")
_PACKAGE = re.compile(r"package-(\d+)(?:-die-(\d+))?")
_PSYS = re.compile(r"psys(?:-\d+)?")
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR)

Read = Callable[[Path], str]
SystemClock = Callable[[], tuple[int, int]]


def read_text(path: Path) -> str:
    """Opens the file at each read, because an open descriptor of a removed counter would keep its last value."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


def system_clock() -> tuple[int, int]:
    """Nanoseconds on the monotonic clock, and nanoseconds suspended since boot."""
    boot_clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux only
    if boot_clock is None:
        return time.monotonic_ns(), 0
    for _ in range(5):
        before_ns = time.clock_gettime_ns(boot_clock)
        now_ns = time.monotonic_ns()
        if time.clock_gettime_ns(boot_clock) - before_ns < 1_000_000:
            break  # otherwise the thread was delayed in between, which would look like a short sleep
    return now_ns, max(0, before_ns - now_ns)


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone as its files describe it. `failure`: why its counter cannot be read now."""

    control: str  # "intel-rapl" (MSR or TPMI) or "intel-rapl-mmio"
    numbers: tuple[int, ...]  # (0, 2) for the folder intel-rapl:0:2
    path: Path
    name: str
    range_uj: int = 0
    max_power_uw: int = 0  # the highest of its constraints, 0 if there is none
    failure: str = ""

    @property
    def key(self) -> str:
        return ":".join((self.control, *map(str, self.numbers)))

    @property
    def kind(self) -> str:
        if _PACKAGE.fullmatch(self.name):
            return "package"
        if _PSYS.fullmatch(self.name):
            return "psys"
        return self.name if self.name in ("core", "uncore", "dram") else "other"

    @property
    def counts(self) -> bool:
        """True for packages and dram, and for a zone whose name cannot be read, since it may be one of them."""
        return self.kind in COUNTED or not self.name


def find_zones(root: Path, read: Read = read_text) -> list[Zone]:
    """All RAPL zones under `root`, in numeric order, whether or not their counters can be read.

    The kernel lists each zone in the class folder and within its parent; either is enough.
    Raises MeterError when there is no RAPL zone.
    """
    folders: dict[str, Path] = {}
    pending = [root]
    while pending:
        for name, path in _children(pending.pop()):
            if _ZONE.fullmatch(name) and name not in folders:
                folders[name] = path
                pending.append(path)
            elif re.fullmatch(r"intel-rapl[a-z-]*", name):
                pending.append(path)
    if not folders:
        raise MeterError(_why_none(root))
    zones = [_read_zone(name, path, read) for name, path in folders.items()]
    return sorted(zones, key=lambda zone: (zone.control, zone.numbers))


def _why_none(root: Path) -> str:
    """Why there is no zone. Containers mask the folders that the links point to; the driver is then loaded."""
    with suppress(OSError):
        dangling = [name for name in sorted(os.listdir(root)) if _ZONE.fullmatch(name) and not (root / name).exists()]
        if dangling:
            return (
                f"{root / dangling[0]}: is a dangling link, as in a container that masks it; mount the host's sysfs"
                " (docker run -v /sys:/host/sys:ro) and give `sysfs` /host/sys"
            )
    return f"{root}: no intel-rapl zone; load it with: sudo modprobe intel_rapl_msr"


def _children(folder: Path) -> list[tuple[str, Path]]:
    try:
        return [(name, folder / name) for name in sorted(os.listdir(folder)) if (folder / name).is_dir()]
    except OSError:
        return []


def _read_zone(folder: str, path: Path, read: Read) -> Zone:
    matched = _ZONE.fullmatch(folder)
    assert matched is not None
    zone = Zone(matched[1], tuple(int(part) for part in matched[2].split(":")), path, name="")
    file = path / "name"
    try:
        zone = replace(zone, name=read(file))
        zone = replace(zone, max_power_uw=_highest_constraint(path, read))
        file = path / "max_energy_range_uj"
        zone = replace(zone, range_uj=int(read(file)))
        if zone.range_uj <= 0:
            raise ValueError(f"the range is {zone.range_uj} uJ")
        file = path / "energy_uj"
        int(read(file))
    except (OSError, ValueError) as error:
        return replace(zone, failure=_explain(file, error))
    return zone


def _highest_constraint(path: Path, read: Read) -> int:
    highest = 0
    for name in (f"constraint_{number}_max_power_uw" for number in range(4)):
        try:
            highest = max(highest, int(read(path / name)))
        except (OSError, ValueError):
            continue  # many zones have none; the ceiling of the kind then applies alone
    return highest


def _explain(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return (
            f"{path}: permission denied to uid {os.getuid()}; fix until the next boot:"
            f" sudo chmod a+r /sys/class/powercap/intel-rapl*:*/{path.name}; for good, a udev rule:"
            f' SUBSYSTEM=="powercap", KERNEL=="intel-rapl*:*", RUN+="/bin/chmod a+r %S%p/{path.name}"'
        )
    if isinstance(error, OSError):
        return f"{path}: {error.strerror}"
    return f"{path}: {error}"


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """What to read: `zones` and `domains` in the same order; `mirrorable` groups indices of one package's dies.

    `dropped` says which zones are left out and why.
    """

    zones: tuple[Zone, ...]
    domains: tuple[Domain, ...]
    mirrorable: tuple[tuple[int, ...], ...]
    dropped: tuple[str, ...]


def plan(zones: Sequence[Zone], vendor: str = "") -> ZonePlan:
    """From zones to domains: duplicates once, names unique, packages and dram counted. Pure.

    An unreadable package or dram stays in, so that its reading and the total are missing.
    """
    packages = {zone.key: package for zone in zones if (package := _package_of(zone, zones)) is not None}
    kept, dropped = _without_twins(zones, packages)
    names = [_domain_name(zone, packages.get(zone.key)) for zone in kept]
    domains = [
        _domain(zone, name if names.count(name) == 1 else f"{name}@{zone.key}", vendor)
        for zone, name in zip(kept, names, strict=True)
    ]
    groups: dict[tuple[str, str], list[int]] = {}
    for index, zone in enumerate(kept):
        if zone.kind in COUNTED and (package := packages.get(zone.key)) is not None:
            groups.setdefault((zone.kind, _socket(package)), []).append(index)
    mirrorable = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    return ZonePlan(tuple(kept), tuple(domains), mirrorable, tuple(dropped))


def _package_of(zone: Zone, zones: Sequence[Zone]) -> Zone | None:
    """The package that a zone is, or is part of at any depth."""
    by_key = {other.key: other for other in zones}
    current: Zone | None = zone
    while current is not None and current.kind != "package":
        parent = ":".join((current.control, *map(str, current.numbers[:-1])))
        current = by_key.get(parent) if len(current.numbers) > 1 else None
    return current


def _socket(package: Zone) -> str:
    matched = _PACKAGE.fullmatch(package.name)
    assert matched is not None
    return matched[1]


def _domain_name(zone: Zone, package: Zone | None) -> str:
    name = zone.name or zone.key
    return name if package is None or package is zone else f"{package.name}/{name}"


def _without_twins(zones: Sequence[Zone], packages: dict[str, Zone]) -> tuple[list[Zone], list[str]]:
    """MMIO has the same counters as the MSRs: the MSR one is kept, unless only the MMIO one can be read."""

    def identity(zone: Zone) -> tuple[str, str]:
        package = packages.get(zone.key)
        return zone.kind, zone.name if package is None else _socket(package)

    preferred: dict[tuple[str, str], str] = {}
    for zone in sorted(zones, key=lambda zone: (bool(zone.failure), zone.control != "intel-rapl")):
        if zone.kind != "other":
            preferred.setdefault(identity(zone), zone.control)
    kept, dropped = [], []
    for zone in zones:
        chosen = preferred.get(identity(zone), zone.control)
        if zone.control == chosen:
            kept.append(zone)
        else:
            dropped.append(f"{zone.key} ({zone.name}): the same counter as in {chosen}, counted once")
    return kept, dropped


def _domain(zone: Zone, name: str, vendor: str) -> Domain:
    ceiling_w = max(CEILING_W.get(zone.kind, CEILING_W["psys"]), 2 * zone.max_power_uw // 1_000_000)
    # AMD has a counter for each core, and powercap reads only the first core of the package.
    is_one_core = zone.kind == "core" and vendor in ("AuthenticAMD", "HygonGenuine")
    note = "one core's counter, not all cores'" if is_one_core else ""
    return Domain(name, zone.kind, zone.counts, ceiling_w, zone.range_uj or None, note=note)


class RaplSource:
    """Reads the counters of a powercap tree. Raises MeterError if it has no RAPL zone."""

    name = "rapl"

    def __init__(
        self,
        root: Path = POWERCAP,
        *,
        read: Read = read_text,
        clock: SystemClock = system_clock,
        vendor: str = "",
    ) -> None:
        self._read, self._clock = read, clock
        self.plan = plan(find_zones(root, read), vendor)
        self._files = tuple(zone.path / "energy_uj" for zone in self.plan.zones)
        self.domains = self.plan.domains
        self.notes = self.plan.dropped
        counted = [zone for zone in self.plan.zones if zone.counts]
        self.failures = tuple(zone.failure for zone in counted if zone.failure)
        if not counted:
            self.failures = (f"{root}: no package zone, only {', '.join(zone.name for zone in self.plan.zones)}",)
        self._alike: dict[tuple[int, int], bool] = {}
        self._apart: set[tuple[int, int]] = set()

    def sample(self) -> Sample:
        began_ns, _ = self._clock()
        values = [self._value(index) for index in range(len(self._files))]
        for group in self.plan.mirrorable:
            self._compare(group, values)
        ended_ns, slept_ns = self._clock()
        return Sample(began_ns, ended_ns, slept_ns, tuple(values))

    def mirrors(self) -> dict[int, Mirror]:
        """Domains that repeat another, from all samples since the source was made.

        Some multi-die parts (the first Threadrippers and EPYCs) show the counter of the whole socket on every die;
        others have a counter for each die. The values tell: a repeated counter is between two reads of its original in
        every sample, which independent counters are not. Counters that are never equal and never further apart than
        one refresh stay uncertain.
        """
        found: dict[int, Mirror] = {}
        for (original, repeater), certain in sorted(self._alike.items()):
            if (original, repeater) not in self._apart and original not in found:
                found.setdefault(repeater, Mirror(original, certain))
        return found

    def close(self) -> None:
        """Nothing is kept open."""

    def _value(self, index: int) -> int | Failure:
        zone, path = self.plan.zones[index], self._files[index]
        if zone.range_uj <= 0:
            return Failure(zone.failure)
        try:
            return int(self._read(path))
        except OSError as error:
            gone = error.errno in _GONE
            return Failure(f"{path} vanished" if gone else _explain(path, error), fatal=gone)
        except ValueError as error:
            return Failure(_explain(path, error))

    def _compare(self, group: tuple[int, ...], values: Sequence[int | Failure]) -> None:
        again = {index: self._value(index) for index in group[:-1]}
        for position, repeater in enumerate(group):
            for original in group[:position]:
                low, value, high = values[original], values[repeater], again[original]
                if isinstance(low, Failure) or isinstance(value, Failure) or isinstance(high, Failure):
                    continue
                self._compare_pair((original, repeater), low, value, high)

    def _compare_pair(self, pair: tuple[int, int], low: int, value: int, high: int) -> None:
        range_uj = self.plan.zones[pair[0]].range_uj
        if (value - low) % range_uj <= (high - low) % range_uj:
            self._alike.setdefault(pair, True)
            return
        self._alike[pair] = False
        distance_uj = min((value - low) % range_uj, (low - value) % range_uj)
        if distance_uj > self.domains[pair[0]].ceiling_w * MIRROR_SKEW_NS // 1000:
            self._apart.add(pair)
