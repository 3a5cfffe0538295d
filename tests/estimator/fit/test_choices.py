"""How `fit` chooses a form and its intervals; rules worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.cost.features import DENSE, pieces
from joulecast.estimator.fit import fit as fitting
from joulecast.estimator.fit.design import Design, _traits
from joulecast.estimator.fit.fit import _Solution, _stand_ins
from joulecast.estimator.fit.intervals import _error_model, out_of_sample
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.fit.regression import (
    bounds,
    family_shares,
    folds,
    log_errors,
    nonnegative_fit,
    rows_worth,
    shared_error,
)
from joulecast.estimator.fit.watts import WattsPrior

from ..synthetic import conv, network, observe


def chosen(monkeypatch: pytest.MonkeyPatch, forms: dict[str, list[float]], families: list[str]) -> str:
    """The chosen form, given each form's predictions for steps that took 1 s; smaller forms come first."""
    candidates = [(SimpleNamespace(name=name), False) for name in forms]
    monkeypatch.setattr(fitting, "_candidates", lambda table, startup: candidates)
    monkeypatch.setattr(
        fitting,
        "_left_out",
        lambda table, form, startup, seed, prior: fitting._Choice(
            form, startup, np.array(forms[form.name]), np.ones(len(families))
        ),
    )
    rows = [SimpleNamespace(step_seconds=1.0) for _ in families]
    table: Any = SimpleNamespace(observations=rows, families=families)
    return str(fitting._best(table, False, 0, 1, WattsPrior()).form.name)


def test_a_larger_form_must_be_more_than_2_percent_better(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [1.100, 1.100]  # an error of 10 %
    assert chosen(monkeypatch, {"small": small, "large": [1.099, 1.099]}, ["a", "b"]) == "small"
    assert chosen(monkeypatch, {"small": small, "large": [1.097, 1.097]}, ["a", "b"]) == "large"


def test_of_two_equal_forms_the_smaller_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, {"small": [1.1, 1.3], "large": [1.3, 1.1]}, ["a", "b"]) == "small"


def test_a_family_measured_often_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows, `often` would win: 10 % wrong on nine rows. By families it is 30 % wrong, `fair` 20 %."""
    families = ["a"] * 9 + ["b"]
    assert family_shares(families) == pytest.approx([1 / 18] * 9 + [1 / 2])
    assert chosen(monkeypatch, {"often": [1.1] * 9 + [1.5], "fair": [1.2] * 10}, families) == "fair"


def test_families_predicted_at_0_s_are_refused_where_they_are_most(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FitError, match="0 s for most families"):
        chosen(monkeypatch, {"small": [0.0, 0.0, 1.0]}, ["a", "b", "c"])
    assert chosen(monkeypatch, {"small": [0.0, 1.0, 1.0]}, ["a", "b", "c"]) == "small"


# -- intervals -----------------------------------------------------------------------------------


def out_of_sample_of(log_ratios: list[float], sessions: list[str] | None = None) -> Any:
    """The time's error model, from log(measured / predicted) of rows that each are their own family."""
    rows: list[Observation] = []
    for index, ratio in enumerate(log_ratios):
        row = replace(observe(network(2, 8)), steps=1, seconds=math.exp(ratio), energy_j=None)
        rows.append(replace(row, host={"session": "" if sessions is None else sessions[index]}))
    ones = np.ones(len(rows))
    families = [str(index) for index in range(len(rows))]
    return out_of_sample(rows, families, ones, ones, None)


def test_ten_times_outside_widens_the_interval_by_a_factor_of_1_6() -> None:
    error = out_of_sample_of([math.log(1.2), -math.log(1.2)] * 15).time_error
    inside, outside = error.interval(1.0), error.interval(1.0, decades_outside=1.0)
    assert (inside.low, inside.high) == pytest.approx((1 / 1.2, 1.2))
    assert (outside.low, outside.high) == pytest.approx((1 / 1.2 / 1.6, 1.2 * 1.6))
    twice = error.interval(1.0, decades_outside=2.0)
    assert twice.high == pytest.approx(1.2 * 1.6**2)


def test_with_op_times_a_network_of_more_ops_has_a_narrower_interval() -> None:
    """One op alone scatters by 0.4 (in logarithms), a step of 16 by 0.1. Ten times outside is 1.6 again."""
    ops = np.array([1.0] * 10 + [16.0] * 20)
    ratios = 0.4 / np.sqrt(ops) * np.array([1, -1] * 15)
    rows = [observe(network(2, 8))] * 30
    error = _error_model(rows, [str(index) for index in range(30)], ratios, ops)
    assert error.interval(1.0, ops=16).high == pytest.approx(math.exp(0.1))
    assert error.interval(1.0, ops=1).high == pytest.approx(math.exp(0.4))
    assert error.interval(1.0, ops=4).low == pytest.approx(math.exp(-0.2))
    assert error.interval(1.0, 1.0, ops=16).high == pytest.approx(math.exp(0.1) * 1.6)


