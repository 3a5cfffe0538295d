"""Rows for parts that no table holds: a GPU from what its driver says, a CPU from a probe, a class's watts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..base.digits import short
from ..base.errors import HardwareError
from .hardware import Hardware
from .host import CpuFacts, Gpu, Host
from .probe import CpuProbe

# Large products reach about 90 % of a CPU's peak, copies about 80 % of its memory's.
_PRODUCT_SHARE, _COPY_SHARE = 0.90, 0.80


@dataclass(frozen=True, slots=True)
class PowerClass:
    """Watts of a CPU's busy cores by what it is built for, and the factor they may be off either way."""

    name: str
    core_w: float
    least_w: float
    most_w: float
    spread: float

    def watts(self, cores: int) -> float:
        return min(max(self.core_w * cores, self.least_w), self.most_w)


# TDP over cores of the CPUs in `hardware.csv` since 2017, 90 % of them: server 2.7 to 11 W, desktop 5.4 to 16, laptop
# 2.8 to 11; medians 6.9, 10.8 and 5.6.
# A server's cores may be a small share of one (a virtual machine): no least.
SERVER = PowerClass("server", core_w=6.0, least_w=0.0, most_w=1000.0, spread=2.0)
DESKTOP = PowerClass("desktop", core_w=11.0, least_w=35.0, most_w=250.0, spread=2.0)
LAPTOP = PowerClass("laptop", core_w=5.0, least_w=12.0, most_w=65.0, spread=2.0)

_SERVER_NAME = re.compile(r"epyc|xeon|opteron|graviton|altra|ampere|neoverse|grace|kunpeng|yitian|axion", re.I)
_LAPTOP_NAME = re.compile(r"\d(?:u|h|hs|hx|hk|hq|p|g\d|y|m)\b|ryzen ai|snapdragon|apple m", re.I)


def power_class(cpu_name: str, cores: int, *, hypervisor: bool | None, battery: bool) -> PowerClass:
    """The class from the name, otherwise from a battery, a hypervisor or many cores."""
    if battery or _LAPTOP_NAME.search(cpu_name):
        return LAPTOP
    if _SERVER_NAME.search(cpu_name) or hypervisor or cores > 32:
        return SERVER
    return DESKTOP


def flop_per_cycle(flags: frozenset[str]) -> int:
    """Float32 operations of one core in a cycle, by its vector extensions."""
    if "avx512f" in flags:
        return 64
    if {"avx2", "fma"} <= flags:
        return 32
    if "avx" in flags or "asimd" in flags or "sve" in flags:
        return 16
    return 8


def cpu_row(host: Host, facts: CpuFacts, probe: CpuProbe) -> Hardware:
    """The host's CPU with probed rates and its class's watts."""
    kind = power_class(host.cpu_name, host.cpu_cores, hypervisor=host.hypervisor, battery=facts.battery)
    name = host.cpu_name or f"{host.machine or 'unnamed'} CPU"
    clock = f", {facts.mhz:.0f} MHz" if facts.mhz else ""
    return Hardware(
        key=re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-") or "cpu",
        name=name,
        vendor="unknown",
        kind="cpu",
        year=0,
        fp32_tflops=probe.fp32_tflops / _PRODUCT_SHARE,
        tf32_tflops=None,
        fp16_tflops=None,
        bf16_tflops=None,
        memory_gb=None,
        bandwidth_gb_per_s=probe.bandwidth_gb_per_s / _COPY_SHARE,
        power_w=kind.watts(host.cpu_cores),
        idle_w=None,
        cores=host.cpu_cores,
        aliases=(),
        source=f"probe of this machine ({probe.threads} threads{clock}, {flop_per_cycle(facts.flags)} FLOP a cycle)",
        boost_mhz=facts.mhz,
        l2_mb=facts.cache_mb,
        verified=False,
        power_spread=kind.spread,
        time_label="probed",
        power_label="assumed",
        notes=(
            f"{name} is not in the hardware tables: a probe reached {short(1000 * probe.fp32_tflops)} GFLOPS and "
            f"{short(probe.bandwidth_gb_per_s)} GB/s",
            f"{kind.watts(host.cpu_cores):g} W are assumed for {host.cpu_cores} cores of a {kind.name} CPU "
            "(give watts=N as the hardware for yours)",
        ),
    )


