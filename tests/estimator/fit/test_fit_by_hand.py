"""The steps from a table to a profile, each with prices and seconds written by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.cost.bounds import Range
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.profile import PowerModel
from joulecast.estimator.fit import fit as fitting
from joulecast.estimator.fit.design import STARTUP, Design, Form
from joulecast.estimator.fit.fit import (
    _activity,
    _candidates,
    _component,
    _curves,
    _is_better,
    _others,
    _ranges,
    _remarks,
    _Solution,
    _spent,
    _stand_ins,
    _startup,
    _unpriced,
    fit,
)
from joulecast.estimator.fit.intervals import _error_model, out_of_sample
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.fit.regression import RIDGE, bounds, folds, nonnegative_fit, rows_worth, shared_error
from joulecast.estimator.fit.watts import WattsPrior
from joulecast.estimator.trace.workload import Op, Workload

from ..synthetic import network, observe, suite

LAUNCH = ("*", "*", "launch")


def work(*ops: Op) -> Workload:
    return Workload("net", "pytorch", 2, False, None, "float32", 1000, 1000, 0, 0, (), ops)


def product(macs: int = 100, size: int = 10, count: int = 1) -> Op:
    dims = {"b": 1, "m": 1, "k": macs, "n": 1}
    return Op("mm", "matmul", "forward", "", macs, size, 0, dims=dims, count=count)


def moved(kind: str, name: str, size: int) -> Op:
    return Op(name, kind, "forward", "", 0, size, 0, dims={})


# -- which forms compete -------------------------------------------------------------------------


def competing(rows: int, prices: dict[str, int], startup: bool) -> list[tuple[str, bool]]:
    table: Any = SimpleNamespace(
        seconds=np.ones(rows),
        forms=[Form(name, ()) for name in prices],
        identified_prices=lambda form: prices[form.name],
    )
    return [(form.name, choice) for form, choice in _candidates(table, startup)]


def test_a_form_has_at_most_half_as_many_prices_as_there_are_rows() -> None:
    prices = {"simple": 3, "classes": 5, "kinds": 6, "tiles": 7}
    assert competing(10, prices, False) == [("simple", False), ("classes", False)]
    assert competing(12, prices, False) == [("simple", False), ("classes", False), ("kinds", False)]
    assert competing(4, prices, False) == [("simple", False)]  # which always competes
    assert competing(4, {**prices, "timed": 1}, False) == [("simple", False), ("timed", False)]


def test_the_start_up_competes_from_twelve_rows_on() -> None:
    assert competing(11, {"simple": 3}, True) == [("simple", False)]
    assert competing(12, {"simple": 3}, True) == [("simple", True), ("simple", False)]
    assert competing(12, {"simple": 3}, False) == [("simple", False)]


def best(monkeypatch: pytest.MonkeyPatch, forms: dict[str, list[float]]) -> str:
    """The chosen form, given each form's predictions for steps of two families that took 1 s."""
    monkeypatch.setattr(
        fitting, "_candidates", lambda table, startup: [(SimpleNamespace(name=name), startup) for name in forms]
    )
    monkeypatch.setattr(
        fitting,
        "_left_out",
        lambda table, form, startup, seed, prior: fitting._Choice(
            form, startup, np.array(forms[form.name]), np.ones(2)
        ),
    )
    rows = [SimpleNamespace(step_seconds=1.0)] * 2
    table: Any = SimpleNamespace(observations=rows, families=["a", "b"])
    found = fitting._best(table, True, 0, 1, WattsPrior())
    assert (found.startup, found.seconds.tolist(), found.watts.tolist()) == (True, forms[found.form.name], [1.0, 1.0])
    return str(found.form.name)


