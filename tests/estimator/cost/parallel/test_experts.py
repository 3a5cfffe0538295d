"""Expert parallelism by hand: what one device computes, holds and sends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.cost.parallel.anatomy import Anatomy
from joulecast.estimator.cost.parallel.collectives import Exchange
from joulecast.estimator.cost.parallel.experts import Experts, experts_of, on_one_device
from joulecast.estimator.cost.parallel.memory import memory_of
from joulecast.estimator.cost.parallel.plan import Plan, check_plan, parse_plan
from joulecast.estimator.cost.parallel.search import splits
from joulecast.estimator.cost.parallel.shard import Stage, slowest_stage
from joulecast.estimator.cost.parallel.step import (
    combined,
    data_exchanges,
    expert_exchanges,
    tensor_exchanges,
    with_expert_links,
)
from joulecast.estimator.trace.workload import Op, Workload

from .decoder import nodes

LAYER = "model.layers.0.mlp.experts"


def product(phase: str, m: int, k: int, n: int, layer: str = LAYER) -> Op:
    """Eight products in 16 bits."""
    dims = {"b": 8, "m": m, "k": k, "n": n}
    return Op("_grouped_mm", "matmul", phase, layer, 8 * m * k * n, 16 * (m * k + k * n), 16 * m * n, dims=dims)


def moved(name: str, elements: int, phase: str = "forward") -> Op:
    dims = {"elements_in": elements, "elements_out": elements}
    return Op(name, "copy", phase, LAYER, 0, 2 * elements, 2 * elements, dims=dims)


WEIGHT = 8 * 16 * 32
UPDATE = Op("adam", "optimizer", "optimizer", LAYER, 0, 40 * WEIGHT, 20 * WEIGHT, dims={"elements": WEIGHT})
FORWARD = product("forward", 4, 16, 32)  # eight experts, four tokens each, from 16 to 32 numbers
SCORES = product("forward", 4, 16, 32, "model.layers.0.attn")
EXPERTS = Experts(count=8, tokens=4, sent_elements=8 * 4 * 16, weights=frozenset({WEIGHT}))


def anatomy() -> Anatomy:
    """Three blocks, two of them with experts. 16 tokens of 16 numbers; each goes to two experts."""
    block = (FORWARD, UPDATE)
    return Anatomy(((), block, block), (), (), 256, 2, 16, 0, "model.layers.", frozenset(), experts={LAYER: EXPERTS})


def test_experts_are_batched_products_with_a_weight_for_each() -> None:
    assert experts_of([FORWARD, SCORES, UPDATE]) == {LAYER: EXPERTS}
    assert experts_of([FORWARD, SCORES]) == {}


def test_what_is_no_expert() -> None:
    """Shared weights, scores of attention, copies and the optimizer's own products are left out."""
    shared = Op("mm", "matmul", "forward", LAYER, 512, 0, 0, dims={"m": 4, "k": 8, "n": 16})
    update = replace(UPDATE, layer="model.layers.0.mlp", dims={"elements": 8 * 16})
    one = replace(shared, layer="model.layers.0.mlp", dims={"b": 1, "m": 4, "k": 8, "n": 16})
    muon = product("optimizer", 16, 16, 32)
    backward = product("backward", 9, 16, 32)
    copied = replace(moved("clone", WEIGHT), dims={"b": 8, "m": 3, "k": 16, "n": 32})
    second = product("forward", 5, 32, 16)
    ops = [shared, one, update, copied, backward, muon, FORWARD, second, UPDATE]
    assert experts_of(ops) == {LAYER: EXPERTS}