# Per CUDA core and cycle, times FP32's two operations: dense tensor rates with FP32 accumulation over FP32's.
_HALF_RATIO: dict[tuple[int, ...], int] = {
    (7, 0): 8,
    (7, 2): 8,
    (7, 5): 8,
    (8, 0): 16,
    (8, 6): 4,
    (8, 7): 4,
    (8, 9): 4,
    (9, 0): 15,
    (10, 0): 30,
}
_GEFORCE_RATIO: dict[tuple[int, ...], int] = {(7, 5): 4, (8, 6): 2, (8, 9): 2, (12, 0): 2}
_CORES_OF_AN_SM: dict[tuple[int, ...], int] = {(6, 0): 64, (7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
# GeForce drivers print a highest clock of about 1.2 times the boost clock.
_GEFORCE_CLOCK = 0.82


def gpu_row(gpu: Gpu) -> Hardware:
    """A GPU as its NVIDIA driver describes it. Raises HardwareError where the driver does not say enough."""
    cores, sm_mhz, memory_mhz, bus_bits = gpu.cuda_cores, gpu.sm_mhz, gpu.memory_mhz, gpu.bus_bits
    if not (cores and sm_mhz and memory_mhz and bus_bits):
        needed = {"CUDA cores": cores, "clock": sm_mhz, "memory clock": memory_mhz, "bus": bus_bits}
        missing = (name for name, value in needed.items() if not value)
        raise HardwareError(f"the driver of {gpu.name!r} does not say its {', '.join(missing)}")
    capability = gpu.capability or ()
    geforce = re.search(r"geforce|titan", gpu.name, re.I) is not None
    mhz = sm_mhz * (_GEFORCE_CLOCK if geforce else 1.0)
    fp32 = cores * 2 * mhz / 1e6
    newest = capability >= (10, 0)
    ratio = (_GEFORCE_RATIO if geforce else _HALF_RATIO).get(capability, 4 if newest else None)
    if "gtx 16" in gpu.name.casefold():
        ratio = None  # Turing without tensor cores
    half = None if ratio is None else ratio * fp32
    ampere = half is not None and capability >= (8, 0)
    power_w = gpu.power_w or assumed_gpu_w(fp32)
    stated = "the driver's power limit" if gpu.power_w else "the watts that such rates usually take"
    return Hardware(
        key=re.sub(r"[^a-z0-9]+", "-", gpu.name.casefold()).strip("-") or "gpu",
        name=gpu.name,
        vendor="NVIDIA",
        kind="gpu",
        year=0,
        fp32_tflops=fp32,
        tf32_tflops=half / 2 if ampere and half else None,
        fp16_tflops=half,
        bf16_tflops=half if ampere else None,
        memory_gb=gpu.memory_gb,
        bandwidth_gb_per_s=bus_bits / 8 * memory_mhz * 2 / 1000,  # two transfers a cycle
        power_w=power_w,
        idle_w=None,
        cores=cores,
        aliases=(),
        source=f"driver of {gpu.name}: cores, clocks and memory bus",
        sms=cores // _CORES_OF_AN_SM.get(capability, 128),
        boost_mhz=mhz,
        verified=False,
        power_spread=1.3 if gpu.power_w else 2.0,
        time_label="probed",
        power_label="probed" if gpu.power_w else "assumed",
        notes=(
            f"{gpu.name} is not in the hardware table: {short(fp32)} TFLOPS and the bandwidth are computed from its "
            f"driver's cores, clocks and memory bus",
            f"{power_w:g} W is {stated}",
        ),
    )


def assumed_gpu_w(fp32_tflops: float) -> float:
    """Boards of `hardware.csv` since 2018 take 3.6 to 24 W a TFLOPS of FP32, 9.7 in the median."""
    return min(max(10 * fp32_tflops, 30.0), 700.0)


def of_cores(part: Hardware, cores: int) -> Hardware:
    """`cores` cores of a CPU: their share of its rates and watts, more than one socket's included."""
    if part.kind != "cpu" or cores == part.cores:
        return part
    share, more = cores / part.cores, cores > part.cores
    return replace(
        part,
        fp32_tflops=part.fp32_tflops * share,
        fp64_tflops=part.fp64_tflops and part.fp64_tflops * share,
        fp16_tflops=part.fp16_tflops and part.fp16_tflops * share,
        bf16_tflops=part.bf16_tflops and part.bf16_tflops * share,
        # A few cores draw more than their share of the memory's bandwidth: about 12 GB/s each.
        bandwidth_gb_per_s=part.bandwidth_gb_per_s * share
        if more
        else min(part.bandwidth_gb_per_s, max(part.bandwidth_gb_per_s * share, 12.0 * cores)),
        power_w=part.power_w * share,
        idle_w=part.idle_w and part.idle_w * share,
        cores=cores,
        power_spread=part.power_spread if more else max(part.power_spread, 1.5),
        notes=(*part.notes, f"{cores} cores are {share:.3g} x {part.name}")
        if more
        else (*part.notes, f"{cores} of the {part.cores} cores of {part.name}, with their share of its power"),
    )
