"""Datasheet profiles by hand: a made-up GPU of round figures, one op at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.hardware import Hardware
from joulecast.estimator.cost.population import population_time, population_watts
from joulecast.estimator.trace.workload import Op, Workload

# 10 TFLOPS in FP32, 80 in TF32, 160 in half precision; 1,000 GB/s; 200 W and 40 W at rest.
GPU = Hardware(
    "g", "G", "V", "gpu", 2024, 10.0, 80.0, 160.0, 160.0, 24.0, 1000.0, 200.0, 40.0, 1, (), "a made-up datasheet"
)
CPU = Hardware("c", "C", "V", "cpu", 2024, 1.0, None, None, None, None, 50.0, 100.0, None, 8, (), "made up")


def step(kind: str, macs: float = 0, moved: float = 0, dtype: str = "float32") -> Op:
    return Op("op", kind, "forward", "", round(macs), round(moved), 0, dtype=dtype)


@pytest.mark.parametrize(
    ("op", "peak_s"),
    [
        (step("matmul", 4.5e12), 4.5e12 / (10e12 / 2)),  # FP32 on vector units
        (step("conv", 12e12), 12e12 / (80e12 / 2)),  # cuDNN's convolutions run in TF32
        (step("matmul", 32e12, dtype="float16"), 32e12 / (160e12 / 2)),
        (step("norm", 0, 600e9), 0.6),
        (step("norm", 9e15, 600e9), 0.6),  # element-wise arithmetic costs nothing by itself
        (step("matmul", 9e12, 600e9), 9e12 / (10e12 / 2)),  # the longer of arithmetic and traffic
    ],
)
def test_seconds_of_one_large_op_are_near_the_gpus_peak(op: Op, peak_s: float) -> None:
    assert peak_s < datasheet_profile(GPU).time.seconds([op]).sum() < 2.2 * peak_s


def test_a_small_op_takes_a_start() -> None:
    assert 1e-6 < datasheet_profile(GPU).time.seconds([step("norm", 0, 600)]).sum() < 2e-4


def test_watts_lie_between_idle_and_the_boards_limit() -> None:
    power = datasheet_profile(GPU).power
    assert power.static_w == 40.0
    assert all(0 <= watts <= 160 for watts in power.weights_w.values())


def test_a_cpu_without_a_published_idle_power() -> None:
    profile = datasheet_profile(CPU)
    assert profile.power.static_w == 15.0
    assert any("15%" in note and "100 W" in note for note in profile.provenance.notes)
    assert profile.time.seconds([step("conv", 0.25e12)]).sum() == pytest.approx(1.0)  # half of 1 TFLOPS
    assert profile.time.seconds([step("norm", 0, 15e9)]).sum() == pytest.approx(1.0)  # 30 % of 50 GB/s
    assert profile.time.seconds([step("norm")]).sum() == pytest.approx(5e-6)


def test_the_memory_is_that_of_a_gpu_alone() -> None:
    assert datasheet_profile(GPU).memory_bytes == 24_000_000_000
    assert datasheet_profile(CPU).memory_bytes is None


def test_a_cpus_rates_watts_and_labels_by_hand() -> None:
    part = replace(CPU, fp16_tflops=4.0, bf16_tflops=2.0, idle_w=40.0)
    profile = datasheet_profile(part)
    half = [profile.time.seconds([step("matmul", 0.8e12, dtype=dtype)]).sum() for dtype in ("float16", "bfloat16")]
    assert half == pytest.approx([1.0, 2.0])  # 40 % of 4 and of 2 TFLOPS
    assert profile.time.seconds([step("matmul", 0.25e12, dtype="int8")]).sum() == pytest.approx(0.25e12 / 0.4e12)
    # busy at the TDP, at 85 % of it while memory is waited for, at no less than idle while starting
    assert profile.power.weights_w == pytest.approx({"compute": 60, "memory": 45, "launch": 0})
    assert profile.power.static_w == 40
    assert not any("idle power is assumed" in note for note in profile.provenance.notes)
    assert (profile.provenance.time, profile.provenance.power, profile.device) == ("datasheet", "datasheet", "cpu")
    seconds = profile.predict(
        Workload("n", "pytorch", 1, False, None, "float32", 0, 0, 0, 0, (), (step("norm", 0, 1e9),))
    ).seconds
    assert seconds.value / seconds.low > 2  # CPUs differ by more than GPUs: wide bounds, wider above
    assert 3 < seconds.high / seconds.value < 4


def test_a_gpus_watts_by_component_start_from_its_idle_power() -> None:
    profile = datasheet_profile(GPU)
    watts = population_watts(population_time(GPU), "float32", 40.0)
    assert profile.power.weights_w == pytest.approx(
        {name: watts[name] - 40.0 for name in ("compute", "memory", "launch")}
    )
    assert profile.half_power is not None
    assert profile.half_power.static_w == 40.0


def test_figures_that_a_row_leaves_out() -> None:
    assert (GPU.verified, GPU.power_spread, GPU.time_label, GPU.power_label, GPU.is_users) == (
        True,
        1.0,
        "datasheet",
        "datasheet",
        False,
    )


def test_a_slow_gpu_without_16_bit_rates_has_no_units_for_them() -> None:
    """100 G multiply-adds per second in every format: far less than any default may stand for."""
    bare = replace(GPU, fp32_tflops=0.2, **dict.fromkeys(("tf32_tflops", "fp16_tflops", "bf16_tflops")))  # type: ignore[arg-type]
    specs = population_time(bare).specs
    assert (specs["tensor"], specs["packed"], specs["tf32"], specs["fp8"]) == (0.0, 0.0, 0.0, 0.0)
    assert specs["fp32"] == specs["half"] == pytest.approx(0.1e12)
    assert specs["sms"] == 1.0  # less than one of usual size
    assert (specs["l2"], specs["clock"], specs["power"]) == (4e6, 1.6e9, 200.0)


def test_units_larger_than_any_that_was_measured_are_named() -> None:
    assert len(datasheet_profile(GPU).provenance.notes) == 1
    larger = replace(GPU, fp16_tflops=340.0)  # 34 multiply-adds for each in FP32
    assert any("16-bit matrix units" in note for note in datasheet_profile(larger).provenance.notes)
    assert len(datasheet_profile(replace(larger, vendor="AMD")).provenance.notes) == 1
