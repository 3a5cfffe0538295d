"""The estimate of a split: its sum, proportions, notes and bounds, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.notes import Note, Topic, Weight
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.collectives import seconds
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.predict import predict_split
from joulecast.estimator.cost.parallel.shard import slowest_stage
from joulecast.estimator.cost.parallel.step import (
    expert_exchanges,
    pipeline_exchanges,
    step_cost,
    tensor_exchanges,
)
from joulecast.estimator.cost.stacks import load_stacks

from .decoder import decoder, device, nodes


def test_the_estimate_adds_up_and_keeps_its_proportions() -> None:
    own = replace(device(), startup_s=3.0)
    cluster = nodes()
    estimate, split = predict_split(own, decoder(), cluster, steps=10, plan=Plan(dp=2, tp=4))
    cost = split.cost
    assert cost.waiting_s > 0
    assert estimate.seconds.value == pytest.approx(10 * cost.seconds + 3.0)
    kwh = 8 * (10 * cost.joules + 3 * 40) / JOULES_PER_KWH
    assert estimate.energy_kwh.value == pytest.approx(kwh)
    assert sum(part.energy_kwh for part in estimate.layers) == pytest.approx(kwh)
    assert sum(part.seconds for part in estimate.layers) == pytest.approx(estimate.seconds.value)
    by_name = {part.name: part for part in estimate.breakdown}
    exchanged = by_name["communication"]
    assert exchanged.seconds == pytest.approx(10 * 8 * (cost.waiting_s - cost.bubble_s))
    assert exchanged.energy_kwh == pytest.approx(exchanged.seconds * 40 / JOULES_PER_KWH)
    # a factor of two for what waits, in squares with the 25 % of one device
    doubt = math.log(2.0) * cost.waiting_s / cost.seconds
    reach = math.exp(math.hypot(math.log(1.25), doubt))
    assert estimate.seconds.high == pytest.approx(estimate.seconds.value * reach)
    assert estimate.seconds.low == pytest.approx(estimate.seconds.value / reach)
    nothing, _ = predict_split(own, decoder(), cluster, steps=0, plan=Plan(dp=2, tp=4))
    assert nothing.seconds == Interval.exact(0.0)


def test_a_pipelines_bubble_has_a_line_of_its_own() -> None:
    estimate, split = predict_split(device(), decoder(), nodes(devices=4), steps=2, plan=Plan(pp=4))
    bubble = next(part for part in estimate.breakdown if part.name == "pipeline bubble")
    assert bubble.seconds == pytest.approx(2 * 4 * split.cost.bubble_s)
    assert split.plan.accumulate == 4
    assert sum(part.energy_kwh for part in estimate.breakdown) == pytest.approx(estimate.energy_kwh.value)


def test_notes_on_memory_and_on_waiting() -> None:
    def notes(memory_bytes: int, gb_per_s: float) -> dict[Topic, Note]:
        cluster = nodes(gb_per_s=gb_per_s)
        found, _ = predict_split(device(memory_bytes), decoder(), cluster, steps=1, plan=Plan(dp=2, tp=4))
        return {note.topic: note for note in found.warnings if isinstance(note, Note)}

    _, split = predict_split(device(), decoder(), nodes(), steps=1, plan=Plan(dp=2, tp=4))
    needed = split.memory.total
    roomy, fast = math.ceil(needed), 1000.0
    assert Topic.MODEL not in notes(roomy, fast)
    tight = notes(10**9, fast)[Topic.MODEL]
    assert tight.weight == Weight.STOP
    assert f"needs about {needed / 1e9:.3g} GB per device (modelled), more than the device's 1 GB" in tight
    waiting = notes(roomy, 0.0001)[Topic.SCHEDULE]
    assert waiting.weight == Weight.ACT
    assert "devices wait for each other 9" in waiting  # per cent and more
    assert "devices wait" not in notes(roomy, fast).get(Topic.SCHEDULE, "")


def test_a_step_with_every_kind_of_waiting() -> None:
    plan = Plan(dp=2, tp=2, pp=2, ep=2, accumulate=3)
    found = dissect(decoder())
    cluster, stage = nodes(), slowest_stage(found, plan)
    cost = step_cost(device(), found, plan, cluster)
    each = [
        sum(seconds(one, cluster) for one in exchanges)
        for exchanges in (
            tensor_exchanges(found, plan, stage),
            pipeline_exchanges(found, plan, cluster.devices_per_node),
            expert_exchanges(found, plan, stage, cluster.devices_per_node),
        )
    ]
    own = 3 * stage.mean_work  # micro-batches of the slowest stage that take as long as three of the mean stage
    assert 1.5 < own < 3
    assert [cost.tensor_s, cost.pipeline_s, cost.expert_s] == pytest.approx([own * one for one in each])
    micro_s = cost.compute_s / own + sum(each)
    assert cost.seconds - cost.data_s - cost.update_s == pytest.approx((3 + 1) * micro_s)  # one for the other stage
    assert cost.waiting_s == pytest.approx(own * sum(each) + cost.data_s + cost.bubble_s)
    assert cost.seconds == pytest.approx(cost.compute_s + cost.update_s + cost.waiting_s)
    assert cost.joules == pytest.approx(100 * (cost.compute_s + cost.update_s) + 40 * cost.waiting_s)


@pytest.mark.parametrize("known", [True, False])
def test_stacks_for_language_models_have_the_bounds_of_published_trainings(known: bool) -> None:
    own = replace(device(), software="fused")
    estimate, _ = predict_split(own, decoder(), nodes(), steps=3, plan=Plan(dp=8), software_known=known)
    low, high = load_stacks().time_error if known else load_stacks().assumed_time_error
    assert estimate.seconds.high / estimate.seconds.value == pytest.approx(high)
    assert estimate.seconds.low / estimate.seconds.value == pytest.approx(low)
    energy = estimate.energy_kwh
    # Longer steps draw less, by 15 % of the time's logarithm; 12 % of power in addition.
    reach = [math.exp(math.hypot(0.85 * math.log(bound), math.log(1.12))) for bound in (high, low)]
    assert energy.high / energy.value == pytest.approx(reach[0])
    assert energy.value / energy.low == pytest.approx(reach[1])
    measured = replace(own, provenance=replace(own.provenance, time="measured"))
    assert predict_split(measured, decoder(), nodes(), steps=3, plan=Plan(dp=8))[0].seconds != estimate.seconds


def test_assumed_software_is_no_more_certain() -> None:
    stacks = load_stacks()
    assert stacks.assumed_time_error[0] <= stacks.time_error[0] < 1.0
    assert stacks.assumed_time_error[1] >= stacks.time_error[1] > 1.0


def test_the_slowest_of_many_nodes_holds_up_the_step() -> None:
    slow = replace(nodes(count=4), links=replace(nodes().links, straggling=0.1))
    even = replace(slow, links=replace(slow.links, straggling=0.0))
    late, cost = (step_cost(device(), dissect(decoder()), Plan(dp=32), one) for one in (slow, even))
    assert slow.slowdown == pytest.approx(1.2)  # a tenth for each doubling
    assert late.straggling_s == pytest.approx(0.2 * (cost.compute_s + cost.update_s + cost.tensor_s + cost.data_s))
    assert cost.straggling_s == 0.0
    assert late.seconds == pytest.approx(1.2 * cost.seconds)
