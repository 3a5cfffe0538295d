"""Fakes for tests without hardware: a clock, a powercap tree in real files, NVML and perf events.

    tree = FakePowercap(tmp_path, [FakeZone("package-0", children=(FakeZone("dram"),))])
    meter = SampledMeter(RaplSource(tree.root, clock=tree.clock), interval_s=None)
    with meter.window() as window:
        tree.advance(10.0, {"package-0": 46.7, "package-0/dram": 3.1})
    assert window.reading.energy_j == pytest.approx(498.0)

A recorded trace is played by `joulecast.measure.meters.replay.ReplaySource`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

_COUNTS = 1 << 32

Law = Callable[[], Mapping[str, float]]


@dataclass
class ManualClock:
    """A clock that is moved by hand; call it for (monotonic, suspended) nanoseconds."""

    now_ns: int = 1_000_000_000_000
    slept_ns: int = 0

    def __call__(self) -> tuple[int, int]:
        return self.now_ns, self.slept_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def suspend(self, seconds: float) -> None:
        self.slept_ns += round(seconds * 1e9)


@dataclass(frozen=True)
class FakeZone:
    """One zone. Its counter is the kernel's (32 bits of `unit_nj`), or with `range_uj` one of plain
    microjoules that wraps at that range. `shows` names the zone whose counter it repeats.
    """

    name: str
    children: tuple[FakeZone, ...] = ()
    start_uj: int = 1_000_000_000
    unit_nj: int = 61_035
    range_uj: int | None = None
    max_power_uw: int | None = None
    control: str = "intel-rapl"
    shows: str = ""

    @property
    def max_energy_range_uj(self) -> int:
        return (_COUNTS - 1) * self.unit_nj // 1000 if self.range_uj is None else self.range_uj


@dataclass
class _Counter:
    zone: FakeZone
    folder: Path
    drawn_nj: int = 0
    base_uj: int = field(init=False)
    showing: int = -1

    def __post_init__(self) -> None:
        self.base_uj = self.zone.start_uj

    def shown_uj(self) -> int:
        if self.zone.range_uj is not None:
            return (self.base_uj + self.drawn_nj // 1000) % self.zone.range_uj
        unit_nj = self.zone.unit_nj
        return (self.base_uj * 1000 // unit_nj + self.drawn_nj // unit_nj) % _COUNTS * unit_nj // 1000

    def truth_uj(self) -> Fraction:
        step_nj = 1000 if self.zone.range_uj is not None else self.zone.unit_nj
        return Fraction(self.drawn_nj // step_nj * step_nj, 1000)


class FakePowercap:
    """A powercap tree under `root`, laid out as the kernel does: nested folders and flat links.

    Zones are named by their path, "package-0/dram"; those of another control type start with it,
    "intel-rapl-mmio/package-0". Folder numbers follow the order of `zones`.
    """

    def __init__(self, root: Path, zones: Sequence[FakeZone], clock: ManualClock | None = None) -> None:
        self.root = root
        self.clock = clock or ManualClock()
        self._counters: dict[str, _Counter] = {}
        self._broken: set[str] = set()
        self._driven = False
        self._lock = threading.Lock()
        numbers: dict[str, int] = {}
        for zone in zones:
            number = numbers.setdefault(zone.control, 0)
            numbers[zone.control] += 1
            above = "" if zone.control == "intel-rapl" else f"{zone.control}/"
            self._make(zone, root / zone.control, f"{zone.control}:{number}", above)
        for name in self._counters:
            self._show(name)

    def _make(self, zone: FakeZone, parent: Path, folder_name: str, above: str) -> None:
        folder = parent / folder_name
        folder.mkdir(parents=True)
        (self.root / folder_name).symlink_to(folder)
        (folder / "name").write_text(f"{zone.name}\n")
        (folder / "max_energy_range_uj").write_text(f"{zone.max_energy_range_uj}\n")
        if zone.max_power_uw is not None:
            (folder / "constraint_0_max_power_uw").write_text(f"{zone.max_power_uw}\n")
        name = f"{above}{zone.name}"
        if name in self._counters:
            name = f"{name}@{folder_name}"
        self._counters[name] = _Counter(zone, folder)
        for number, child in enumerate(zone.children):
            self._make(child, folder, f"{folder_name}:{number}", f"{name}/")

    @property
    def zones(self) -> tuple[str, ...]:
        return tuple(self._counters)

    def path(self, zone: str) -> Path:
        """The file `energy_uj` of a zone."""
        return self._counters[zone].folder / "energy_uj"

    def drawn_uj(self, zone: str) -> Fraction:
        """The truth: the energy that the zone's counter has counted since the tree was made."""
        return self._counters[self._counters[zone].zone.shows or zone].truth_uj()

    def advance(self, seconds: float, watts: Mapping[str, float]) -> None:
        """Moves the tree's clock while zones draw `watts`; zones that are not named draw nothing."""
        self.clock.advance(seconds)
        with self._lock:
            for zone, power_w in watts.items():
                self._counters[zone].drawn_nj += round(power_w * seconds * 1e9)
            for name in self._counters:
                self._show(name)

    def set_counter(self, zone: str, value_uj: int) -> None:
        """Puts another value into the counter, as firmware does after a suspend."""
        with self._lock:
            counter = self._counters[zone]
            counter.base_uj, counter.drawn_nj = value_uj, 0
            self._show(zone)

    def fail(self, zone: str) -> None:
        """From now on every read fails with EIO, because the first page of a process is not mapped."""
        self._break(zone, lambda path: path.symlink_to("/proc/self/mem"))

    def deny(self, zone: str) -> None:
        """From now on only root can read."""
        self._break(zone, lambda path: path.touch(mode=0))

    def remove(self, zone: str) -> None:
        """The counter vanishes, as with its driver."""
        self._break(zone, lambda path: None)

    def restore(self, zone: str) -> None:
        """Undoes `fail`, `deny` and `remove`."""
        with self._lock:
            self._broken.discard(zone)
            self._show(zone)

    @contextmanager
    def drive(self, law: Law, *, per_second: int = 100) -> Iterator[None]:
        """Counts in real time, from a thread, with the watts per zone that `law()` returns."""
        ended = threading.Event()

        def run() -> None:
            before = time.monotonic()
            while not ended.wait(1 / per_second):
                now = time.monotonic()
                self.advance(now - before, law())
                before = now

        self._driven = True
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _break(self, zone: str, put: Callable[[Path], object]) -> None:
        with self._lock:
            self._broken.add(zone)
            self._counters[zone].showing = -1
            self._swap(self.path(zone), put)

    def _show(self, name: str) -> None:
        counter = self._counters[name]
        value = self._counters[counter.zone.shows or name].shown_uj()
        if name in self._broken or counter.showing == value:
            return
        restored, counter.showing = counter.showing == -1, value
        path = counter.folder / "energy_uj"
        if self._driven or restored:
            self._swap(path, lambda file: file.write_text(f"{value}\n"))
        else:  # there is no reader, and a swap is slower
            path.write_text(f"{value}\n")

    @staticmethod
    def _swap(path: Path, put: Callable[[Path], object]) -> None:
        """Replaces the file at once: to a reader, a moment without it would be a counter that vanished."""
        temporary = path.with_name(".energy_uj")
        put(temporary)
        if os.path.lexists(temporary):
            os.replace(temporary, path)
        else:
            path.unlink(missing_ok=True)


