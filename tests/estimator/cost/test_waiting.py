"""Waiting for data and interruptions, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.notes import Note, Topic, Weight
from joulecast.estimator.cost.estimate import Estimate, Share
from joulecast.estimator.cost.waiting import (
    DATA,
    INTERRUPTIONS,
    LOST_HOURS,
    OTHER_WORK,
    OVERHEAD,
    PER_DEVICE_HOUR,
    overhead,
    with_interruptions,
    with_overhead,
    with_slow_data,
)

# 10 steps on 2 devices: 100 s (80 to 150), 1 kWh (0.8 to 1.5).
RUN = Estimate(
    steps=10,
    seconds=Interval(100.0, 80.0, 150.0),
    energy_kwh=Interval(1.0, 0.8, 1.5),
    breakdown=(Share("compute", 200.0, 1.0, 1.0),),
    layers=(),
    profile="p",
    time_source="datasheet",
    power_source="datasheet",
    devices=2,
)


def test_data_that_is_fast_enough_changes_nothing() -> None:
    assert with_slow_data(RUN, 80.0, 100.0) == RUN


def test_slow_data_lengthens_the_run_and_devices_wait_at_their_own_watts() -> None:
    found = with_slow_data(RUN, 120.0, 90.0)
    # 20 s at the expected time, 40 s at the fastest, none at the slowest; 2 devices of 90 W.
    assert found.seconds == Interval(120.0, 120.0, 150.0)
    kwh_per_s = 2 * 90.0 / 3.6e6
    assert found.energy_kwh == Interval(1.0 + 20 * kwh_per_s, 0.8 + 40 * kwh_per_s, 1.5)
    waited = next(part for part in found.breakdown if part.name == DATA)
    assert (waited.seconds, waited.energy_kwh) == (40.0, pytest.approx(20 * kwh_per_s))
    assert found.warnings == ("devices wait for data 17% of the time (`input_bound`)",)


def test_data_may_only_bind_where_the_run_is_faster_than_expected() -> None:
    found = with_slow_data(RUN, 90.0, 90.0)
    assert found.seconds == Interval(100.0, 90.0, 150.0)
    assert (found.breakdown, found.warnings) == (RUN.breakdown, ())


def test_the_failure_rate_of_llama_3_and_what_each_cost_at_most() -> None:
    """419 in 54 days on 16,384 devices, of which at most 10 % were lost."""
    assert pytest.approx(50_676, rel=1e-4) == 1 / PER_DEVICE_HOUR
    assert pytest.approx(0.1) == PER_DEVICE_HOUR * 16_384 * LOST_HOURS


def test_interruptions_grow_with_devices_and_hours() -> None:
    two, hours = 2, 100 / 3600
    found, interruptions = with_interruptions(RUN, 0.5)
    lost = PER_DEVICE_HOUR * 0.5 * two
    assert interruptions.count == pytest.approx(PER_DEVICE_HOUR * two * hours)
    assert interruptions.seconds == pytest.approx(interruptions.count * 1800)
    assert found.seconds.value == pytest.approx(100 + interruptions.seconds)
    assert (found.seconds.low, found.seconds.high) == (80.0, pytest.approx(150 * (1 + 3 * lost)))
    assert found.energy_kwh.value == pytest.approx(1 + lost)
    again = next(part for part in found.breakdown if part.name == INTERRUPTIONS)
    assert again.seconds == pytest.approx(2 * interruptions.seconds)
    assert again.energy_kwh == pytest.approx(lost)
    assert not found.warnings


def test_the_overhead_of_blooms_training() -> None:
    share = 1_082_990 * 3600 / 384 / (366e9 / 2048**2 * 104.5) - 1
    assert pytest.approx(share, abs=0.005) == OVERHEAD


@pytest.mark.parametrize(("days", "share"), [(0, 0.0), (0.5, 0.0), (1, 0.0), (2, 0.5), (10, 0.9)])
def test_what_is_beyond_a_day_has_an_overhead(days: float, share: float) -> None:
    assert overhead(days * 86_400) == pytest.approx(share * OVERHEAD)


def test_long_runs_evaluate_and_save() -> None:
    two_days = replace(RUN, seconds=Interval(172_800.0, 100_000.0, 200_000.0))
    share = OVERHEAD / 2
    found = with_overhead(two_days)
    assert found.seconds == two_days.seconds * (1 + share)
    assert found.energy_kwh == RUN.energy_kwh * (1 + share)
    other = next(part for part in found.breakdown if part.name == OTHER_WORK)
    assert (other.seconds, other.energy_kwh) == (pytest.approx(2 * 172_800 * share), pytest.approx(share))
    assert found.warnings == (
        "evaluation and checkpoints are expected to add 5.5% to the steps, as in BLOOM's training (`overhead` sets "
        "another share)",
    )
    assert with_overhead(RUN) == RUN


def test_a_given_overhead_is_of_all_steps_and_no_note() -> None:
    found = with_overhead(RUN, 0.25)
    assert found.seconds == RUN.seconds * 1.25
    assert found.energy_kwh == RUN.energy_kwh * 1.25
    assert found.warnings == RUN.warnings
    assert with_overhead(replace(RUN, seconds=Interval.exact(1e6)), 0.0).seconds == Interval.exact(1e6)


def test_a_small_overhead_is_no_note() -> None:
    assert not with_overhead(replace(RUN, seconds=Interval.exact(90_000.0))).warnings


def test_no_hours_lost_is_no_change() -> None:
    found, interruptions = with_interruptions(RUN, 0.0)
    assert found == RUN
    assert interruptions.seconds == 0.0


def test_data_that_binds_at_the_slowest_too() -> None:
    found = with_slow_data(RUN, 170.0, 90.0)
    kwh_per_s = 2 * 90.0 / 3.6e6
    assert found.seconds == Interval(170.0, 170.0, 170.0)
    assert found.energy_kwh.low == pytest.approx(0.8 + 90 * kwh_per_s)
    assert found.energy_kwh.high == pytest.approx(1.5 + 20 * kwh_per_s)
    (note,) = found.warnings
    assert isinstance(note, Note)
    assert (note.topic, note.weight) == (Topic.SCHEDULE, Weight.ACT)
    assert sum(part.share for part in found.breakdown) == pytest.approx(1.0)


def test_bounds_contain_the_expected_energy() -> None:
    """Of 1 kWh without a spread: 20 s of waiting at the expected time, 40 s at the lower bound, none at the upper."""
    exact = replace(RUN, energy_kwh=Interval(1.0, 1.0, 1.0))
    found = with_slow_data(exact, 120.0, 90.0)
    kwh_per_s = 2 * 90.0 / 3.6e6
    assert found.energy_kwh.value == pytest.approx(1.0 + 20 * kwh_per_s)
    assert found.energy_kwh.low == found.energy_kwh.value
    assert found.energy_kwh.high == found.energy_kwh.value


@pytest.mark.parametrize(("devices", "noted"), [(1_000, False), (1_013, False), (1_014, True), (16_384, True)])
def test_more_than_a_hundredth_lost_is_noted(devices: int, noted: bool) -> None:
    """One failure in 50,676 device hours that costs half an hour: 1 % of the time of 1,013.5 devices."""
    found, interruptions = with_interruptions(replace(RUN, devices=devices), 0.5)
    assert bool(found.warnings) is noted
    if devices == 16_384:
        assert interruptions.to_json() == {
            "count": interruptions.count,
            "hours_each": 0.5,
            "seconds": interruptions.count * 1800,
        }
        (note,) = found.warnings
        assert isinstance(note, Note)
        assert (note.topic, note.weight) == (Topic.SCHEDULE, Weight.ROUGH)
        assert note.startswith("about 0 interruptions are expected, 0.5 h each: 16.2% more time (failure rate of Llama")
