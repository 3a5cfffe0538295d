"""Intervals and suggestions: arithmetic and limits by hand."""

from __future__ import annotations

import math

import pytest

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.suggest import clipped, near


def test_intervals_scale_and_add_with_their_bounds() -> None:
    assert Interval(2.0, 1.0, 4.0) * 3 == 3 * Interval(2.0, 1.0, 4.0) == Interval(6.0, 3.0, 12.0)
    assert Interval(2.0, 1.0, 4.0) + Interval(1.0, 0.5, 3.0) == Interval(3.0, 1.5, 7.0)
    assert Interval.exact(2.0).to_json() == {"value": 2.0, "low": 2.0, "high": 2.0}


@pytest.mark.parametrize(
    ("value", "low", "high"), [(1.0, 2.0, 3.0), (4.0, 2.0, 3.0), (math.nan, 0.0, 1.0), (math.inf, 0.0, math.inf)]
)
def test_bounds_lie_around_a_finite_value(value: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="not an interval: low"):
        Interval(value, low, high)


def test_similar_names_are_suggested_and_long_texts_are_not_compared() -> None:
    assert near("cifar-11", ["cifar10", "mnist"]) == "; did you mean cifar10?"
    assert near("zzz", ["cifar10", "mnist"]) == ""
    assert near("a" * 81, ["a" * 81]) == ""


def test_long_texts_are_cut() -> None:
    assert clipped("a" * 80) == "a" * 80
    assert clipped("a" * 81) == "a" * 80 + "..."
