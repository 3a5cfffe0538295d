"""Watts that stay physical: idle <= waiting <= busy, and what runs cannot tell stays with the population."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.population import load_population
from joulecast.estimator.cost.profile import PowerModel, Profile
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.fit.watts import NOISE, WattsPrior, fitted_watts, with_watts
from joulecast.estimator.trace.workload import Op, Workload

GPU = find_hardware("a100-sxm4-80gb")
SHARES = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2], [0.2, 0.3, 0.5]])


def ordered(power: PowerModel) -> bool:
    waiting = power.weights_w["launch"]
    return 0 <= waiting <= min(power.weights_w["compute"], power.weights_w["memory"])


def test_watts_that_made_the_runs_come_back() -> None:
    watts = SHARES @ [250.0, 180.0, 60.0] + 40.0
    power = fitted_watts(
        np.vstack([SHARES, 0.5 * SHARES]), np.append(watts, SHARES / 2 @ [250.0, 180.0, 60.0] + 40.0), WattsPrior()
    )
    assert power.static_w == pytest.approx(40.0, abs=1.0)
    assert [power.weights_w[name] for name in ("compute", "memory", "launch")] == pytest.approx([250, 180, 60], abs=2)


@pytest.mark.parametrize("prior", [WattsPrior(), WattsPrior(datasheet_profile(GPU).power)])
def test_a_device_that_seems_to_draw_most_while_it_waits_draws_the_same_in_every_part(prior: WattsPrior) -> None:
    shares = np.tile(SHARES, (20, 1))
    power = fitted_watts(shares, shares @ [300.0, 300.0, 400.0], prior)
    assert ordered(power)
    assert power.static_w >= prior.idle_w
    assert SHARES @ power.watts(("compute", "memory", "launch")) + power.static_w == pytest.approx(
        SHARES @ [300.0, 300.0, 400.0], rel=0.15
    )


def test_one_run_that_computes_leaves_the_rest_to_the_population() -> None:
    start = datasheet_profile(GPU).power
    busy = start.weights_w["compute"] + start.static_w
    power = fitted_watts(np.array([[1.0, 0.0, 0.0]]), np.array([0.9 * busy]), WattsPrior(start))
    assert power.static_w == pytest.approx(start.static_w, rel=0.25)
    assert start.static_w <= power.static_w
    assert power.weights_w["compute"] + power.static_w == pytest.approx(0.9 * busy, rel=0.06)
    assert ordered(power)
    # what all steps share moves the others along, but not as far
    assert 0.85 < power.weights_w["memory"] / start.weights_w["memory"] < 1.0


def test_a_device_without_measurements_keeps_its_idle_power() -> None:
    start = datasheet_profile(GPU).power
    low = fitted_watts(np.array([[0.3, 0.3, 0.4]]), np.array([0.5 * start.static_w]), WattsPrior(start))
    assert low.static_w >= start.static_w


def run(dtype: str = "float32", energy_j: float | None = 1000.0) -> Observation:
    dims = {"b": 1, "m": 4096, "k": 4096, "n": 4096}
    op = Op("mm", "matmul", "forward", "", 4096**3, 1000, 1000, dtype, dims)
    work = Workload("net", "pytorch", 1, False, None, dtype, 0, 0, 0, 0, (), (op,))
    return Observation(workload=work, steps=1, seconds=10.0, energy_j=energy_j)


def log_reach(profile: Profile) -> float:
    assert profile.energy_error.low * profile.energy_error.high == pytest.approx(1.0)
    return math.log(profile.energy_error.high)


def test_the_energys_bounds_are_the_times_and_the_doubt_about_watts() -> None:
    start = replace(
        datasheet_profile(GPU), time_error=ErrorModel(0.5, math.exp(0.3)), energy_error=ErrorModel(0.5, math.exp(0.5))
    )
    fitted = replace(start, time_error=ErrorModel(0.9, math.exp(0.1)))
    # without a meter: the 0.4 by which 0.5 is more than 0.3, in squares
    assert log_reach(with_watts(fitted, [run(energy_j=None)], start)) == pytest.approx(math.hypot(0.1, 0.4))
    # with one: its noise, and the spread among devices as far as so many networks leave it open
    between = load_population().spread["power"]
    one = run()
    for rows, networks in (([one], 1), ([one, one], 1), ([run(), run(), run()], 3)):
        open_ = between**2 / (1 + networks * (between / NOISE) ** 2)
        expected = math.hypot(0.1, 1.645 * math.sqrt(NOISE**2 + open_))
        assert log_reach(with_watts(fitted, rows, start)) == pytest.approx(expected), networks


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_precision_that_did_not_run_changes_as_the_one_that_did(dtype: str) -> None:
    start = datasheet_profile(GPU)
    assert start.half_power is not None
    ran_half = dtype == "float16"
    before, other = (start.half_power, start.power) if ran_half else (start.power, start.half_power)
    found = with_watts(start, [run(dtype)], start)
    assert found.half_power is not None
    after, moved = (found.half_power, found.power) if ran_half else (found.power, found.half_power)
    assert after != before
    factor = sum(after.weights_w.values()) / sum(before.weights_w.values())
    assert moved.weights_w == pytest.approx({name: watts * factor for name, watts in other.weights_w.items()})
    assert moved.static_w == after.static_w
    alone = with_watts(replace(start, half_power=None), [run(dtype)], replace(start, half_power=None))
    assert alone.half_power is None
