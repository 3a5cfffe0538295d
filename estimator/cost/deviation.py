"""What is particular to one device and its software: factors on the population's seconds, by kind and shape of op.

Every piece of work has traits (its kind, its size, the component that it waits for); a factor's logarithm is the sum
of its traits times values that are fitted on runs (estimator/fit/few.py).
"""

from __future__ import annotations

import numpy as np

from .features import Array, Mask
from .piece_time import Seconds, step_seconds
from .pieces import BACKWARD, CLASSES, DEPTHWISE, MOVING, TRAFFIC, Columns
from .population import Deviation, Population

COMPONENTS = ("compute", "memory", "launch")
_SHAPES = ("dense_size", "dense_depth", "dense_narrow", "moving_size", "depthwise_window", "strided")
TRAITS = (*COMPONENTS, "device", *CLASSES[:-1], *TRAFFIC[1:], "backward", "weight_grad", *_SHAPES)
"""Names of the fitted values. The first three belong to a component of the time, the others to pieces of work."""
_OF_PIECES = TRAITS[len(COMPONENTS) :]
ALIKE_SHARE, _ALIKE_REACH = 0.8, 0.4
"""Of the variance among networks, the share that networks with equal slopes have in common; and how much slopes may
differ until little of it is left."""
TAIL = 4.0
"""Degrees of freedom of Student's t, which the rest follows: errors of single networks are large more often than under
a normal distribution."""
_FARTHEST = 1.5
"""A shape counts as no more than this many units from the middle: beyond, nothing was measured."""


def traits(t: Columns) -> Array:
    """Shape (pieces, traits without the components): 1 or 0 for a kind, about -1 to 1 for a shape."""
    cls, dense = t.cls.astype(int), t.cls < MOVING
    tiled = dense & (cls != DEPTHWISE)

    def shape(where: Mask, value: Array) -> Array:
        return np.where(where, np.clip(value, -_FARTHEST, _FARTHEST), 0.0)

    narrow = np.maximum(np.minimum(t.m, t.n), 1.0)
    columns = {
        "device": np.ones(len(cls)),
        **{name: (cls == index).astype(float) for index, name in enumerate(CLASSES[:-1])},
        **{name: (~dense & (t.traffic == index)).astype(float) for index, name in enumerate(TRAFFIC) if index},
        "backward": (t.phase == BACKWARD).astype(float),
        "weight_grad": (t.weight_grad > 0).astype(float),
        "dense_size": shape(tiled, np.log10(np.maximum(t.macs, 1.0)) - 9.5),
        "dense_depth": shape(tiled, np.log2(np.maximum(t.k, 1.0) / 512.0) / 3.0),
        "dense_narrow": shape(tiled, np.log2(narrow / 128.0) / 3.0),
        "moving_size": shape(~dense, np.log10(np.maximum(t.moved, 1.0)) - 7.5),
        "depthwise_window": shape(cls == DEPTHWISE, np.log2(np.maximum(t.window, 1.0) / 9.0) / 2.0),
        "strided": (dense & (t.stride > 1.5)).astype(float),
    }
    return np.stack([columns[name] for name in _OF_PIECES], axis=1)


def deviated(x: Seconds, pieces: Array, logs: Array) -> Seconds:
    """`x` of a device whose deviation is `logs`, in the order of `TRAITS`; `pieces` are the pieces' `traits`."""
    compute, memory, launch = logs[:3]
    factor = np.exp(pieces @ logs[3:])
    return Seconds(
        compute=x.compute * factor * np.exp(compute),
        memory=x.memory * factor * np.exp(memory),
        floor=x.floor * factor * np.exp(launch / 2),
        host=x.host * np.exp(launch),
    )


def log_step(x: Seconds, pieces: Array, logs: Array, sharpness: float) -> tuple[float, Array]:
    """Logarithm of one step's seconds and its slope along each of `TRAITS`."""
    y = deviated(x, pieces, logs)
    device = y.compute + y.memory + y.floor
    total, host = float(device.sum()), float(y.host.sum())
    step = float(step_seconds(np.array(host), np.array(total), sharpness))
    share = total**sharpness / (total**sharpness + host**sharpness)
    part = share / total if total > 0 else 0.0
    launch = 1.0 - share + part * float(y.floor.sum()) / 2
    components = [part * float(y.compute.sum()), part * float(y.memory.sum()), launch]
    return float(np.log(step)), np.concatenate([components, part * (device @ pieces)])


def values_of(deviation: Deviation) -> Array:
    """The logarithms in the order of `TRAITS`, 0 where nothing was learnt."""
    return np.array([deviation.logs.get(name, 0.0) for name in TRAITS])


def alike(one: Array, other: Array) -> Array:
    """Shape (rows of `one`, rows of `other`): how alike networks are, 0 to 1, by the slopes of their steps."""
    apart = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * one @ other.T
    result: Array = np.exp(-0.5 * np.maximum(apart, 0.0) / _ALIKE_REACH**2)
    return result


def log_of_alike(deviation: Deviation, slopes: Array) -> float:
    """What networks alike add to the logarithm of the seconds of a step with `slopes`."""
    if not deviation.runs:
        return 0.0
    return float(alike(slopes[None, :], np.asarray(deviation.runs))[0] @ np.asarray(deviation.pull))


def log_spread(deviation: Deviation, slopes: Array) -> float:
    """Standard deviation of the logarithm of a step with `slopes`: of the deviation, and among networks.

    Runs of networks alike remove a share of the latter.
    """
    left, noise = slopes, 1.0
    if deviation.runs:
        runs = np.asarray(deviation.runs)
        common = ALIKE_SHARE * alike(slopes[None, :], runs)[0]
        told = np.linalg.solve(ALIKE_SHARE * alike(runs, runs) + (1.0 - ALIKE_SHARE) * np.eye(len(runs)), common)
        left, noise = slopes - told @ runs, 1.0 - float(common @ told) / noise_variance(ALIKE_SHARE)
    covariance = np.asarray(deviation.covariance)
    return float(np.sqrt(left @ covariance @ left + noise * deviation.noise**2))


def noise_variance(share: float) -> float:
    """Variance among networks of which `share` is common to networks alike and the rest follows Student's t, over the
    square of its scale."""
    return share + (1.0 - share) * TAIL / (TAIL - 2.0)


def prior_spread(population: Population, amd: bool) -> Array:
    """Standard deviations among devices in the order of `TRAITS`."""
    wider = population.spread["amd"] if amd else 1.0
    return wider * np.array([population.spread[name] for name in TRAITS])


def prior_correlations(population: Population) -> Array:
    """Shape (traits, traits): correlations of the traits among devices."""
    table = np.eye(len(TRAITS))
    for row, name in enumerate(TRAITS):
        table[row, :row] = table[:row, row] = population.correlations[name]
    return table


def learnt_shares(deviation: Deviation, population: Population, amd: bool) -> dict[str, float]:
    """Of each trait, the share of its variance among devices that runs removed, 0 to 1."""
    left = np.diag(np.asarray(deviation.covariance)) / prior_spread(population, amd) ** 2
    left = left / left.max()  # a fit that narrows all bounds alike (fit/few.py) says nothing of single traits
    return dict(zip(TRAITS, np.clip(1.0 - left, 0.0, 1.0).tolist(), strict=True))
