"""Profiles: eq. 2.2.1 by hand, documents, properties; datasheet profiles and the library of names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import HardwareError, JoulecastError, ProfileError
from joulecast.estimator.base.notes import Note, Topic, Weight
from joulecast.estimator.cost.bounds import ErrorModel, Range
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.hardware import load_hardware
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.cost.memory import memory_needed
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.profile import (
    LABELS,
    LAYER_OPS,
    PowerModel,
    Profile,
    Provenance,
    effective_ops,
    time_model_from_json,
)
from joulecast.estimator.cost.profile_notes import _covered, _scaled
from joulecast.estimator.cost.roofline import Roofline
from joulecast.estimator.trace.workload import Layer, Op, Workload

ROOFLINE = Roofline(
    {"float32": 1e9, "float32.conv": 2e9}, 1e9, {"float32": 0.5, "float32.conv": 0.5}, 0.5, launch_s=1e-3
)


def op(kind: str = "matmul", flops: int = 0, moved: int = 0, count: int = 1, layer: str = "fc") -> Op:
    return Op("op", kind, "forward", layer, flops, moved, 0, count=count)


def workload(*ops: Op, **values: object) -> Workload:
    return Workload(
        name="net",
        framework="pytorch",
        batch_size=4,
        train=True,
        optimizer="adam",
        precision="float32",
        parameters=100,
        trainable_parameters=60,
        parameter_bytes=400,
        activation_bytes=1000,
        layers=(Layer("fc", "Linear", (4, 2), 8, 100, 1, "trace"),),
        ops=ops,
        **values,  # type: ignore[arg-type]
    )


def profile(**values: object) -> Profile:
    base = Profile(
        name="test",
        hardware="a test bench",
        device="gpu",
        framework="pytorch",
        time=ROOFLINE,
        power=PowerModel({"compute": 100.0, "memory": 40.0, "launch": 0.0}, static_w=20.0),
        time_error=ErrorModel(0.5, 2.0),
        energy_error=ErrorModel(0.4, 3.0),
        provenance=Provenance("measured", "measured", ("this test",)),
    )
    return replace(base, **values)  # type: ignore[arg-type]


def test_roofline_by_hand() -> None:
    compute = op("matmul", flops=5_000_000, moved=1_000)  # 5e6 / (1e9 * 0.5) = 10 ms
    conv = op("conv", flops=5_000_000)  # at twice the rate: 5 ms
    memory = op("norm", flops=10**12, moved=2_000_000)  # a norm's FLOPs are free: 4 ms of traffic
    small = op("activation", moved=100_000, count=3)  # 0.2 ms busy, 0.8 ms waiting, three times
    expected = np.array([[0.010, 0, 0], [0.005, 0, 0], [0, 0.004, 0], [0, 0.0006, 0.0024]])
    assert ROOFLINE.seconds([compute, conv, memory, small]) == pytest.approx(expected)


def test_energy_is_equation_2_2_1() -> None:
    work = workload(op("matmul", flops=5_000_000), op("norm", moved=2_000_000, layer="bn"))
    estimate = profile().predict(work, steps=1000)
    assert estimate.seconds.value == pytest.approx(14.0)
    ratio_compute, ratio_memory = 10 / 14, 4 / 14
    power_w = ratio_compute * 100 + ratio_memory * 40 + 20
    assert estimate.power_w == pytest.approx(power_w)
    assert estimate.energy_kwh.value == pytest.approx(power_w * 14 / 3_600_000)
    assert (estimate.seconds.low, estimate.seconds.high) == pytest.approx((7.0, 28.0))
    assert estimate.energy_kwh.high == pytest.approx(3 * estimate.energy_kwh.value)


def test_ops_of_equal_time_count_in_full_and_a_ruling_one_counts_alone() -> None:
    ops = [op(kind) for kind in ("matmul", "norm", "loss", "pool")]
    assert effective_ops(ops, np.array([2.0, 2.0, 2.0, 2.0])) == pytest.approx(4)
    assert effective_ops(ops, np.array([9.0, 0.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_ops(ops, np.array([3.0, 1.0, 0.0, 0.0])) == pytest.approx(16 / 10)
    assert effective_ops([], np.array([])) == 1.0


def test_ops_of_one_name_and_shape_are_one() -> None:
    wide, deep = replace(op(), dims={"n": 8}), replace(op(layer="other"), dims={"n": 8})
    assert effective_ops([wide, deep], np.array([1.0, 1.0])) == pytest.approx(1)
    assert effective_ops([wide, replace(deep, dims={"n": 9})], np.array([1.0, 1.0])) == pytest.approx(2)


def test_errors_of_single_ops_cancel_by_the_root_of_their_number() -> None:
    error = ErrorModel(0.5, 2.0, per_decade=0.5, per_op=0.6)
    many = error.interval(10.0)
    assert (many.low, many.high) == pytest.approx((5.0, 20.0))
    nine = np.exp(np.sqrt(np.log(2.0) ** 2 + (0.6 / 3) ** 2))
    assert error.interval(10.0, ops=9).high == pytest.approx(10 * nine)
    assert error.interval(10.0, ops=9).low == pytest.approx(10 / nine)
    assert error.interval(10.0, decades_outside=2, ops=9).high == pytest.approx(10 * nine**2)


def test_a_network_of_few_ops_has_the_wider_interval() -> None:
    one = workload(op("matmul", flops=5_000_000))
    four = workload(*(replace(one.ops[0], dims={"n": size}) for size in range(4)))
    bounds = replace(profile(), time_error=ErrorModel(0.5, 2.0, per_op=0.6))

    def reach(work: Workload) -> float:
        seconds = bounds.predict(work).seconds
        return float(np.log(seconds.high / seconds.value))

    assert reach(one) == pytest.approx(np.hypot(np.log(2), 0.6))
    assert reach(four) == pytest.approx(np.hypot(np.log(2), 0.3))


def test_breakdown_and_layers_add_up_to_the_whole() -> None:
    work = workload(op("matmul", flops=5_000_000), op("norm", moved=2_000_000, layer="bn"))
    estimate = profile().predict(work, steps=7, devices=3)
    for parts in (estimate.breakdown, estimate.layers):
        assert sum(part.energy_kwh for part in parts) == pytest.approx(estimate.energy_kwh.value)
        assert sum(part.share for part in parts) == pytest.approx(1)
    assert {part.name: part.energy_kwh * 3_600_000 / 21 for part in estimate.layers} == pytest.approx(
        {"fc": 0.010 * 120, "bn": 0.004 * 60}
    )


def test_devices_take_as_long_and_that_many_times_the_energy() -> None:
    work = workload(op("matmul", flops=5_000_000))
    one, four = profile().predict(work, steps=10), profile().predict(work, steps=10, devices=4)
    assert four.seconds == one.seconds
    assert four.energy_kwh.value == pytest.approx(4 * one.energy_kwh.value)
    assert any("not modelled" in note for note in four.warnings)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_steps_never_cost_less_and_runs_add_up(first: int, second: int) -> None:
    work = workload(op("matmul", flops=5_000_000), op("norm", moved=2_000_000))
    a, b = profile().predict(work, steps=first), profile().predict(work, steps=second)
    both = profile().predict(work, steps=first + second)
    assert (a + b).energy_kwh.value == pytest.approx(both.energy_kwh.value)
    assert (a + b).seconds.high == pytest.approx(both.seconds.high)
    assert (a.seconds.value <= b.seconds.value) == (first <= second)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**9))
def test_more_work_never_takes_less(flops: int, moved: int, extra: int) -> None:
    base = ROOFLINE.seconds([op("matmul", flops, moved)]).sum()
    assert ROOFLINE.seconds([op("matmul", flops + extra, moved)]).sum() >= base
    assert ROOFLINE.seconds([op("matmul", flops, moved + extra)]).sum() >= base


def test_outside_of_the_fitted_range_the_interval_widens_and_says_so() -> None:
    fitted = profile(ranges={"flops": Range(1e4, 1e6)}, kinds=("matmul",))
    inside = fitted.predict(workload(op(flops=500_000)), steps=1)
    outside = fitted.predict(workload(op(flops=100_000_000)), steps=1)
    assert inside.seconds.high / inside.seconds.value == pytest.approx(2.0)
    assert outside.seconds.high / outside.seconds.value == pytest.approx(2.0 ** (1 + 0.5 * (2 - 0.3)))
    assert not any("profile covers" in note for note in inside.warnings)
    assert f"this run computes 100 M multiply-adds per step; the {fitted.name} profile covers 10 k to 1 M" in (
        outside.warnings
    )


def test_kinds_never_fitted_widen_the_interval_by_their_share_of_the_time() -> None:
    fitted = profile(kinds=("norm",))
    estimate = fitted.predict(workload(op(flops=500_000)), steps=1)  # all of the time is a matmul's
    assert estimate.seconds.high / estimate.seconds.value == pytest.approx(2.0 ** (1 + 0.5))
    assert any("no measurements of: matmul" in note for note in estimate.warnings)


def test_memory_by_hand_and_its_warning() -> None:
    work = workload(op(), input_bytes=50)
    # 400 of weights; for each of 60 trainable ones 4 of gradient and 8 of Adam's moments.
    assert memory_needed(work) == 400 + 60 * 12 + 1000 + 50
    assert any("needs about" in note for note in profile(memory_bytes=2000).predict(work).warnings)
    assert not any("needs about" in note for note in profile(memory_bytes=3000).predict(work).warnings)


def test_what_no_formula_covers_is_in_the_warnings() -> None:
    work = workload(op("other", moved=100), op(moved=300), unsupported={"fft_r2c": 100})
    assert any("no formula for fft_r2c (25.0% of the bytes)" in note for note in profile().predict(work).warnings)


def test_a_profile_survives_its_document(tmp_path: Path) -> None:
    original = profile(ranges={"flops": Range(1.0, 2.0)}, kinds=("conv",), scores={"energy_mape": 0.05})
    path = original.save(tmp_path / "folder" / "p.json")
    assert load_profile(path) == original
    assert json.loads(path.read_text())["power"]["static_w"] == 20.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a profile of joulecast"),
        ('{"schema": "joulecast.profile/9"}', "has schema 'joulecast.profile/9'"),
        ('{"schema": "joulecast.profile/1", "name": "x"}', "is corrupt"),
        ("\x80\x04K.", "cannot be read|schema"),
    ],
)
def test_corrupt_and_newer_profiles(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ProfileError, match=message):
        load_profile(path)


def test_missing_profiles(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="does not exist"):
        load_profile(tmp_path / "none.json")
    with pytest.raises(ProfileError, match="is a directory"):
        load_profile(tmp_path)


def test_weights_are_watts_and_provenance_is_a_must() -> None:
    with pytest.raises(ProfileError, match="not watts of 0 or more"):
        PowerModel({"compute": -1.0}, 0.0)
    with pytest.raises(ProfileError, match="not watts"):
        PowerModel({"compute": float("nan")}, 0.0)
    with pytest.raises(ProfileError, match="without a source"):
        Provenance("measured", "measured", ())
    with pytest.raises(ProfileError, match="each must be one of"):
        Provenance("guessed", "measured", ("x",))


@pytest.mark.parametrize("hardware", load_hardware(), ids=lambda row: row.key)
def test_every_row_of_the_table_makes_a_profile(hardware: object) -> None:
    made = datasheet_profile(hardware)  # type: ignore[arg-type]
    busy = made.predict(workload(op("matmul", flops=10**12)), steps=1)
    assert (busy.time_source, busy.power_source) == ("datasheet", "datasheet")
    # Bound by arithmetic: between the peak of the part and a twentieth of it, within its board power.
    peak_s = 10**12 / (hardware.fp32_tflops * 1e12 / 2)  # type: ignore[attr-defined]
    assert 0.4 * peak_s < busy.seconds.value < 20 * peak_s
    assert 0 < busy.power_w <= hardware.power_w * 1.01  # type: ignore[attr-defined]
    assert busy.energy_kwh.low < busy.energy_kwh.value < busy.energy_kwh.high


def test_names_of_hardware_and_what_is_unknown() -> None:
    assert load_profile("NVIDIA A100-SXM4-80GB").name == load_profile("a100-sxm4-80gb").name
    assert load_profile("H100 SXM").hardware == find_hardware("h100-sxm").name
    with pytest.raises(HardwareError, match="unknown hardware 'rtx-6090': near names are rtx-5090, rtx-4090"):
        load_profile("rtx-6090")


def test_another_framework_or_precision_than_the_measured_one_is_said() -> None:
    fitted = profile(framework="tensorflow", precision="bfloat16")
    notes = " ".join(fitted.predict(workload(op())).warnings)
    assert "measured with tensorflow; this model uses pytorch" in notes
    assert "measured in bfloat16; this model runs in float32" in notes
    alike = fitted.predict(replace(workload(op()), framework="keras", precision="bfloat16"))
    assert not any("was measured" in note for note in alike.warnings)


def test_negative_steps() -> None:
    with pytest.raises(JoulecastError, match="steps -1"):
        profile().predict(workload(op()), steps=-1)


def notes_of(made: Profile, work: Workload, **options: int) -> list[tuple[str, Topic, Weight]]:
    return [(str(note), note.topic, note.weight) for note in made.predict(work, **options).warnings]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "scaled"),
    [
        (999.0, ("999", "B")), (1e3, ("1", "kB")), (999e3, ("999", "kB")), (1e6, ("1", "MB")), (999e6, ("999", "MB")),
        (1e9, ("1", "GB")), (1.456e9, ("1.46", "GB")), (999e9, ("999", "GB")), (1e12, ("1", "TB")), (0.0, ("0", "B")),
    ],
)  # fmt: skip
def test_figures_with_a_prefix(value: float, scaled: tuple[str, str]) -> None:
    assert _scaled(value, "B") == scaled


@pytest.mark.parametrize(
    ("low", "high", "unit", "text"),
    [
        (18e9, 64e9, "B", "18 to 64 GB"),
        (800e6, 2e9, "B", "800 MB to 2 GB"),
        (256.0, 256.0, "", "256 only"),
        (5e9, 5e9, "B", "5 GB only"),
        (1.0, 2.0, "", "1 to 2"),
        (1.0, 2e3, "", "1 to 2 k"),
    ],
)
def test_what_a_profile_covers(low: float, high: float, unit: str, text: str) -> None:
    assert _covered(Range(low, high), unit) == text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer": "sgd"}, 400 + 60 * 4 + 1000),
        ({"optimizer": "adam", "optimizer_state_bytes": 7}, 400 + 60 * 4 + 7 + 1000),
        ({"optimizer": "adam", "optimizer_state_bytes": 0}, 400 + 60 * 4 + 1000),
        ({"train": False}, 400),
        ({"optimizer": None}, 400),
        ({"train": False, "input_bytes": 50}, 400 + 50),
        ({"parameters": 0, "parameter_bytes": 0}, 1000),
        ({"parameter_bytes": 200}, 200 + 60 * 2 + 60 * 4 + 1000),  # 2 bytes a weight
    ],
)
def test_memory_of_other_trainings(changes: dict[str, object], expected: int) -> None:
    assert memory_needed(replace(workload(op()), **changes)) == expected  # type: ignore[arg-type]


def test_gradients_of_large_scores_count_where_they_are_more_than_those_of_the_weights() -> None:
    def backward(name: str, kind: str, written: int) -> Op:
        return replace(op(kind), name=name, phase="backward", bytes_written=written)

    scores = (backward("nll_loss_backward", "loss", 400), backward("_log_softmax_backward_data", "softmax", 400))
    others = (backward("_softmax_backward_data", "softmax", 10**6), replace(scores[0], phase="forward"))
    base = memory_needed(workload(op()))
    assert memory_needed(workload(op(), *others)) == base
    assert memory_needed(workload(op(), *scores)) == base - 60 * 4 + 800
    assert memory_needed(workload(op(), scores[0])) == base - 60 * 4 + 400
    assert memory_needed(workload(op(), backward("mse_loss_backward", "loss", 200))) == base


def test_memory_that_just_fits_has_no_note() -> None:
    needed = memory_needed(workload(op()))
    assert notes_of(profile(memory_bytes=needed), workload(op())) == []
    ((text, topic, weight),) = notes_of(profile(memory_bytes=needed - 1), workload(op()))
    assert text.startswith("needs about 2.12e-06 GB per device (modelled: ")
    assert "more than the device's 2.12e-06 GB" in text
    assert (topic, weight) == (Topic.MODEL, Weight.STOP)


def test_memory_advice_leaves_out_what_is_done_already() -> None:
    forward, backward = op("mm", flops=100), replace(op("mm", flops=100), phase="backward")
    small = profile(memory_bytes=1)
    assert "recompute activations" in notes_of(small, workload(forward, backward, backward))[0][0]
    recomputing = workload(forward, backward, backward, backward)
    assert "reduce the batch size, or give the devices" in notes_of(small, recomputing)[0][0]


def test_a_start_that_takes_longer_than_the_steps_is_noted() -> None:
    work = workload(op("matmul", flops=5_000_000))  # 10 ms
    starting = profile(startup_s=1.0)
    assert notes_of(starting, work, steps=100) == []  # as long
    ((text, topic, weight),) = notes_of(starting, work, steps=50)
    assert text.startswith("1 s of this time is the start-up of a run, once however many steps it has; ")
    assert "; the steps take 0.5 s (" in text
    assert (topic, weight) == (Topic.SCHEDULE, Weight.ROUGH)
    found = starting.predict(work, steps=50, devices=3)
    start = next(part for part in found.breakdown if part.name == "start-up")
    assert (start.seconds, start.energy_kwh) == (3.0, pytest.approx(3 * 20 / 3.6e6))
    assert found.seconds.value == pytest.approx(1.5)
    assert found.energy_kwh.value == pytest.approx(3 * (20 + 0.5 * 120) / 3.6e6)
    nothing = starting.predict(work, steps=0)
    assert (nothing.seconds.value, nothing.energy_kwh.value) == (0.0, 0.0)
    assert {part.name for part in nothing.breakdown} == {"compute", "memory", "launch", "static"}


def test_layers_measured_alone_say_less_of_a_network() -> None:
    layers = profile(ranges={LAYER_OPS: Range(1.0, 2.0)})
    assert notes_of(layers, workload(op(), op())) == []
    alone, network = (layers.predict(workload(*[op(flops=500_000)] * count)) for count in (2, 3))
    assert alone.seconds.high / alone.seconds.value == pytest.approx(2.0)
    assert network.seconds.high / network.seconds.value == pytest.approx(2.0 ** (1 + 0.5 * 0.7))
    ((text, topic, weight),) = notes_of(layers, workload(op(count=3)))
    assert text == "the test profile was measured on single layers; in a network they can take 1.5 times that"
    assert (topic, weight) == (Topic.RANGE, Weight.ROUGH)


def test_ops_outside_of_the_layers_that_were_measured() -> None:
    """200 ms of an op that is two powers of ten too large, 4 ms of ops inside: 2 x 200/204 in the mean."""
    layers = profile(ranges={LAYER_OPS: Range(1.0, 9.0), "op_flops": Range(1e4, 1e6)})
    large, small = op("matmul", flops=100_000_000), op("matmul", flops=1_000_000)  # 200 and 2 ms
    found = layers.predict(workload(small, large, small))
    outside = 2 * 200 / 204 - 0.3
    assert found.seconds.high / found.seconds.value == pytest.approx(2.0 ** (1 + 0.5 * outside))
    (note,) = found.warnings
    assert note == "this run has ops of 100 M multiply-adds; the test profile covers 10 k to 1 M"
    assert layers.predict(workload()).warnings == ()


def test_the_feature_that_is_furthest_outside_comes_first() -> None:
    ranges = {"ops": Range(1.0, 1.0), "bytes": Range(1e3, 1e4), "batch_size": Range(4.0, 4.0), "flops": Range(1.0, 1e9)}
    found = notes_of(profile(ranges=ranges), workload(op(moved=10**7), op()))
    assert found == [
        ("this run moves 10 MB per step; the test profile covers 1 to 10 kB", Topic.RANGE, Weight.ACT),
        ("this run has 2 ops per step; the test profile covers 1 only", Topic.RANGE, Weight.ROUGH),
    ]
    nearly = profile(ranges={"batch_size": Range(1.0, 3.6)})  # 4 is 0.046 powers of ten outside
    assert notes_of(nearly, workload(op())) == []
    beyond = profile(ranges={"batch_size": Range(1.0, 3.5)})  # 0.058
    assert notes_of(beyond, workload(op()))[0][0] == "this run has a batch size of 4; the test profile covers 1 to 3.5"


def test_several_devices_and_their_note() -> None:
    assert notes_of(profile(), workload(op())) == []
    ((text, topic, weight),) = notes_of(profile(), workload(op()), devices=2)
    alone = "communication between the 2 devices is not modelled: the time is a lower bound"
    assert text == f"{alone}; give them as `cluster`"
    ((text, _, _),) = notes_of(profile(device="cpu"), workload(op()), devices=2)
    assert text == alone
    assert (topic, weight) == (Topic.SCHEDULE, Weight.ROUGH)
    with pytest.raises(JoulecastError, match="steps 1, devices 0; give 0 or more steps, 1 or more devices"):
        profile().predict(workload(op()), devices=0)


def test_notes_of_the_workload_are_about_the_model() -> None:
    ((text, topic, _),) = notes_of(profile(), workload(op(), warnings=("shapes are guessed",)))
    assert (text, topic) == ("shapes are guessed", Topic.MODEL)
    assert isinstance(profile().predict(workload(op(), warnings=("x",))).warnings[0], Note)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float8", "float32"])
def test_watts_of_16_bit_arithmetic(precision: str) -> None:
    hot = PowerModel({"compute": 300.0, "memory": 40.0, "launch": 0.0}, 20.0)
    flat = Roofline({precision: 1e9, "float32": 1e9}, 1e9, {precision: 0.5, "float32": 0.5}, 0.5, launch_s=1e-3)
    made = profile(half_power=hot, time=flat)
    work = workload(replace(op(flops=5_000_000), dtype=precision))
    watts = made.predict(replace(work, precision=precision)).power_w
    assert watts == pytest.approx(120.0 if precision == "float32" else 320.0)


def test_a_document_of_the_fewest_parts() -> None:
    full = profile(startup_s=2.0, software="eager", half_power=PowerModel({"compute": 1.0}, 2.0), precision="float32")
    assert Profile.from_json(full.to_json()) == full
    assert "software" not in profile().to_json()
    assert "half_power" not in profile().to_json()
    document = profile().to_json()
    for key in ("memory_bytes", "ranges", "kinds", "scores", "host", "precision", "startup_s"):
        del document[key]
    assert Profile.from_json(document) == profile()


@pytest.mark.parametrize("part", ["time", "power", "provenance", "time_error", "ranges"])
@pytest.mark.parametrize("value", [3, {"form": "none"}, {}])
def test_a_document_with_a_wrong_part(part: str, value: object) -> None:
    if part == "ranges" and value == {}:
        return
    with pytest.raises(ProfileError):
        Profile.from_json({**profile().to_json(), part: value})


def test_time_models_that_are_not_known() -> None:
    with pytest.raises(ProfileError, match="time model 'guess' is not known; update joulecast"):
        time_model_from_json({"form": "guess"})


@pytest.mark.parametrize("label", LABELS)
def test_labels_of_figures(label: str) -> None:
    assert Provenance(label, "measured", ("x",)).time == label
    with pytest.raises(ProfileError):
        Provenance("measured", f"{label}!", ("x",))


def test_the_shipped_h100_is_measured_and_keeps_what_it_learnt_in_other_software() -> None:
    measured, work = load_profile("h100-sxm"), workload(op("elementwise", 0, 1000, count=1000))  # waits for the host
    datasheet = datasheet_profile(find_hardware("h100-sxm"))
    assert (measured.provenance.time, measured.provenance.power) == ("measured", "measured")
    ratios = [
        measured.for_software(name).predict(work).seconds.value
        / datasheet.for_software(name).predict(work).seconds.value
        for name in ("eager", "ngc", "fused")
    ]
    assert all(0.5 < ratio < 0.85 for ratio in ratios)  # its host is faster than the population's
    idle_w, waiting_w = measured.power.static_w, measured.power.static_w + measured.power.weights_w["launch"]
    assert 70 < idle_w < waiting_w < 700


def test_a_scan_on_a_gpu_is_priced_as_a_fused_kernel_and_the_note_says_so() -> None:
    scanned, plain = workload(op("scan", 10**9, 10**6)), workload(op("attention", 10**9, 10**6))
    for work, expected in ((scanned, 1), (plain, 0)):
        found = [text for text, *_ in notes_of(replace(profile(), device="gpu"), work) if "scans over time" in text]
        assert len(found) == expected
    assert not [text for text, *_ in notes_of(replace(profile(), device="cpu"), scanned) if "scans over time" in text]