def test_a_device_computes_fewer_experts_for_more_tokens_each() -> None:
    one = on_one_device(FORWARD, EXPERTS, 4)
    assert one.dims == {"b": 2, "m": 16, "k": 16, "n": 32}
    assert one.flops == FORWARD.flops
    # Tokens are read whole, weights by a quarter.
    assert (one.bytes_read, one.bytes_written) == (16 * (4 * 16 + 16 * 32 // 4), 16 * 4 * 32)


def test_gradients_of_inputs_and_of_weights() -> None:
    inputs = on_one_device(product("backward", 4, 32, 16), EXPERTS, 4)
    assert inputs.dims == {"b": 2, "m": 16, "k": 32, "n": 16}
    assert (inputs.bytes_read, inputs.bytes_written) == (16 * (4 * 32 + 32 * 16 // 4), 16 * 4 * 16)
    weights = on_one_device(product("backward", 16, 4, 32), EXPERTS, 4)
    assert weights.dims == {"b": 2, "m": 16, "k": 16, "n": 32}
    assert (weights.bytes_read, weights.bytes_written) == (16 * (16 * 4 + 4 * 32), 16 * 16 * 32 // 4)


def test_products_of_odd_sizes() -> None:
    """6 tokens and 34 outputs: of 40 numbers of the operands, 6 + 34 / 4 are read."""
    experts = replace(EXPERTS, tokens=6)
    one = on_one_device(product("forward", 6, 16, 34), experts, 4)
    assert one.bytes_read == 16 * (6 * 16 + 16 * 34 // 4)
    # Weights of 2 inputs: fewer than the tokens that are summed over.
    weights = on_one_device(product("backward", 2, 6, 34), experts, 4)
    assert weights.dims == {"b": 2, "m": 2, "k": 24, "n": 34}
    # A forward product multiplies tokens, however many it has.
    assert on_one_device(product("forward", 5, 16, 34), experts, 4).dims == {"b": 2, "m": 20, "k": 16, "n": 34}


def test_other_products_of_the_layer_stay_whole() -> None:
    other = replace(FORWARD, dims={**FORWARD.dims, "b": 3})
    assert on_one_device(other, EXPERTS, 4) == other


def test_updates_and_copies_of_weights_are_shared_and_those_of_tokens_are_not() -> None:
    update = on_one_device(UPDATE, EXPERTS, 4)
    assert (update.dims["elements"], update.bytes_moved) == (WEIGHT // 4, 15 * WEIGHT)
    copy = on_one_device(moved("clone", WEIGHT), EXPERTS, 4)
    assert (copy.dims["elements_in"], copy.bytes_moved) == (WEIGHT // 4, WEIGHT)
    assert on_one_device(moved("index", 512), EXPERTS, 4) == moved("index", 512)
    odd = on_one_device(replace(moved("clone", WEIGHT), bytes_read=7, bytes_written=6), EXPERTS, 4)
    assert (repr(odd.bytes_read), repr(odd.bytes_written)) == ("1", "1")


def test_a_stage_has_its_share_of_the_experts() -> None:
    stage = slowest_stage(anatomy(), Plan(dp=8, ep=4, zero=1))
    assert (stage.parameters, stage.expert_parameters) == (2 * WEIGHT // 4, 2 * WEIGHT // 4)
    assert (stage.blocks, stage.expert_blocks) == (3, 2)
    # Of eight replicas two have the same experts, and share their optimizer's state.
    assert [op.dims["elements"] for op in stage.updates] == [WEIGHT // 8]
    whole = slowest_stage(anatomy(), Plan(dp=8))
    assert (whole.parameters, whole.expert_parameters) == (2 * WEIGHT, 0)


def test_a_token_is_sent_once_to_each_device_with_one_of_its_experts() -> None:
    stage = Stage((), (), 3, 600, expert_blocks=2)
    # Two of four devices with equal chances: 4 (1 - (3/4)^2) = 1.75; two of the three blocks, four times.
    assert expert_exchanges(anatomy(), Plan(dp=8, ep=4), stage, 8) == [Exchange("all_to_all", 1.75 * 512, 4, 1, 8)]
    assert expert_exchanges(anatomy(), Plan(dp=8), stage, 8) == []
    # Nodes of two devices: once to each of 2 (1 - (1/2)^2) = 1.5 nodes, and on to 1.75 devices in all.
    assert expert_exchanges(anatomy(), Plan(dp=8, ep=4), stage, 2) == [
        Exchange("all_to_all", 1.75 * 512, 2, 1, 8),
        Exchange("all_to_all", 1.5 * 512, 2, 2, 8),
    ]


def test_a_router_that_keeps_some_groups_reaches_fewer_nodes() -> None:
    def best(elements: int, kept: int) -> Op:
        dims = {"elements_in": elements, "elements_out": kept}
        return Op("topk", "sort", "forward", "model.layers.0.mlp.gate", 0, 0, 0, dims=dims)

    # Of 16 tokens: the two best scores of each of four groups, the best two groups, the best two experts.
    router = (best(16 * 8, 16 * 8), best(16 * 4, 16 * 2), best(16 * 8, 16 * 2))
    found = experts_of([*router, FORWARD, UPDATE])[LAYER]
    assert (found.groups, found.kept_groups) == (4, 2)
    assert found.reached(4, 2) == pytest.approx(2 * (1 - (1 / 2) ** 2))  # two of four nodes
    assert found.reached(8, 2) == pytest.approx(4 * (1 - (3 / 4) ** 2))
    assert found.reached(2, 2) == pytest.approx(2 * (1 - (1 / 2) ** 2))  # a node has several groups
    assert experts_of([best(16 * 8, 16 * 2), FORWARD, UPDATE])[LAYER] == EXPERTS
    elsewhere = replace(router[1], layer="model.layers.0.attn.gate")
    assert experts_of([best(16 * 8, 16 * 2), elsewhere, FORWARD, UPDATE])[LAYER] == EXPERTS
    one = replace(EXPERTS, groups=4, kept_groups=1)
    assert one.reached(4, 2) == 1.0


def listed(expert: int, tokens: int) -> list[Op]:
    """An expert of two linear layers without the second's ops: 16 inputs, 32 outputs."""
    layer, weight = f"{AROUND}.experts.{expert}.0", 16 * 32

    def one(phase: str, m: int, k: int, n: int) -> Op:
        dims = {"b": 1, "m": m, "k": k, "n": n}
        return Op("mm", "matmul", phase, layer, m * k * n, 2 * (m * k + k * n), 2 * m * n, dims=dims)

    act = {"elements_in": 32 * tokens, "elements_out": 32 * tokens}
    update = {"elements": weight}
    return [
        one("forward", tokens, 16, 32),
        Op("silu", "activation", "forward", f"{AROUND}.experts.{expert}.1", 0, 64 * tokens, 64 * tokens, dims=act),
        one("backward", tokens, 32, 16),
        one("backward", 32, tokens, 16),
        Op("adam", "optimizer", "optimizer", layer, 0, 40 * weight, 20 * weight, dims=update),
    ]


AROUND = "model.layers.0.mlp"
ROUTER = Op("mm", "matmul", "forward", f"{AROUND}.gate", 8 * 16 * 4, 0, 0, dims={"b": 1, "m": 8, "k": 16, "n": 4})
LISTED = (ROUTER, *listed(0, 2), *listed(1, 6), *listed(2, 7), *listed(3, 1))  # of 8 tokens, two experts each


def test_experts_in_a_list_are_those_that_a_layer_scores_and_that_get_a_part_of_the_tokens() -> None:
    found = experts_of(LISTED)
    assert {layer: one.place for layer, one in found.items()} == {
        f"{AROUND}.experts.{expert}.{part}": expert for expert in range(4) for part in (0, 1)
    }
    second = found[f"{AROUND}.experts.1.0"]
    assert (second.count, second.tokens, second.mean_tokens, second.sent_elements) == (4, 6, 4.0, 16 * 16)
    assert experts_of(LISTED[1:]) == {}  # not scored
    assert experts_of((replace(ROUTER, layer="model.layers.0.attn.gate"), *LISTED[1:])) == {}
    assert experts_of((*LISTED, *listed(0, 8))) == found
    assert experts_of((ROUTER, *listed(0, 8), *listed(1, 8), *listed(2, 8), *listed(3, 8))) == {}  # all of the tokens


def test_a_device_has_the_first_experts_of_a_list_and_computes_them_for_all_devices() -> None:
    network = Anatomy(
        (LISTED, LISTED), (), (), 8 * 16, 2, 8, 0, "model.layers.", frozenset(), experts=experts_of(LISTED)
    )
    assert network.expert_count == 4
    assert network.reached(4) == pytest.approx(4 * (1 - (3 / 4) ** 2))  # two experts a token
    stage = slowest_stage(network, Plan(dp=2, ep=2))
    assert (stage.parameters, stage.expert_parameters) == (2 * 2 * 512, 2 * 2 * 512)
    own = [op for op in stage.passes if ".experts." in op.layer]
    assert {op.layer.split(".")[5] for op in own} == {"0", "1"}
    # Two of four experts, and twice the tokens of the mean one: 8 each, as many as all four had.
    assert [op.dims["m"] for op in own if op.phase == "forward" and op.kind == "matmul"] == [8, 8]
    assert [(op.dims["m"], op.dims["k"]) for op in own if op.phase == "backward"] == [(8, 32), (32, 8)] * 2
    assert [op.dims["elements_in"] for op in own if op.kind == "activation"] == [8 * 32, 8 * 32]
    whole = slowest_stage(network, Plan(dp=2))
    assert sum(op.flops * op.count for op in stage.passes) == sum(op.flops * op.count for op in whole.passes)
    first = next(op for op in own if op.kind == "matmul")
    assert first.bytes_moved == 2 * (8 * 16 + 16 * 32 + 8 * 32)
    assert [op for op in stage.passes if op.layer == ROUTER.layer] == [replace(ROUTER, count=2)]


def test_a_hidden_exchange_shows_what_computing_does_not_cover() -> None:
    cluster, stage = nodes(devices=4), Stage((), (), 3, 600, expert_blocks=2)
    plan = Plan(dp=4, ep=4)
    whole_s = combined(anatomy(), plan, cluster, stage, (0.0, 0.0), (0.0, 0.0), 0.0).expert_s
    assert whole_s > 0

    def shown(pass_s: float) -> float:
        hidden = replace(plan, expert_overlap=True)
        return combined(anatomy(), hidden, cluster, stage, (pass_s, 0.0), (0.0, 0.0), 0.0).expert_s

    assert shown(0.5 * whole_s) == pytest.approx((1 - 0.9 * 0.5) * whole_s)  # links hide 0.9 of what computing takes
    assert shown(100 * whole_s) == pytest.approx((1 - 0.9) * whole_s)


def test_a_plain_all_to_all_sends_a_token_to_each_of_its_experts() -> None:
    """Two experts a token: with eight devices in two nodes, half of the copies stay in a node."""
    stage = Stage((), (), 3, 600, 400, expert_blocks=2)
    plan = Plan(dp=8, ep=8, plain_all_to_all=True)
    assert anatomy().per_token == 2
    message = anatomy().boundary_bytes
    assert expert_exchanges(anatomy(), plan, stage, 8) == [Exchange("all_to_all", 2 * message, 8, 1, 8)]
    inside, between = expert_exchanges(anatomy(), plan, stage, 4)
    assert inside == Exchange("all_to_all", message, 4, 1, 8)
    assert between == Exchange("all_to_all", 2 * message, 2, 4, 8)
    once = expert_exchanges(anatomy(), replace(plan, plain_all_to_all=False), stage, 4)[1]
    assert once.message_bytes == pytest.approx(2 * (1 - (1 / 2) ** 2) * message)  # a node has one of a token's experts


def test_gradients_of_experts_are_summed_over_the_devices_that_have_them() -> None:
    stage = Stage((), (), 2, 600, 400)
    assert data_exchanges(anatomy(), Plan(dp=8, tp=2, ep=4), stage) == [
        Exchange("all_reduce", 200, 8, 2, 2),
        Exchange("all_reduce", 400, 2, 8, 2),
    ]
    assert data_exchanges(anatomy(), Plan(dp=8, ep=8), stage) == [Exchange("all_reduce", 200, 8, 1, 2)]
    assert data_exchanges(anatomy(), Plan(dp=8, ep=4, zero=3, accumulate=3), stage)[2:] == [
        Exchange("reduce_scatter", 400, 2, 4, 6),
        Exchange("all_gather", 400, 2, 4, 12),
    ]


def test_memory_of_sharded_experts() -> None:
    work = Workload("moe", "pytorch", 1, True, "adam", "bfloat16", 600, 600, 1200, 0, (), (FORWARD, UPDATE))
    stage = Stage((), (), 2, 600, 400)
    sharded = 200 / 8 + 400 / 2
    found = memory_of(work, anatomy(), stage, Plan(dp=8, ep=4, zero=3))
    assert (found.weights, found.gradients) == (pytest.approx(2 * sharded), pytest.approx(2 * sharded))
    assert found.optimizer == pytest.approx(12 * sharded)
    assert memory_of(work, anatomy(), stage, Plan(dp=8, ep=4)).weights == 1200


def test_experts_are_divided_evenly() -> None:
    check_plan(Plan(dp=16, ep=8), anatomy(), 16)
    with pytest.raises(RequestError, match=r"^8 experts are not divisible by ep=16; use ep=8$"):
        check_plan(Plan(dp=16, ep=16), anatomy(), 16)
    check_plan(Plan(dp=16, ep=16), replace(anatomy(), experts={}), 16)


def test_experts_that_tensor_parallelism_does_not_divide() -> None:
    """Two devices of a tensor parallel group share eight experts like others: ep=8 on dp=4 x tp=2."""
    plan = Plan(dp=4, tp=2, ep=8, zero=1)
    check_plan(plan, replace(anatomy(), heads=2), 8)
    assert (plan.divides_experts, plan.expert_stride, plan.expert_replicas) == (False, 1, 1)
    stage = slowest_stage(anatomy(), plan)
    assert (stage.parameters, stage.expert_parameters) == (2 * WEIGHT // 8, 2 * WEIGHT // 8)
    # One expert for the tokens of eight devices, each with half of a micro-batch's: 4 x 8 / 2.
    assert [op.dims for op in stage.passes] == [{"b": 1, "m": 16, "k": 16, "n": 32}]
    assert [op.dims["elements"] for op in stage.updates] == [WEIGHT // 8]
    # With as many devices but ep=4, which divides dp, tensor parallelism halves each expert's width.
    halved = slowest_stage(anatomy(), replace(plan, ep=4))
    assert [op.dims for op in halved.passes] == [{"b": 2, "m": 16, "k": 16, "n": 16}]
    whole = slowest_stage(anatomy(), replace(plan, ep=4, expert_tp=1))
    assert [op.dims for op in whole.passes] == [{"b": 2, "m": 8, "k": 16, "n": 32}]
    assert whole.passes[0].flops == halved.passes[0].flops == FORWARD.flops // 2
    assert (replace(plan, ep=4, expert_tp=1).expert_replicas, replace(plan, ep=4).expert_replicas) == (2, 1)


def test_exchanges_of_experts_that_tensor_parallelism_does_not_divide() -> None:
    plan = Plan(dp=4, tp=2, ep=8)
    stage = Stage((), (), 3, 600, 400, expert_blocks=2)
    reached = 8 * (1 - (7 / 8) ** 2)  # two experts a token; half of the tokens are a device's own
    assert expert_exchanges(anatomy(), plan, stage, 8) == [
        Exchange("all_to_all", pytest.approx(reached * 256), 8, 1, 8)
    ]
    assert data_exchanges(anatomy(), replace(plan, ep=4, expert_tp=1), stage)[1] == Exchange(
        "all_reduce", pytest.approx(400 * 2 / 3), 2, 4, 3
    )
    # Blocks of experts alone have no sums of tensor parallelism: of three blocks, one is left.
    network = replace(anatomy(), sharded=frozenset({"mlp"}))
    assert tensor_exchanges(network, plan, stage)[0].count == 2
    assert tensor_exchanges(network, replace(plan, ep=4), stage)[0].count == 2 * 3
    shared = replace(network, widths={"model.layers.0.mlp.shared.up": (16, 64)})
    assert tensor_exchanges(shared, plan, stage)[0].count == 2 * 3
    router = replace(network, widths={"model.layers.0.mlp.gate": (16, 8)})
    assert tensor_exchanges(router, plan, stage)[0].count == 2


def test_sizes_of_expert_tensor_parallelism() -> None:
    assert parse_plan("dp=4,tp=2,etp=1") == Plan(dp=4, tp=2, expert_tp=1)
    assert str(Plan(dp=4, tp=2, ep=8)) == "dp=4, tp=2, ep=8, etp=1"
    assert str(Plan(dp=4, tp=2, ep=4)) == "dp=4, tp=2, ep=4"
    with pytest.raises(RequestError, match=r"^etp=4 is neither 1 nor tp=2; use tp=2, etp=2 and dp=4$"):
        check_plan(Plan(dp=4, tp=2, expert_tp=4), anatomy(), 8)
    with pytest.raises(RequestError, match=r"^dp=4 x tp=2 is not divisible by ep=16; use ep=8$"):
        check_plan(Plan(dp=4, tp=2, ep=16), anatomy(), 8)
    with pytest.raises(RequestError, match=r"^dp=4 is not divisible by ep=8; use ep=4$"):
        check_plan(Plan(dp=4, tp=2, ep=8, expert_tp=2), anatomy(), 8)


def test_the_search_divides_experts_as_it_is_told() -> None:
    network = replace(anatomy(), heads=2)

    def found(base: Plan) -> set[tuple[int, int]]:
        plans = splits(network, nodes(devices=8), 8, base, (0,), ("none",))
        return {(plan.tp, plan.ep) for plan in plans if plan.pp == 1}

    assert found(Plan()) == {(1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4)}
    assert found(Plan(expert_tp=1)) == {(tp, ep) for tp in (1, 2) for ep in (1, 2, 4, 8)}


def test_kernels_of_experts_use_more_of_the_rate() -> None:
    cluster = nodes(devices=4)
    fast = with_expert_links(replace(cluster, links=replace(cluster.links, expert_share=0.9)))
    assert (fast.links.link_share, fast.links.network_share) == (0.9, 0.9)
    assert with_expert_links(cluster) is cluster
