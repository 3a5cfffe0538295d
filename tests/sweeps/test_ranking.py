"""Totals, the best candidates and the Pareto front."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import JoulecastError
from joulecast.sweeps.ranking import NODES, TOTALS, Merit, Ranking, parse_merits


def result(index: int, energy: float = 1.0, **columns: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in TOTALS:
        value = energy if name == "energy_kwh" else 1.0
        figures |= {name: value, f"{name}_low": value / 2, f"{name}_high": value * 3}
    return {"index": index, "asked": {}, "row": {**figures, **columns}}


def ranking(*results: dict[str, Any], pareto: str = "", by: str = "energy") -> Ranking:
    found = Ranking(parse_merits(pareto) if pareto else (), parse_merits(by)[0])
    for one in results:
        found.add(one)
    return found


def test_the_total_adds_values_and_bounds() -> None:
    total = ranking(result(0, 1.0), result(1, 4.0)).totals["energy_kwh"]
    assert (total.low, total.value, total.high) == (2.5, 5.0, 15.0)


def test_nodes_are_a_total_where_all_candidates_have_them() -> None:
    nodes = {"node_energy_kwh": 2.0, "node_energy_kwh_low": 1.0, "node_energy_kwh_high": 4.0}
    total = ranking(result(0, **nodes), result(1, **nodes)).totals[NODES]
    assert (total.low, total.value, total.high) == (2.0, 4.0, 8.0)
    for order in ([result(0, **nodes), result(1)], [result(0), result(1, **nodes)]):
        assert NODES not in ranking(*order).totals


def test_failures_are_counted_by_their_reason_and_have_no_figures() -> None:
    found = ranking(result(0), {"index": 1, "asked": {}, "error": "no"}, {"index": 2, "asked": {}, "error": "no"})
    assert (found.done, found.failed, dict(found.failures)) == (3, 2, {"no": 2})
    assert found.totals["energy_kwh"].value == 1.0


def test_candidates_over_their_budget_count_in_the_total_and_do_not_rank() -> None:
    found = ranking(result(0, 1.0, over_budget=True), result(1, 2.0, over_budget=False), pareto="energy")
    assert found.over_budget == 1
    assert found.totals["energy_kwh"].value == 3.0
    assert found.top(5) == found.front() == [1]


def test_the_best_come_first_and_of_equals_the_earlier_one() -> None:
    found = ranking(result(0, 3.0), result(2, 1.0), result(1, 1.0), result(3, 2.0))
    assert found.top(3) == [1, 2, 3]
    assert ranking(result(0, 1.0), result(1, 2.0), by="energy:max").top(1) == [1]


def test_the_front_by_hand() -> None:
    points = [(1.0, 0.5), (2.0, 0.9), (2.0, 0.4), (3.0, 0.9), (0.5, 0.1), (1.0, 0.5)]
    found = ranking(
        *(result(i, energy, accuracy=accuracy) for i, (energy, accuracy) in enumerate(points)), pareto="energy,accuracy"
    )
    assert found.front() == [4, 0, 5, 1]  # equals are both on it


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_the_front_is_what_no_other_candidate_is_better_than(points: list[tuple[int, int, int]]) -> None:
    results = [result(i, energy, a=a, b=b) for i, (energy, a, b) in enumerate(points)]
    found = ranking(*results, pareto="energy,a:min,b:max")
    losses = [(energy, a, -b) for energy, a, b in points]
    expected = {
        i
        for i, own in enumerate(losses)
        if not any(all(x <= y for x, y in zip(other, own, strict=True)) and other != own for other in losses)
    }
    assert set(found.front()) == expected


@pytest.mark.parametrize(
    ("text", "merits"),
    [
        ("energy,parameters", (Merit("energy_kwh", False), Merit("parameters", True))),
        ("co2e,time,cost", (Merit("co2e_kg", False), Merit("seconds", False), Merit("cost", False))),
        ("energy_kwh_high,accuracy", (Merit("energy_kwh_high", False), Merit("accuracy", True))),
        ("flops:min, loss:min", (Merit("step_flops", False), Merit("loss", False))),
    ],
)
def test_costs_are_better_small_and_other_columns_large(text: str, merits: tuple[Merit, ...]) -> None:
    assert parse_merits(text) == merits


@pytest.mark.parametrize("text", ["", "energy,", "energy:up", "energy,energy_kwh"])
def test_merits_that_cannot_be_read(text: str) -> None:
    with pytest.raises(JoulecastError):
        parse_merits(text)


@pytest.mark.parametrize(
    ("by", "error"),
    [("energi", "did you mean energy"), ("name", "'x' in a candidate"), ("flag", "True in a candidate")],
)
def test_columns_that_are_missing_or_no_numbers(by: str, error: str) -> None:
    with pytest.raises(JoulecastError, match=error):
        ranking(result(0, name="x", flag=True), by=by)
