"""Rows for unlisted hardware: a GPU's figures from its driver agree with its datasheet; a CPU's class from its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import HardwareError
from joulecast.estimator.cost.host import CpuFacts, Gpu, Host
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.probe import CpuProbe
from joulecast.estimator.cost.unlisted import (
    DESKTOP,
    LAPTOP,
    SERVER,
    cpu_row,
    flop_per_cycle,
    gpu_row,
    of_cores,
    power_class,
)

# What NVML prints of boards whose datasheets are in the table: cores, highest SM and memory clock, bus, capability.
DRIVERS = {
    "a100-sxm4-80gb": Gpu("NVIDIA A100-SXM4-80GB", 80, 6912, 1410, 1593, 5120, (8, 0), 400),
    "h100-sxm": Gpu("NVIDIA H100 80GB HBM3", 80, 16896, 1980, 2619, 5120, (9, 0), 700),
    "v100-sxm2-16gb": Gpu("Tesla V100-SXM2-16GB", 16, 5120, 1530, 877, 4096, (7, 0), 300),
    "t4": Gpu("Tesla T4", 16, 2560, 1590, 5001, 256, (7, 5), 70),
    "a40": Gpu("NVIDIA A40", 48, 10752, 1740, 7251, 384, (8, 6), 300),
    "rtx-3090": Gpu("NVIDIA GeForce RTX 3090", 24, 10496, 2100, 9751, 384, (8, 6), 350),
    "gtx-1080-ti": Gpu("NVIDIA GeForce GTX 1080 Ti", 11, 3584, 1911, 5505, 352, (6, 1), 250),
}


@pytest.mark.parametrize("key", DRIVERS)
def test_a_driver_gives_the_datasheets_figures(key: str) -> None:
    made, known = gpu_row(DRIVERS[key]), find_hardware(key)
    assert made.fp32_tflops == pytest.approx(known.fp32_tflops, rel=0.05)
    assert made.bandwidth_gb_per_s == pytest.approx(known.bandwidth_gb_per_s, rel=0.03)
    assert made.power_w == known.power_w
    assert made.sms == known.sms
    if known.fp16_tflops is None:
        assert made.fp16_tflops is None
    else:
        assert made.fp16_tflops == pytest.approx(known.fp16_tflops, rel=0.06)
    assert (made.bf16_tflops is None) == (known.bf16_tflops is None)
    assert (made.time_label, made.power_label, made.verified) == ("probed", "probed", False)


def test_a_driver_without_a_power_limit_has_its_watts_assumed() -> None:
    made = gpu_row(replace(DRIVERS["a40"], power_w=None))
    assert (made.power_w, made.power_label, made.power_spread) == (pytest.approx(374, rel=0.01), "assumed", 2.0)


def test_a_driver_that_does_not_say_enough_is_an_error() -> None:
    with pytest.raises(HardwareError, match="does not say its memory clock, bus"):
        gpu_row(replace(DRIVERS["a40"], memory_mhz=None, bus_bits=None))
    for field, words in (
        ("cuda_cores", "CUDA cores"),
        ("sm_mhz", "clock"),
        ("memory_mhz", "memory clock"),
        ("bus_bits", "bus"),
    ):
        with pytest.raises(HardwareError, match=f"does not say its {words}$"):
            gpu_row(replace(DRIVERS["a40"], **{field: None}))


@pytest.mark.parametrize(
    ("name", "cores", "hypervisor", "battery", "kind"),
    [
        ("AMD EPYC 9999 500-Core Processor", 500, False, False, SERVER),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", 1, True, False, SERVER),
        ("Intel(R) Core(TM) i7-9999U CPU @ 1.80GHz", 4, False, False, LAPTOP),
        ("AMD Ryzen 7 9999HS w/ Radeon 880M Graphics", 8, False, False, LAPTOP),
        ("11th Gen Intel(R) Core(TM) i7-1199G7 @ 2.80GHz", 4, False, False, LAPTOP),
        ("Intel(R) Core(TM) i9-99999K", 24, False, False, DESKTOP),
        ("AMD Ryzen 9 9999X 16-Core Processor", 16, False, False, DESKTOP),
        ("Intel(R) Core(TM) i9-99999K", 8, False, True, LAPTOP),
        ("", 4, True, False, SERVER),
        ("", 128, None, False, SERVER),
        ("", 4, None, False, DESKTOP),
        ("", 33, None, False, SERVER),
        ("", 32, None, False, DESKTOP),
    ],
)
def test_the_class_of_a_cpu(name: str, cores: int, hypervisor: bool | None, battery: bool, kind: object) -> None:
    assert power_class(name, cores, hypervisor=hypervisor, battery=battery) is kind


def test_watts_stay_within_a_class() -> None:
    assert (DESKTOP.watts(2), DESKTOP.watts(8), DESKTOP.watts(64)) == (35, 88, 250)
    assert (LAPTOP.watts(2), LAPTOP.watts(6), LAPTOP.watts(24)) == (12, 30, 65)
    assert (SERVER.watts(200), SERVER.watts(0)) == (1000, 0)
    assert {kind.spread for kind in (SERVER, DESKTOP, LAPTOP)} == {2.0}
    assert (SERVER.watts(1), SERVER.watts(64)) == (6, 384)  # a virtual machine's core is a share of a server


def test_flop_per_cycle_by_vector_extension() -> None:
    assert flop_per_cycle(frozenset({"avx2", "fma", "avx512f"})) == 64
    assert flop_per_cycle(frozenset({"avx", "avx2", "fma"})) == 32
    assert flop_per_cycle(frozenset({"avx"})) == 16
    assert flop_per_cycle(frozenset({"asimd"})) == 16
    assert flop_per_cycle(frozenset()) == 8


def test_a_probed_cpu_row() -> None:
    host = Host("AMD EPYC", 2, (), "Linux 6", "x86_64", True)
    row = cpu_row(host, CpuFacts(frozenset({"avx2", "fma"}), 2596.0, 32.0), CpuProbe(0.18, 24.0, 2))
    assert row.fp32_tflops == pytest.approx(0.2)  # products reach 90 % of it
    assert row.bandwidth_gb_per_s == pytest.approx(30)  # copies reach 80 %
    assert (row.power_w, row.cores, row.l2_mb, row.boost_mhz) == (12, 2, 32, 2596)
    assert (row.time_label, row.power_label, row.power_spread) == ("probed", "assumed", 2.0)
    assert (row.year, row.verified) == (0, False)  # nothing is known of either
    nameless = cpu_row(replace(host, cpu_name="", machine="aarch64"), CpuFacts(), CpuProbe(0.18, 24.0, 2))
    assert (nameless.key, nameless.name) == ("aarch64-cpu", "aarch64 CPU")


def test_shares_of_cores() -> None:
    cpu = find_hardware("xeon-gold-5120")
    assert of_cores(cpu, 14) is cpu
    assert of_cores(cpu, 7).power_w == pytest.approx(cpu.power_w / 2)
    assert of_cores(cpu, 7).bandwidth_gb_per_s == pytest.approx(84)  # 12 GB/s a core
    gpu = find_hardware("t4")
    assert of_cores(gpu, 7) is gpu


@pytest.mark.parametrize(
    ("capability", "name", "ratio"),
    [
        # Dense FP16 rates with FP32 accumulation over FP32's, from the datasheets of each generation
        ((7, 0), "NVIDIA X", 8),
        ((7, 2), "NVIDIA X", 8),
        ((7, 5), "NVIDIA X", 8),
        ((8, 0), "NVIDIA X", 16),
        ((8, 6), "NVIDIA X", 4),
        ((8, 7), "NVIDIA X", 4),
        ((8, 9), "NVIDIA X", 4),
        ((9, 0), "NVIDIA X", 15),
        ((10, 0), "NVIDIA X", 30),
        ((11, 0), "NVIDIA X", 4),  # not known yet
        ((6, 1), "NVIDIA X", None),
        ((6, 0), "NVIDIA X", None),
        ((9, 1), "NVIDIA X", None),
        ((10, 0), "NVIDIA GeForce RTX X", 4),
        ((7, 5), "NVIDIA GeForce RTX X", 4),
        ((8, 6), "NVIDIA GeForce RTX X", 2),
        ((8, 9), "NVIDIA GeForce RTX X", 2),
        ((12, 0), "NVIDIA GeForce RTX X", 2),
        ((6, 1), "NVIDIA GeForce GTX X", None),
        ((7, 5), "NVIDIA GeForce GTX 1660", None),  # Turing without tensor cores
    ],
)
def test_tensor_rates_by_generation(capability: tuple[int, int], name: str, ratio: int | None) -> None:
    made = gpu_row(Gpu(name, 16, 5000, 1000, 5000, 256, capability, 200))
    clock = 0.82 if "GeForce" in name else 1.0  # their drivers print more than the boost clock
    assert made.fp32_tflops == pytest.approx(10 * clock)
    ampere = ratio is not None and capability >= (8, 0)
    assert made.fp16_tflops == (None if ratio is None else pytest.approx(10 * clock * ratio))
    assert made.bf16_tflops == (made.fp16_tflops if ampere else None)
    assert made.tf32_tflops == (pytest.approx(5 * clock * ratio) if ampere and ratio else None)
    assert made.bandwidth_gb_per_s == pytest.approx(256 / 8 * 5 * 2)
    assert made.sms == 5000 // (64 if capability in {(6, 0), (7, 0), (7, 2), (7, 5), (8, 0)} else 128)
    assert (made.power_spread, made.power_w, made.year) == (1.3, 200, 0)


def test_a_gpu_without_a_capability_has_no_tensor_rates() -> None:
    made = gpu_row(Gpu("NVIDIA X", 16, 5000, 1000, 5000, 100, None, 200))
    assert (made.fp16_tflops, made.tf32_tflops, made.bf16_tflops, made.sms) == (None, None, None, 5000 // 128)
    assert made.bandwidth_gb_per_s == pytest.approx(12.5 * 5 * 2)


@pytest.mark.parametrize(("cores", "watts"), [(50, 30), (5000, 100), (50_000, 700)])
def test_watts_that_are_assumed_for_a_gpu(cores: int, watts: float) -> None:
    made = gpu_row(Gpu("NVIDIA X", 16, cores, 1000, 5000, 256, (8, 6)))
    assert made.power_w == pytest.approx(watts)
    assert f"{watts:g} W is the watts that such rates usually take" in made.notes[-1]


def test_more_and_fewer_cores_than_a_cpu_has() -> None:
    cpu = replace(find_hardware("xeon-gold-5120"), fp64_tflops=0.5, fp16_tflops=2.0, bf16_tflops=4.0, idle_w=28.0)
    half, double = of_cores(cpu, 7), of_cores(cpu, 28)
    assert (half.fp64_tflops, half.fp16_tflops, half.bf16_tflops, half.idle_w) == (0.25, 1.0, 2.0, 14.0)
    assert (double.fp64_tflops, double.fp16_tflops, double.bf16_tflops, double.idle_w) == (1.0, 4.0, 8.0, 56.0)
    assert (half.cores, half.power_spread, double.power_spread) == (7, 1.5, 1.0)
    assert of_cores(replace(cpu, power_spread=1.8), 7).power_spread == 1.8
    assert double.notes[-1] == "28 cores are 2 x Xeon Gold 5120"
    assert of_cores(cpu, 1).bandwidth_gb_per_s == 12
    assert of_cores(cpu, 21).notes[-1] == "21 cores are 1.5 x Xeon Gold 5120"
    assert (of_cores(cpu, 21).power_spread, of_cores(cpu, 21).bandwidth_gb_per_s) == (
        1.0,
        pytest.approx(1.5 * cpu.bandwidth_gb_per_s),
    )
    assert of_cores(cpu, 13).bandwidth_gb_per_s == cpu.bandwidth_gb_per_s  # and never more than all have
    none = of_cores(replace(cpu, fp64_tflops=None, idle_w=None), 7)
    assert (none.fp64_tflops, none.idle_w) == (None, None)
