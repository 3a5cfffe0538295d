"""This machine, read from files and processes that print what real ones print."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from joulecast.estimator.cost import host as host_module
from joulecast.estimator.cost.host import (
    CpuFacts,
    Gpu,
    amd_targets,
    cpu_facts,
    cpu_quota,
    detect_gpus,
    detect_host,
    parse_cpuinfo,
    parse_nvidia_smi,
    usable_cores,
)
from joulecast.estimator.cost.names import look_up

linux = pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")


def cpuinfo(name: str, cores: int, threads: int, flags: str = "fpu avx2") -> str:
    """As Linux on x86 prints it: the first thread of each core, then the second thread of each, and so on."""
    blocks = [
        f"processor\t: {thread * cores + core}\nvendor_id\t: GenuineIntel\nmodel name\t: {name}\n"
        f"physical id\t: 0\nsiblings\t: {cores * threads}\ncore id\t\t: {core}\ncpu cores\t: {cores}\n"
        f"flags\t\t: {flags}\n"
        for thread in range(threads)
        for core in range(cores)
    ]
    return "\n".join(blocks) + "\n"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


I7 = "Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz"


KFD = "sys/class/kfd/kfd/topology/nodes"


def test_amd_gpus_are_named_by_their_architecture(tmp_path: Path) -> None:
    write(tmp_path, f"{KFD}/0/properties", "cpu_cores_count 64\nsimd_count 0\ngfx_target_version 0\n")
    for node, version in enumerate((90402, 90402, 90010, 110501), start=1):
        write(tmp_path, f"{KFD}/{node}/properties", f"simd_count 1216\ngfx_target_version {version}\nodd line here\n")
    assert amd_targets(tmp_path) == ("gfx942", "gfx90a", "gfx1151")
    assert amd_targets(tmp_path / "none") == ()
    for target in amd_targets(tmp_path):
        assert look_up(target).part.vendor == "AMD"


@linux
def test_an_amd_gpu_is_not_passed_over_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "detect_gpus", lambda: ((), None))
    write(tmp_path, "proc/cpuinfo", cpuinfo(I7, cores=4, threads=1))
    assert detect_host(tmp_path).gpu_problem is None
    write(tmp_path, f"{KFD}/1/properties", "gfx_target_version 90402\n")
    assert detect_host(tmp_path).gpu_problem == "AMD's driver is not read; name the GPU as the hardware (gfx942)"


@linux
def test_bare_metal_desktop(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo(I7, cores=512, threads=2))
    host = detect_host(tmp_path)
    assert host.cpu_name == I7
    assert host.hypervisor is False
    assert host.cpu_cores == len(os.sched_getaffinity(0))  # each allowed processor a core of its own
    assert host.machine == platform.machine()


@linux
def test_virtual_machine_and_cgroup_limit(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo("AMD EPYC", 512, 1, flags="fpu hypervisor avx2"))
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "100000 100000\n")
    host = detect_host(tmp_path)
    assert (host.cpu_name, host.hypervisor, host.cpu_cores) == ("AMD EPYC", True, 1)


@linux
def test_arm_prints_no_model_name(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n\n")
    host = detect_host(tmp_path)
    assert (host.cpu_name, host.hypervisor) == ("", None)
    assert host.cpu_cores >= 1


@linux
def test_this_machine_in_a_process_of_its_own() -> None:
    """A process with an affinity of one processor has one core; no framework is loaded."""
    program = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from joulecast.estimator.cost.host import detect_host; host = detect_host();"
        "print(host.cpu_cores, 'torch' in sys.modules, 'psutil' in sys.modules); print(host.cpu_name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "1 False False"
    real = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    assert done.stdout.splitlines()[1] == real[0].get("model name", "")


def test_threads_of_one_core_count_once() -> None:
    topology = {0: ("0", "0"), 1: ("0", "1"), 2: ("0", "0"), 3: ("0", "1"), 4: ("1", "0")}
    assert usable_cores(topology, {0, 1, 2, 3}, None) == 2
    assert usable_cores(topology, {0, 2}, None) == 1
    assert usable_cores(topology, {0, 4}, None) == 2  # same core number, two packages
    assert usable_cores({}, {0, 1, 2}, None) == 3
    assert usable_cores(topology, {0, 1, 4}, 2.0) == 2
    assert usable_cores(topology, {0, 1, 4}, 0.5) == 1


def test_quota_of_a_parent_holds_for_its_children(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/user.slice/run.scope\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/cpu.max", "400000 100000\n")
    write(tmp_path, "sys/fs/cgroup/user.slice/run.scope/cpu.max", "max 100000\n")
    assert cpu_quota(tmp_path) == 4.0
    write(tmp_path, "sys/fs/cgroup/user.slice/run.scope/cpu.max", "150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5


def test_quota_of_cgroup_v1(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:cpuset:/\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us", "300000\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us", "100000\n")
    assert cpu_quota(tmp_path) == 3.0
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us", "-1\n")
    assert cpu_quota(tmp_path) is None


def test_no_cgroup_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_nvidia_smi_lines() -> None:
    printed = "Quadro RTX 6000, 24576\nNVIDIA H200, 143771\nNVIDIA GB10, [N/A]\n"
    assert parse_nvidia_smi(printed) == (
        Gpu("Quadro RTX 6000", 24.0),
        Gpu("NVIDIA H200", 143771 / 1024),
        Gpu("NVIDIA GB10", None),
    )
    assert parse_nvidia_smi("") == ()
    with pytest.raises(ValueError, match="unexpected line"):
        parse_nvidia_smi("No devices were found")


def install_nvidia_smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program of that name first on PATH, without NVML."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)


@linux
def test_gpus_through_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = 'test "$*" = "--query-gpu=name,memory.total --format=csv,noheader,nounits" || exit 9\n'
    install_nvidia_smi(tmp_path, body + 'echo "NVIDIA A40, 46068"; echo "NVIDIA A40, 46068"', monkeypatch)
    gpus, problem = detect_gpus()
    assert problem is None
    assert gpus == (Gpu("NVIDIA A40", 46068 / 1024),) * 2


@linux
def test_a_failing_nvidia_smi_is_told_and_not_taken_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = 'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18'
    install_nvidia_smi(tmp_path, body, monkeypatch)
    gpus, problem = detect_gpus()
    assert gpus == ()
    assert problem == ("nvidia-smi failed: exit status 18, Failed to initialize NVML: Driver/library version mismatch")


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA driver is loaded")
def test_a_real_gpu_is_listed() -> None:
    gpus, problem = detect_gpus()
    assert problem is None
    assert gpus
    assert all(gpu.memory_gb is not None and gpu.memory_gb > 1 for gpu in gpus)


@linux
def test_what_the_cpu_says_beyond_its_name(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo(I7, 4, 2, flags="fpu avx2 fma") + "\nprocessor\t: 8\ncpu MHz\t: 800.0\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3900000\n")
    for index, size in enumerate(("32K", "32K", "256K", "8192K")):
        write(tmp_path, f"sys/devices/system/cpu/cpu0/cache/index{index}/size", f"{size}\n")
    facts = cpu_facts(tmp_path)
    assert (facts.mhz, facts.cache_mb, facts.battery) == (3900.0, 8.0, False)
    assert {"avx2", "fma"} <= facts.flags
    write(tmp_path, "sys/class/power_supply/BAT0/type", "Battery\n")
    assert cpu_facts(tmp_path).battery


def test_a_machine_without_proc_says_nothing(tmp_path: Path) -> None:
    assert cpu_facts(tmp_path) == CpuFacts()


class FakeNvmlError(Exception):
    """Like pynvml's NVMLError, the base class of its errors."""


