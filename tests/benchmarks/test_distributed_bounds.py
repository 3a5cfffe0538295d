"""Bounds of trainings on clusters, from sources that were left out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import distributed_bounds as bounds


def sources(values: list[float]) -> dict[str, np.ndarray]:
    return {str(index): np.array([value]) for index, value in enumerate(values)}


def test_quantiles_count_every_source_as_much() -> None:
    """Two sources, one of three equal rows: the middle of their rows' weights lies at 1/12, 3/12, 5/12 and 3/4."""
    both = {"three": np.array([1.0, 1.0, 1.0]), "one": np.array([4.0])}
    assert bounds.quantiles(both, (0.1, 0.25)) == pytest.approx((1.0, 4.0))
    # Half of the way from 5/12 to 3/4, on a logarithmic scale.
    assert bounds.quantiles(both, (0.1, 1 - 7 / 12))[1] == pytest.approx(2.0)


def test_coverage_draws_bounds_without_the_own_source() -> None:
    assert bounds.coverage(sources([1.0, 1.1, 1.2, 9.0]), (0.0, 0.0)) == pytest.approx(0.5)  # not 1.0 and 9.0


def test_the_narrowest_bounds_leave_out_the_side_that_costs_most() -> None:
    """18 sources around 1 and two far off on one side, of which 90 % inside need one at most."""
    near = [0.9 + 0.2 * index / 17 for index in range(18)]
    found = sources([*near, 2.0, 3.0])
    low, high = bounds.bounds_of(found)
    assert bounds.coverage(found, bounds.tails_of(found)) >= 0.9
    turned = bounds.bounds_of(sources([1 / value for value in (*near, 2.0, 3.0)]))
    assert (1 / turned[1], 1 / turned[0]) == pytest.approx((low, high))
    equal = next(
        bounds.quantiles(found, (tail, tail))
        for tail in np.arange(0.05, 0.0, -0.002)
        if bounds.coverage(found, (tail, tail)) >= 0.9
    )
    assert high / low < equal[1] / equal[0]


def test_few_sources_have_equal_tails() -> None:
    low, high = bounds.tails_of(sources([0.9, 1.0, 1.1, 1.2, 2.0]))
    assert low == high


def test_rows_of_some_sources_are_counted_one_by_one_too() -> None:
    """Two of 32 sources are far off: 90 % of a source need neither, but one of them has most rows of its kind."""
    near = sources([0.9 + 0.2 * index / 29 for index in range(30)])
    found = {**near, "runs": np.array([1.5] * 19), "other": np.array([1.6])}
    kind = ("runs", "other", *list(near)[:5])
    assert bounds.bounds_of(found)[1] < 1.5
    assert bounds.inside_of(kind, found, bounds.tails_of(found)) < 0.25
    held = bounds.tails_of(found, kind)
    assert bounds.inside_of(kind, found, held) >= 0.85
    assert bounds.coverage(found, held) >= 0.9
