"""What the devices of a split exchange, and how long it takes, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.collectives import Exchange, seconds
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.shard import slowest_stage
from joulecast.estimator.cost.parallel.step import (
    context_exchanges,
    data_exchanges,
    expert_exchanges,
    pipeline_exchanges,
    step_cost,
    tensor_exchanges,
    waiting_w,
)
from joulecast.estimator.cost.profile import PowerModel

from .decoder import HIDDEN, TOKENS, decoder, device, nodes
from .parts import ANATOMY, STAGE, anatomy, op


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(), []),
        (Plan(dp=8), []),
        (Plan(tp=4), [Exchange("all_reduce", 2000, 4, 1, 2 * 3 * 2)]),
        (Plan(tp=4, checkpointing="full"), [Exchange("all_reduce", 2000, 4, 1, 2 * 3 * 3)]),
        (Plan(tp=4, checkpointing="selective"), [Exchange("all_reduce", 2000, 4, 1, 2 * 3 * 2)]),
        (Plan(tp=4, cp=5), [Exchange("all_reduce", 400, 4, 1, 2 * 3 * 2)]),
    ],
)
def test_tensor_parallel_sums(plan: Plan, expected: list[Exchange]) -> None:
    assert tensor_exchanges(ANATOMY, plan, STAGE) == expected


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(dp=8), []),
        (Plan(pp=2), [Exchange("send", 2000, 2, 1, 2)]),
        (Plan(pp=8, interleave=3), [Exchange("send", 2000, 2, 1, 6)]),
        (Plan(pp=2, tp=4, cp=5, dp=3), [Exchange("send", 100, 2, 60, 2)]),
        (Plan(pp=4, tp=2), [Exchange("send", 1000, 2, 2, 2)]),  # all four stages are in the node
        (Plan(pp=4, tp=4), [Exchange("send", 500, 2, 8, 2)]),  # two are, and the second sends to the next node
        (Plan(pp=16), [Exchange("send", 2000, 2, 8, 2)]),
    ],
)
def test_pipeline_messages(plan: Plan, expected: list[Exchange]) -> None:
    assert pipeline_exchanges(ANATOMY, plan, 8) == expected


def attention(keys: int, phase: str = "forward"):
    """8 queries of 4 values in 2 bytes, and `keys` bytes of keys and values."""
    one = op("attention", "model.0.attn", phase, b=1, q=8, s=8, d=4, dv=4)
    return replace(one, dtype="bfloat16", bytes_read=8 * 4 * 2 + keys)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(tp=4), []),
        (Plan(cp=2), [Exchange("all_gather", 300, 2, 1, 2 * 3), Exchange("reduce_scatter", 300, 2, 1, 3)]),
        (Plan(cp=4, tp=2), [Exchange("all_gather", 150, 4, 2, 2 * 3), Exchange("reduce_scatter", 150, 4, 2, 3)]),
        (
            Plan(cp=2, checkpointing="full"),
            [Exchange("all_gather", 300, 2, 1, 3 * 3), Exchange("reduce_scatter", 300, 2, 1, 3)],
        ),
    ],
)
def test_keys_and_values_of_a_context_parallel_group(plan: Plan, expected: list[Exchange]) -> None:
    """One of two blocks has 600 bytes of keys and values, which it reads again for gradients; the other has none."""
    blocks = (attention(600), attention(600, "backward")), ()
    assert context_exchanges(anatomy(*blocks), plan, STAGE) == expected


def test_the_context_exchange_of_a_step_is_hidden_behind_the_pass() -> None:
    """Four of four blocks, 2 x TOKENS x HIDDEN values of 2 bytes each: gathered twice, their gradients scattered."""
    work = decoder()
    found, plan, cluster = dissect(work), Plan(cp=2), nodes(1, 2, gb_per_s=1.0)
    volume = 3 * 4 * (2 * TOKENS * HIDDEN * 2) / 2
    latency_s = 3 * 4 * cluster.links.node_latency_s
    alone = replace(cluster, links=replace(cluster.links, overlap=0.0, other_overlap=0.0))
    assert step_cost(device(), found, plan, alone).context_s == pytest.approx(volume / 1e9 + latency_s)
    hidden = step_cost(device(), found, plan, cluster)
    assert hidden.compute_s > volume / 1e9 + latency_s
    assert hidden.context_s == pytest.approx(0.1 * (volume / 1e9 + latency_s))
    assert hidden.exchanged_s == pytest.approx(hidden.context_s + hidden.data_s)
    assert slowest_stage(found, plan).blocks == 4


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(dp=8), []),
        (Plan(dp=8, ep=4), [Exchange("all_to_all", 2000, 4, 1, 12)]),
        (Plan(dp=8, ep=4, tp=4, cp=5), [Exchange("all_to_all", 100, 4, 20, 12)]),
        (  # two nodes of eight: between the nodes, and inside of each
            Plan(dp=16, ep=16),
            [Exchange("all_to_all", 2000, 8, 1, 12), Exchange("all_to_all", 2000, 2, 8, 12)],
        ),
        (
            Plan(dp=8, ep=8, tp=4),
            [Exchange("all_to_all", 500, 2, 4, 12), Exchange("all_to_all", 500, 4, 8, 12)],
        ),
    ],
)
def test_tokens_to_experts_and_back(plan: Plan, expected: list[Exchange]) -> None:
    assert expert_exchanges(ANATOMY, plan, STAGE, 8) == expected


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(), []),
        (Plan(tp=4), []),
        (Plan(dp=4), [Exchange("all_reduce", 400, 4, 1, 3)]),  # 600 weights of 2 bytes, one block's at a time
        (Plan(dp=4, zero=1, accumulate=7), [Exchange("all_reduce", 400, 4, 1, 3)]),
        (Plan(dp=4, cp=2, tp=8), [Exchange("all_reduce", 400, 8, 8, 3)]),
        (Plan(cp=2), [Exchange("all_reduce", 400, 2, 1, 3)]),
        (
            Plan(dp=4, zero=2, accumulate=7),
            [Exchange("reduce_scatter", 400, 4, 1, 3), Exchange("all_gather", 400, 4, 1, 3)],
        ),
        (  # every micro-batch gathers the weights twice and scatters their gradients
            Plan(dp=4, zero=3, accumulate=7),
            [Exchange("reduce_scatter", 400, 4, 1, 21), Exchange("all_gather", 400, 4, 1, 42)],
        ),
    ],
)
def test_gradients_and_sharded_weights(plan: Plan, expected: list[Exchange]) -> None:
    assert data_exchanges(ANATOMY, plan, STAGE) == expected


def test_gradients_of_float32_weights_under_autocast_have_four_bytes() -> None:
    """Products in 16 bits leave the weights in float32: twice the bytes, unless the software exchanges 16 bits."""
    anatomy = replace(ANATOMY, weight_bytes=4.0)
    assert data_exchanges(anatomy, Plan(dp=4), STAGE, as_weights=True) == [Exchange("all_reduce", 800, 4, 1, 3)]
    assert data_exchanges(anatomy, Plan(dp=4), STAGE, as_weights=False) == [Exchange("all_reduce", 400, 4, 1, 3)]
    assert data_exchanges(ANATOMY, Plan(dp=4), STAGE, as_weights=True) == [Exchange("all_reduce", 400, 4, 1, 3)]


@pytest.mark.parametrize(
    ("software", "as_weights"),
    [
        ("eager", True),
        ("ngc", True),
        ("compiled", True),
        ("vendor-tuned", False),
        ("fused", False),
        ("megatron", False),
    ],
)
def test_software_that_exchanges_gradients_in_the_weights_precision(software: str, as_weights: bool) -> None:
    assert nodes(1, 8).links.of(software).gradients_as_weights is as_weights


def test_a_stage_without_blocks_exchanges_its_weights_at_once() -> None:
    assert data_exchanges(ANATOMY, Plan(dp=4), replace(STAGE, blocks=0)) == [Exchange("all_reduce", 1200, 4, 1, 1)]


@pytest.mark.parametrize(("size", "rounds"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (16, 4)])  # of a tree
def test_latencies_grow_by_the_logarithm_of_the_group(size: int, rounds: int) -> None:
    cluster = nodes(devices=16)
    found = seconds(Exchange("all_gather", 1e-9, size, 1), cluster)
    assert found == pytest.approx(rounds * cluster.links.node_latency_s)


@pytest.mark.parametrize(
    "nothing", [Exchange("send", 0, 2, 1), Exchange("send", 5, 2, 1, 0), Exchange("send", 5, 1, 1)]
)
def test_nothing_to_say_takes_no_time(nothing: Exchange) -> None:
    assert seconds(nothing, nodes()) == 0.0


@pytest.mark.parametrize(("size", "stride", "inside"), [(8, 1, True), (2, 4, True), (9, 1, False), (2, 5, False)])
def test_groups_larger_than_a_node_wait_for_the_network(size: int, stride: int, inside: bool) -> None:
    cluster = nodes(count=4, devices=8)
    links = cluster.links
    assert cluster.latency_s(size, stride) == (links.node_latency_s if inside else links.network_latency_s)
    assert (cluster.rate_bytes_per_s(size, stride) == pytest.approx(1e9)) is (inside or stride == 1)


def test_a_network_is_no_faster_than_the_links_inside() -> None:
    assert nodes(count=4, gb_per_s=1.0, network=5.0).rate_bytes_per_s(32, 1) == pytest.approx(1e9)


def test_a_waiting_device_draws_what_a_launch_does() -> None:
    assert waiting_w(PowerModel({"compute": 100.0, "launch": 7.0}, 40.0)) == 47.0
    assert waiting_w(PowerModel({"compute": 100.0}, 40.0)) == 40.0
