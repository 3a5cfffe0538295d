"""What one device of a split computes: divided ops, stages and nodes, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.node import rest_w
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.search import choose_settings, splits
from joulecast.estimator.cost.parallel.shard import Stage, divided_op, slowest_stage, widens
from joulecast.estimator.trace.workload import Op

from .decoder import decoder, device, nodes
from .parts import ANATOMY, anatomy, memory, op, product, work


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
    for software in ("fused", "megatron-core"):  # the norm runs twice, attention once
        again = slowest_stage(five, Plan(pp=2, checkpointing="selective"), software).passes
        assert runs(stage) + 3 == sum(one.count for one in again)
        assert {one.kind: one.count for one in again if one.kind in ("attention", "norm")} == {
            "attention": 3,
            "norm": 6,
        }
    assert not widens(product(k=4, n=31))
    assert widens(product(k=4, n=32))
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
