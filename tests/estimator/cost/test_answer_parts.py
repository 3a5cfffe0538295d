"""Shares, sums of runs, moves between two predictions and notes of a prediction, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.notes import Note, Topic, Weight
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.bounds import ErrorModel, Range
from joulecast.estimator.cost.estimate import Estimate, Share, shares, towards, with_parts
from joulecast.estimator.cost.memory import memory_needed
from joulecast.estimator.cost.profile import PowerModel, Profile, Provenance
from joulecast.estimator.cost.roofline import Roofline
from joulecast.estimator.trace.workload import Op, Workload

OWN = Estimate(
    steps=10,
    seconds=Interval(100.0, 50.0, 200.0),
    energy_kwh=Interval(2.0, 1.0, 4.0),
    breakdown=(Share("compute", 80.0, 1.5, 0.75), Share("static", 100.0, 0.5, 0.25)),
    layers=(Share("fc", 100.0, 2.0, 1.0),),
    profile="own",
    time_source="measured",
    power_source="measured",
    warnings=("a",),
)
OTHER = replace(
    OWN,
    seconds=Interval(400.0, 100.0, 800.0),
    energy_kwh=Interval(4.0, 1.0, 8.0),
    profile="other",
    time_source="datasheet",
)


def test_shares_are_of_the_energy_largest_first() -> None:
    found = shares({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 3.0})
    assert found == (Share("b", 2.0, 3.0, 0.75), Share("a", 1.0, 1.0, 0.25))
    assert shares({"a": 1.0}, {"a": 0.0}) == (Share("a", 1.0, 0.0, 0.0),)


def test_parts_of_one_name_add_up() -> None:
    both = with_parts((Share("a", 1.0, 1.0, 1.0),), (Share("a", 2.0, 2.0, 0.5), Share("b", 3.0, 1.0, 0.5)))
    assert both == (Share("a", 3.0, 3.0, 0.75), Share("b", 3.0, 1.0, 0.25))


def test_runs_after_each_other() -> None:
    both = OWN + replace(OWN, steps=5, warnings=("a", "b"))
    assert (both.steps, both.seconds.value, both.energy_kwh.high, both.warnings) == (15, 200.0, 8.0, ("a", "b"))
    assert both.breakdown == (Share("compute", 160.0, 3.0, 0.75), Share("static", 200.0, 1.0, 0.25))
    with pytest.raises(ValueError, match="two profiles, 'own' and 'other'"):
        OWN + OTHER


def test_the_mean_power_is_energy_over_time() -> None:
    assert OWN.power_w == pytest.approx(2.0 * 3_600_000 / 100)
    assert replace(OWN, seconds=Interval.exact(0.0)).power_w == 0.0


@pytest.mark.parametrize(("weight", "seconds"), [(0.0, 100.0), (0.5, 200.0), (1.0, 400.0)])
def test_a_prediction_moves_on_a_logarithmic_scale_at_its_own_watts(weight: float, seconds: float) -> None:
    moved = towards(OWN, OTHER, weight)
    assert moved.seconds.value == pytest.approx(seconds)
    assert moved.seconds.low == pytest.approx(50 * 2**weight)
    assert moved.seconds.high == pytest.approx(200 * 4**weight)
    # 72 kW against the other's 36 kW: its joules count twice
    assert moved.energy_kwh.value == pytest.approx(2.0 * 4**weight)
    assert moved.energy_kwh.low == pytest.approx(2**weight)
    assert moved.energy_kwh.high == pytest.approx(4 * 4**weight)
    assert moved.power_w == pytest.approx(OWN.power_w)
    assert sum(part.energy_kwh for part in moved.breakdown) == pytest.approx(moved.energy_kwh.value)
    assert moved.layers[0].seconds == pytest.approx(seconds)
    assert moved.layers[0].energy_kwh == pytest.approx(moved.energy_kwh.value)
    assert moved.time_source == ("measured" if weight <= 0.5 else "datasheet")


def test_a_prediction_of_nothing_does_not_move() -> None:
    zero = Interval.exact(0.0)
    assert towards(replace(OWN, seconds=zero, energy_kwh=zero), OTHER, 0.5).seconds == zero
    assert towards(OWN, replace(OTHER, seconds=zero, energy_kwh=zero), 0.5).seconds == OWN.seconds


# -- profiles ---------------------------------------------------------------------------------------------------

TIME = Roofline({"float32": 1e9}, 1e9, {"float32": 1.0}, 1.0, launch_s=0.0)


def step(flops: int = 10**9, *, kind: str = "matmul", precision: str = "float32", **values: object) -> Workload:
    ops = (Op("op", kind, "forward", "fc", flops, 0, 0),)
    base = Workload("net", "pytorch", 4, True, "adam", precision, 100, 60, 400, 1000, (), ops)
    return replace(base, **values)  # type: ignore[arg-type]


def profile(**values: object) -> Profile:
    base = Profile(
        name="own",
        hardware="a test bench",
        device="gpu",
        framework="pytorch",
        time=TIME,
        power=PowerModel({"compute": 100.0, "memory": 40.0, "launch": 0.0}, static_w=20.0),
        time_error=ErrorModel(0.5, 2.0, per_decade=1.0),
        energy_error=ErrorModel(0.5, 2.0, per_decade=1.0),
        provenance=Provenance("measured", "measured", ("this test",)),
    )
    return replace(base, **values)  # type: ignore[arg-type]


def test_a_start_up_is_paid_once_at_the_static_power() -> None:
    own = profile(startup_s=3.0)
    one, ten, none = (own.predict(step(), steps=steps, devices=2) for steps in (1, 10, 0))
    assert (one.seconds.value, ten.seconds.value, none.seconds.value) == pytest.approx((4.0, 13.0, 0.0))
    assert ten.energy_kwh.value == pytest.approx(2 * (10 * 120 + 3 * 20) / JOULES_PER_KWH)
    start = next(part for part in ten.breakdown if part.name == "start-up")
    assert (start.seconds, start.energy_kwh) == pytest.approx((6.0, 2 * 60 / JOULES_PER_KWH))
    assert {part.name for part in none.breakdown} == {"compute", "memory", "launch", "static"}
    assert sum(part.energy_kwh for part in ten.layers) == pytest.approx(ten.energy_kwh.value)


def test_16_bit_arithmetic_takes_its_own_watts() -> None:
    half = PowerModel({"compute": 200.0, "memory": 0.0, "launch": 0.0}, 20.0)
    own = profile(half_power=half, provenance=Provenance("datasheet", "datasheet", ("x",)))
    for precision, watts in (("float32", 120), ("float16", 220), ("bfloat16", 220), ("float64", 120)):
        found = own.predict(step(precision=precision))
        assert found.power_w == pytest.approx(watts), precision


def notes_of(own: Profile, work: Workload, **run: int) -> dict[str, tuple[Topic, Weight]]:
    return {
        str(note): (note.topic, note.weight) for note in own.predict(work, **run).warnings if isinstance(note, Note)
    }


def test_features_outside_of_the_measured_range_are_told_the_furthest_first() -> None:
    own = profile(ranges={"flops": Range(1e6, 1e7), "batch_size": Range(256, 256), "ops": Range(1, 10)})
    assert list(notes_of(own, step()).items())[:2] == [
        (
            "this run computes 1 G multiply-adds per step; the own profile covers 1 to 10 M",
            (Topic.RANGE, Weight.ACT),
        ),
        ("this run has a batch size of 4; the own profile covers 256 only", (Topic.RANGE, Weight.ROUGH)),
    ]
    moved = profile(ranges={"bytes": Range(8e8, 2e9), "ops": Range(5, 2e3)})
    ops = (Op("op", "norm", "forward", "fc", 0, 18 * 10**9, 0, count=1),)
    assert list(notes_of(moved, step(ops=ops)))[:2] == [
        "this run moves 18 GB per step; the own profile covers 800 MB to 2 GB",
        "this run has 1 ops per step; the own profile covers 5 to 2 k",
    ]


@pytest.mark.parametrize(("flops", "told"), [(1_100_000_000, False), (1_130_000_000, True)])
def test_a_twentieth_of_a_decade_counts_as_inside(flops: int, told: bool) -> None:
    own = profile(ranges={"flops": Range(1e6, 1e9)})
    assert any("profile covers" in note for note in notes_of(own, step(flops))) is told


@pytest.mark.parametrize(
    ("value", "decades"), [(10.0, 0), (1.0, 0), (100.0, 0), (1000.0, 1), (0.01, 2), (0.0, 0), (-5.0, 0)]
)
def test_decades_outside_of_a_range(value: float, decades: float) -> None:
    assert Range(1.0, 100.0).decades_outside(value) == pytest.approx(decades)
    assert Range(0.0, 0.0).decades_outside(5.0) == 0.0


def test_bounds_that_do_not_hold_the_prediction_are_taken_to_it() -> None:
    assert ErrorModel(1.2, 1.5).interval(10.0) == Interval(10.0, 10.0, 15.0)
    assert ErrorModel(0.5, 0.9).interval(10.0) == Interval(10.0, 5.0, 10.0)
    assert ErrorModel(0.5, 2.0).interval(10.0, decades_outside=2.0).high == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("flops", "decades"), [(10**9, 0.0), (10**7, 0.0), (10**10, 0.7), (10**11, 1.7), (19 * 10**8, 0.0)]
)
def test_bounds_hold_up_to_0_3_decades_outside(flops: int, decades: float) -> None:
    """Networks left out of a fit lie about a factor of two outside of the others' range."""
    own = profile(ranges={"flops": Range(1e6, 1e9)}, device="cpu")
    seconds = own.predict(step(flops)).seconds
    assert math.log2(seconds.high / seconds.value) == pytest.approx(1 + decades, abs=1e-6)