@dataclass
class FakeGpu:
    """One GPU that draws `watts` on the clock of its FakeNvml."""

    name: str = "NVIDIA H200"
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    watts: float = 100.0
    has_counter: bool = True
    has_power: bool = True
    mig: bool | None = None  # None: cannot do MIG
    energy_mj: float = 5_000_000.0


class FakeNvml:
    """Replaces the module pynvml, with the functions that NvmlSource calls."""

    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18

    class NVMLError(Exception):
        def __init__(self, message: str, value: int) -> None:
            super().__init__(message)
            self.value = value

    def __init__(self, gpus: Sequence[FakeGpu], *, driver: bool = True, matching: bool = True) -> None:
        """`driver`: whether one is loaded; `matching`: whether it is of the library's version."""
        self.gpus = list(gpus)
        self.driver, self.matching = driver, matching
        self.open_count = 0

    def advance(self, seconds: float) -> None:
        for gpu in self.gpus:
            gpu.energy_mj += gpu.watts * seconds * 1000

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own name, as below
        self._need(self.driver, "Driver Not Loaded", self.NVML_ERROR_DRIVER_NOT_LOADED)
        self._need(self.matching, "Driver/library version mismatch", self.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        self.open_count += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open_count -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:  # noqa: N802
        self._need(gpu.mig is not None, "Not Supported")
        return [int(bool(gpu.mig)), int(bool(gpu.mig))]

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:  # noqa: N802
        self._need(gpu.has_counter, "Not Supported")
        return int(gpu.energy_mj)

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:  # noqa: N802
        self._need(gpu.has_power, "Not Supported")
        return round(gpu.watts * 1000)

    def _need(self, condition: bool, message: str, value: int = NVML_ERROR_NOT_SUPPORTED) -> None:
        if not condition:
            raise self.NVMLError(message, value)


class FakePerf:
    """A `power` PMU under `sysfs`; PerfSource uses its `open` and `read` instead of the kernel."""

    SCALE = "2.3283064365386962890625e-10"  # 2^-32 J, as the kernel writes it

    def __init__(self, sysfs: Path, events: Mapping[str, int], packages: Mapping[int, int]) -> None:
        self.counts: dict[tuple[int, int], int] = {}
        self.refuse: OSError | None = None
        self._opened: dict[int, tuple[int, int]] = {}
        device = sysfs / "bus/event_source/devices/power"
        (device / "events").mkdir(parents=True)
        (device / "type").write_text("22\n")
        (device / "cpumask").write_text(",".join(map(str, packages)) + "\n")
        for name, config in events.items():
            (device / "events" / name).write_text(f"event={config:#04x}\n")
            (device / "events" / f"{name}.scale").write_text(f"{self.SCALE}\n")
            (device / "events" / f"{name}.unit").write_text("Joules\n")
        for cpu, package in packages.items():
            topology = sysfs / f"devices/system/cpu/cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text(f"{package}\n")

    def draw(self, config: int, cpu: int, joules: float) -> None:
        self.counts[config, cpu] = self.counts.get((config, cpu), 0) + int(joules * (1 << 32))

    def open(self, event_type: int, config: int, cpu: int) -> int:
        if self.refuse is not None:
            raise self.refuse
        descriptor = os.open(os.devnull, os.O_RDONLY)
        self._opened[descriptor] = (config, cpu)
        return descriptor

    def read(self, descriptor: int, size: int) -> bytes:
        return self.counts.get(self._opened[descriptor], 0).to_bytes(size, "little")
