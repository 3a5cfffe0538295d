"""The estimate of a split run by hand: power of nodes, waiting for data, notes, and what the JSON says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.notes import Note, Topic, Weight
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.parallel.memory import Memory
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.predict import Split, _notes, predict_split
from joulecast.estimator.cost.parallel.step import StepCost
from joulecast.estimator.cost.stacks import load_stacks
from joulecast.estimator.cost.waiting import PER_DEVICE_HOUR, Interruptions
from joulecast.estimator.trace.fp8 import FP8

from .decoder import decoder, device, nodes

ONE = nodes(devices=1)
COST = StepCost(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, joules=900.0, input_s=9.0, unexplained_s=10.0)
MEMORY = Memory(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
SPLIT = Split(
    Plan(dp=2, tp=4, pp=2, zero=1, checkpointing="full", accumulate=3),
    nodes(count=2, devices=8),
    True,
    MEMORY,
    COST,
    rest_w=100.0,
    idle_node_w=50.0,
    idle_hosts=3,
    storage_w=7.0,
    interruptions=Interruptions(2.0, 0.5),
)


def test_the_json_of_a_split() -> None:
    assert replace(SPLIT, cost=replace(COST, context_s=11.0)).to_json() == {
        "cluster": "made-up",
        "nodes": 2,
        "devices_per_node": 8,
        "chosen": True,
        "dp": 2,
        "tp": 4,
        "pp": 2,
        "cp": 1,
        "ep": 1,
        "zero": 1,
        "checkpointing": "full",
        "etp": 4,
        "vp": 1,
        "micro_batches": 3,
        "node_rest_w": 100.0,
        "idle_hosts": 3,
        "idle_node_w": 50.0,
        "storage_w": 7.0,
        "interruptions": {"count": 2.0, "hours_each": 0.5, "seconds": 3600.0},
        "step_s": {
            "total": 66.0,
            "compute": 1.0,
            "tensor": 2.0,
            "pipeline": 3.0,
            "expert": 4.0,
            "context": 11.0,
            "data": 5.0,
            "bubble": 6.0,
            "optimizer": 7.0,
            "stragglers": 8.0,
            "unexplained": 10.0,
            "input": 9.0,
        },
        "memory_bytes": {
            "total": 21.0,
            "weights": 1.0,
            "gradients": 2.0,
            "optimizer": 3.0,
            "activations": 4.0,
            "logits": 5.0,
            "buffers": 6.0,
        },
    }
    assert replace(SPLIT, interruptions=None).to_json()["interruptions"] is None


def test_watts_of_all_nodes_and_of_what_runs_in_addition() -> None:
    assert (SPLIT.all_rest_w, SPLIT.shared_w) == (200.0, 157.0)
    bare = Split(Plan(), ONE, False, MEMORY, COST)
    assert (bare.all_rest_w, bare.shared_w, bare.interruptions) == (0.0, 0.0, None)


def test_a_desktop_around_one_device() -> None:
    """80 W and 12 % of what the boards draw: 100 W at work, 40 W idle."""
    _, split = predict_split(device(), decoder(), ONE, steps=1, plan=Plan())
    assert split.rest_w == pytest.approx(80 + 12)
    assert split.idle_node_w == pytest.approx(40 + 80 + 4.8)
    _, two = predict_split(device(), decoder(), nodes(devices=2, gb_per_s=1e6), steps=1, plan=Plan(dp=2))
    assert two.idle_node_w == pytest.approx(2 * 40 + 80 + 2 * 4.8)
    assert 80 + 2 * 4.8 < two.rest_w < 80 + 2 * 12


def test_a_servers_watts_follow_from_what_its_devices_may_draw() -> None:
    """37 % of what a node may draw above its boards: 46/56 of their limits, here 40 + 60 W, of a T4 70 W."""
    _, split = predict_split(device(), decoder(), nodes(), steps=1, plan=Plan(dp=8))
    assert split.rest_w == pytest.approx(0.37 * 800 * 46 / 56)
    assert split.idle_node_w == pytest.approx(8 * 40 + split.rest_w)
    _, known = predict_split(device(), decoder(), replace(nodes(), hardware="t4"), steps=1, plan=Plan(dp=8))
    assert known.rest_w == pytest.approx(0.37 * 560 * 46 / 56)


def test_a_run_that_takes_no_time() -> None:
    free = replace(device(), time=Curves((Term("dense", "*", "macs", 0.0), Term("*", "*", "launch", 0.0))))
    estimate, split = predict_split(free, decoder(), ONE, steps=3, plan=Plan())
    assert split.rest_w == pytest.approx(80 + 4.8)  # the board idles
    assert (estimate.seconds, estimate.energy_kwh) == (Interval.exact(0.0), Interval.exact(0.0))
    assert estimate.breakdown == ()
    assert {(part.seconds, part.energy_kwh) for part in estimate.layers} == {(0.0, 0.0)}
    assert not estimate.warnings
    started = replace(free, startup_s=2.0)
    estimate, _ = predict_split(started, decoder(), ONE, steps=3, plan=Plan())
    assert estimate.seconds.value == 2.0
    assert estimate.seconds.high == pytest.approx(started.predict(decoder(), steps=3).seconds.high)


def test_waiting_that_draws_nothing_is_listed() -> None:
    cold = replace(device(), power=replace(device().power, static_w=0.0))
    estimate, _ = predict_split(cold, decoder(), nodes(), steps=1, plan=Plan(dp=2, tp=4))
    found = {part.name: part for part in estimate.breakdown}
    assert found["communication"].seconds > 0
    assert found["communication"].energy_kwh == 0.0


def test_a_step_waits_for_its_data() -> None:
    alone, plain = predict_split(device(), decoder(), ONE, steps=4, plan=Plan())
    step_s = plain.cost.seconds
    assert (plain.cost.input_s, plain.interruptions) == (0.0, Interruptions(plain.interruptions.count, 0.0))  # type: ignore[union-attr]
    slow, split = predict_split(device(), decoder(), ONE, steps=4, plan=Plan(), data_s=3 * step_s)
    assert split.cost.input_s == pytest.approx(2 * step_s)
    assert split.cost.joules == pytest.approx(plain.cost.joules + 40 * 2 * step_s)
    assert slow.seconds.value == pytest.approx(4 * 3 * step_s)
    assert slow.energy_kwh.value == pytest.approx(alone.energy_kwh.value + 4 * 2 * step_s * 40 / JOULES_PER_KWH)
    fast, _ = predict_split(device(), decoder(), ONE, steps=4, plan=Plan(), data_s=step_s / 2)
    assert fast.seconds == alone.seconds


def test_a_run_is_interrupted() -> None:
    plain, _ = predict_split(device(), decoder(), nodes(), steps=4, plan=Plan(dp=8))
    longer, split = predict_split(device(), decoder(), nodes(), steps=4, plan=Plan(dp=8), restart_hours=2.0)
    assert longer.seconds.value == pytest.approx(plain.seconds.value * (1 + PER_DEVICE_HOUR * 2 * 8))
    assert split.interruptions is not None
    assert split.interruptions.hours_each == 2.0


def test_micro_batches_that_the_replicas_cannot_share() -> None:
    with pytest.raises(
        RequestError, match=r"the 9 micro-batches of a step are not divisible by dp=4; use `global_batch`"
    ):
        predict_split(device(), decoder(), nodes(), steps=1, plan=Plan(dp=4, tp=2), passes=9)
    _, split = predict_split(device(), decoder(), nodes(), steps=1, plan=Plan(dp=2, tp=4), passes=6)
    assert split.plan.accumulate == 3


def test_components_keep_the_proportions_of_one_device() -> None:
    own = replace(device(), startup_s=1e-3)
    estimate, split = predict_split(own, decoder(), nodes(), steps=10, plan=Plan(dp=2, tp=4))
    alone, cost = own.predict(decoder(), steps=10), split.cost
    found = {part.name: part for part in estimate.breakdown}
    busy_kwh = 10 * 8 * cost.joules / JOULES_PER_KWH - found["communication"].energy_kwh
    whole_kwh = sum(part.energy_kwh for part in alone.breakdown)
    known = [part for part in alone.breakdown if part.seconds or part.energy_kwh]
    assert found.keys() == {"communication", *(part.name for part in known)}
    assert {"static", "compute", "start-up"} <= found.keys()
    for part in known:
        busy_s = (cost.compute_s + cost.update_s) * 10 * 8
        assert found[part.name].seconds == pytest.approx(part.seconds / alone.seconds.value * busy_s)
        assert found[part.name].energy_kwh == pytest.approx(part.energy_kwh / whole_kwh * busy_kwh)
    layers = {part.name: part for part in estimate.layers}
    kwh, seconds = (sum(getattr(part, what) for part in alone.layers) for what in ("energy_kwh", "seconds"))
    for part in alone.layers:
        assert layers[part.name].energy_kwh == pytest.approx(part.energy_kwh / kwh * estimate.energy_kwh.value)
        assert layers[part.name].seconds == pytest.approx(part.seconds / seconds * estimate.seconds.value)


def test_stragglers_have_a_line_of_their_own() -> None:
    slow = replace(nodes(count=2, devices=4), links=replace(nodes().links, straggling=0.1))
    estimate, split = predict_split(device(), decoder(), slow, steps=2, plan=Plan(dp=2, tp=4))
    found = {part.name: part.seconds for part in estimate.breakdown}
    cost = split.cost
    assert found["stragglers"] == pytest.approx(2 * 8 * cost.straggling_s)
    assert found["communication"] == pytest.approx(2 * 8 * (cost.tensor_s + cost.data_s))
    assert "pipeline bubble" not in found


def test_fp8_trainings_are_less_certain() -> None:
    own = replace(device(), software="fused")
    found, _ = predict_split(own, replace(decoder(), precision=FP8), nodes(), steps=3, plan=Plan(dp=8))
    reach = math.hypot(math.log(load_stacks().time_error[1]), math.log(1.25))
    assert found.seconds.high / found.seconds.value == pytest.approx(math.exp(reach))


def test_the_split_replaces_the_note_on_one_devices_memory() -> None:
    found, _ = predict_split(device(10**6), decoder(), nodes(), steps=1, plan=Plan(dp=8))
    (note,) = [one for one in found.warnings if "needs about" in one]
    assert note.startswith("dp=8 needs about ")
    alone = device(10**6).predict(decoder(), steps=1)
    assert any(one.startswith("needs about") for one in alone.warnings)


def noted(split: Split, memory_bytes: int | None = None) -> list[tuple[str, Topic, Weight]]:
    return [(str(note), note.topic, note.weight) for note in _notes(split, device(memory_bytes))]


def test_notes_of_a_split() -> None:
    calm = replace(SPLIT, chosen=False, cost=StepCost(70.0, 30.0, 0, 0, 0, 0, 0, 0, joules=0.0))
    assert noted(calm) == noted(calm, 21) == []
    (chosen,) = noted(replace(calm, chosen=True))
    assert chosen == (f"split chosen by joulecast: {calm.plan} on made-up; `parallel` sets another", *ROUGH)
    (tight,) = noted(calm, 20)
    assert f"{calm.plan} needs about 2.1e-08 GB per device (modelled), more than the device's 2e-08 GB" in tight[0]
    assert tight[1:] == (Topic.MODEL, Weight.STOP)
    waiting = replace(calm, cost=StepCost(69.0, 31.0, 0, 0, 0, 0, 0, 0, joules=0.0))
    text = "devices wait for each other 31% of the time (communication and pipeline bubbles)"
    assert noted(waiting) == [(text, Topic.SCHEDULE, Weight.ACT)]


ROUGH = (Topic.SCHEDULE, Weight.ROUGH)


def test_a_chosen_split_says_so() -> None:
    estimate, split = predict_split(device(), decoder(), nodes(gb_per_s=1000.0), steps=1)
    (note,) = [one for one in estimate.warnings if isinstance(one, Note) and one.weight == Weight.ROUGH]
    assert (split.chosen, note.startswith("split chosen by joulecast")) == (True, True)


def test_notes_on_uneven_stages_and_on_exchanges_of_experts() -> None:
    def notes(plan: Plan, gb_per_s: float = 1.0) -> str:
        cluster = nodes(devices=plan.devices, gb_per_s=gb_per_s)
        found, _ = predict_split(device(), decoder(), cluster, steps=1, plan=plan)
        return "\n".join(found.warnings)

    assert "4 blocks on 3 pipeline stages: the largest has 2 and sets the pace" in notes(Plan(pp=3))
    assert "pipeline stages:" not in notes(Plan(pp=2))
    slow = notes(Plan(dp=4, ep=4), 0.0001)
    assert "exchanging tokens between experts takes" in slow
    assert "exchanging tokens" not in notes(Plan(dp=4, ep=4, expert_overlap=True), 0.0001)
    assert "exchanging tokens" not in notes(Plan(dp=4, ep=4), 1000.0)