NOTES = {
    "one": ({"memory_bytes": 1000}, {}, "needs about", Topic.MODEL, Weight.STOP),
    "kinds": ({"kinds": ("conv",)}, {}, "the own profile has no measurements of: matmul", Topic.RANGE, Weight.ROUGH),
    "devices": (
        {},
        {"devices": 3},
        "communication between the 3 devices is not modelled: the time is a lower bound",
        Topic.SCHEDULE,
        Weight.ROUGH,
    ),
    "framework": (
        {"framework": "tensorflow"},
        {},
        "the own profile was measured with tensorflow; this model uses pytorch",
        Topic.PROFILE,
        Weight.ROUGH,
    ),
    "precision": (
        {"precision": "float16"},
        {},
        "the own profile was measured in float16; this model runs in float32",
        Topic.PROFILE,
        Weight.ROUGH,
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_notes_and_their_weight(name: str) -> None:
    values, run, text, topic, weight = NOTES[name]
    found = notes_of(profile(**values), step(), **run)
    assert [(topic_, weight_) for note, (topic_, weight_) in found.items() if note.startswith(text)] == [
        (topic, weight)
    ]
    assert notes_of(profile(), step()) == {}


def test_a_datasheets_framework_and_precision_are_nobodys() -> None:
    own = profile(framework="tensorflow", precision="float16", provenance=Provenance("datasheet", "datasheet", ("x",)))
    assert notes_of(own, step()) == {}


def test_a_profile_with_keras_measured_tensorflow() -> None:
    for own, other in (("keras", "tensorflow"), ("tensorflow", "keras")):
        assert notes_of(profile(framework=own), step(framework=other)) == {}


# -- distance from what was measured ----------------------------------------------------------------------------

CARD = {"hardware": "NVIDIA GeForce RTX 3090", "precision": "float32", "ranges": {"flops": Range(1e8, 1e9)}}


@pytest.mark.parametrize(
    ("values", "work", "weight"),
    [
        ({}, {}, 0.0),
        ({}, {"precision": "float16"}, 1.0),
        ({}, {"precision": "bfloat16"}, 1.0),
        ({}, {"precision": "float64"}, 1.0),
        ({"precision": ""}, {"precision": "float16"}, 0.0),
        ({}, {"framework": "keras"}, 0.7),
        ({"framework": "keras"}, {"framework": "tensorflow"}, 0.0),
        ({"software": "eager"}, {}, 0.0),
        ({"software": "tensorflow"}, {}, 0.7),
        ({"software": "tensorflow", "framework": "keras"}, {}, 0.0),
        ({"software": "eager", "framework": "keras"}, {}, 0.7),
        ({"software": "compiled"}, {}, 0.7),
        ({"software": "channels-last"}, {}, 0.7),
        ({"software": "ngc"}, {}, 0.7),
        ({"software": "vendor-tuned"}, {}, 0.7),
        ({"software": "compiled"}, {"framework": "keras"}, 0.7),  # as stated: PyTorch, as was measured
        ({"software": "compiled", "framework": "keras"}, {}, 1 - 0.3 * 0.3),
        # 0.3 decades outside still count as inside; from 1.0 on nothing of the measurement is left.
        ({"ranges": {"flops": Range(1e7, 10**8.71)}}, {}, 0.0),
        ({"ranges": {"flops": Range(1e7, 10**8.35)}}, {}, 0.5),
        ({"ranges": {"flops": Range(1e7, 1e8)}}, {}, 1.0),
        ({"ranges": {"flops": Range(1e4, 1e5)}}, {}, 1.0),
        ({"ranges": {"flops": Range(1e7, 10**8.35)}}, {"framework": "keras"}, 1 - 0.5 * 0.3),
        ({"hardware": "a test bench"}, {"precision": "float16"}, 0.0),  # no card of the table: no population
        ({"device": "cpu"}, {"precision": "float16"}, 0.0),
        ({"provenance": Provenance("datasheet", "datasheet", ("x",))}, {"precision": "float16"}, 0.0),
    ],
)
def test_how_much_of_a_prediction_is_the_populations(
    values: dict[str, object], work: dict[str, object], weight: float
) -> None:
    own = profile(**{**CARD, **values})
    given = step(**work)  # type: ignore[arg-type]
    assert own._distance(given) == pytest.approx(weight, abs=1e-6)
    told = [note for note in own.predict(given).warnings if "of the prediction comes from the population" in note]
    assert len(told) == (weight > 1e-6)
    if told:
        assert f"{weight:.0%} of the prediction" in told[0]
        assert (told[0].topic, told[0].weight) == (Topic.PROFILE, Weight.ROUGH)  # type: ignore[attr-defined]


def test_a_run_far_from_what_was_measured_takes_the_populations_time_and_its_own_start() -> None:
    own = profile(**{**CARD, "startup_s": 5.0})
    half = step(precision="float16")
    population = own._population().predict(half, steps=100)
    moved = own.predict(half, steps=100)
    assert moved.seconds.value == pytest.approx(population.seconds.value + 5.0)
    assert moved.time_source == "datasheet"
    start = next(part for part in moved.breakdown if part.name == "start-up")
    assert (start.seconds, start.energy_kwh) == pytest.approx((5.0, 5 * 20 / JOULES_PER_KWH))
    assert sum(part.energy_kwh for part in moved.breakdown) == pytest.approx(moved.energy_kwh.value)
    assert own.predict(half, steps=0).seconds.value == 0.0


# -- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({}, 400 + 240 + 2 * 240 + 1000),  # weights, gradients of 60 of them, Adam's two moments, activations
        ({"input_bytes": 7}, 400 + 240 + 2 * 240 + 1000 + 7),
        ({"optimizer": "sgd"}, 400 + 240 + 1000),
        ({"optimizer_state_bytes": 0}, 400 + 240 + 1000),
        ({"optimizer_state_bytes": 99}, 400 + 240 + 99 + 1000),
        ({"train": False, "input_bytes": 7}, 400 + 7),
        ({"optimizer": None, "input_bytes": 7}, 400 + 7),
        ({"parameters": 0, "trainable_parameters": 0, "parameter_bytes": 0}, 1000),
    ],
)
def test_memory_of_a_step(values: dict[str, object], needed: int) -> None:
    assert memory_needed(step(**values)) == needed  # type: ignore[arg-type]


