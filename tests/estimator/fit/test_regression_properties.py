"""Properties of every fitted profile: monotone, additive, non-negative."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.features import FEATURES, pieces
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.regression import (
    bounds,
    family_shares,
    folds,
    log_errors,
    nonnegative_fit,
    rows_worth,
    shared_error,
)

from ..synthetic import conv, network, observe, random_network

sizes = st.integers(min_value=1, max_value=200)


@lru_cache
def profile() -> Profile:
    """Fitted on a machine with tiles, so that the larger forms are used, with noise and a start-up."""
    law = Curves(
        (
            Term("conv", "*", "macs_n64", 3e-13),
            Term("norm", "*", "bytes", 9e-12),
            Term("activation", "*", "bytes", 3e-12),
            Term("*", "*", "launch", 3e-5),
        )
    )
    rng = np.random.default_rng(0)
    rows = [
        observe(random_network(rng), law=law, noise=float(np.exp(rng.normal(0, 0.03))), startup_s=3.0)
        for _ in range(120)
    ]
    return fit(rows, name="m", startup=True)


def cost(depth: int = 4, width: int = 16, side: int = 8, batch: int = 8, steps: int = 3) -> tuple[float, float]:
    estimate = profile().predict(network(depth, width, side, batch), steps=steps)
    return estimate.seconds.value, estimate.energy_kwh.value


@settings(max_examples=40, deadline=None)
@given(what=st.sampled_from(["depth", "width", "side", "batch", "steps"]), low=sizes, more=sizes)
def test_more_of_anything_never_costs_less(what: str, low: int, more: int) -> None:
    small, large = cost(**{what: low}), cost(**{what: low + more})
    assert large[0] >= small[0]
    assert large[1] >= small[1]


@settings(max_examples=30, deadline=None)
@given(first=st.integers(1, 40), second=st.integers(1, 40), width=sizes)
def test_a_network_is_the_sum_of_its_parts_and_one_start(first: int, second: int, width: int) -> None:
    start = cost(first, width, steps=0)
    assert start == (0.0, 0.0)
    parts = [network(depth, width) for depth in (first, second)]
    whole = replace(parts[0], ops=(*parts[0].ops, *parts[1].ops))
    seconds = [profile().predict(work).seconds.value for work in (*parts, whole)]
    assert seconds[0] + seconds[1] - profile().startup_s == pytest.approx(seconds[2], rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(FEATURES)),
    phase=st.sampled_from(["forward", "backward"]),
    batch=sizes,
    c_in=sizes,
    c_out=sizes,
    side=st.integers(1, 40),
    grow=st.sampled_from(["batch", "c_in", "c_out", "side"]),
    by=sizes,
)
def test_no_feature_falls_when_a_convolution_grows(
    name: str, phase: str, batch: int, c_in: int, c_out: int, side: int, grow: str, by: int
) -> None:
    size = {"batch": batch, "c_in": c_in, "c_out": c_out, "side": side}
    small = pieces([conv(phase, **size)]).values(name)
    large = pieces([conv(phase, **{**size, grow: size[grow] + by})]).values(name)
    assert (large >= small * (1 - 1e-12)).all()
    assert (small >= 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_prices_are_found_and_never_negative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.lognormal(0, 2, (60, 3))
    prices = np.array([2.0, 0.0, 0.5])
    found = nonnegative_fit(columns, columns @ prices)
    assert (found >= 0).all()
    assert columns @ found == pytest.approx(columns @ prices, rel=0.02)


def test_one_disturbed_run_in_ten_does_not_move_the_prices() -> None:
    rng = np.random.default_rng(0)
    columns = rng.lognormal(0, 1, (100, 2))
    target = columns @ [1.0, 3.0] * np.exp(rng.normal(0, 0.01, 100))
    target[:10] *= 3
    assert nonnegative_fit(columns, target) == pytest.approx([1.0, 3.0], rel=0.05)


@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=3, max_size=60).filter(lambda names: len(set(names)) > 1))
def test_a_family_is_never_on_both_sides(families: list[str]) -> None:
    seen = np.zeros(len(families), dtype=int)
    for train, test in folds(families):
        assert not {families[i] for i in np.flatnonzero(train)} & {families[i] for i in np.flatnonzero(test)}
        seen += test
    assert (seen == 1).all()


def test_bounds_hold_nine_of_ten_of_what_made_them() -> None:
    ratios = np.random.default_rng(0).normal(0.02, 0.1, 2000)
    low, high = bounds(ratios)
    assert np.mean((np.exp(ratios) >= low) & (np.exp(ratios) <= high)) == pytest.approx(0.9, abs=0.01)
    assert low * high == pytest.approx(1.0)


def test_few_rows_reach_further_than_their_largest_residual() -> None:
    ratios = np.array([0.05, -0.05, 0.04])
    assert bounds(ratios)[1] > np.exp(0.05)


def test_rows_of_families_that_are_off_together_are_worth_as_many_as_there_are_families():
    # Variance between families 2 x 0.01 = 0.02 over two rows each, none within: the correlation is 1, worth 4 of 8.
    together = np.array([0.1, 0.1, -0.1, -0.1, 0.1, 0.1, -0.1, -0.1])
    families = ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert rows_worth(together, families) == pytest.approx(4)
    apart = np.array([0.1, -0.1] * 4)  # as far off within a family as between: each row counts
    assert rows_worth(apart, families) == pytest.approx(8)
    assert rows_worth(together, list("abcdefgh")) == 8
    assert rows_worth(together, ["a"] * 8) == 8


def test_the_worth_of_rows_by_hand():
    # Means 1 and -1: between 2 x (1 + 1) / 1 = 4, within (4 x 0.25) / 2 = 0.5; 3.5 / (3.5 + 2 x 0.5) = 7 / 9.
    ratios = np.array([1.5, 0.5, -0.5, -1.5])
    assert rows_worth(ratios, ["a", "a", "b", "b"]) == pytest.approx(4 / (1 + 7 / 9))


def test_intervals_are_wider_where_families_are_off_together():
    generator = np.random.default_rng(5)
    families = [str(index // 12) for index in range(96)]
    together = np.repeat(generator.normal(0, 0.1, 8), 12) + generator.normal(0, 0.01, 96)
    alone = generator.permutation(together)
    assert np.log(bounds(together, families)[1]) > 1.1 * np.log(bounds(together)[1])
    assert bounds(alone, families) == bounds(alone)


def test_new_families_fall_inside_as_often_as_promised():
    generator = np.random.default_rng(6)
    families = [str(index // 12) for index in range(96)]
    held = naive = 0
    for _ in range(400):
        offsets = generator.normal(0, 0.1, 9)
        rows = np.repeat(offsets[:8], 12) + generator.normal(0, 0.03, 96)
        new = offsets[8] + generator.normal(0, 0.03)
        low, high = bounds(rows, families)
        held += low <= np.exp(new) <= high
        low, high = bounds(rows)
        naive += low <= np.exp(new) <= high
    assert naive < 0.88 * 400 < held


@pytest.mark.parametrize("shared", [0.0, 0.2, 0.5])
def test_what_ops_err_by_together_is_told_from_what_each_errs_by(shared: float) -> None:
    rng = np.random.default_rng(1)
    ops = np.exp(rng.uniform(0, np.log(100), 4000))
    ratios = rng.laplace(0, 0.1, 4000) * np.sqrt(shared**2 + 1 / ops)
    assert shared_error(ratios, ops) == pytest.approx(shared, abs=0.1)


def test_a_scatter_that_does_not_fall_with_the_number_of_ops_is_shared() -> None:
    rng = np.random.default_rng(1)
    assert shared_error(rng.laplace(0, 0.1, 4000), np.exp(rng.uniform(0, np.log(100), 4000))) > 1
    assert shared_error(np.zeros(8), np.full(8, 5.0)) >= 0


def test_each_family_counts_once_in_a_mean_over_families() -> None:
    shares = family_shares(["a", "a", "a", "b"])
    assert shares.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_half_and_double_are_equally_wrong() -> None:
    errors = log_errors(np.array([0.5, 2.0, 0.0]), np.ones(3))
    assert errors[:2].tolist() == pytest.approx([np.log(2)] * 2)
    assert errors[2] == pytest.approx(np.log(1e9))