def test_where_prices_of_single_ops_compete_half_and_double_are_equally_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4 is 60 % off and a factor of 2.5; 1.9 is 90 % off and a factor of 1.9."""
    assert best(monkeypatch, {"low": [0.4, 0.4], "high": [1.9, 1.9]}) == "low"
    assert best(monkeypatch, {"low": [0.4, 0.4], "high": [1.9, 1.9], "timed": [9.0, 9.0]}) == "high"
    assert best(monkeypatch, {"low": [0.4, 0.4], "timed": [1.9, 1.9]}) == "timed"


def test_half_of_the_families_are_enough_for_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best(monkeypatch, {"simple": [0.0, 1.0]}) == "simple"
    with pytest.raises(FitError, match="predicts 0 s for most families left out; add observations of more kinds"):
        best(monkeypatch, {"simple": [0.0, 0.0]})


def test_few_runs_answer_where_they_are_closer_family_by_family() -> None:
    rows: Any = [SimpleNamespace(step_seconds=2.0)] * 3
    families = ["a", "a", "b"]
    far, near = np.array([2.0, 2.0, 4.0]), np.array([3.0, 3.0, 2.0])  # log 2 / 2 against log 1.5 / 2
    assert _is_better(rows, near, far, families)
    assert not _is_better(rows, far, near, families)
    assert not _is_better(rows, far, far, families)


# -- shares and prices ---------------------------------------------------------------------------


def solved(form: str, prices: dict[tuple[str, str, str], float], *rows: Observation, startup: float | None = None):  # type: ignore[no-untyped-def]
    """The table of `rows`, its form and a solution with `prices`, 0 where none is given."""
    table = Design(list(rows))
    found = next(one for one in table.forms if one.name == form)
    values = [prices.get(key, 0.0) for key in found.keys] + ([] if startup is None else [startup])
    solution = _Solution(tuple(table.positions(found, startup is not None)), np.array(values), np.zeros(4))
    return table, found, solution


PRICES = {("dense", "*", "macs"): 0.04, ("*", "*", "bytes"): 0.1, LAUNCH: 1.0}


def test_shares_of_a_step_by_component_and_the_start_up_keeps_none_busy() -> None:
    """100 multiply-adds are 4 s, 20 bytes 2 s, 2 starts 2 s; the second run has 10 s of start-up over 5 steps."""
    first = Observation(work(product(), moved("copy", "copy", 10)), 1, 1.0)
    second = replace(first, steps=5)
    table, _, solution = solved("simple", PRICES, first, second)
    assert _activity(table, solution).tolist() == [pytest.approx([4 / 8, 2 / 8, 2 / 8, 1])] * 2
    assert solution.seconds(table.whole).tolist() == pytest.approx([8, 8])
    assert _startup(table, solution) == 0.0
    table, _, solution = solved("simple", PRICES, first, second, startup=10.0)
    assert _activity(table, solution)[1].tolist() == pytest.approx([4 / 10, 2 / 10, 2 / 10, 1])
    assert solution.seconds(table.whole).tolist() == pytest.approx([18, 10])
    assert _startup(table, solution) == 10.0
    nothing = replace(solution, prices=np.zeros(4))
    assert _activity(table, nothing)[0].tolist() == [0, 0, 0, 1]


def test_a_features_component_is_what_it_keeps_busy() -> None:
    assert _component(("conv", "*", "macs")) == "compute"
    assert _component(("conv", "*", "spilled")) == "memory"
    assert _component(LAUNCH) == "launch"
    assert _component(STARTUP) == ""


def test_seconds_under_each_key_are_those_of_all_steps() -> None:
    row = Observation(work(product(), moved("copy", "copy", 10)), 1, 1.0)
    table, form, solution = solved("simple", PRICES, row, row, startup=3.0)
    assert _spent(table, form, solution) == pytest.approx(
        {("dense", "*", "macs"): 8, ("*", "*", "bytes"): 4, LAUNCH: 4}
    )


def test_simple_terms_need_no_stand_ins_and_terms_at_0_s_are_left_out() -> None:
    row = Observation(work(product(), moved("copy", "copy", 10)), 1, 1.0)
    table, form, solution = solved("simple", {**PRICES, LAUNCH: 0.0}, row)
    assert _curves(table, form, solution).terms == (Term("dense", "*", "macs", 0.04), Term("*", "*", "bytes", 0.1))
    table, form, solution = solved("kinds", {("matmul", "*", "macs"): 2.0}, row)
    terms = _curves(table, form, solution).terms
    assert terms[0] == Term("matmul", "*", "macs", 2.0)
    assert Term("conv", "*", "macs", 2.0) in terms[1:]  # a kind never observed
    assert all(term.seconds for term in terms)
    table, form, solution = solved("roles", {("matmul", "forward", "macs"): 2.0}, row)
    assert all(term.seconds for term in _curves(table, form, solution).terms)  # no backward at 0 s


LARGE = 2**20


def timed_table(**prices: float) -> Any:
    """An activation `a` of 1 MiB and a small `b`, timed; prices of their bytes and starts."""
    ops = (moved("activation", "a", LARGE), moved("activation", "b", 100), moved("copy", "c", LARGE))
    row = Observation(work(*ops), 1, 1.0, op_seconds=(0.5, 0.25, 0.25))
    keys = {
        ("activation", "a", "bytes"): prices.get("a", 0.0),
        ("activation", "a", "launch"): prices.get("a_start", 0.0),
        ("activation", "b", "launch"): prices.get("b_start", 0.0),
        ("copy", "c", "bytes"): prices.get("c", 0.0),
    }
    return solved("timed", keys, row)


def test_a_name_never_seen_costs_the_average_of_its_kinds_names() -> None:
    """2 s a byte of `a` over the bytes of both; 3 and 4 s of starts over two."""
    table, form, solution = timed_table(a=2.0, a_start=3.0, b_start=4.0)
    assert _others(table, form, solution) == [
        Term("activation", "others", "bytes", pytest.approx(2.0 * LARGE / (LARGE + 100))),
        Term("activation", "others", "launch", 3.5),
    ]


def test_new_memory_is_no_part_of_what_names_cost() -> None:
    """`a` writes 64 MiB of new memory, which has a price of its own: 2 s a byte of `a` alone are averaged."""
    size = 2**26
    op = replace(moved("activation", "a", 0), bytes_written=size)
    row = Observation(work(op, moved("activation", "b", size)), 1, 1.0, op_seconds=(0.5, 0.5))
    prices = {("activation", "a", "bytes"): 2.0, ("activation", "*", "fresh"): 7.0}
    table, form, solution = solved("timed", prices, row)
    assert _spent(table, form, solution)["activation", "*", "fresh"] == 7.0 * size
    assert _others(table, form, solution) == [Term("activation", "others", "bytes", pytest.approx(1.0))]


def test_a_name_at_0_s_keeps_its_term_and_prices_of_all_names_at_0_s_go() -> None:
    table, form, solution = timed_table(a=2.0)
    terms = _curves(table, form, solution).terms
    assert Term("copy", "c", "bytes", 0.0) in terms
    assert Term("activation", "b", "launch", 0.0) in terms
    assert not [term for term in terms if term.feature == "fresh"]
    assert Term("norm", "*", "bytes", pytest.approx(2.0 * LARGE / (2 * LARGE + 100))) in terms  # a stand-in


def test_stand_ins_are_made_only_where_something_was_priced() -> None:
    row = Observation(work(moved("copy", "copy", 10), moved("norm", "norm", 30)), 1, 1.0)
    table, form, solution = solved("kinds", {("copy", "*", "bytes"): 3.0, ("norm", "*", "bytes"): 1.0}, row)
    terms = _stand_ins(table, form, solution)
    assert {term.feature for term in terms} == {"bytes"}
    assert {term.seconds for term in terms} == {(30 + 30) / 40}
    kinds = {term.kind for term in terms}
    assert "pool" in kinds
    assert not kinds & {"copy", "norm", "conv", "scan", "fft"}


# -- what a profile says -------------------------------------------------------------------------


def test_ranges_of_networks_are_of_their_steps_and_of_layers_of_their_ops() -> None:
    nets = [observe(replace(net, ops=net.ops * 2)) for net in (network(2, 8, batch=4), network(3, 8, batch=16))]
    ranges = _ranges(nets)
    assert list(ranges) == ["flops", "bytes", "ops", "batch_size"]
    assert (ranges["ops"], ranges["batch_size"]) == (Range(28, 42), Range(4, 16))  # 2 x 7 x depth
    flops = [row.workload.flops for row in nets]
    assert ranges["flops"] == Range(*sorted(flops))
    layers = [Observation(work(product(m, size, count=n)), 1, 1.0) for m, size, n in ((10, 7, 1), (30, 0, 2))]
    layers.append(Observation(work(moved("copy", "copy", 9)), 1, 1.0))
    assert _ranges(layers) == {"layer_ops": Range(1, 2), "op_flops": Range(10, 30), "op_bytes": Range(7, 9)}


def test_layers_without_multiply_adds_have_no_range_of_them() -> None:
    assert _ranges([Observation(work(moved("copy", "copy", 9)), 1, 1.0)]) == {
        "layer_ops": Range(1, 1),
        "op_bytes": Range(9, 9),
    }


def test_rows_that_no_other_family_prices_are_counted() -> None:
    assert _unpriced(0, 9) == ()
    (note,) = _unpriced(1, 9)
    assert note.startswith("1 of 9 observations do work that no other family does")


def test_notes_on_power() -> None:
    assert _remarks("rapl", True) == ()
    assert _remarks("caller", True) == ("energies are the caller's own; no meter was named",)
    assert _remarks("caller", False) == ("power was not measured here: its weights are modelled",)


def test_a_profile_says_where_it_comes_from() -> None:
    rows = [replace(row, host={"cpu": "y" if index else "x"}) for index, row in enumerate(suite())]
    fitted = fit(rows, name="n", created="today", notes=("mine",), memory_bytes=7)
    provenance = fitted.provenance
    assert (fitted.name, fitted.hardware, fitted.device, fitted.framework) == ("n", "a machine", "cpu", "pytorch")
    assert (fitted.precision, fitted.memory_bytes, fitted.host, fitted.startup_s) == ("float32", 7, {"cpu": "x"}, 0.0)
    assert (provenance.time, provenance.power, provenance.created) == ("measured", "measured", "today")
    assert provenance.sources == ("40 observations on a machine, meter: rapl",)
    assert provenance.fitted_on.startswith("40 observations of 40 networks, form ")
    assert (provenance.boundary, provenance.notes) == ("what rapl covers", ("mine",))
    assert (fitted.scores["observations"], fitted.scores["families"]) == (40.0, 8.0)
    assert fitted.kinds == ("activation", "conv", "norm", "optimizer")
    named = fit(rows, name="n", hardware="other", device="gpu", sources=["s"], boundary="b")
    assert (named.hardware, named.device) == ("other", "gpu")
    assert (named.provenance.sources, named.provenance.boundary) == (("s",), "b")
    flat = PowerModel(dict.fromkeys(("compute", "memory", "launch"), 1.0), 9.0)
    plain = [replace(row, energy_j=None, hardware=None, framework="keras") for row in rows]
    modelled = fit(plain, name="n", power=flat)
    assert (modelled.hardware, modelled.framework, modelled.power) == ("n", "keras", flat)
    assert (modelled.provenance.power, modelled.provenance.boundary) == ("modelled", "")
    plain[0] = replace(plain[0], framework=None, workload=replace(plain[0].workload, framework="keras"))
    assert fit(plain, name="n", power=flat).framework == "keras"  # what ran it, as the traced step says


def test_what_a_fit_does_unless_it_is_told_otherwise() -> None:
    """No start-up, folds by seed 0, one job."""
    rng = np.random.default_rng(5)
    rows = [
        replace(row, family=str(index % 13), seconds=row.seconds * float(np.exp(rng.normal(0, 0.1))))
        for index, row in enumerate(suite(startup_s=50.0))
    ]
    plain = fit(rows, name="m")
    assert plain.startup_s == 0.0
    assert fit(rows, name="m", seed=0, jobs=2, startup=False).to_json() == plain.to_json()
    assert fit(rows, name="m", seed=1).scores["time_mean_error"] != plain.scores["time_mean_error"]


def test_work_that_no_other_family_does_is_left_out_of_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row is predicted at 0 s without its family, as if no other did its work."""
    whole = fitting._best

    def without_the_first(*arguments: Any) -> Any:
        best = whole(*arguments)
        return replace(best, seconds=np.where(np.arange(len(best.seconds)) == 0, 0.0, best.seconds))

    monkeypatch.setattr(fitting, "_best", without_the_first)
    fitted = fit(suite(), name="m")
    assert [note[:24] for note in fitted.provenance.notes] == ["1 of 40 observations do "]
    assert fitted.scores["time_mean_error"] < 0.05
    assert fitted.time_error.high < 2


