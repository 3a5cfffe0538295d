"""Shipped profiles are complete, have a provenance, and are found by the name of the hardware."""

from __future__ import annotations

import math

import pytest

from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.library import load_profile, shipped_profiles
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.profile import read_profile


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_a_shipped_profile_says_where_it_comes_from_and_how_good_it_is(name: str) -> None:
    profile = read_profile(shipped_profiles()[name])
    assert profile.name == name
    assert (profile.provenance.time, profile.provenance.power) == ("measured", "measured")
    assert profile.provenance.sources[0]
    assert profile.provenance.fitted_on
    assert profile.provenance.boundary
    assert profile.scores["observations"] >= 4
    assert 0 < profile.scores["energy_mean_error"] < 0.5
    assert sum(profile.power.weights_w.values()) + profile.power.static_w > 0
    # An interval that spans more than a factor of ten would say less than a datasheet's.
    for error in (profile.time_error, profile.energy_error):
        assert math.log10(error.high / error.low) < 1


@pytest.mark.parametrize("key", ["quadro-rtx-6000", "rtx-3090", "rtx-3060", "titan-xp"])
def test_measured_hardware_is_answered_by_its_measured_profile(key: str) -> None:
    assert load_profile(key).provenance.time == "measured"
    assert load_profile(find_hardware(key).name).provenance.time == "measured"


@pytest.mark.parametrize("key", ["quadro-rtx-6000", "rtx-3090", "rtx-3060", "titan-xp"])
def test_a_measured_gpus_watts_are_physical(key: str) -> None:
    """Idle as the datasheet's profile has it <= P_s <= waiting for the host <= busy."""
    power, idle_w = load_profile(key).power, datasheet_profile(find_hardware(key)).power.static_w
    assert idle_w <= power.static_w * 1.001
    waiting = power.weights_w["launch"]
    assert 0 <= waiting <= min(power.weights_w["compute"], power.weights_w["memory"]) + 1e-6
