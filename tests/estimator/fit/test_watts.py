"""Watts that stay physical: idle <= waiting <= busy, and what runs cannot tell stays with the population."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.population import load_population
from joulecast.estimator.cost.profile import PowerModel, Profile
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.fit.watts import NOISE, WattsPrior, _prior_rows, _scaled, fitted_watts, with_watts
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


# -- the prior, by hand ----------------------------------------------------------------------------

KNOWN = PowerModel({"compute": 200.0, "memory": 150.0, "launch": 50.0}, 100.0)
"""Steps of 0, 50, 150 and 100 W; 300 W busy."""


def test_steps_scatter_by_half_of_themselves_and_share_a_factor() -> None:
    rows, aim = _prior_rows(WattsPrior(KNOWN), 1.0)
    shared = load_population().spread["power"]
    assert rows == pytest.approx(
        np.array(
            [
                [1 / 7.5, 0, 0, 0, 0],  # a step of 0 scatters by half of 5 % of 300 W
                [0, 1 / 25, 0, 0, -50 / 25],
                [0, 0, 1 / 75, 0, -150 / 75],
                [0, 0, 0, 1 / 50, -100 / 50],
                [0, 0, 0, 0, 1 / shared],
            ]
        )
    )
    assert aim == pytest.approx([0, 2, 2, 2, 0])


def test_a_host_draws_up_to_half_of_the_busy_gpu() -> None:
    plain, with_host = (_prior_rows(WattsPrior(KNOWN, host), 1.0)[0] for host in (False, True))
    assert with_host[0].tolist() == pytest.approx([1 / 150, 0, 0, 0, 0])
    assert (with_host[1:] == plain[1:]).all()


def test_a_component_below_waiting_is_no_step_up() -> None:
    rows, aim = _prior_rows(WattsPrior(replace(KNOWN, weights_w={"compute": 30.0, "memory": 200.0, "launch": 50.0})), 1)
    assert rows[2].tolist() == pytest.approx([0, 0, 1 / 7.5, 0, 0])
    assert rows[3].tolist() == pytest.approx([0, 0, 0, 1 / 75, -2])
    assert aim == pytest.approx([0, 2, 0, 2, 0])


def test_without_a_population_the_prior_is_weak_and_at_0() -> None:
    rows, aim = _prior_rows(WattsPrior(), 250.0)
    assert rows == pytest.approx(4e-6 * np.eye(5), abs=1e-12)
    assert not aim.any()


def robust_weight(off_w: float, noise_w: float) -> float:
    return 1 / math.sqrt(1 + (off_w / noise_w / 2) ** 2)


@pytest.mark.parametrize("measured", [240.0, 160.0])
def test_one_run_that_computes_conditions_the_prior(measured: float) -> None:
    """The sum of the steps to waiting (50 W) and computing (150 W) is measured: a Gaussian given one sum."""
    shared, noise, weight = load_population().spread["power"] ** 2, NOISE * measured, 1.0
    waiting = computing = factor = 0.0
    for _ in range(5):
        gain = (measured - 100 - 200) / (25**2 + 75**2 + 200**2 * shared + noise**2 / weight)
        factor = 200 * shared * gain
        waiting = 50 + (25**2 + 50 * 200 * shared) * gain
        computing = 150 + (75**2 + 150 * 200 * shared) * gain
        weight = robust_weight(waiting + computing - (measured - 100), noise)
    power = fitted_watts(np.array([[1.0, 0.0, 0.0]]), np.array([measured]), WattsPrior(KNOWN))
    assert power.static_w == pytest.approx(100)
    assert power.weights_w["launch"] == pytest.approx(waiting, rel=1e-5)
    assert power.weights_w["compute"] == pytest.approx(waiting + computing, rel=1e-5)
    assert power.weights_w["memory"] == pytest.approx(waiting + 100 * (1 + factor), rel=1e-5)


def test_a_run_far_from_the_others_counts_less() -> None:
    """Three idle runs of 100 W and one of 160 W: weights 1 / sqrt(1 + (residual / 2)^2), five rounds."""
    measured, weights, watts = [100.0, 100.0, 100.0, 160.0], [1.0] * 4, 0.0
    for _ in range(5):
        watts = sum(w / one for w, one in zip(weights, measured, strict=True))
        watts /= sum(w / one**2 for w, one in zip(weights, measured, strict=True))
        weights = [robust_weight(watts - one, NOISE * one) for one in measured]
    power = fitted_watts(np.zeros((4, 3)), np.array(measured), WattsPrior())
    assert power.static_w == pytest.approx(watts, rel=1e-6)
    assert 100 < watts < 108


def test_only_a_meter_of_the_cpu_covers_the_host() -> None:
    for meter, host in (("nvml", False), ("NVML+RAPL", True), ("rapl", True), (None, False)):
        prior = WattsPrior.of(GPU, replace(run(), meter=meter))
        assert (prior.host, prior.start) == (host, datasheet_profile(GPU).power), meter
    assert WattsPrior.of(None, run()) == WattsPrior()
    assert WattsPrior().idle_w == 0.0
    assert WattsPrior(KNOWN).idle_w == 100.0


def test_the_other_precisions_weights_change_by_the_same_factor() -> None:
    after = PowerModel({"compute": 100.0, "memory": 75.0, "launch": 25.0}, 90.0)
    other = PowerModel({"compute": 300.0, "memory": 100.0, "launch": 20.0}, 100.0)
    moved = _scaled(other, KNOWN, after)
    assert moved == PowerModel({"compute": 150.0, "memory": 50.0, "launch": 10.0}, 90.0)
    assert _scaled(None, KNOWN, after) is None
    nothing = PowerModel(dict.fromkeys(("compute", "memory", "launch"), 0.0), 50.0)
    assert _scaled(nothing, nothing, nothing) == nothing  # 0 W over 0 W
    tiny = PowerModel(dict.fromkeys(("compute", "memory", "launch"), 0.125), 50.0)
    assert _scaled(tiny, tiny, tiny) == tiny


def test_time_error_beyond_the_energys_leaves_no_doubt_about_watts() -> None:
    start = replace(
        datasheet_profile(GPU), time_error=ErrorModel(0.5, math.exp(0.5)), energy_error=ErrorModel(0.5, math.exp(0.3))
    )
    fitted = replace(start, time_error=ErrorModel(0.9, math.exp(0.2)))
    assert log_reach(with_watts(fitted, [run(energy_j=None)], start)) == pytest.approx(0.2)


def test_watts_are_fitted_on_the_shares_of_each_component() -> None:
    """4096^3 multiply-adds in 6 s, 2,000 bytes in 3 s and one start of 1 s, at 100 W."""
    law = Curves(
        (
            Term("matmul", "*", "macs", 6.0 / 4096**3),
            Term("matmul", "*", "bytes", 3.0 / 2000),
            Term("*", "*", "launch", 1.0),
        )
    )
    start = replace(datasheet_profile(GPU), half_power=None)
    found = with_watts(replace(start, time=law), [run()], start).power
    expected = fitted_watts(np.array([[0.6, 0.3, 0.1]]), np.array([100.0]), WattsPrior(start.power))
    assert found.weights_w == pytest.approx(expected.weights_w)
    assert found.static_w == pytest.approx(expected.static_w)