# -- regression ----------------------------------------------------------------------------------


def one_price(measured: list[float], weights: list[float], symmetric: bool) -> float:
    """The rule in plain numbers, for one price of 1 unit in each row."""
    robust, price = [1.0] * len(measured), 0.0
    for _ in range(5):
        both = [w * r for w, r in zip(weights, robust, strict=True)]
        square = sum(w / one**2 for w, one in zip(both, measured, strict=True))
        scale = math.sqrt(sum(1 / one**2 for one in measured) / len(measured))
        ridge = RIDGE * sum(weights) * scale**2  # on the price in units of its scale
        price = sum(w / one for w, one in zip(both, measured, strict=True)) / (square + ridge)
        off = [abs(price / one - 1) for one in measured]
        limit = 2 * (1.5 * float(np.median(off)) + 1e-6)
        robust = [min(1.0, limit / max(one, 1e-12)) for one in off]
        if symmetric:
            robust = [r / min(max(price / one, 0.25), 4.0) for r, one in zip(robust, measured, strict=True)]
    return price


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("weights", [[1.0] * 7, [1.0, 0.1, 0.1, 3.0, 1.0, 0.5, 2.0]])
def test_one_price_by_the_rule(weights: list[float], symmetric: bool) -> None:
    measured = [1.0, 1.1, 0.8, 1.3, 0.7, 9.0, 0.1]
    found = nonnegative_fit(np.ones((7, 1)), np.array(measured), np.array(weights), symmetric=symmetric)
    assert found[0] == pytest.approx(one_price(measured, weights, symmetric), rel=1e-9)


