"""The forms that compete, the rows of a fit, and families of networks; each rule worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from joulecast.estimator.cost.features import pieces
from joulecast.estimator.fit.design import (
    STARTUP,
    Design,
    Form,
    _dealt,
    _families,
    _features_of_size,
    _main_kind,
    _most_bytes,
    _timed,
    _traits,
    forms,
    single_layers,
    timed_form,
    weighty,
)
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.workload import Op, Workload

from ..synthetic import conv, mover, network, observe

TILES = ("macs_n32", "macs_n64", "macs_n128")
VECTORS = ("macs_n8", "macs_n16", "left", "right", "result")
SHAPE = (*TILES, *VECTORS)


def sums(**kinds: tuple[float, float]) -> dict[tuple[str, str], dict[str, float]]:
    """Bytes and multiply-adds by kind, one start each."""
    return {(kind, "forward"): {"bytes": b, "macs": m, "launch": 1.0} for kind, (b, m) in kinds.items()}


def product(name: str = "mm", m: int = 4, count: int = 1) -> Op:
    dims = {"b": 1, "m": m, "k": 8, "n": 16}
    return Op(name, "matmul", "forward", "", m * 8 * 16, 100, 20, dims=dims, count=count)


def work(*ops: Op, name: str = "net", parameters: int = 1000) -> Workload:
    return Workload(name, "pytorch", 2, False, None, "float32", parameters, parameters, 0, 0, (), ops)


# -- forms ---------------------------------------------------------------------------------------


def test_the_forms_for_products_convolutions_and_pools_in_full() -> None:
    listed = {form.name: form.keys for form in forms(["attention", "conv", "norm", "pool"])}
    assert list(listed) == ["simple", "classes", "kinds", "tiles", "shapes", "roles"]
    launch = ("*", "*", "launch")
    assert listed["simple"] == (("dense", "*", "macs"), ("*", "*", "bytes"), launch)
    kinds = [(kind, "*", what) for kind in ("attention", "conv") for what in ("macs", "bytes", "launch")]
    kinds += [("norm", "*", "bytes"), ("pool", "*", "bytes"), launch, ("pool", "*", "macs")]
    assert list(listed["kinds"]) == kinds
    assert list(listed["tiles"]) == kinds + [("conv", "*", what) for what in TILES]
    assert list(listed["shapes"]) == kinds + [("conv", "*", what) for what in SHAPE]
    rest = [key for key in kinds if key[0] != "conv"]
    roles = [
        ("conv", role, what)
        for what in ("macs", "bytes", "launch", *SHAPE)
        for role in ("forward", "grad_input", "grad_weight")
    ]
    assert list(listed["roles"]) == rest + roles


def test_products_have_two_roles_and_without_pools_no_arithmetic_of_movers() -> None:
    listed = {form.name: form.keys for form in forms(["matmul", "norm"])}
    assert {key[1] for key in listed["roles"] if key[0] == "matmul"} == {"forward", "backward"}
    assert ("pool", "*", "macs") not in listed["kinds"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("norm", ("bytes",)),
        ("pool", ("bytes", "macs")),
        ("rnn", ("bytes", "macs")),
        ("attention", ("bytes", "macs", "dropped")),
        ("matmul", ("bytes", "macs", *SHAPE, "spilled")),
        ("conv", ("bytes", "macs", *SHAPE, "spilled", "rereads")),
        ("conv1", ("bytes", "macs", *SHAPE, "spilled", "rereads")),
        ("conv_grouped", ("bytes", "macs", *SHAPE, "spilled", "planes", "rereads")),
        ("conv_depthwise", ("bytes", "macs", "planes", "wide")),
    ],
)
def test_what_the_seconds_of_one_op_depend_on(kind: str, told: tuple[str, ...]) -> None:
    assert _features_of_size(kind) == told


def test_ops_that_moved_less_than_half_a_mebibyte_show_the_price_of_their_start_alone() -> None:
    form = timed_form({("norm", "b"): 2**19 - 1, ("norm", "a"): 2**19, ("copy", "c"): 0.0})
    assert form.name == "timed"
    assert form.keys == (
        ("*", "*", "fresh"),
        ("*", "*", "copied"),
        ("copy", "*", "fresh"),
        ("norm", "*", "fresh"),
        ("copy", "c", "launch"),
        ("norm", "a", "launch"),
        ("norm", "a", "bytes"),
        ("norm", "b", "launch"),
    )


def test_the_largest_op_of_a_name_counts_without_its_count() -> None:
    small, large = mover("norm", "forward", 10, count=99), mover("norm", "forward", 50)
    rows = [observe(work(small, large)), observe(work(mover("copy", "forward", 5)))]
    assert _most_bytes(rows) == {("norm", "norm forward"): 400.0, ("copy", "copy forward"): 40.0}


# -- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"norm": (2.0, 0), "copy": (98.0, 0)}, ["copy", "norm"]),  # 2 % of the bytes is enough
        ({"norm": (1.99, 0), "copy": (98.01, 0)}, ["copy"]),
        ({"conv": (1.0, 2.0), "matmul": (1.0, 98.0), "copy": (98.0, 0)}, ["conv", "copy", "matmul"]),
        ({"conv": (1.0, 1.9), "matmul": (1.0, 98.1), "copy": (98.0, 0)}, ["copy", "matmul"]),
        # the looks of a pool are no multiply-adds: they count neither for it nor in the sum
        ({"pool": (1.0, 1e9), "conv": (0.5, 5.0), "copy": (98.5, 0)}, ["conv", "copy"]),
        ({"copy": (0.0, 0.0)}, []),
    ],
)
def test_a_kind_needs_2_percent_of_some_observation(kinds: dict[str, tuple[float, float]], expected: list[str]) -> None:
    assert weighty([sums(**kinds)]) == expected


def test_a_kind_that_weighs_in_one_observation_counts_and_roles_add_up() -> None:
    assert weighty([sums(norm=(1, 0), copy=(999, 0)), sums(norm=(1, 0), copy=(9, 0))]) == ["copy", "norm"]
    parts = {("norm", role): {"bytes": 1.0, "macs": 0.0, "launch": 1.0} for role in ("forward", "backward")}
    assert weighty([{**parts, **sums(copy=(98.0, 0))}]) == ["copy", "norm"]


# -- rows ----------------------------------------------------------------------------------------


def test_a_design_has_a_row_for_each_step_and_for_each_group_of_timed_ops() -> None:
    """Step 1 has 8 ops in groups of 2 (two products alike), 1 and 1; the last was not timed."""
    ops = (product(), product(), mover("norm", "forward", 2**18), mover("copy", "forward", 100))
    first = Observation(work(*ops), steps=10, seconds=50.0, energy_j=None, op_seconds=(0.5, 0.25, 0.25, None))
    second = Observation(work(ops[2]), steps=4, seconds=8.0, energy_j=None, op_seconds=(0.0,))
    table = Design([first, second])
    assert table.seconds.tolist() == [5.0, 2.0, 0.75, 0.25]
    assert table.weights.tolist() == [1.0, 1.0, 0.75, 0.25]
    assert table.owner.tolist() == [0, 1, 0, 0]
    assert table.keys[-1] == STARTUP
    assert table.columns[:, -1].tolist() == [0.1, 0.25, 0.0, 0.0]  # once a run
    assert table.whole.shape == (2, len(table.keys))
    launches = table.columns[:, table.keys.index(("*", "*", "launch"))]
    assert launches.tolist() == [4, 1, 2, 1]
    assert table.amounts["matmul", "macs"] == 2 * 4 * 8 * 16
    assert table.amounts["norm", "bytes"] == 2 * 8 * 2**18
    assert table.amounts["norm", "launch"] == 2
    assert [form.name for form in table.forms][-1] == "timed"


def test_without_times_of_ops_for_all_rows_no_form_prices_names() -> None:
    timed = Observation(work(product()), 1, 1.0, op_seconds=(1.0,))
    table = Design([timed, replace(timed, op_seconds=None)])
    assert "timed" not in [form.name for form in table.forms]
    assert table.owner.tolist() == [0, 1, 0]  # its ops still count as rows


def groups(*ops: Op, seconds: tuple[float | None, ...]) -> list[tuple[list[float], float, float]]:
    return list(_timed(Observation(work(*ops), 1, 1.0, op_seconds=seconds), [("*", "*", "launch")]))


def test_products_of_one_shape_share_a_row_and_other_ops_one_for_each_name() -> None:
    assert groups(product(), product(m=5), seconds=(1.0, 3.0)) == [([1, 0], 1.0, 0.25), ([1, 0], 3.0, 0.75)]
    assert groups(product(), product(), seconds=(1.0, 3.0)) == [([2, 0], 4.0, 1.0)]
    assert groups(product("mm"), product("bmm"), seconds=(1.0, 3.0)) == [([1, 0], 1.0, 0.25), ([1, 0], 3.0, 0.75)]
    two = (mover("norm", "forward", 10), mover("norm", "forward", 99))
    assert groups(*two, seconds=(1.0, 3.0)) == [([2, 0], 4.0, 1.0)]
    assert groups(conv("forward", 2, 3, 4, 5), conv("forward", 2, 3, 5, 5), seconds=(1.0, 3.0))[1][1] == 3.0
    assert groups(mover("norm", "forward", 10), replace(two[0], phase="backward"), seconds=(1.0, 1.0))[1][2] == 0.5


def test_ops_without_a_time_or_at_0_s_have_no_row() -> None:
    two = (product(), mover("norm", "forward", 10))
    assert groups(*two, seconds=(None, 2.0)) == [([1, 0], 2.0, 1.0)]
    assert groups(*two, seconds=(0.0, 2.0)) == [([1, 0], 2.0, 1.0)]
    assert groups(*two, seconds=(1e-9, 3e-9))[0] == ([1, 0], 1e-9, pytest.approx(0.25))
    assert list(_timed(Observation(work(*two), 1, 1.0), [])) == []


def test_identified_prices_are_those_with_work_in_some_row() -> None:
    table = Design([observe(work(product(), mover("norm", "forward", 10)))])
    assert table.identified_prices(Form("x", (("matmul", "*", "macs"), ("norm", "*", "bytes")))) == 2
    with_products = Design([observe(work(product()))])  # nothing moves alone: no price for movers
    classes = next(form for form in with_products.forms if form.name == "classes")
    assert len(classes.keys) == 4
    assert with_products.identified_prices(classes) == 3


def test_positions_follow_the_forms_keys_and_end_with_the_start_up() -> None:
    table = Design([observe(work(product(), mover("norm", "forward", 10**6)))])
    for form in table.forms:
        assert [table.keys[index] for index in table.positions(form, False)] == list(form.keys)
        assert [table.keys[index] for index in table.positions(form, True)] == [*form.keys, STARTUP]


# -- families ------------------------------------------------------------------------------------


def families(rows: list[Observation]) -> list[str]:
    return _families(rows, [pieces(row.workload.ops).sums() for row in rows])


def test_named_families_count_if_every_row_has_one() -> None:
    rows = [observe(network(depth, 8)) for depth in (2, 3)]
    named = [replace(row, family=name) for row, name in zip(rows, "xy", strict=True)]
    assert families(named) == ["x", "y"]
    assert families([named[0], rows[1]]) == ["network 0", "network 1"]


def test_up_to_8_networks_are_a_family_each_whatever_their_batch() -> None:
    rows = [observe(network(depth, 8)) for depth in range(2, 10)]
    again = observe(network(3, 8, batch=64))
    assert families([*rows, again]) == [*(f"network {index}" for index in range(8)), "network 1"]


def deep(depth: int, width: int) -> Observation:
    """More ops than a single layer has."""
    one = network(depth, width)
    return observe(replace(one, ops=one.ops * 2))


def test_more_than_8_networks_are_grouped_by_likeness() -> None:
    """Six sorts of networks, three of each nearly alike: no group has two sorts where eight groups suffice."""
    sorts = [(2, 8), (20, 8), (200, 8), (2, 100), (20, 100), (200, 100)]
    rows = [deep(depth, width + more) for depth, width in sorts for more in (0, 1, 2)]
    found = families(rows)
    assert len(set(found)) == 8
    assert all(name.startswith("group ") for name in found)
    for one in range(0, 18, 3):
        others = set(found[:one] + found[one + 3 :])
        assert not others & set(found[one : one + 3])
    again = families([rows[0], *rows])  # one network is in one group
    assert again[0] == again[1]


@pytest.mark.parametrize(("count", "alone"), [(9, True), (10, True), (11, False)])
def test_up_to_ten_ops_are_a_layer(count: int, alone: bool) -> None:
    assert single_layers([observe(work(*[product()] * count))] * 3) == alone


def test_most_rows_decide_whether_they_are_layers() -> None:
    layer, net = observe(work(product())), observe(work(*[product()] * 50))
    assert single_layers([layer, layer, net])
    assert not single_layers([layer, net, net])


def test_layers_of_a_kind_are_dealt_out_to_eight_families_in_turn() -> None:
    assert _dealt(["a"] * 9 + ["b"]) == [*(f"part {index}" for index in range(8)), "part 0", "part 0"]
    rows = [observe(work(product(m=m), name=str(m), parameters=m)) for m in range(1, 18)]
    assert families(rows) == [f"part {index % 8}" for index in range(17)]


@pytest.mark.parametrize(
    ("kinds", "main"),
    [
        ({"conv": (1.0, 5.0), "matmul": (9.0, 4.0), "norm": (99.0, 0)}, "conv"),
        ({"pool": (5.0, 100.0), "norm": (9.0, 0.0)}, "norm"),  # a pool's looks are no multiply-adds
        ({"norm": (5.0, 0.0), "copy": (4.0, 0.0)}, "norm"),
        ({"conv": (9.0, 0.0), "copy": (4.0, 0.0)}, "conv"),
        ({"copy": (0.0, 0.0)}, ""),
        ({}, ""),
    ],
)
def test_the_main_kind_has_the_most_multiply_adds_else_the_most_bytes(
    kinds: dict[str, tuple[float, float]], main: str
) -> None:
    assert _main_kind(sums(**kinds)) == main


def test_roles_of_the_main_kind_add_up() -> None:
    parts = {("norm", role): {"bytes": 3.0, "macs": 0.0, "launch": 1.0} for role in ("forward", "backward")}
    assert _main_kind({**parts, **sums(copy=(5.0, 0))}) == "norm"


def test_traits_are_logarithms_of_sizes_then_shares_of_the_work() -> None:
    parts = sums(conv=(10.0, 300.0), matmul=(10.0, 100.0), norm=(20.0, 0), pool=(40.0, 1e9))
    log = np.log
    some: Any = SimpleNamespace(batch_size=32)
    dense = [0, 0.75, 0, 0, 0.25, 0, 0]  # by the order of DENSE
    moved = [0.25, 0.5, 0, 0]  # norm, pool, copy, elementwise
    assert _traits(parts, some) == pytest.approx([log(400), log(80), log(4), log(32), *dense, *moved])
    nothing: Any = SimpleNamespace(batch_size=1)
    assert _traits({}, nothing) == [0.0] * 15
    one: Any = SimpleNamespace(batch_size=1)
    assert _traits(sums(conv=(1.0, 1.0)), one) == [0.0] * 4 + [0, 1.0] + [0.0] * 9  # 1 multiply-add is all of them
