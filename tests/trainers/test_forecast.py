"""The forecast while training: by hand, its properties, and the coverage of its intervals on made-up runs."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulecast.estimator.base.interval import Interval
from joulecast.trainers.forecast import (
    DRIFT,
    UNIT_SPREAD,
    WARM_UP_DOUBT,
    Z90,
    MeasuredPace,
    Prediction,
    Samples,
    corrected,
    energy_j,
    from_now,
    seconds_to_come,
    standard_error,
)

amounts = st.floats(1e-4, 1e4)


def measured(*values: float, warm_up: int = 0) -> Samples:
    samples = Samples(warm_up)
    for value in values:
        samples.add(value)
    return samples


def width(interval: Interval) -> float:
    return interval.high - interval.low


# -- what was measured ---------------------------------------------------------------------------


def test_the_warm_up_counts_towards_the_total_alone() -> None:
    samples = measured(30.0, 2.0, 2.0, 2.0, warm_up=1)
    pace = samples.pace()
    assert pace is not None
    assert pace.mean == 2.0
    assert (samples.total, samples.units, samples.settled) == (36.0, 4, 3)
    # Nothing varied, so what is assumed of single units and of drift is all the doubt there is.
    assert pace.error == pytest.approx(math.sqrt(0.05**2 / 3 + 0.02**2))


def test_before_there_is_more_the_warm_up_says_a_little() -> None:
    assert Samples().pace() is None
    assert measured(90.0, 3.0, warm_up=2).pace() == MeasuredPace(3.0, WARM_UP_DOUBT)
    surer = measured(90.0, 3.0, 2.0, warm_up=2).pace()
    assert surer is not None
    assert surer.mean == 2.0
    assert surer.error < 0.1 < WARM_UP_DOUBT


def test_one_stall_is_an_accident_and_two_are_a_habit() -> None:
    once = measured(1, 1, 1, 1, 1, 1, 1, 1, 1, 60).pace()
    twice = measured(1, 1, 1, 1, 60, 1, 1, 1, 1, 60).pace()
    assert once is not None
    assert twice is not None
    assert once.mean == 1.0
    assert twice.mean == pytest.approx((8 + 2 * 60) / 10)
    assert twice.error > 5 * once.error


def test_several_units_at_once_are_that_many() -> None:
    samples = Samples(warm_up=4)
    for _ in range(6):
        samples.add(10.0, 4)
    pace = samples.pace()
    assert pace is not None
    assert pace.mean == 2.5
    assert (samples.units, samples.settled, samples.total) == (24, 20, 60.0)


def test_a_million_steps_are_kept_in_a_few_blocks() -> None:
    generator = random.Random(1)
    values = [generator.uniform(0.5, 1.5) for _ in range(100_000)]
    samples = measured(*values)
    pace = samples.pace()
    assert pace is not None
    assert len(samples._blocks) < 64
    assert pace.mean == pytest.approx(fmean(values), rel=1e-3)


@given(st.lists(amounts, min_size=1, max_size=300), st.integers(0, 5))
def test_the_pace_lies_among_the_units_and_nothing_gets_lost(values: list[float], warm_up: int) -> None:
    samples = measured(*values, warm_up=warm_up)
    assert samples.total == pytest.approx(sum(values))
    pace = samples.pace()
    assert pace is not None
    assert min(values) * (1 - 1e-9) <= pace.mean <= max(values) * (1 + 1e-9)
    assert pace.error >= DRIFT


@given(st.lists(st.floats(0.01, 10), min_size=5, max_size=100), st.floats(1e-3, 1e3))
def test_the_pace_knows_no_unit(values: list[float], factor: float) -> None:
    one, other = measured(*values).pace(), measured(*(value * factor for value in values)).pace()
    assert one is not None
    assert other is not None
    assert other.mean == pytest.approx(one.mean * factor)
    assert other.error == pytest.approx(one.error, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([1.0], 0.0),
        ([1.0, 3.0], 1.0),
        ([1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0], math.sqrt(1 / 7)),  # neighbours cancel: pairs add no doubt
        ([1.0, 1.0, 3.0, 3.0, 1.0, 1.0, 3.0, 3.0], math.sqrt(1 / 3)),  # two alike say as much as one of them
        ([1.0, 1.0, 3.0, 3.0, 1.0, 1.0, 3.0], math.sqrt(8 / 7 / 7)),  # too few to pair
    ],
)
def test_the_error_of_a_mean_counts_neighbours_that_are_alike_once(values: list[float], error: float) -> None:
    assert standard_error(values) == pytest.approx(error)


# -- prediction and measurement ------------------------------------------------------------------


def test_the_mix_by_hand() -> None:
    # Standard deviations of the logarithm: 0.2 predicted, 0.1 measured, so weights of 25 and 100.
    prior = Interval(1.0, math.exp(-Z90 * 0.2), math.exp(Z90 * 0.2))
    mixed = corrected(prior, MeasuredPace(1.1, 0.1))
    assert mixed is not None
    assert math.log(mixed.value) == pytest.approx(math.log(1.1) * 100 / 125)
    assert math.log(mixed.high / mixed.value) == pytest.approx(Z90 / math.sqrt(125))
    assert math.log(mixed.value / mixed.low) == pytest.approx(Z90 / math.sqrt(125))


def test_a_contradicted_prediction_loses_its_weight() -> None:
    # A factor of e apart, where 0.06 and 0.08 make a doubt of 0.1: a hundred times too far, so the
    # prediction's weight of 278 is a hundredth of that, beside 156 measured.
    prior = Interval(1.0, math.exp(-Z90 * 0.06), math.exp(Z90 * 0.06))
    mixed = corrected(prior, MeasuredPace(math.e, 0.08))
    assert mixed is not None
    assert math.log(mixed.value) == pytest.approx(156.25 / (156.25 + 2.7778), rel=1e-4)


def test_either_alone_stands_for_itself() -> None:
    prior = Interval(1.0, 0.5, 3.0)
    assert corrected(prior, None) is prior
    assert corrected(None, None) is None
    alone = corrected(None, MeasuredPace(2.0, 0.1))
    assert alone is not None
    assert (alone.value, alone.high) == (pytest.approx(2.0), pytest.approx(2 * math.exp(Z90 * 0.1)))
    assert corrected(Interval.exact(0.0), MeasuredPace(2.0, 0.1)) == alone  # a prediction of nothing says nothing


@given(st.floats(0.01, 100), st.floats(1.01, 5), st.floats(0.01, 100), st.floats(0.02, 0.5))
def test_the_mix_lies_between_and_is_surer_than_the_measurement(
    value: float, spread: float, mean: float, error: float
) -> None:
    mixed = corrected(Interval(value, value / spread, value * spread), MeasuredPace(mean, error))
    assert mixed is not None
    assert min(value, mean) * (1 - 1e-9) <= mixed.value <= max(value, mean) * (1 + 1e-9)
    assert mixed.high / mixed.value <= math.exp(Z90 * error) * (1 + 1e-9)


# -- the rest of the run -------------------------------------------------------------------------

PREDICTION = Prediction(Interval(1.0, 0.8, 1.25), Interval(100.0, 80.0, 125.0), Interval(10.0, 8.0, 12.5))


def test_before_anything_is_measured_the_rest_is_the_prediction() -> None:
    rest = seconds_to_come(PREDICTION, Samples(), 90, Samples(), 2)
    assert rest is not None
    assert (rest.value, rest.low, rest.high) == pytest.approx((110.0, 88.0, 137.5))


def test_a_validation_never_seen_misses_its_prediction_as_the_steps_do() -> None:
    steps = measured(*[2.0] * 400)
    pace = corrected(PREDICTION.step_s, steps.pace())
    rest = seconds_to_come(PREDICTION, steps, 100, Samples(), 3)
    assert pace is not None
    assert rest is not None
    assert pace.value == pytest.approx(2.0, rel=0.01)
    assert rest.value == pytest.approx(pace.value * (100 + 3 * 10))


def test_a_validation_that_was_seen_is_expected_again() -> None:
    rest = seconds_to_come(None, measured(*[1.0] * 50), 100, measured(30.0), 2)
    assert rest is not None
    assert rest.value == pytest.approx(100 + 2 * 30)


def test_nothing_known_is_no_forecast() -> None:
    assert seconds_to_come(None, Samples(), 10, Samples(), 0) is None
    rest = seconds_to_come(None, Samples(), 0, Samples(), 0)
    assert rest == Interval.exact(0.0)


def test_energy_is_what_was_measured_and_watts_over_the_rest() -> None:
    rest, watts = Interval(10.0, 9.0, 12.0), Interval(50.0, 40.0, 60.0)
    assert energy_j(1000.0, 20.0, rest, watts) == Interval(1500.0, 1360.0, 1720.0)
    # Where nothing was measured, all of the run is at the predicted watts.
    assert energy_j(None, 20.0, rest, watts) == Interval(30 * 50.0, 29 * 40.0, 32 * 60.0)
    assert energy_j(1000.0, 20.0, Interval.exact(0.0), None) == Interval.exact(1000.0)
    assert energy_j(1000.0, 20.0, rest, None) is None
    assert energy_j(None, 20.0, rest, None) is None
    assert energy_j(1000.0, 20.0, None, watts) is None


# -- properties of whole runs --------------------------------------------------------------------


@settings(deadline=None)
@given(
    pace=st.floats(1e-3, 1e3),
    prediction=st.floats(1e-3, 1e3),
    spread=st.floats(1.0, 10.0),
    total=st.integers(2, 150),
)
def test_of_a_steady_run_the_interval_narrows_with_every_step(
    pace: float, prediction: float, spread: float, total: int
) -> None:
    predicted = Prediction(Interval(prediction, prediction / spread, prediction * spread), Interval.exact(1.0))
    samples, widths = Samples(), []
    for step in range(1, total + 1):
        samples.add(pace)
        rest = seconds_to_come(predicted, samples, total - step, Samples(), 0)
        assert rest is not None
        widths.append(width(from_now(step * pace, rest)))
    assert all(after < before for before, after in pairwise(widths))
    assert widths[-1] == 0


@given(st.lists(amounts, min_size=1, max_size=100), st.floats(1e-3, 1e3))
def test_at_the_last_step_the_forecast_is_the_measurement(values: list[float], prediction: float) -> None:
    predicted = Prediction(Interval(prediction, prediction / 2, prediction * 2), Interval(5.0, 1.0, 9.0))
    rest = seconds_to_come(predicted, measured(*values), 0, Samples(), 0)
    assert rest is not None
    assert from_now(sum(values), rest) == Interval.exact(sum(values))
    assert energy_j(123.0, sum(values), rest, predicted.watts) == Interval.exact(123.0)


def made_up_run(seed: int, steps: int = 400) -> list[float]:
    """Steps of about 1 s with 8 % noise each and a slow drift of some per cent; three cold steps at the start and one
    stall of 20 s soon after.
    """
    generator = random.Random(seed)
    level, weather, times = generator.gauss(0, 0.3), 0.0, []
    for step in range(steps):
        weather = 0.98 * weather + generator.gauss(0, 0.004)  # 2 % in the long run
        times.append(math.exp(level + weather + generator.gauss(0, 0.08)) * (4 if step < 3 else 1))
    times[generator.randrange(10, 40)] += 20
    return times


@pytest.mark.parametrize(("share", "error"), [(0.1, 0.02), (0.5, 0.01)])
def test_nine_in_ten_made_up_runs_end_within_the_interval(share: float, error: float) -> None:
    predicted = Prediction(Interval(1.0, 0.6, 1.7), Interval.exact(1.0))
    held, errors = 0, []
    for seed in range(200):
        times = made_up_run(seed)
        done = int(share * len(times))
        rest = seconds_to_come(predicted, measured(*times[:done], warm_up=10), len(times) - done, Samples(), 0)
        assert rest is not None
        forecast, truth = from_now(sum(times[:done]), rest), sum(times)
        held += forecast.low <= truth <= forecast.high
        errors.append(abs(forecast.value / truth - 1))
    assert held >= 0.88 * 200
    assert fmean(errors) < error


def test_what_is_assumed_is_said() -> None:
    assert (UNIT_SPREAD, DRIFT, WARM_UP_DOUBT) == (0.05, 0.02, 0.7)  # docs/trainers.md states them