def test_columns_that_cannot_be_told_apart_share_and_an_empty_one_costs_nothing() -> None:
    columns = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [3.0, 3.0, 0.0]])
    assert nonnegative_fit(columns, np.array([2.0, 4.0, 6.0])).tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-4)


def test_folds_are_dealt_to_families_and_there_is_no_empty_one() -> None:
    assert len(list(folds(["a", "b", "b"]))) == 2
    assert [int(test.sum()) for _, test in folds([str(n) for n in range(12)], most=5)] == [3, 3, 2, 2, 2]
    first, second = ([test.tolist() for _, test in folds(list("abcdefgh"), most=3, seed=seed)] for seed in (0, 1))
    assert first != second
    assert first == [test.tolist() for _, test in folds(list("abcdefgh"), most=3)]


def test_students_interval_is_for_fewer_than_twenty_rows() -> None:
    """18 rows of 0.01 and one of 0.1: t(0.95, 18 degrees) = 1.734064; 20 rows: rank ceil(21 x 0.9) = 19, 0.01."""
    nineteen = np.array([0.01] * 18 + [0.1])
    mean_square = (18 * 0.01**2 + 0.1**2) / 19
    reach = 1.734064 * math.sqrt(mean_square * (1 + 1 / 19))
    assert reach > 0.01
    assert math.log(bounds(nineteen)[1]) == pytest.approx(reach, rel=1e-6)
    assert math.log(bounds(np.append(nineteen, 0.01))[1]) == pytest.approx(0.01)
    assert math.log(bounds(np.array([0.3]))[1]) == pytest.approx(0.3)  # one row: its own
    wide = np.array([0.01, 0.01, 5.0])  # the largest row reaches further than Student's
    assert bounds(wide)[0] == pytest.approx(1 / bounds(wide)[1])


