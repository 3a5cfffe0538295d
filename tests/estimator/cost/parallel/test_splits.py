"""Which splits are possible, tried and chosen, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.experts import Experts
from joulecast.estimator.cost.parallel.memory import memory_of
from joulecast.estimator.cost.parallel.plan import Plan, check_plan, parse_plan, with_devices
from joulecast.estimator.cost.parallel.search import choose_plan, schedules, splits
from joulecast.estimator.cost.parallel.shard import slowest_stage
from joulecast.estimator.cost.parallel.step import (
    cost_at,
    prices_of,
    step_cost,
)

from .decoder import HIDDEN, SECONDS_PER_MAC, TOKENS, decoder, device, nodes
from .parts import anatomy


@pytest.mark.parametrize("name", ["dp", "tp", "pp", "cp", "ep", "accumulate", "interleave"])
def test_sizes_start_at_one(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is 0; give 1 or more"):
        Plan(**{name: 0})


def test_plans_that_cannot_be() -> None:
    for zero in (-1, 4):
        with pytest.raises(RequestError, match=f"`zero` is {zero}; choose one of 0, 1, 2, 3"):
            Plan(zero=zero)
    with pytest.raises(RequestError, match="`checkpointing` is 'some'; choose one of none, selective, full"):
        Plan(checkpointing="some")
    assert parse_plan("tp=2", Plan(dp=3, zero=3)) == Plan(dp=3, tp=2, zero=3)
    assert str(Plan()) == "dp=1"
    assert str(Plan(cp=2, ep=3, accumulate=1, zero=1)) == "cp=2, ep=3, zero=1"
    assert str(Plan(pp=2, interleave=4, zero=1)) == "pp=2, vp=4, zero=1"


@pytest.mark.parametrize(
    ("plan", "devices", "heads", "blocks", "message"),
    [
        (Plan(cp=3, pp=2), 12, 8, 4, "uses 6 devices, and there are 12; use dp=2"),
        (Plan(tp=5), 5, 8, 4, "8 attention heads are not divisible by tp=5; use tp=1 and dp=5"),
        (Plan(tp=3), 3, 8, 4, "use tp=1 and dp=3"),  # 2 and 4 do not divide 3 devices
        (Plan(tp=3), 3, 0, 4, ""),  # no attention: anything goes
        (Plan(tp=4), 4, 8, 4, ""),
        (Plan(pp=2, interleave=3), 2, 8, 4, "4 blocks are fewer than pp=2 x 3 chunks; use pp=1"),
        (Plan(pp=3), 3, 8, 4, ""),
        (Plan(pp=2, interleave=2), 2, 8, 5, ""),
        (Plan(pp=2, interleave=2), 2, 8, 4, ""),
        (Plan(pp=4), 4, 8, 4, ""),
        (Plan(dp=6, ep=4), 6, 8, 4, "dp=6 is not divisible by ep=4; use ep=3"),
        (Plan(dp=6, ep=3), 6, 8, 4, ""),
    ],
)
def test_splits_that_fit_and_that_do_not(plan: Plan, devices: int, heads: int, blocks: int, message: str) -> None:
    found = replace(anatomy(*[()] * blocks), heads=heads)
    if not message:
        check_plan(plan, found, devices)
        return
    with pytest.raises(RequestError) as caught:
        check_plan(plan, found, devices)
    assert message in str(caught.value)


def test_the_data_parallel_size_fills_the_devices() -> None:
    assert with_devices(Plan(tp=2, pp=3), 24) == Plan(dp=4, tp=2, pp=3)
    assert with_devices(Plan(dp=7, tp=5), 24) == Plan(dp=7, tp=5)


def test_all_splits_of_a_small_network() -> None:
    four = replace(anatomy((), ()), heads=2)
    found = list(splits(four, nodes(devices=4), 4, Plan(zero=1, checkpointing="full")))
    assert [(one.dp, one.tp, one.pp, one.zero, one.accumulate) for one in found] == [
        (4, 1, 1, 1, 1),
        (2, 1, 2, 1, 2),
        (2, 2, 1, 1, 2),
        (1, 2, 2, 0, 4),
    ]  # no tp=4: two heads; ZeRO needs replicas
    free = list(splits(replace(four, heads=0), nodes(devices=2), 2, Plan()))
    assert {(one.tp, one.pp, one.zero, one.checkpointing) for one in free} == {
        *((1, 1, zero, kept) for zero in (0, 1, 3) for kept in ("none", "selective", "full")),
        *((1, 2, 0, kept) for kept in ("none", "selective", "full")),
    }  # no attention, no tensor parallelism
    with_three = splits(four, nodes(devices=4), 8, Plan(zero=3))
    assert {one.pp for one in with_three if one.dp > 1} == {1}  # weights sharded over replicas: one stage


def test_interleaved_schedules_that_are_tried() -> None:
    def chunks(plan: Plan, layers: int) -> list[int]:
        return [one.interleave for one in schedules(plan, layers)]

    two = Plan(pp=2, accumulate=4)
    assert chunks(two, 16) == [1, 2, 4, 8]
    assert chunks(two, 15) == [1, 2, 4]  # one of 16 chunks would be empty
    assert chunks(two, 9) == [1]  # three of four chunks lack a block
    assert chunks(replace(two, accumulate=3), 16) == [1]  # rounds of two micro-batches
    assert chunks(replace(two, pp=1), 16) == [1]
    assert chunks(replace(two, interleave=3), 16) == [3]  # as stated


def test_the_chosen_pipeline_is_interleaved_where_that_shortens_its_bubble() -> None:
    decoder_ = decoder()
    one = replace(nodes(devices=2), links=replace(nodes().links, node_latency_s=0.0))
    found = choose_plan(decoder_, replace(dissect(decoder_), heads=0), device(), one, passes=2, base=Plan())
    assert found.plan.pp == 1  # data parallel, without a bubble
    plan = Plan(pp=2, accumulate=2)
    anatomy_ = dissect(decoder_)
    plain, woven = (step_cost(device(), anatomy_, replace(plan, interleave=v), one) for v in (1, 2))
    stage = slowest_stage(anatomy_, plan)
    again = cost_at(prices_of(device(), stage), device(), anatomy_, replace(plan, interleave=2), one, stage)
    assert again == woven
    assert woven.seconds < plain.seconds


@pytest.mark.parametrize("with_experts", [False, True])
@pytest.mark.parametrize("room", [1.0, 0.6, 0.3])
def test_the_chosen_split_is_the_fastest_of_all_that_fit_each_priced_alone(with_experts: bool, room: float) -> None:
    """Whatever splits of one search share, and on a device on which updates take time, too."""
    terms = (Term("dense", "*", "macs", SECONDS_PER_MAC), Term("*", "*", "bytes", 1e-8))
    slow = replace(device(), time=Curves(terms))
    net, two = decoder(), nodes(count=2, devices=4)
    found = dissect(net)
    if with_experts:
        layers = {op.layer for op in found.blocks[0] if ".mlp" in op.layer}
        shared = Experts(count=4, tokens=TOKENS, sent_elements=TOKENS * HIDDEN, weights=frozenset({4 * HIDDEN**2}))
        found = replace(found, experts=dict.fromkeys(layers, shared))
    every = [one for plan in splits(found, two, 16, Plan()) for one in schedules(plan, len(found.blocks))]
    needed = {one: memory_of(net, found, slowest_stage(found, one), one).total for one in every}
    limit = int(room * max(needed.values()) + (1 - room) * min(needed.values()))
    costs = {one: step_cost(slow, found, one, two) for one in every if needed[one] <= limit}
    choice = choose_plan(net, found, replace(slow, memory_bytes=limit), two, passes=16)
    assert choice.plan == min(costs, key=lambda one: costs[one].seconds)
    assert (choice.cost, choice.memory.total) == (costs[choice.plan], needed[choice.plan])
    assert len({cost.update_s for cost in costs.values()}) > 5


def test_sizes_after_one_that_does_not_fit() -> None:
    """Of 12 devices and 4 heads tp=3 fails and tp=4 fits; of 4 devices and 12 blocks pp=3 fails and pp=4 fits."""
    heads = replace(anatomy(()), heads=4)
    assert {one.tp for one in splits(heads, nodes(devices=12), 12, Plan())} == {1, 2, 4}
    blocks = replace(anatomy(*[()] * 12), heads=0)
    assert {one.pp for one in splits(blocks, nodes(devices=4), 4, Plan())} == {1, 2, 4}
    assert {one.dp for one in splits(blocks, nodes(devices=4), 2, Plan())} == {2, 1}  # two micro-batches: no dp=4
