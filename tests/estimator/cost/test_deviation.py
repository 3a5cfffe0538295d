"""What is particular to one device: traits of pieces, factors and slopes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from joulecast.estimator.cost.deviation import (
    TRAITS,
    deviated,
    learnt_shares,
    log_spread,
    log_step,
    prior_spread,
    traits,
    values_of,
)
from joulecast.estimator.cost.piece_time import Seconds
from joulecast.estimator.cost.pieces import columns
from joulecast.estimator.cost.population import Deviation, load_population
from joulecast.estimator.trace.workload import Op

NAMES = TRAITS[3:]


def product(m: int = 128, k: int = 512, n: int = 128, *, macs: float = 10**9.5, phase: str = "forward") -> Op:
    return Op("mm", "matmul", phase, "", round(macs), 8, 0, dims={"b": 1, "m": m, "k": k, "n": n})


def conv(groups: int = 1, k: int = 9, size: int = 16, out: int = 16, phase: str = "forward", **dims: int) -> Op:
    sizes = {"n": 1, "c_in": 8, "c_out": 8, "k": k, "groups": groups, "in": size, "out": out, "transposed": 0, **dims}
    return Op("convolution", "conv", phase, "", 0, 8, 0, dims=sizes)


def mover(kind: str = "activation", moved: float = 10**7.5, phase: str = "forward") -> Op:
    return Op("op", kind, phase, "", 0, round(moved), 0)


def found(op: Op) -> dict[str, float]:
    """Traits of the op's first piece that are not 0."""
    row = traits(columns([op]))[0]
    return {name: value for name, value in zip(NAMES, row.tolist(), strict=True) if abs(value) > 1e-6}


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (product(), {"matmul": 1}),  # the middle of all shapes
        (product(macs=10**10.5), {"matmul": 1, "dense_size": 1}),
        (product(macs=10**8), {"matmul": 1, "dense_size": -1.5}),
        (product(macs=10**14), {"matmul": 1, "dense_size": 1.5}),  # no farther than that
        (product(k=4096), {"matmul": 1, "dense_depth": 1}),
        (product(k=64), {"matmul": 1, "dense_depth": -1}),
        (product(m=16, n=4096), {"matmul": 1, "dense_narrow": -1}),
        (product(m=4096, n=256), {"matmul": 1, "dense_narrow": 1 / 3}),
        (product(phase="backward"), {"matmul": 1, "backward": 1}),
        (mover(), {"pointwise": 1}),
        (mover("norm"), {"norm": 1}),
        (mover("embedding", 10**6.5), {"gather": 1, "moving_size": -1}),
        (mover("pool", 10**8.5, "backward"), {"pool": 1, "moving_size": 1, "backward": 1}),
        (mover("optimizer", phase="optimizer"), {"optimizer": 1}),
        (conv(8), {"depthwise": 1}),
        (conv(8, k=36), {"depthwise": 1, "depthwise_window": 1}),
        (conv(8, size=64), {"depthwise": 1, "strided": 1}),
        (conv(8, phase="backward", grad_input=0), {"depthwise": 1, "backward": 1, "weight_grad": 1}),
    ],
)
def test_traits_of_a_piece(op: Op, expected: dict[str, float]) -> None:
    assert found(op) == pytest.approx({"device": 1, **expected}, abs=1e-6)


def test_windows_count_for_depthwise_convolutions_alone() -> None:
    for op in (conv(k=36), conv(4, k=36)):
        assert "depthwise_window" not in found(op)
    assert {"conv": 1.0, "strided": 1.0}.items() <= found(conv(size=32)).items()
    assert "strided" not in found(conv(size=16, out=16))


SECONDS = Seconds(np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0]), np.array([7.0, 8.0]))
PIECES = np.array([[1.0, 0.0], [1.0, 1.0]])


def logs(compute: float = 1, memory: float = 1, launch: float = 1, first: float = 1, second: float = 1) -> np.ndarray:
    return np.log(np.array([compute, memory, launch, first, second]))