@pytest.mark.parametrize("shared", [0.0, 0.05, 0.45, 1.0, 1.95, 2.0])
def test_the_shared_error_is_told_in_steps_of_a_twentieth_up_to_2(shared: float) -> None:
    ops = 2.0 ** np.arange(12)
    assert shared_error(np.sqrt(shared**2 + 1 / ops), ops) == pytest.approx(shared)


def test_families_that_are_off_less_than_their_rows_are_worth_all_rows() -> None:
    assert rows_worth(np.array([0.2, -0.2, 0.2, -0.2]), ["a", "a", "b", "b"]) == 4.0
    assert rows_worth(np.zeros(4), ["a", "a", "b", "b"]) == 4.0


# -- intervals -----------------------------------------------------------------------------------


def test_one_row_with_energy_is_scored_by_its_joules_a_step() -> None:
    row = Observation(work(product()), steps=4, seconds=8.0, energy_j=40.0)
    verdict = out_of_sample([row], ["a"], np.array([1.0]), np.array([8.0]), None)
    assert verdict.scores == pytest.approx(
        {"time_mean_error": 0.5, "time_median_error": 0.5, "energy_mean_error": 0.2, "energy_median_error": 0.2}
    )
    assert (verdict.time_error.low, verdict.time_error.high) == pytest.approx((0.5, 2.0))
    assert (verdict.energy_error.low, verdict.energy_error.high) == pytest.approx((0.8, 1.25))
    plain = out_of_sample([replace(row, energy_j=None)], ["a"], np.array([1.0]), np.array([8.0]), None)
    assert plain.energy_error == plain.time_error
    assert set(plain.scores) == {"time_mean_error", "time_median_error"}