def test_a_poor_fit_still_widens_by_half_of_its_logarithm_for_each_decade() -> None:
    error = out_of_sample_of([math.log(4.0), -math.log(4.0)] * 15).time_error
    assert error.interval(1.0, decades_outside=1.0).high == pytest.approx(4.0**1.5)


def test_the_bounds_are_those_of_the_worst_session() -> None:
    """Pooled, 90 % of the 300 rows are within 5 %, because the 280 calm rows dominate."""
    calm, rough = [0.05, -0.05] * 140, [0.3, -0.3] * 10
    error = out_of_sample_of(calm + rough, ["calm"] * 280 + ["rough"] * 20).time_error
    assert (error.low, error.high) == pytest.approx((math.exp(-0.3), math.exp(0.3)))
    assert out_of_sample_of(calm + rough).time_error.high == pytest.approx(math.exp(0.05))


def test_a_sessions_families_are_its_own() -> None:
    """Six rows of three families that err together are worth 3: t(0.95, 2 degrees) = 2.91999, and sqrt(1 + 1/3)."""
    ratios = np.array([0.01] * 20 + [0.3, 0.3, -0.3, -0.3, 0.3, 0.3])
    families = [f"f{index}" for index in range(20)] + ["p", "p", "q", "q", "r", "r"]
    rows = [replace(observe(network(2, 8)), host={"session": "a" if index < 20 else "b"}) for index in range(26)]
    error = _error_model(rows, families, ratios, None)
    assert math.log(error.high) == pytest.approx(2.919986 * 0.3 * math.sqrt(4 / 3), rel=1e-5)


def test_scores_are_mean_and_median_relative_errors() -> None:
    scores = out_of_sample_of([math.log(1 / 1.1), math.log(1 / 1.1), math.log(1 / 1.4)]).scores
    assert scores["time_mean_error"] == pytest.approx((0.1 + 0.1 + 0.4) / 3)
    assert scores["time_median_error"] == pytest.approx(0.1)


def test_bounds_count_the_new_row() -> None:
    """Of 29 rows, rank ceil(30 x 0.9) = 27: the third largest."""
    sizes = np.array([0.01] * 26 + [0.2, 0.5, 0.9])
    assert bounds(sizes) == pytest.approx((math.exp(-0.2), math.exp(0.2)))
    assert bounds(-sizes) == pytest.approx((math.exp(-0.2), math.exp(0.2)))


def test_few_rows_get_students_interval() -> None:
    """Five rows of size 0.1: t(0.95, 4 degrees) = 2.1318, times 0.1 sqrt(1 + 1/5)."""
    families = ["a", "b", "c", "d", "e"]
    reach = 2.131847 * 0.1 * math.sqrt(1.2)
    assert math.log(bounds(np.array([0.1, -0.1, 0.1, -0.1, 0.1]), families)[1]) == pytest.approx(reach, rel=1e-5)


def test_rows_of_families_that_err_together_are_worth_less() -> None:
    together = np.array([0.3, 0.3, -0.3, -0.3])
    assert rows_worth(together, ["a", "a", "b", "b"]) == pytest.approx(2.0)
    assert rows_worth(together, ["a", "b", "a", "b"]) == pytest.approx(4.0)
    assert rows_worth(together, ["a", "b", "c", "d"]) == 4.0


def test_no_family_is_trained_and_tested_on_at_once() -> None:
    families = [f"f{index % 13}" for index in range(40)]
    tested = np.zeros(40, dtype=int)
    count = 0
    for train, test in folds(families):
        assert (train != test).all()
        assert not {families[i] for i in np.flatnonzero(train)} & {families[i] for i in np.flatnonzero(test)}
        tested += test
        count += 1
    assert count == 10
    assert (tested == 1).all()


def test_a_prediction_of_0_is_a_large_error_and_no_infinity() -> None:
    assert log_errors(np.array([0.0, 2.0]), np.array([1.0, 1.0])) == pytest.approx([math.log(1e9), math.log(2)])


# -- shapes --------------------------------------------------------------------------------------


def test_a_weights_gradient_is_a_product_over_the_positions() -> None:
    """3 x 3, 5 to 7 channels, 2 images of 4 x 4: 45 x 32 times 32 x 7 gives the 45 x 7 weights."""
    parts = pieces([conv("backward", 2, 5, 7, 4)])
    row = parts.role.index("grad_weight")
    assert parts.values("left")[row] == 45 * 32
    assert parts.values("right")[row] == 32 * 7
    assert parts.values("result")[row] == 45 * 7
    row = parts.role.index("grad_input")  # 32 positions x (7 x 9) times 63 x 5
    assert [parts.values(name)[row] for name in ("left", "right", "result")] == [32 * 63, 63 * 5, 32 * 5]


