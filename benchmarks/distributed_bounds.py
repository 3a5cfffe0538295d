"""Bounds of measured over predicted that hold for a source that was left out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Tails = tuple[float, float]  # shares below the lower and above the upper bound

_COVERAGE, _OF_ROWS = 0.9, 0.85
_TAILS = tuple(step / 1000 for step in range(90, 9, -2))  # of few sources the quantiles are too narrow
_FEW = 8  # sources of which both tails are equal: they do not tell which side is the longer one


def bounds_of(sources: Mapping[str, Array], each: Collection[str] = ()) -> tuple[float, float]:
    return quantiles(sources, tails_of(sources, each))


def tails_of(sources: Mapping[str, Array], each: Collection[str] = ()) -> Tails:
    """Those of the narrowest bounds with which 90 % of a source is inside bounds that are drawn without it.

    So are 85 % of the rows of all sources in `each` together, where a source of many rows counts as much as its rows.
    """
    equal = [(tail, tail) for tail in _TAILS if tail <= (1 - _COVERAGE) / 2]
    pairs = equal if len(sources) < _FEW else list(itertools.product(_TAILS, _TAILS))

    def width(tails: Tails) -> float:
        low, high = quantiles(sources, tails)
        return high / low

    by_width = sorted(pairs, key=width)
    held = (tails for tails in by_width if coverage(sources, tails) >= _COVERAGE)
    return next((tails for tails in held if not each or inside_of(each, sources, tails) >= _OF_ROWS), by_width[-1])


def quantiles(sources: Mapping[str, Array], tails: Tails) -> tuple[float, float]:
    """Measured over predicted with these tails left out; every source counts as much."""
    ratios = np.concatenate(list(sources.values()))
    weight = np.concatenate([np.full(len(own), 1 / len(own)) for own in sources.values()])
    order = np.argsort(ratios)
    position = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
    low, high = np.exp(np.interp((tails[0], 1 - tails[1]), position, np.log(ratios[order])))
    return float(low), float(high)


def coverage(sources: Mapping[str, Array], tails: Tails) -> float:
    """How much of a source is inside bounds that were drawn without it, each source counting as much."""
    return float(np.mean([_inside(name, sources, tails).mean() for name in sources]))


def inside_of(names: Collection[str], sources: Mapping[str, Array], tails: Tails) -> float:
    """How many rows of the sources `names` are inside bounds that were drawn without their source."""
    return float(np.concatenate([_inside(name, sources, tails) for name in names]).mean())


def _inside(name: str, sources: Mapping[str, Array], tails: Tails) -> np.ndarray[Any, np.dtype[np.bool_]]:
    low, high = quantiles({other: rows for other, rows in sources.items() if other != name}, tails)
    return (sources[name] >= low) & (sources[name] <= high)


def wider(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])