def test_steps_and_devices_that_cannot_be() -> None:
    from joulecast.estimator.base.errors import JoulecastError

    for steps, devices in ((-1, 1), (1, 0)):
        with pytest.raises(JoulecastError, match=f"steps {steps}, devices {devices}"):
            profile().predict(step(), steps=steps, devices=devices)
    assert profile().predict(step(), steps=0).seconds.value == 0.0


def test_networks_on_a_profile_of_single_layers() -> None:
    own = profile(device="cpu", ranges={"layer_ops": Range(1, 3), "batch_size": Range(1, 100)})
    few, many = (step(ops=(Op("op", "matmul", "forward", "fc", 10**9, 0, 0, count=count),)) for count in (3, 4))
    text = "the own profile was measured on single layers; in a network they can take 1.5 times that"
    assert text not in notes_of(own, few)
    assert notes_of(own, many)[text] == (Topic.RANGE, Weight.ROUGH)
    narrow, wide = own.predict(few).seconds, own.predict(many).seconds
    assert narrow.high / narrow.value == pytest.approx(2.0)
    assert wide.high / wide.value == pytest.approx(2.0 ** (1 + 0.7))  # as if 0.7 decades outside


def test_a_run_that_is_mostly_its_start_says_so() -> None:
    own = profile(startup_s=3.0)
    text = "3 s of this time is the start-up of a run"
    assert [note.startswith(text) for note in notes_of(own, step(), steps=2)] == [True]
    assert notes_of(own, step(), steps=3) == {}
    assert notes_of(own, step(), steps=0) == {}


