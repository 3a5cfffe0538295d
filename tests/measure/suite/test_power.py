"""Power without a counter: its range is stated and is part of the profile's interval."""

from __future__ import annotations

import math

import pytest

from joulecast.estimator.base.errors import HardwareError
from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.measure.suite.calibrate import _both, given_power, modelled_power, table_power, unknown_power

HOST = {"device": "cpu", "cpu_name": "no such processor", "threads": 4, "cpu_cores": 2, "gpus": []}


def test_a_table_power_may_be_off_by_half_either_way() -> None:
    """The i7-4770 has a TDP of 84 W and 4 cores; two of them draw half, and 15 % of it when idle."""
    power = table_power("i7-4770", 2)
    assert power.error == ErrorModel(low=0.5, high=1.5)
    assert power.model.static_w == pytest.approx(84 / 2 * 0.15)
    assert power.model.weights_w == pytest.approx(dict.fromkeys(("compute", "memory", "launch"), 84 / 2 * 0.85))


def test_errors_of_time_and_power_multiply() -> None:
    both = _both(ErrorModel(low=0.8, high=1.3), ErrorModel(low=0.5, high=1.5))
    assert (both.low, both.high) == pytest.approx((0.4, 1.95))
    biased = _both(ErrorModel(low=1.1, high=1.3), ErrorModel(low=0.5, high=1.5))
    assert (biased.low, biased.high) == pytest.approx((0.5, 1.95))


def test_an_unknown_cpu_gets_the_range_of_its_busy_cores() -> None:
    """1.64 to 12 W per core, around their geometric mean; at most one thread per core is busy."""
    power = modelled_power(HOST)
    middle = math.sqrt(1.64 * 12.0)
    assert power.model.static_w == 0.0
    assert power.model.weights_w["compute"] == pytest.approx(2 * middle)
    assert power.error.low * middle == pytest.approx(1.64)
    assert power.error.high * middle == pytest.approx(12.0)
    assert unknown_power("", 1).source.startswith("CPU without a name")


def test_the_users_figure_is_exact_and_comes_first() -> None:
    assert modelled_power(HOST, power_w=65.0, hardware="i7-4770") == given_power(65.0)
    assert given_power(65.0).error == ErrorModel(1.0, 1.0)


def test_a_part_of_the_other_kind_is_refused() -> None:
    with pytest.raises(HardwareError, match="trains on the GPU"):
        table_power("i7-4770", 4, device="gpu")
