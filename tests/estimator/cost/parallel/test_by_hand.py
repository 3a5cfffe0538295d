"""A split's parts by hand: exchanges, divided ops, stages, memory, anatomy, and the estimate of the whole."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.notes import Note, Topic, Weight
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.parallel.anatomy import Anatomy, dissect
from joulecast.estimator.cost.parallel.collectives import Exchange, seconds
from joulecast.estimator.cost.parallel.memory import RESERVED_BYTES, memory_of
from joulecast.estimator.cost.parallel.node import rest_w
from joulecast.estimator.cost.parallel.plan import Plan, check_plan, parse_plan, with_devices
from joulecast.estimator.cost.parallel.predict import predict_split
from joulecast.estimator.cost.parallel.search import choose_plan, choose_settings, schedules, splits
from joulecast.estimator.cost.parallel.shard import Stage, divided_op, slowest_stage
from joulecast.estimator.cost.parallel.step import (
    cost_at,
    data_exchanges,
    expert_exchanges,
    pipeline_exchanges,
    prices_of,
    step_cost,
    tensor_exchanges,
    waiting_w,
)
from joulecast.estimator.cost.profile import PowerModel
from joulecast.estimator.cost.stacks import load_stacks
from joulecast.estimator.trace.workload import Layer, Op, Workload

from .decoder import BLOCKS, BOUNDARY_BYTES, TOKENS, VOCABULARY, decoder, device, nodes

# Three blocks, two of whose children hold products; 1000 values of 2 bytes from one to the next.
ANATOMY = Anatomy(((), (), ()), (), (), 1000, 2, 128, 8, "model.", frozenset({"attn", "mlp"}))
STAGE = Stage((), (), 3, 600)


# -- what is exchanged ------------------------------------------------------------------------------------------


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
    ],
)
def test_pipeline_messages(plan: Plan, expected: list[Exchange]) -> None:
    assert pipeline_exchanges(ANATOMY, plan) == expected


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


# -- what one device computes -----------------------------------------------------------------------------------


def product(layer: str = "model.0.mlp.up", **sizes: int) -> Op:
    dims = {"b": 1, "m": 10, "k": 20, "n": 40, **sizes}
    m, k, n = dims["m"], dims["k"], dims["n"]
    return Op("mm", "matmul", "forward", layer, m * k * n, 4 * (m * k + k * n), 4 * m * n, dims=dims)


@pytest.mark.parametrize(
    ("op", "dims"),
    [
        (product(), {"m": 10, "k": 20, "n": 10}),
        (product(n=5), {"m": 10, "k": 5, "n": 5}),
        (product(n=5, k=8), {"m": 2, "k": 8, "n": 5}),
        (product(n=2, k=2, m=3), {"m": 1, "k": 2, "n": 2}),  # never less than one
    ],
)
def test_a_product_is_divided_along_its_widest_dimension(op: Op, dims: dict[str, int]) -> None:
    part = divided_op(op, ANATOMY, Plan(tp=2, cp=2))
    assert {name: part.dims[name] for name in dims} == dims
    assert part.flops == op.flops // 4

    def elements(sizes: dict[str, int]) -> int:
        m, k, n = (sizes[name] for name in ("m", "k", "n"))
        return m * k + k * n + m * n

    scale = elements(dict(part.dims)) / elements(dict(op.dims))
    assert part.bytes_read == round(op.bytes_read * scale)
    assert part.bytes_written == round(op.bytes_written * scale)


def op(kind: str, layer: str = "", phase: str = "forward", count: int = 1, **dims: int) -> Op:
    return Op(kind, kind, phase, layer, 80, 40, 20, dims=dims, count=count)


def test_products_of_unknown_and_of_no_size_are_divided_evenly() -> None:
    for whole in (op("matmul"), op("matmul", m=0, k=0, n=0)):
        part = divided_op(whole, ANATOMY, Plan(tp=2, cp=2))
        assert (part.flops, part.bytes_read, part.bytes_written) == (20, 10, 5)


def test_products_of_a_batch_have_no_weight() -> None:
    known = replace(ANATOMY, widths={"model.0.mlp.up": (20, 5)})
    assert divided_op(product(n=5), known, Plan(tp=2)).dims["n"] == 2  # the weight's outputs
    both = divided_op(product(n=5, b=2), known, Plan(tp=2))
    assert (both.dims["k"], both.dims["n"]) == (10, 5)  # the widest


def test_norms_are_divided_by_sequence_parallelism_alone() -> None:
    norm, mlp = (op("norm", layer, elements=80) for layer in ("model.0.norm", "model.0.mlp.act"))
    plain = Plan(tp=2, cp=2, sequence_parallel=False)
    assert [divided_op(one, ANATOMY, plain).dims["elements"] for one in (norm, mlp)] == [40, 20]
    assert divided_op(norm, ANATOMY, replace(plain, cp=1)) == norm
    assert divided_op(norm, ANATOMY, replace(plain, sequence_parallel=True)).dims["elements"] == 20


@pytest.mark.parametrize(
    ("whole", "dims"),
    [
        (op("attention", b=8, q=128), {"b": 2, "q": 128}),
        (op("attention", b=2, q=128), {"b": 1, "q": 128}),
        (op("norm", elements=80, channels=7), {"elements": 20, "channels": 7}),
        (op("copy", elements_in=80, elements_out=40), {"elements_in": 20, "elements_out": 10}),
        (op("embedding", tokens=8, rows=100, width=3), {"tokens": 2, "rows": 100, "width": 3}),
        (op("conv", c_in=3, c_out=2), {"c_in": 3, "c_out": 1}),
        (op("copy", elements_in=0), {"elements_in": 0}),
        (op("loss"), {}),
    ],
)
def test_other_ops_are_divided_by_their_elements_or_heads(whole: Op, dims: dict[str, int]) -> None:
    part = divided_op(whole, ANATOMY, Plan(tp=2, cp=2))
    assert part.dims == dims
    assert (part.flops, part.bytes_read, part.bytes_written) == (20, 10, 5)
    assert divided_op(whole, ANATOMY, Plan(dp=4, pp=2)) == whole


@pytest.mark.parametrize(
    ("layer", "elements", "share"),
    [
        ("model.0.mlp.up", 40, 2),  # a weight of a product inside a block
        ("model.0.norm", 40, 1),
        ("embed", 129, 2),  # an embedding or head, larger than there are tokens
        ("final_norm", 128, 1),
    ],
)
def test_tensor_parallelism_divides_the_updates_of_the_weights_it_divides(
    layer: str, elements: int, share: int
) -> None:
    update = op("adam", layer, "optimizer", elements=elements)
    assert divided_op(update, ANATOMY, Plan(tp=2, cp=4)).dims["elements"] == elements // share


def anatomy(*blocks: tuple[Op, ...], before: tuple[Op, ...] = (), after: tuple[Op, ...] = ()) -> Anatomy:
    return replace(ANATOMY, blocks=blocks, before=before, after=after)


def runs(stage: Stage) -> int:
    """Ops of a micro-batch; equal blocks are one record with their count."""
    return sum(one.count for one in stage.passes)


def test_the_slowest_stage_has_the_heavier_end() -> None:
    heavy, light = product("head", n=80), product("stem")
    block = (
        product(),
        op("attention", b=8),
        op("norm", elements=8),
        op("adam", "model.0.mlp.up", "optimizer", elements=40),
    )
    five = anatomy(*[block] * 5, before=(light,), after=(heavy, op("adam", "head", "optimizer", elements=1000)))
    whole = slowest_stage(five, Plan())
    assert (whole.blocks, runs(whole), whole.parameters) == (5, 5 * 3 + 2, 5 * 40 + 1000)
    stage = slowest_stage(five, Plan(pp=2))
    assert (stage.blocks, runs(stage)) == (3, 3 * 3 + 1)
    assert heavy in stage.passes
    assert light not in stage.passes
    often = anatomy(*[block] * 5, before=(replace(light, count=3),), after=(heavy,))
    assert heavy not in slowest_stage(often, Plan(pp=2)).passes
    for checkpointing, again in (("full", 3 * 3), ("selective", 3)):
        recomputed = slowest_stage(five, Plan(pp=2, checkpointing=checkpointing)).passes
        assert sum(one.count for one in recomputed) == runs(stage) + again
        assert sum(one.count for one in recomputed if one.phase == "backward") == again
    added, multiplied = (replace(op("elementwise"), name=name) for name in ("add", "mul"))
    ends = (product(), added, added)  # no gradient needs their results
    for end, software, again in (
        (ends, "fused", 3 * 3),
        (ends[:1], "eager", 3 * 3),
        (ends[1:], "compiled", 3 * 3),
        ((*ends, op("norm")), "fused", 3 * 7),
        ((product(), multiplied, added), "fused", 3 * 5),
        (ends, "megatron", 3 * 6),
        (ends, "megatron-core", 3 * 6),
    ):
        longer = anatomy(*[(*block[:3], *end)] * 5, before=(light,), after=(heavy,))
        recomputed = slowest_stage(longer, Plan(pp=2, checkpointing="full"), software).passes
        assert sum(one.count for one in recomputed if one.phase == "backward") == again
    for zero, share in ((0, 1), (1, 4), (3, 4)):
        updates = slowest_stage(five, Plan(dp=4, zero=zero)).updates
        assert [(one.dims["elements"], one.count) for one in updates] == [(1000 // share, 1), (40 // share, 5)]


def test_an_end_is_on_the_stage_with_fewer_blocks_if_it_takes_no_longer_than_those() -> None:
    block = (product(),)
    as_long, longer = product("head"), product("head", n=41)  # a block's product has 40 columns
    for stages, end, there in ((2, as_long, False), (2, longer, True), (5, as_long, True)):
        network = anatomy(*[block] * 5, after=(end,))  # 3 and 2 blocks, or 1 on each of 5 stages
        assert (end in slowest_stage(network, Plan(pp=stages)).passes) is there
    two_missing = anatomy(*[block] * 7, after=(product("head", n=80),))  # 3, 3 and 1 blocks
    assert runs(slowest_stage(two_missing, Plan(pp=3))) == 3


def test_both_ends_are_on_stages_with_fewer_blocks_where_there_is_room() -> None:
    stem, head, block = product("stem"), product("head"), (product(),)
    seven = anatomy(*[block] * 7, before=(stem,), after=(head,))  # 3, 2 and 2 blocks
    assert runs(slowest_stage(seven, Plan(pp=3))) == 3
    five = anatomy(*[block] * 5, before=(replace(stem, flops=0),), after=(head,))  # 3 and 2: room for one
    passes = slowest_stage(five, Plan(pp=2)).passes
    assert {one.layer for one in passes} == {"stem", "model.0.mlp.up"}


def test_uneven_stages_take_their_blocks_from_where_these_are_heaviest() -> None:
    light, heavy = (product(n=10),), (product(), op("adam", "model.0.mlp.up", "optimizer", elements=40))
    network = anatomy(light, light, light, heavy, heavy)
    assert slowest_stage(network, Plan(pp=2)).parameters == 2 * 40
    assert runs(slowest_stage(network, Plan(pp=2))) == 3
    assert slowest_stage(network, Plan(pp=2)).mean_work == pytest.approx(((3 * 10 + 2 * 40) / 2) / (10 + 2 * 40))
    as_heavy = (product(),)  # without weights
    assert slowest_stage(anatomy(as_heavy, as_heavy, heavy, heavy), Plan(pp=2)).parameters == 2 * 40
    even = anatomy(*[heavy] * 4)
    assert [slowest_stage(even, Plan(pp=stages)).mean_work for stages in (1, 2, 4)] == [1.0, 1.0, 1.0]
    assert slowest_stage(anatomy(*[heavy] * 5), Plan(pp=2)).mean_work == pytest.approx(5 / 6)


def test_uneven_pipelines_that_are_tried() -> None:
    """Of 15 blocks 2, 4 and 8 stages lack one; of 9 two lack one and four lack three, a third."""
    for blocks, stages in ((15, {1, 2, 4, 8}), (9, {1, 2}), (61, {1, 2, 4, 8, 16})):
        network = replace(anatomy(*[()] * blocks), heads=0)
        assert {one.pp for one in splits(network, nodes(devices=16), 16, Plan())} == stages
    chunks = splits(replace(anatomy(*[()] * 15), heads=0), nodes(devices=16), 16, Plan(interleave=4))
    assert {one.pp for one in chunks} == {1, 2}


@pytest.mark.parametrize(
    ("phase", "sizes", "row", "sides"),
    [
        # a weight of 20 inputs and 40 outputs, 10 tokens; the outputs are divided, or in a row the inputs
        ("forward", (10, 20, 40), False, {"m": 5, "n": 10}),
        ("forward", (10, 20, 40), True, {"m": 5, "k": 5}),
        ("backward", (10, 40, 20), False, {"m": 5, "k": 10}),  # the gradient of the inputs
        ("backward", (10, 40, 20), True, {"m": 5, "n": 5}),
        ("backward", (20, 10, 40), False, {"k": 5, "n": 10}),  # that of the weight
        ("backward", (20, 10, 40), True, {"k": 5, "m": 5}),
        ("backward", (40, 10, 20), False, {"k": 5, "m": 10}),  # turned round
        ("backward", (40, 10, 20), True, {"k": 5, "n": 5}),
    ],
)
def test_products_with_a_weight_are_divided_by_tokens_and_by_inputs_or_outputs(
    phase: str, sizes: tuple[int, int, int], row: bool, sides: dict[str, int]
) -> None:
    m, k, n = sizes
    whole = replace(product(m=m, k=k, n=n), phase=phase)
    rows = frozenset({whole.layer}) if row else frozenset()
    found = replace(ANATOMY, widths={whole.layer: (20, 40)}, rows=rows)
    part = divided_op(whole, found, Plan(tp=4, cp=2))
    assert part.dims == {**whole.dims, **sides}
    assert part.flops == whole.flops // 8
    m, k, n = (part.dims[name] for name in ("m", "k", "n"))
    assert (part.bytes_read, part.bytes_written) == pytest.approx(
        (whole.bytes_read * scale(part, whole), whole.bytes_written * scale(part, whole)), abs=1
    )


def scale(part: Op, whole: Op) -> float:
    """Elements of the three matrices over those of the whole."""
    sizes = [tuple(one.dims[name] for name in ("m", "k", "n")) for one in (part, whole)]
    small, large = (m * k + k * n + m * n for m, k, n in sizes)
    return small / large


def test_the_last_product_of_a_child_is_the_row() -> None:
    layers = ("attn.qkv", "attn.out", "mlp.up", "mlp.down", "gate")
    blocks = [
        tuple(product(f"model.{index}.{name}", k=10 + place, n=20 + place) for place, name in enumerate(layers))
        for index in range(2)
    ]
    noise = (
        op("norm", "model.0.mlp.norm", elements=8),
        replace(product("model.0.mlp.back"), phase="backward"),
        product("model.0.attn.scores", b=8),
    )
    found = dissect(work(*blocks[0], *noise, *blocks[1], product("head", k=3, n=4)))
    assert found.rows == {f"model.{index}.{name}" for index in range(2) for name in ("attn.out", "mlp.down")}
    assert found.widths == {
        **{f"model.{i}.{name}": (10 + j, 20 + j) for i in range(2) for j, name in enumerate(layers)},
        "head": (3, 4),
    }


@pytest.mark.parametrize(
    ("rated_w", "devices", "board_w", "expected"),
    [
        (None, 1, 300.0, 80 + 0.12 * 300),  # a desktop: 80 W and the loss of its power supply
        (None, 2, 300.0, 80 + 0.12 * 600),
        (None, 4, 300.0, 0.37 * 4 * 400 * 4600 / 5600),  # a server like a DGX: by the boards' limits
        (5000.0, 4, 300.0, 0.37 * (5000 - 1600)),
        (1000.0, 4, 300.0, 0.37 * 0.75 * 1600),  # a figure that leaves less than other nodes' says little
        (3500.0, 8, 300.0, 0.37 * 0.75 * 3200),
        (5000.0, 1, 300.0, 0.37 * (5000 - 400)),
    ],
)
def test_watts_of_a_node_beside_its_boards(
    rated_w: float | None, devices: int, board_w: float, expected: float
) -> None:
    cluster = replace(nodes(devices=devices), rated_w=rated_w)
    assert rest_w(cluster, board_w, 400.0) == pytest.approx(expected)


def chosen(plan: Plan, room: int | None, zeros: tuple[int, ...], checkpointings: tuple[str, ...]) -> tuple[int, str]:
    whole = decoder()
    found = choose_settings(
        whole, dissect(whole), device(room), nodes(), plan, zeros=zeros, checkpointings=checkpointings
    )
    return found.plan.zero, found.plan.checkpointing


def test_settings_that_a_plan_leaves_open() -> None:
    every, kept = (0, 1, 3), ("none", "full")
    assert chosen(Plan(dp=8), None, every, kept) == (0, "none")  # all are as fast: the first
    assert chosen(Plan(), None, every, kept) == (0, "none")  # nothing to share with
    assert chosen(Plan(dp=2, tp=4), None, (1, 3), ("full",)) == (1, "full")
    tight = int(memory(Plan(dp=8, zero=3)).total)
    assert chosen(Plan(dp=8), tight, every, ("none",)) == (3, "none")
    assert chosen(Plan(dp=8), 1, every, kept) == (3, "full")  # nothing fits: the smallest
    assert chosen(Plan(dp=4, pp=2), 1, every, ("none",))[0] == 1  # weights shared by replicas: one stage
    assert chosen(Plan(dp=4, pp=2), 1, (3,), ("none",))[0] == 3  # unless it is asked for
    two = int(memory(Plan(dp=2, zero=3)).total)
    assert chosen(Plan(dp=2), two, every, ("none",)) == (3, "none")


# -- memory -----------------------------------------------------------------------------------------------------


def memory(plan: Plan, **values: object):
    work = decoder()
    found = replace(dissect(work), **values)  # type: ignore[arg-type]
    return memory_of(work, found, slowest_stage(found, plan), plan)


def test_memory_of_splits() -> None:
    whole = memory(Plan())
    for plan in (Plan(tp=2), Plan(cp=2), Plan(tp=4, cp=2)):
        part = memory(plan)
        assert part.activations == whole.activations / (plan.tp * plan.cp)
        assert part.logits == whole.logits / (plan.tp * plan.cp)
    assert memory(Plan(cp=2)).weights == whole.weights
    for zero, weights, gradients, optimizer in ((0, 1, 1, 1), (1, 1, 1, 4), (2, 1, 4, 4), (3, 4, 4, 4)):
        part = memory(Plan(dp=4, zero=zero))
        assert part.weights == whole.weights / weights
        assert part.gradients == whole.gradients / gradients
        assert part.optimizer == whole.optimizer / optimizer
        gathered = 2 * whole.weights / BLOCKS if zero == 3 else 0
        assert part.buffers == RESERVED_BYTES + gathered
    assert whole.total == sum(getattr(whole, name) for name in type(whole).__dataclass_fields__)
    # stages under way: as many micro-batches as stages, and no more than there are
    half = whole.activations / 2
    assert memory(Plan(pp=2, accumulate=8)).activations == 2 * half
    assert memory(Plan(pp=2, accumulate=1)).activations == half
    # Two chunks a stage: 2 + 1 / 2 micro-batches, where there are as many.
    assert memory(Plan(pp=2, accumulate=8, interleave=2)).activations == 2.5 * half
    assert memory(Plan(pp=2, accumulate=2, interleave=2)).activations == 2 * half
    full = memory(Plan(pp=2, accumulate=8, checkpointing="full"))
    assert full.activations == 2 * 2 * BOUNDARY_BYTES + 10 * BOUNDARY_BYTES


def test_memory_of_five_replicas_and_of_a_step_that_keeps_little() -> None:
    assert memory(Plan(dp=5, zero=3)).weights == memory(Plan()).weights / 5 == 111_513.6
    little = replace(decoder(), activation_bytes=0)
    found = dissect(little)
    assert memory_of(little, found, slowest_stage(found, Plan()), Plan()).activations == 0


def test_weights_in_single_precision_are_their_own_copy() -> None:
    mixed, single = memory(Plan()), memory(Plan(), element_bytes=4)
    assert mixed.optimizer == single.optimizer * 3 / 2  # two moments, and with 16 bit a copy
    assert single.weights == 2 * mixed.weights
    work = replace(decoder(), optimizer=None, train=False)
    found = dissect(work)
    assert memory_of(work, found, slowest_stage(found, Plan()), Plan()).optimizer == 0


def test_a_head_that_is_no_larger_than_a_blocks_output_has_no_logits() -> None:
    assert memory(Plan()).logits == 3 * 2 * TOKENS * VOCABULARY
    assert memory(Plan(), boundary_elements=TOKENS * VOCABULARY).logits == 0
    assert memory(Plan(), boundary_elements=TOKENS * VOCABULARY - 1).logits == 3 * 2 * TOKENS * VOCABULARY
    assert memory(Plan(), after=(op("copy", elements_out=10**6),)).logits == 3 * 2 * 10**6
    assert memory(Plan(), after=(op("copy", phase="backward", elements_out=10**6),)).logits == 0
    assert memory(Plan(), after=()).logits == 0


# -- plans ------------------------------------------------------------------------------------------------------


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
        (Plan(tp=5), 5, 8, 4, "8 attention heads are not divisible by tp=5; use tp=4"),
        (Plan(tp=3), 3, 8, 4, "use tp=4"),  # 2 and 4 are as near: the larger
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


def test_sizes_after_one_that_does_not_fit() -> None:
    """Of 12 devices and 4 heads tp=3 fails and tp=4 fits; of 4 devices and 12 blocks pp=3 fails and pp=4 fits."""
    heads = replace(anatomy(()), heads=4)
    assert {one.tp for one in splits(heads, nodes(devices=12), 12, Plan())} == {1, 2, 4}
    blocks = replace(anatomy(*[()] * 12), heads=0)
    assert {one.pp for one in splits(blocks, nodes(devices=4), 4, Plan())} == {1, 2, 4}
    assert {one.dp for one in splits(blocks, nodes(devices=4), 2, Plan())} == {2, 1}  # two micro-batches: no dp=4


# -- anatomy ----------------------------------------------------------------------------------------------------


def work(*ops: Op, layers: tuple[Layer, ...] = (), precision: str = "float32") -> Workload:
    return Workload("net", "pytorch", 2, True, "sgd", precision, 0, 0, 0, 0, layers, ops, tokens_per_sample=5)


def test_a_network_without_repeated_blocks_is_one_block() -> None:
    ops = (product("stem"), product("model.0.mlp"), product("head"))
    found = dissect(work(*ops))
    assert (found.blocks, found.before, found.after, found.stack) == ((ops,), (), (), "")
    assert (found.tokens, found.heads, found.boundary_elements) == (10, 0, 0)


def test_blocks_are_the_children_of_the_container_with_the_most_work() -> None:
    small = [product(f"small.{index}.up", n=1) for index in range(3)]
    large = [product(f"body.large.{index}", k=index) for index in (10, 2)]
    ops = (product("stem"), *small, *large, product("head"), product("stem"))
    found = dissect(work(*ops))
    assert found.stack == "body.large."
    assert found.blocks == ((large[1],), (large[0],))  # in the order of their numbers
    assert found.before == (ops[0], *small, ops[-1])
    assert found.after == (ops[-2],)


def test_what_a_block_passes_on() -> None:
    ops = [replace(product(f"model.{index}.mlp"), dims={"elements_out": 7 + index}) for index in range(2)]
    assert dissect(work(*ops)).boundary_elements == 8  # from the blocks' last ops
    last = replace(product("model.0.mlp"), dims={"elements_out": 3})
    back = replace(product("model.1.mlp"), phase="backward", dims={"elements_out": 99})
    assert dissect(work(*ops, last, back)).boundary_elements == 8
    assert dissect(work(*ops, last, replace(last, layer="model.1.mlp"))).boundary_elements == 3
    rows = (Layer("model.0", "Block", (2, 5, 6), 0, 0, 1, "trace"), Layer("model.0.mlp", "M", (900,), 0, 0, 2, "trace"))
    assert dissect(work(*ops, layers=rows)).boundary_elements == 60  # better: from the layer table


@pytest.mark.parametrize(
    ("precision", "size"),
    [("float64", 8), ("float32", 4), ("tf32", 4), ("float16", 2), ("bfloat16", 2), ("float8_e4m3fn", 1)],
)
def test_bytes_of_what_a_block_passes_on(precision: str, size: int) -> None:
    ops = [replace(product(f"model.{index}.mlp"), dims={"elements_out": 7}) for index in range(2)]
    assert dissect(work(*ops, precision=precision)).boundary_bytes == 7 * size


def test_heads_are_the_attentions_batch_over_the_samples() -> None:
    found = dissect(work(op("attention", "a", b=16, q=5), op("attention", "b", b=8, q=5), op("attention", "c", b=0)))
    assert found.heads == 8


# -- the estimate -----------------------------------------------------------------------------------------------


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
            pipeline_exchanges(found, plan),
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