@pytest.mark.parametrize(
    ("own", "compute", "memory", "floor", "host"),
    [
        (logs(), [1, 2], [3, 4], [5, 6], [7, 8]),
        (logs(compute=2), [2, 4], [3, 4], [5, 6], [7, 8]),
        (logs(memory=2), [1, 2], [6, 8], [5, 6], [7, 8]),
        (logs(launch=4), [1, 2], [3, 4], [10, 12], [28, 32]),  # short kernels take the root of it
        (logs(first=2), [2, 4], [6, 8], [10, 12], [7, 8]),
        (logs(first=2, second=3), [2, 12], [6, 24], [10, 36], [7, 8]),  # pieces say nothing of the host
    ],
)
def test_factors_of_a_device(
    own: np.ndarray, compute: list[float], memory: list[float], floor: list[float], host: list[float]
) -> None:
    y = deviated(SECONDS, PIECES, own)
    assert (y.compute.tolist(), y.memory.tolist()) == (pytest.approx(compute), pytest.approx(memory))
    assert (y.floor.tolist(), y.host.tolist()) == (pytest.approx(floor), pytest.approx(host))


@pytest.mark.parametrize("own", [logs(), logs(2, 3, 0.5, 0.7, 1.1)])
@pytest.mark.parametrize("sharpness", [1.0, 2.0, 5.0])
def test_slopes_are_those_of_the_logarithm(own: np.ndarray, sharpness: float) -> None:
    value, slopes = log_step(SECONDS, PIECES, own, sharpness)
    tiny = 1e-6
    for index, slope in enumerate(slopes):
        moved = own.copy()
        moved[index] += tiny
        assert (log_step(SECONDS, PIECES, moved, sharpness)[0] - value) / tiny == pytest.approx(slope, abs=1e-5)


def test_a_step_is_the_devices_time_and_the_hosts() -> None:
    value, slopes = log_step(SECONDS, PIECES, logs(), 1.0)
    assert value == pytest.approx(np.log(21 + 15))
    # 3 s of compute, 7 of memory, 11 of short kernels (half of which follow the launch), 15 of the host, of 36
    assert slopes == pytest.approx([3 / 36, 7 / 36, (15 + 5.5) / 36, 21 / 36, 12 / 36])
    nothing = Seconds(*(np.zeros(1) for _ in range(3)), np.ones(1))
    assert log_step(nothing, np.zeros((1, 2)), logs(), 1.0)[0] == pytest.approx(0.0)


def test_what_is_not_known_and_what_networks_differ_by_add_in_squares() -> None:
    known = Deviation({}, ((0.04, 0.0), (0.0, 0.09)), noise=0.4)
    assert log_spread(known, np.array([1.0, 0.0])) == pytest.approx(np.sqrt(0.04 + 0.16))
    assert log_spread(known, np.array([1.0, 2.0])) == pytest.approx(np.sqrt(0.04 + 4 * 0.09 + 0.16))


def test_what_was_not_learnt_is_0() -> None:
    own = values_of(Deviation({"memory": 0.5, "norm": -0.25}))
    assert {name: value for name, value in zip(TRAITS, own.tolist(), strict=True) if value} == {
        "memory": 0.5,
        "norm": -0.25,
    }


def test_a_fit_that_narrows_all_bounds_alike_has_learnt_nothing_more() -> None:
    population = load_population()
    prior = prior_spread(population, amd=False) ** 2
    left = prior.copy()
    left[TRAITS.index("conv")] *= 0.25  # runs removed three quarters of what was not known about convolutions
    shares = learnt_shares(Deviation({}, tuple(map(tuple, np.diag(left)))), population, amd=False)
    narrowed = learnt_shares(Deviation({}, tuple(map(tuple, np.diag(0.8 * left)))), population, amd=False)
    assert shares["conv"] == pytest.approx(0.75)
    assert shares["rnn"] == pytest.approx(0.0)
    assert narrowed == pytest.approx(shares)
