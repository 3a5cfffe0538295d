"""Non-negative least squares on relative error, folds by family, and intervals from rows left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

COVERAGE = 0.90
RIDGE = 1e-5
_REWEIGHTINGS = 5


def nonnegative_fit(columns: Array, target: Array, weights: Array | None = None, *, symmetric: bool = False) -> Array:
    """w >= 0 that minimises the weighted relative error of `columns @ w` against `target` (> 0).

    `columns` has shape (rows, features). Rows far off (a machine that was busy with something else)
    count less and less: Huber's weights, five rounds. A little ridge shares a price among features
    that the rows cannot separate. `symmetric` is for rows that scatter by tens of percent: half and
    double then count alike, where relative error, never below -1, would settle too low.
    """
    from sklearn.linear_model import LinearRegression

    relative = columns / target[:, None]
    scale = np.sqrt((relative**2).mean(axis=0))
    used = scale > 0
    scaled = relative[:, used] / scale[used]
    size = scaled.shape[1]
    rows = np.vstack([scaled, np.eye(size)])
    goal = np.concatenate([np.ones(len(target)), np.zeros(size)])
    base = np.ones(len(target)) if weights is None else weights
    ridge = np.full(size, RIDGE * base.sum())
    robust = np.ones(len(target))
    result = np.zeros(columns.shape[1])
    for _ in range(_REWEIGHTINGS):
        root = np.sqrt(np.concatenate([base * robust, ridge]))
        # The triangular factor contains all that the rows say, in as many rows as there are features.
        rotation, triangle = np.linalg.qr(rows * root[:, None])
        model = LinearRegression(positive=True, fit_intercept=False).fit(triangle, rotation.T @ (goal * root))
        result[used] = model.coef_ / scale[used]
        predicted = relative @ result
        residual = np.abs(predicted - 1.0)
        spread = 1.5 * float(np.median(residual)) + 1e-6
        robust = np.minimum(1.0, 2.0 * spread / np.maximum(residual, 1e-12))
        if symmetric:
            robust = robust / np.clip(predicted, 0.25, 4.0)
    return result


def folds(families: Sequence[str], most: int = 10, seed: int = 0) -> Iterator[tuple[Array, Array]]:
    """(train, test) masks; a family is never on both sides. At most `most` folds."""
    names = sorted(set(families))
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(most, len(names))
    part = {names[position]: index % count for index, position in enumerate(order)}
    parts = np.array([part[family] for family in families])
    for index in range(count):
        yield parts != index, parts == index


def family_shares(families: Sequence[str]) -> Array:
    """The weight of each row in a mean over families, where each family counts once; they add up to 1."""
    counts = Counter(families)
    return np.array([1.0 / (counts[family] * len(counts)) for family in families])


def bounds(log_ratios: Array, families: Sequence[str] | None = None) -> tuple[float, float]:
    """Factors on a prediction between which `COVERAGE` of new measurements lie; symmetric in logarithms.

    `log_ratios` are log(measured / predicted) of rows whose family was left out. The reach is the
    conformal quantile of their absolute values (Vovk et al., "Algorithmic Learning in a Random World",
    2005): the rank is rounded up and counts the new row. Where the rows are worth fewer than 20, Student's
    prediction interval for that many is taken if it is wider: those of one family tend to be off together
    (`rows_worth`; without `families` each row is one of its own).
    """
    count = len(log_ratios)
    ranked = np.sort(np.abs(log_ratios))
    reach = float(ranked[min(int(np.ceil((count + 1) * COVERAGE)), count) - 1])
    worth = rows_worth(log_ratios, families) if families is not None else float(count)
    if 1 < worth < 20:
        from scipy.stats import t

        quantile = float(t.ppf((1.0 + COVERAGE) / 2, worth - 1))
        reach = max(reach, quantile * float(np.sqrt((log_ratios**2).mean() * (1 + 1 / worth))))
    return float(np.exp(-reach)), float(np.exp(reach))


def rows_worth(log_ratios: Array, families: Sequence[str]) -> float:
    """How many rows of independent families would say as much: rows / (1 + (rows of a family - 1) correlation).

    That is Kish's design effect ("Survey Sampling", 1965); the correlation within families is that of the one-way
    analysis of variance, not below 0. With a single family it is unknown, and each row counts.
    """
    names, member, sizes = np.unique(np.asarray(families), return_inverse=True, return_counts=True)
    count, groups = len(log_ratios), len(names)
    if not 1 < groups < count:
        return float(count)
    size = (count - float((sizes**2).sum()) / count) / (groups - 1)  # rows of a family, as far as they differ in number
    means = np.bincount(member, weights=log_ratios) / sizes
    between = float((sizes * (means - log_ratios.mean()) ** 2).sum()) / (groups - 1)
    within = float(((log_ratios - means[member]) ** 2).sum()) / (count - groups)
    shared = max(between - within, 0.0)
    correlation = shared / (shared + size * within) if shared else 0.0
    return count / (1.0 + (size - 1.0) * correlation)


def shared_error(log_ratios: Array, ops: Array) -> float:
    """The error that all ops of a network share, divided by the error of a single op; from 0 to 2.

    The scatter of a network of `ops` ops is taken as c sqrt(shared^2 + 1 / ops): the likeliest `shared`
    under Laplace's law, whose scale at any scatter is the mean of the absolute values.
    """
    sizes = np.maximum(np.abs(log_ratios), 1e-9)

    def unlikely(shared: float) -> float:
        scale = np.sqrt(shared**2 + 1.0 / ops)
        return float(np.log((sizes / scale).mean() * scale).mean())

    return min((step / 20 for step in range(41)), key=unlikely)


def relative_errors(predicted: Array, measured: Array) -> Array:
    return np.asarray(np.abs(predicted / measured - 1.0))


def log_errors(predicted: Array, measured: Array) -> Array:
    """|log(predicted / measured)|; a prediction of 0 counts as one that is 1e9 times too small."""
    return np.abs(np.log(np.maximum(predicted / measured, 1e-9)))
