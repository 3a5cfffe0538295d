"""The machine at hand: its CPU, the cores this process may use, its GPUs. Loads no framework."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

_NVML_CLOCK_SM, _NVML_CLOCK_MEMORY = 1, 2
_BYTES_PER_GB = 2**30  # memory sizes are printed by vendors in binary gigabytes
_MB_PER_GB = 1024
_PER_MB = {"K": 1024, "M": 1}
_TOOL_TIMEOUT_S = 20
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device as its driver describes it. None: the driver does not say.

    `sm_mhz` and `memory_mhz` are the highest clocks, `power_w` is the limit in force.
    """

    name: str
    memory_gb: float | None
    cuda_cores: int | None = None
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    bus_bits: int | None = None
    capability: tuple[int, int] | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What Linux says of the CPU beyond its name. None: not said."""

    flags: frozenset[str] = frozenset()
    mhz: float | None = None
    cache_mb: float | None = None  # of the last level
    battery: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """The machine as this process sees it.

    `cpu_name` is what the OS prints, "" where it prints none. `cpu_cores` are physical cores within
    the process's affinity and its cgroup's limit, at least 1. `hypervisor` is None where the CPU
    does not tell. `gpu_problem` says why devices that may be there could not be listed, and `amd_targets`
    the architectures of those of AMD, whose driver is not read.
    """

    cpu_name: str
    cpu_cores: int
    gpus: tuple[Gpu, ...]
    os: str
    machine: str
    hypervisor: bool | None
    gpu_problem: str | None = None
    amd_targets: tuple[str, ...] = ()


def detect_host(root: Path = Path("/")) -> Host:
    """What this machine is. `root` is where `proc` and `sys` are looked for."""
    system = platform.system()
    name, cores, hypervisor = _mac_cpu() if system == "Darwin" else _cpu(system, root)
    gpus, problem = detect_gpus()
    targets = () if gpus or problem else amd_targets(root)
    if targets:
        problem = f"AMD's driver is not read; name the GPU as the hardware ({', '.join(targets)})"
    return Host(name, cores, gpus, f"{system} {platform.release()}", platform.machine(), hypervisor, problem, targets)


def _cpu(system: str, root: Path) -> tuple[str, int, bool | None]:
    if system != "Linux":
        import psutil

        return platform.processor(), psutil.cpu_count(logical=False) or 1, None
    cpuinfo = parse_cpuinfo((root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    cores = usable_cores(_topology(cpuinfo, root), os.sched_getaffinity(0), cpu_quota(root))
    first = cpuinfo[0] if cpuinfo else {}
    flags = first.get("flags")
    return first.get("model name", ""), cores, None if flags is None else "hypervisor" in flags.split()


def cpu_facts(root: Path = Path("/")) -> CpuFacts:
    """Vector extensions, clock, cache and whether there is a battery; nothing where there is no /proc."""
    try:
        blocks = parse_cpuinfo((root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return CpuFacts()
    first = blocks[0] if blocks else {}
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    khz = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq") or ""
    mhz = float(khz) / 1000 if khz.isdigit() else _float(first.get("cpu MHz"))
    caches = sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    size = re.fullmatch(r"(\d+)([KM])", (_read(caches[-1]) or "") if caches else "")
    cache_mb = float(size[1]) / _PER_MB[size[2]] if size else None
    batteries = list((root / "sys/class/power_supply").glob("BAT*"))
    return CpuFacts(flags, mhz, cache_mb, bool(batteries))


def _float(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def parse_cpuinfo(text: str) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo that describe a processor, each by field."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        if fields.get("processor", "").isdigit():
            blocks.append(fields)
    return blocks


def usable_cores(topology: Mapping[int, object], affinity: Iterable[int], quota: float | None) -> int:
    """Physical cores behind the logical processors in `affinity`, within `quota` processors' time.

    `topology` names the physical core of each logical processor; one that it lacks counts as its own.
    """
    physical = {topology.get(processor, processor) for processor in affinity}
    allowed = len(physical) if quota is None else min(len(physical), int(quota))
    return max(1, allowed)


def _topology(cpuinfo: list[dict[str, str]], root: Path) -> dict[int, tuple[str, str]]:
    """The physical core of each processor: from cpuinfo, else (ARM) from sysfs."""
    cores = {}
    for fields in cpuinfo:
        processor = int(fields["processor"])
        folder = root / f"sys/devices/system/cpu/cpu{processor}/topology"
        package = fields.get("physical id") or _read(folder / "physical_package_id")
        core = fields.get("core id") or _read(folder / "core_id")
        if package is not None and core is not None:
            cores[processor] = (package, core)
    return cores


def cpu_quota(root: Path) -> float | None:
    """Processors' worth of time that this process's cgroups (v2 and v1) allow it; None: no limit."""
    limits = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [
            root / "sys/fs/cgroup" / name for name in (("cpu", "cpu,cpuacct") if controllers else ("", "unified"))
        ]
        parts = Path(path.lstrip("/")).parts
        for mount in mounts:
            for depth in range(len(parts) + 1):  # a parent's limit holds for its children
                limits.append(_group_limit(mount.joinpath(*parts[:depth])))
    return min((limit for limit in limits if limit is not None), default=None)


def _group_limit(folder: Path) -> float | None:
    quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
    if not period:
        quota = _read(folder / "cpu.cfs_quota_us") or ""
        period = _read(folder / "cpu.cfs_period_us") or ""
    if not (quota.isdigit() and period.isdigit() and int(period)):  # "max" and -1 mean no limit
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _mac_cpu() -> tuple[str, int, bool | None]:
    fields = ("machdep.cpu.brand_string", "hw.physicalcpu", "kern.hv_vmm_present")
    name, cores, virtual = (_run(("sysctl", "-n", field)).strip() for field in fields)
    return name, int(cores), virtual == "1"


def amd_targets(root: Path = Path("/")) -> tuple[str, ...]:
    """The architectures of the GPUs that AMD's compute driver lists, as ROCm names them ("gfx942"), each once."""
    found: dict[str, None] = {}
    for path in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")):
        fields = dict(line.split(maxsplit=1) for line in (_read(path) or "").splitlines() if len(line.split()) == 2)
        version = fields.get("gfx_target_version", "0")
        if version.isdigit() and int(version):  # 0: a CPU
            number = int(version)  # 90402: gfx942, 90010: gfx90a
            found[f"gfx{number // 10000}{number // 100 % 100}{number % 100:x}"] = None
    return tuple(found)


