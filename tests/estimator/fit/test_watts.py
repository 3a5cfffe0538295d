"""Watts that stay physical: idle <= waiting <= busy, and what runs cannot tell stays with the population."""

from __future__ import annotations

import numpy as np
import pytest

from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.profile import PowerModel
from joulecast.estimator.fit.watts import WattsPrior, fitted_watts

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