def test_a_perfect_fit_still_has_a_finite_widening() -> None:
    rows = [Observation(work(product()), 1, 1.0)] * 30
    error = _error_model(rows, [str(index) for index in range(30)], np.zeros(30), None)
    assert (error.low, error.high, error.per_op) == (1.0, 1.0, 0.0)
    assert error.per_decade == pytest.approx(math.log(1.6) / 1e-3)


def test_ops_of_one_name_and_shape_are_one_where_single_ops_were_timed() -> None:
    """4 products of 3 s each and a copy of 12 s: two ops of 12 s, so an interval of one error by the root of 2."""
    curves = Curves((Term("matmul", "*", "macs", 0.03), Term("copy", "*", "bytes", 1.2)))
    row = Observation(work(*[product()] * 4, moved("copy", "c", 10)), 1, 24.0)
    rows = [replace(row, seconds=24.0 * math.exp(0.1 * sign)) for sign in (1, -1) * 15]
    families = [str(index) for index in range(30)]
    error = out_of_sample(rows, families, np.full(30, 24.0), np.ones(30), curves).time_error
    assert math.hypot(math.log(error.high), error.per_op / math.sqrt(2)) == pytest.approx(0.1)
    assert error.interval(1.0, ops=2).high == pytest.approx(math.exp(0.1))