def detect_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The NVIDIA devices of this machine and, where they could not be listed, why.

    Through NVML if `pynvml` is there and finds its library, else through `nvidia-smi` if that is.
    """
    try:
        found = _nvml_gpus()
    except Exception as error:  # pynvml's errors are classes of its own, known only once it is imported
        return (), f"NVML failed: {error}"
    if found is not None:
        return found, None
    if shutil.which(_QUERY[0]) is None:
        return (), None
    try:
        return parse_nvidia_smi(_run(_QUERY)), None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return (), f"nvidia-smi failed: {error}"


def _nvml_gpus() -> tuple[Gpu, ...] | None:
    """None where there is no NVML to ask."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_described(pynvml, handle) for handle in handles)
    finally:
        pynvml.nvmlShutdown()


def _described(nvml: ModuleType, handle: object) -> Gpu:
    def ask(function: str, *arguments: object) -> Any:
        """None for what this driver, device or version of the library does not answer."""
        try:
            return getattr(nvml, function)(handle, *arguments)
        except (nvml.NVMLError, AttributeError):
            return None

    milliwatts = ask("nvmlDeviceGetEnforcedPowerLimit")
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    return Gpu(
        _text(nvml.nvmlDeviceGetName(handle)),
        nvml.nvmlDeviceGetMemoryInfo(handle).total / _BYTES_PER_GB,
        cuda_cores=ask("nvmlDeviceGetNumGpuCores"),
        sm_mhz=ask("nvmlDeviceGetMaxClockInfo", _NVML_CLOCK_SM),
        memory_mhz=ask("nvmlDeviceGetMaxClockInfo", _NVML_CLOCK_MEMORY),
        bus_bits=ask("nvmlDeviceGetMemoryBusWidth"),
        capability=None if capability is None else (int(capability[0]), int(capability[1])),
        power_w=None if milliwatts is None else milliwatts / 1000,
    )


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name  # pynvml before 11.5 gave bytes


def parse_nvidia_smi(output: str) -> tuple[Gpu, ...]:
    """Devices from lines of "name, MiB". Raises ValueError for a line of another form."""
    gpus = []
    for line in filter(str.strip, output.splitlines()):
        name, comma, memory = (part.strip() for part in line.rpartition(","))
        if not comma:
            raise ValueError(f"unexpected line {line.strip()!r}")
        gpus.append(Gpu(name, None if memory.startswith("[") else float(memory) / _MB_PER_GB))
    return tuple(gpus)


def _run(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
        raise subprocess.SubprocessError(f"exit status {done.returncode}, {lines[-1]}")
    return done.stdout
