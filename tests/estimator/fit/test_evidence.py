"""What observations need for a fit, at the edge of each rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.fit.evidence import _mix, checked, network_of
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.workload import Op, Workload

from ..synthetic import network, observe


def op(macs: int, size: int, kind: str = "matmul") -> Op:
    return Op(kind, kind, "forward", "", macs, size, 0, dims={"b": 1, "m": 1, "k": macs, "n": 1})


def row(macs: int = 100, size: int = 100, parameters: int = 1000, **values: Any) -> Observation:
    ops = (op(macs, size),)
    work = Workload("net", "pytorch", 2, True, None, "float32", parameters, parameters, 0, 0, (), ops)
    return replace(Observation(work, 1, 1.0, 1.0, meter="rapl"), **values)


def problem(rows: list[Any], **options: int) -> str:
    with pytest.raises(FitError) as raised:
        checked(rows, **options)
    return str(raised.value)


def test_one_row_is_enough_where_one_is_asked_for_and_mixes_do_not_matter_then() -> None:
    assert checked(iter([row()]), least=1) == (row(),)
    assert checked([row(), row()], least=1) == (row(), row())
    assert problem([], least=1).startswith("0 observations; a fit needs at least one")


def test_four_networks_of_two_mixes_are_enough_and_three_are_not() -> None:
    four = [row(parameters=1000 + index, macs=100 + 50 * index) for index in range(4)]
    assert checked(four) == tuple(four)
    assert problem([*four[:3], four[0]]).startswith("4 observations of 3 networks only; a fit needs at least 4")
    assert problem([four[0]] * 4).startswith("4 observations of one network only; a fit needs at least 4")
    assert problem(four[:3]).startswith("3 observations; a fit needs at least 4 different networks, or one on a GPU")


@pytest.mark.parametrize(("share", "enough"), [(1.03, False), (1.07, False), (1.09, True), (2.0, True)])
def test_multiply_adds_per_byte_must_differ_by_2_percent_of_the_mix(share: float, enough: bool) -> None:
    """Shares of multiply-adds in the mix, each over its largest: 1 / 2 and (1 / s) / (1 / s + 1)."""
    rows = [row(macs=1_000_000, size=1_000_000, parameters=index) for index in range(20, 23)]
    rows.append(row(macs=round(1_000_000 * share), size=1_000_000, parameters=40))
    differ = 1 / 2 - 1 / share / (1 / share + 1)
    assert (differ >= 0.02) == enough
    if enough:
        assert checked(rows) == tuple(rows)
    else:
        assert f"multiply-adds per byte differ by {differ:.1%} among them; add networks of other kinds" in problem(rows)


def test_networks_without_multiply_adds_or_bytes_are_counted_as_one_of_each() -> None:
    rows = [row(macs=0, size=0, parameters=20 + index) for index in range(4)]
    assert "differ by 0.0% among them" in problem(rows)
    assert checked([*rows, row(macs=3, size=1, parameters=50)])
    assert _mix(rows[0]).tolist() == [1.0, 1.0]


def test_the_first_row_that_is_no_observation_is_named() -> None:
    assert problem([row(), 3, "text"]) == "expected joulecast.Observation objects, got int"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "observation of net has 0 steps; measure at least one"),
        ({"seconds": 0.0}, "took 0.0 s; a window needs a time above 0"),
        ({"seconds": float("inf")}, "took inf s; a window needs"),
        ({"op_seconds": (1.0, 1.0)}, "has 2 op times for 1 ops; give one each"),
        ({"op_seconds": (float("inf"),)}, "has an op of inf s; give times of 0 or more, None where not timed"),
        ({"op_seconds": (-1e-9,)}, "has an op of -1e-09 s"),
        ({"energy_j": 0.0}, "has 0.0 J; energy is above 0, None where nothing measured it"),
        ({"flags": ("warm", "TDP of the part")}, "has modelled energy (TDP of the part); a fit takes metered energy"),
        ({"meter": "Estimated"}, "has modelled energy (Estimated)"),
        ({"meter": "from a datasheet"}, "has modelled energy (from a datasheet)"),
    ],
)
def test_a_window_that_cannot_be_used_is_named(values: dict[str, Any], message: str) -> None:
    assert message in problem([row(), row(**values)], least=1)


@pytest.mark.parametrize(
    "values",
    [
        {"op_seconds": (0.0,)},
        {"op_seconds": (None,)},
        {"seconds": 1e-9},
        {"energy_j": 1e-9},
        {"flags": ("throttled",)},
        {"energy_j": None, "meter": None, "flags": ("modelled-power",)},  # no energy, so nothing is modelled
    ],
)
def test_the_least_that_can_be_used(values: dict[str, Any]) -> None:
    assert checked([row(**values)], least=1)


def test_a_workload_without_ops_is_traced_again() -> None:
    assert "workload without ops; trace it again" in problem([row(workload=replace(row().workload, ops=()))], least=1)


def test_rows_agree_in_what_ran_them_and_only_meters_of_energies_count() -> None:
    assert problem([row(), row(energy_j=None)], least=1) == (
        "1 of 2 observations have energy; give it for all or for none"
    )
    assert problem([row(), row(workload=replace(row().workload, precision="float16"))], least=1) == (
        "observations mix precision: float16, float32; fit one profile for each"
    )
    assert problem([row(hardware="b"), row(hardware="a"), row()], least=1).startswith("observations mix hardware: None")
    assert problem([row(framework="jax"), row()], least=1).startswith("observations mix framework: jax, pytorch;")
    assert checked([row(framework="pytorch"), row()], least=1)
    assert (
        problem([row(meter="a"), row(meter="b")], least=1) == "observations mix meter: a, b; fit one profile for each"
    )
    assert checked([row(energy_j=None, meter=name) for name in ("a", "b")], least=1)


# -- networks ------------------------------------------------------------------------------------


def test_a_networks_key_is_its_ops_and_parameters_without_batch_and_name() -> None:
    one = observe(network(3, 8))
    assert network_of(one) == network_of(observe(replace(network(3, 8, batch=64), name="other")))
    for change in ({"parameters": 3}, {"train": False}, {"ops": one.workload.ops[:-1]}):
        assert network_of(replace(one, workload=replace(one.workload, **change))) != network_of(one)
    more = (replace(one.workload.ops[0], count=77), *one.workload.ops[1:])
    assert network_of(replace(one, workload=replace(one.workload, ops=more))) != network_of(one)


@pytest.mark.parametrize(("parameters", "told"), [(0, True), (9, True), (10, False), (11, False)])
def test_bytes_of_a_sample_tell_networks_with_fewer_than_ten_parameters_apart(parameters: int, told: bool) -> None:
    small, large = row(size=100, parameters=parameters), row(size=300, parameters=parameters)
    assert (network_of(small) != network_of(large)) == told
    if told:
        assert network_of(small)[2] == (50,)  # 100 bytes for 2 samples