def fake_nvml(**answers: object) -> ModuleType:
    """One device; a function that is not in `answers` raises, as with a driver that lacks it."""
    module = ModuleType("pynvml")

    def refuse(*_: object) -> object:
        raise FakeNvmlError("Not Supported")

    fields = ("Name", "MemoryInfo", "NumGpuCores", "MaxClockInfo", "MemoryBusWidth", "CudaComputeCapability")
    for field in (*fields, "EnforcedPowerLimit"):
        value = answers.get(field)
        setattr(module, f"nvmlDeviceGet{field}", refuse if value is None else value)
    module.NVMLError = FakeNvmlError  # type: ignore[attr-defined]
    module.NVMLError_LibraryNotFound = type("NotFound", (FakeNvmlError,), {})  # type: ignore[attr-defined]
    module.nvmlInit = module.nvmlShutdown = lambda: None  # type: ignore[attr-defined]
    module.nvmlDeviceGetCount = lambda: 1  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    return module


def test_nvml_describes_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=48 * 2**30)
    clocks = {1: 1740, 2: 7251}
    nvml = fake_nvml(
        Name=lambda _: b"NVIDIA Q9000",
        MemoryInfo=lambda _: memory,
        NumGpuCores=lambda _: 10752,
        MaxClockInfo=lambda _, clock: clocks[clock],
        MemoryBusWidth=lambda _: 384,
        CudaComputeCapability=lambda _: (8, 6),
        EnforcedPowerLimit=lambda _: 300_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert detect_gpus() == ((Gpu("NVIDIA Q9000", 48.0, 10752, 1740, 7251, 384, (8, 6), 300.0),), None)


def test_what_nvml_does_not_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml(Name=lambda _: "Tesla K20", MemoryInfo=lambda _: SimpleNamespace(total=5 * 2**30))
    del nvml.nvmlDeviceGetNumGpuCores  # an old pynvml lacks the function itself
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert detect_gpus() == ((Gpu("Tesla K20", 5.0),), None)


def on(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on `system`, without GPUs."""
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "release", lambda: "9")
    monkeypatch.setattr(host_module, "detect_gpus", lambda: ((), None))


@pytest.mark.parametrize(("virtual", "hypervisor"), [("0", False), ("1", True), ("2", False)])
def test_a_mac(virtual: str, hypervisor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"machdep.cpu.brand_string": "Apple M2", "hw.physicalcpu": "8", "kern.hv_vmm_present": virtual}
    on("Darwin", monkeypatch)
    monkeypatch.setattr(host_module, "_run", lambda command: f"{answers[command[2]]}\n")
    host = detect_host()
    assert (host.cpu_name, host.cpu_cores, host.hypervisor, host.os) == ("Apple M2", 8, hypervisor, "Darwin 9")


@pytest.mark.parametrize("system", ["Windows", "AIX"])
@pytest.mark.parametrize(("physical", "cores"), [(6, 6), (None, 1)])
def test_other_systems(system: str, physical: int | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    on(system, monkeypatch)
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 12 if logical else physical)
    host = detect_host()
    assert (host.cpu_name, host.cpu_cores, host.hypervisor) == ("Intel64 Family 6", cores, None)


def two_processors(root: Path, monkeypatch: pytest.MonkeyPatch, *fields: str) -> None:
    """Two allowed processors, each with the lines of `fields`."""
    monkeypatch.setattr(os, "sched_getaffinity", {0: {0, 1}}.__getitem__, raising=False)
    on("Linux", monkeypatch)
    text = "\n".join(f"processor\t: {index}\n{lines}" for index, lines in enumerate(fields))
    write(root, "proc/cpuinfo", text)


def test_two_threads_of_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_processors(tmp_path, monkeypatch, "physical id\t: 0\ncore id\t: 3\n", "physical id\t: 0\ncore id\t: 3\n")
    assert detect_host(tmp_path).cpu_cores == 1
    two_processors(tmp_path, monkeypatch, "physical id\t: 0\ncore id\t: 3\n", "physical id\t: 1\ncore id\t: 3\n")
    assert detect_host(tmp_path).cpu_cores == 2


def test_cores_that_only_sysfs_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_processors(tmp_path, monkeypatch, "BogoMIPS\t: 50.00\n", "BogoMIPS\t: 50.00\n")
    assert detect_host(tmp_path).cpu_cores == 2
    for processor in (0, 1):
        write(tmp_path, f"sys/devices/system/cpu/cpu{processor}/topology/core_id", "7\n")
    assert detect_host(tmp_path).cpu_cores == 2  # without a package, a core is not known
    for processor in (0, 1):
        write(tmp_path, f"sys/devices/system/cpu/cpu{processor}/topology/physical_package_id", "0\n")
    assert detect_host(tmp_path).cpu_cores == 1


def test_the_first_processor_names_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = "model name\t: Big\nflags\t: fpu avx\ncpu MHz\t: 2100.5\n"
    two_processors(tmp_path, monkeypatch, first, "model name\t: Small\nflags\t: fpu hypervisor\ncpu MHz\t: 900\n")
    host = detect_host(tmp_path)
    assert (host.cpu_name, host.hypervisor) == ("Big", False)
    facts = cpu_facts(tmp_path)
    assert (facts.flags, facts.mhz, facts.cache_mb) == ({"fpu", "avx"}, 2100.5, None)


@pytest.mark.parametrize(
    ("lines", "flags", "mhz"),
    [
        ("Features\t: fp asimd\n", {"fp", "asimd"}, None),
        ("flags\t: avx\nFeatures\t: asimd\n", {"avx"}, None),
        ("cpu MHz\t: unknown\n", set(), None),
        ("cpu MHz\t: 800\n", set(), 800.0),
        ("", set(), None),
    ],
)
def test_flags_and_clock(lines: str, flags: set[str], mhz: float | None, tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", f"processor\t: 0\n{lines}")
    facts = cpu_facts(tmp_path)
    assert (facts.flags, facts.mhz, facts.battery) == (flags, mhz, False)
    assert CpuFacts().battery is False


@pytest.mark.parametrize(
    ("size", "megabytes"),
    [
        ("512K", 0.5),
        ("32M", 32.0),
        ("1K", 1 / 1024),
        ("32G", None),
        ("K", None),
        ("1xM", None),
        ("x1M", None),
        ("", None),
    ],
)
def test_the_last_cache(size: str, megabytes: float | None, tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index0/size", "48K\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index3/size", f"{size}\n")
    assert cpu_facts(tmp_path).cache_mb == megabytes


def test_nvml_without_its_library_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()

    def missing() -> None:
        raise nvml.NVMLError_LibraryNotFound

    nvml.nvmlInit = missing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(host_module.shutil, "which", lambda _: None)
    assert detect_gpus() == ((), None)


def test_a_failing_nvml_is_reported_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, closed = fake_nvml(), []

    def lost() -> int:
        raise FakeNvmlError("GPU is lost")

    nvml.nvmlDeviceGetCount = lost  # type: ignore[attr-defined]
    nvml.nvmlShutdown = lambda: closed.append(True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert detect_gpus() == ((), "NVML failed: GPU is lost")
    assert closed == [True]
