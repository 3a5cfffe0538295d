"""The population model: parts by hand, physics that holds for any parameters, and known cards."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from joulecast.estimator.base.errors import ProfileError
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.hardware import Hardware, load_hardware
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.piece_time import step_seconds
from joulecast.estimator.cost.pieces import BATCHED, CONV, DEPTHWISE, MATMUL, RNN, columns, merged
from joulecast.estimator.cost.population import (
    PopulationTime,
    load_population,
    population_time,
    population_watts,
    specs,
)
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.cost.software import SOFTWARE
from joulecast.estimator.trace.formulas import conv_dims, conv_flops
from joulecast.estimator.trace.workload import Op, Workload

GPUS = [part for part in load_hardware() if part.kind == "gpu"]
MADE_UP = Hardware(
    key="mine", name="Mine", vendor="NVIDIA", kind="gpu", year=2023, fp32_tflops=35.0, tf32_tflops=None,
    fp16_tflops=70.0, bf16_tflops=70.0, memory_gb=12.0, bandwidth_gb_per_s=448.0, power_w=150.0, idle_w=None, cores=0,
    aliases=(), source="made up",
)  # fmt: skip


def matmul(m: int, k: int, n: int, dtype: str = "float32", b: int = 1, phase: str = "forward", count: int = 1) -> Op:
    item = 4 if dtype == "float32" else 2
    return Op(
        "mm", "matmul", phase, "", b * m * k * n, item * b * (m * k + k * n), item * b * m * n, dtype,
        {"b": b, "m": m, "k": k, "n": n}, count,
    )  # fmt: skip


def convolution(n: int, c_in: int, c_out: int, side: int, kernel: int, groups: int = 1, dtype: str = "float32") -> Op:
    item = 4 if dtype == "float32" else 2
    weight = (c_out, c_in // groups, kernel, kernel)
    dims = conv_dims((n, c_in, side, side), weight, (n, c_out, side, side), groups, False)
    read = item * (n * c_in * side**2 + math.prod(weight))
    return Op("convolution", "conv", "forward", "", conv_flops(dims), read, item * n * c_out * side**2, dtype, dims)


def copy(elements: int) -> Op:
    sizes = {"elements_in": elements, "elements_out": elements}
    return Op("copy", "copy", "forward", "", 0, 4 * elements, 4 * elements, dims=sizes)


def work(*ops: Op) -> Workload:
    return Workload("net", "pytorch", 32, False, None, ops[0].dtype, 0, 0, 0, 0, (), ops)


def total(time: PopulationTime, *ops: Op) -> float:
    return float(time.seconds(ops).sum())


# -- pieces ---------------------------------------------------------------------------------------------


def test_a_convolution_is_a_matrix_product() -> None:
    parts = columns([convolution(8, 64, 128, 14, 3)])
    assert parts.cls.tolist() == [CONV]
    # 8 x 14 x 14 positions, 64 channels in a window of 9, 128 results
    assert (parts.m[0], parts.k[0], parts.n[0], parts.window[0]) == (8 * 196, 576, 128, 9)
    assert parts.macs[0] == 8 * 196 * 576 * 128
    assert parts.layout[0] == 4 * 8 * 196 * (64 + 128)


def test_groups_are_products_beside_each_other() -> None:
    assert columns([convolution(8, 64, 64, 14, 3, groups=64)]).cls.tolist() == [DEPTHWISE]
    grouped = columns([convolution(8, 64, 64, 14, 3, groups=4)])
    assert (grouped.b[0], grouped.k[0], grouped.n[0]) == (4, 16 * 9, 16)


def test_batched_products_keep_their_batch() -> None:
    parts = columns([matmul(10, 20, 30), matmul(10, 20, 30, b=7)])
    assert parts.cls.tolist() == [MATMUL, BATCHED]
    assert parts.b.tolist() == [1, 7]


def test_grouped_products_of_experts_work_through_the_tiles_of_all_as_of_one() -> None:
    grouped = columns([replace(matmul(10, 20, 30, b=7), name="_grouped_mm")])
    assert (grouped.cls.tolist(), grouped.b.tolist()) == ([MATMUL], [7])


def test_a_recurrent_layer_is_one_product_of_inputs_and_one_product_a_position() -> None:
    steps, batch, width, hidden = 50, 16, 256, 512
    flops = steps * batch * 4 * hidden * (width + hidden)
    dims = {"steps": steps, "n": batch, "input": width, "hidden": hidden, "layers": 1, "directions": 1}
    parts = columns([Op("lstm", "rnn", "forward", "", flops, 10, 10, dims=dims)])
    assert parts.cls.tolist() == [MATMUL, RNN]
    assert parts.kernels.tolist() == [1, steps]
    assert float((parts.macs * parts.kernels).sum()) == pytest.approx(flops)
    assert (parts.m[1], parts.k[1], parts.n[1]) == (batch, hidden, 4 * hidden)


def test_equal_pieces_are_counted() -> None:
    parts = merged(columns([matmul(10, 20, 30, count=2), copy(5), matmul(10, 20, 30)]))
    assert sorted(parts.count.tolist()) == [1.0, 3.0]


# -- physics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", GPUS, ids=lambda part: part.key)
def test_every_gpu_has_times_and_watts_in_order(part: Hardware) -> None:
    time = population_time(part)
    assert np.isfinite(specs(part)).all()
    ops = [matmul(512, 512, 512), convolution(8, 64, 64, 28, 3), copy(10**6), matmul(512, 512, 512, "float16")]
    seconds = time.seconds(ops)
    assert np.isfinite(seconds).all()
    assert (seconds >= 0).all()
    assert (seconds.sum(axis=1) > 0).all()
    for precision in ("float32", "float16"):
        watts = population_watts(time, precision, part.idle_w)
        assert 0 < watts["idle"] <= watts["launch"] <= watts["memory"] <= part.power_w
        assert watts["launch"] <= watts["compute"] <= part.power_w


@pytest.mark.parametrize("key", ["t4", "a100-sxm4-80gb", "rtx-4090", "mi210"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_more_work_never_takes_less_time(key: str, dtype: str) -> None:
    time = population_time(find_hardware(key))
    for grow in ((2, 1, 1), (1, 2, 1), (1, 1, 2), (1.1, 1, 1), (1, 1.1, 1), (1, 1, 1.1)):
        for m, k, n in ((64, 64, 64), (100, 300, 1000), (4096, 64, 256), (1000, 4096, 4096)):
            larger = matmul(math.ceil(m * grow[0]), math.ceil(k * grow[1]), math.ceil(n * grow[2]), dtype)
            assert total(time, larger) >= total(time, matmul(m, k, n, dtype)) * (1 - 1e-9), (m, k, n, grow)


def test_a_faster_part_is_not_slower() -> None:
    base = population_time(find_hardware("quadro-rtx-6000"))
    ops = [convolution(32, 64, 64, 56, 3), copy(10**7), matmul(4096, 1024, 1024, "float16")]
    for name in ("fp32", "half", "bandwidth", "power"):
        better = replace(base, specs={**base.specs, name: 2 * base.specs[name]})
        assert total(better, *ops) <= total(base, *ops) * (1 + 1e-9), name


def test_no_device_beats_its_peak() -> None:
    for part in GPUS:
        time = population_time(part)
        seconds = total(time, matmul(16384, 16384, 16384, "float16"))
        peak = max(part.fp16_tflops or 0, part.bf16_tflops or 0, part.fp32_tflops) * 1e12 / 2
        boost = time.parameters["boost"] if time.specs["boost"] else 1.0  # GeForce boards run above their clock
        assert 16384**3 / seconds <= boost * peak * (1 + 1e-9), part.key


def test_a_step_is_about_the_larger_of_host_and_device() -> None:
    host, device = np.array([1.0, 1.0, 100.0]), np.array([1.0, 100.0, 1.0])
    steps = step_seconds(host, device, 4.0)
    assert steps == pytest.approx([2**0.25, 100.0, 100.0], rel=1e-3)
    assert (step_seconds(host, device, 1.5) >= np.maximum(host, device)).all()


def test_many_small_ops_wait_for_the_host() -> None:
    time = population_time(find_hardware("h100-sxm"))
    compute, memory, launch = time.seconds([copy(1000)] * 200).sum(axis=0)
    assert launch > 10 * (compute + memory)


def test_power_limited_boards_do_not_reach_their_clock() -> None:
    """Of their FP32 peaks, T4 (70 W) reaches about 0.4 in large products, V100 (250 W) over 0.7."""
    large = matmul(8192, 8192, 8192)
    for key, low, high in (("t4", 0.3, 0.65), ("p4", 0.25, 0.75), ("v100-pcie-32gb", 0.65, 1.0)):
        part = find_hardware(key)
        rate = 8192**3 / total(population_time(part), large) / (part.fp32_tflops * 0.5e12)
        assert low < rate < high, (key, rate)


# -- profiles -------------------------------------------------------------------------------------------


def profile_of(part: Hardware) -> Profile:
    return datasheet_profile(part)


@pytest.mark.parametrize("part", [find_hardware("rtx-4090"), find_hardware("l40s"), MADE_UP], ids=lambda p: p.key)
def test_default_intervals_are_under_a_factor_of_three(part: Hardware) -> None:
    estimate = profile_of(part).predict(work(convolution(32, 64, 64, 56, 3)), steps=100)
    assert 1.2 < estimate.seconds.high / estimate.seconds.low < 3.0
    assert estimate.energy_kwh.high / estimate.energy_kwh.low < 4.0
    assert estimate.time_source == "datasheet"


def test_known_software_narrows_the_interval() -> None:
    profile, step = profile_of(find_hardware("rtx-3090")), work(convolution(32, 64, 64, 56, 3))
    unknown, eager = profile.predict(step), profile.predict(step, software="eager")
    assert eager.seconds.value == unknown.seconds.value
    assert eager.seconds.high / eager.seconds.low < unknown.seconds.high / unknown.seconds.low


def test_software_with_few_measured_steps_is_as_uncertain_as_unknown_software() -> None:
    profile, step = profile_of(find_hardware("rtx-3090")), work(convolution(32, 64, 64, 56, 3))
    unknown, compiled = profile.predict(step), profile.predict(step, software="compiled")
    for name in ("seconds", "energy_kwh"):
        one, other = getattr(unknown, name), getattr(compiled, name)
        assert other.high / other.low == pytest.approx(one.high / one.low)


def test_software_changes_the_time() -> None:
    profile = profile_of(find_hardware("a100-sxm4-80gb"))
    step = work(*[convolution(32, 64, 64, 14, 3, dtype="float16"), copy(10**6)] * 50)
    seconds = {name: profile.predict(step, software=name).seconds.value for name in SOFTWARE}
    assert seconds["vendor-tuned"] < seconds["ngc"] <= 1.2 * seconds["eager"]
    assert seconds["compiled"] < seconds["eager"]


def test_a_profile_of_an_older_version_takes_new_factors_of_software_and_no_other_parameter() -> None:
    document = profile_of(find_hardware("a100-sxm4-80gb")).to_json()
    parameters = document["time"]["parameters"]
    expected = parameters.pop("compiled:conv")
    time = Profile.from_json(document).time
    assert isinstance(time, PopulationTime)
    assert time.parameters["compiled:conv"] == expected
    del parameters["floor"]
    with pytest.raises(ProfileError, match="no parameter 'floor': an older version made it; fit it again"):
        Profile.from_json(document)


def test_unknown_software_is_an_error_with_the_names() -> None:
    with pytest.raises(ProfileError, match="did you mean eager"):
        profile_of(MADE_UP).predict(work(copy(10)), software="eagre")


def test_sixteen_bit_arithmetic_has_watts_of_its_own() -> None:
    profile = profile_of(find_hardware("a100-sxm4-80gb"))
    assert profile.half_power is not None
    single = profile.predict(work(matmul(8192, 8192, 8192)))
    half = profile.predict(work(matmul(8192, 8192, 8192, "float16")))
    assert single.power_w != half.power_w
    assert half.energy_kwh.value < single.energy_kwh.value


def test_a_population_profile_survives_its_document() -> None:
    profile = profile_of(find_hardware("a40")).for_software("ngc")
    again = Profile.from_json(profile.to_json())
    step = work(convolution(32, 64, 64, 56, 3), copy(10**6))
    assert again.predict(step) == profile.predict(step)
    assert again.software == "ngc"


def test_shares_add_up_to_the_step() -> None:
    estimate = profile_of(find_hardware("rtx-4090")).predict(work(convolution(32, 64, 64, 56, 3), copy(10**6)), steps=9)
    assert sum(part.seconds for part in estimate.breakdown if part.name != "static") == pytest.approx(
        estimate.seconds.value
    )
    assert sum(part.energy_kwh for part in estimate.breakdown) == pytest.approx(estimate.energy_kwh.value)


@pytest.mark.parametrize(("dtype", "framework"), [("float16", "keras"), ("float32", "pytorch"), ("float16", "pytorch")])
def test_a_measured_profile_is_no_surer_than_its_distance_allows(dtype: str, framework: str) -> None:
    """EC-NAS measured TensorFlow in float32 at batch 256; for other runs the prediction is the population's."""
    measured, population = load_profile("rtx-3090"), profile_of(find_hardware("rtx-3090"))
    step = replace(work(*[convolution(64, 256, 256, 14, 3, dtype=dtype), copy(10**7)] * 20), framework=framework)
    near, general = measured.predict(step, steps=1000), population.predict(step, steps=1000)
    assert near.seconds.high / near.seconds.low > 0.95 * general.seconds.high / general.seconds.low
    assert near.seconds.value == pytest.approx(general.seconds.value, rel=0.25)
    assert any("population of GPUs" in note for note in near.warnings)
    parts = sum(part.energy_kwh for part in near.breakdown)
    assert parts == pytest.approx(near.energy_kwh.value, rel=1e-6)


def test_the_data_file_names_its_sources() -> None:
    population = load_population()
    assert population.sources
    assert all(value > 0 for value in population.parameters.values())
    assert all(low < 1 < high for low, high in population.errors.values())