def test_a_layers_seconds_are_those_of_its_ops_in_all_steps() -> None:
    ops = tuple(Op("op", "matmul", "forward", layer, flops, 0, 0) for layer, flops in (("a", 10**9), ("b", 2 * 10**9)))
    layers = profile().predict(step(ops=(*ops, ops[0])), steps=5).layers
    assert {part.name: part.seconds for part in layers} == pytest.approx({"a": 10.0, "b": 10.0})


def test_ranges_of_single_ops_count_by_the_time_that_the_ops_take() -> None:
    """An op of 1 s inside the range, and one of 10 s a decade outside of it."""
    own = profile(device="cpu", ranges={"layer_ops": Range(1, 9), "op_flops": Range(1e6, 1e9)})
    ops = tuple(Op("op", "matmul", "forward", "fc", flops, 0, 0) for flops in (10**9, 10**10))
    both = step(ops=ops)
    seconds = own.predict(both).seconds
    assert math.log2(seconds.high / seconds.value) == pytest.approx(1 + 10 / 11 - 0.3)
    text = "this run has ops of 10 G multiply-adds; the own profile covers 1 M to 1 G"
    assert notes_of(own, both)[text] == (Topic.RANGE, Weight.ACT)
    assert notes_of(own, step(ops=ops[:1])) == {}
    assert own.predict(step(ops=())).seconds.value == 0.0