@pytest.mark.parametrize(("n", "tile", "whole"), [(32, 32, 32), (33, 32, 64), (31, 32, 32), (65, 64, 128), (9, 8, 16)])
def test_work_is_rounded_up_to_whole_tiles(n: int, tile: int, whole: int) -> None:
    parts = pieces([conv("forward", 1, 4, n, 4)])
    macs = 16 * 4 * 9 * n
    assert parts.values("macs")[0] == macs
    assert parts.values(f"macs_n{tile}")[0] == macs * whole / n


# -- kinds that were never observed ---------------------------------------------------------------


def test_kinds_without_a_price_cost_what_the_priced_ones_of_their_class_cost_on_average() -> None:
    """Priced by hand: convolutions 2 s a multiply-add and 3 s a byte, norms 5 and activations 7 s a byte, a start 11 s.

    Attention then costs as convolutions do, and a pool what a byte of all priced movers cost on average: starts are
    not part of either.
    """
    table = Design([observe(network(depth, 16, side=16, batch=8)) for depth in (2, 3, 5, 9)])
    form = next(form for form in table.forms if form.name == "kinds")
    by_hand = {"macs": 2.0, "launch": 11.0}
    bytes_s = {"conv": 3.0, "norm": 5.0, "activation": 7.0}
    prices = [bytes_s[kind] if feature == "bytes" else by_hand[feature] for kind, _, feature in form.keys]
    assert {kind for kind, _, _ in form.keys} == {"conv", "norm", "activation", "*"}
    solution = _Solution(tuple(table.positions(form, False)), np.array(prices), np.zeros(4))
    terms = {(term.kind, term.feature): term.seconds for term in _stand_ins(table, form, solution)}
    norms, activations = table.amounts["norm", "bytes"], table.amounts["activation", "bytes"]
    assert terms["attention", "macs"] == pytest.approx(2.0)
    assert terms["attention", "bytes"] == pytest.approx(3.0)
    assert terms["pool", "bytes"] == pytest.approx((5 * norms + 7 * activations) / (norms + activations))
    assert not {"conv", "norm", "activation"} & {kind for kind, _ in terms}


# -- regression ----------------------------------------------------------------------------------


def test_rows_far_off_count_less_by_hubers_weights() -> None:
    """One price for ten rows of 1 unit; the rule as documented, in plain numbers: five rounds, twice 1.5 medians."""
    measured = [1.00, 1.02, 0.98, 1.05, 0.95, 1.01, 0.99, 1.03, 0.97, 3.0]
    shares, price = [1.0] * 10, 0.0
    for _ in range(5):
        price = sum(w / t for w, t in zip(shares, measured, strict=True)) / sum(
            w / t**2 for w, t in zip(shares, measured, strict=True)
        )
        residual = [abs(price / t - 1) for t in measured]
        limit = 2 * (1.5 * float(np.median(residual)) + 1e-6)
        shares = [min(1.0, limit / max(one, 1e-12)) for one in residual]
    found = nonnegative_fit(np.ones((10, 1)), np.array(measured))
    assert found[0] == pytest.approx(price, rel=1e-4)
    assert 0.97 < price < 1.01


def test_the_error_that_ops_share_is_found() -> None:
    """Errors of c sqrt(0.5^2 + 1 / ops), as if half of an op's error were common to all of a network's."""
    ops = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
    assert shared_error(0.2 * np.sqrt(0.25 + 1 / ops), ops) == pytest.approx(0.5)
    assert shared_error(0.2 / np.sqrt(ops), ops) == 0.0


def test_families_of_different_sizes() -> None:
    """One row of a, three of b: Kish's mean size is (4 - 10 / 4) / 1 = 1.5, so 4 / (1 + 0.5) rows."""
    ratios = np.array([0.3, -0.3, -0.3, -0.3])
    assert rows_worth(ratios, ["a", "b", "b", "b"]) == pytest.approx(4 / 1.5)


def test_traits_are_shares_of_the_work_by_kind() -> None:
    work = network(4, 16)
    traits = _traits(pieces(work.ops).sums(), work)
    dense = traits[4 : 4 + len(DENSE)]
    assert sum(dense) == pytest.approx(1.0)
    assert dense[DENSE.index("conv")] == pytest.approx(1.0)
    assert all(0 <= share <= 1 for share in traits[4:])
    assert traits[3] == pytest.approx(math.log(32))


@pytest.mark.parametrize(("meter", "device"), [("nvml+rapl", "gpu"), ("rapl", "cpu")])
def test_the_meter_tells_the_device(meter: str, device: str) -> None:
    works = [network(depth, width) for depth, width in ((2, 8), (9, 16), (3, 64), (20, 32), (5, 100))]
    assert fitting.fit([replace(observe(work), meter=meter) for work in works], name="m").device == device
