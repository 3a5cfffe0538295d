"""One run with a clock and counters that the test moves: forecasts, logs and stops."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from joulecast.estimator.base.interval import Interval
from joulecast.trainers.run import Length, Peers, warm_up_steps
from joulecast.trainers.terms import BudgetExceeded

from .bench import STEP_OPS, Bench, step_of

# -- before the first step -----------------------------------------------------------------------


def test_the_prediction_is_the_profile_s(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "joulecast")
    run = bench("2 kWh", length=Length(100, validations=2, validation_batches=4)).run
    run.predict(step_of)
    assert run.estimate is not None
    # 100 steps of 0.5 s; two validations of four batches, each of them the five forward ops again.
    assert run.estimate.seconds.value == pytest.approx(50 + 2 * 4 * 0.5)
    assert run.estimate.energy_kwh.value == pytest.approx(54 * 100 / 3.6e6)
    (line,) = caplog.messages
    assert line.startswith("100 steps of net (batch 1, sgd, float32) on made-up will take 1.50 Wh (1.20 to 1.88 Wh)")
    assert "within budget: " in line
    assert "energy is measured by rapl" in line


def test_gradient_accumulation_does_not_lengthen_validation(bench: Callable[..., Bench]) -> None:
    run = bench("2 kWh", length=Length(10, accumulation=4, validations=1, validation_batches=8)).run
    run.predict(lambda: step_of(4 * STEP_OPS))  # a step's four batches
    assert run.prediction is not None
    assert run.prediction.step_s.value == pytest.approx(4 * 0.5)
    assert run.prediction.validation_s is not None
    assert run.prediction.validation_s.value == pytest.approx(8 * 0.5)


@pytest.mark.parametrize(
    ("limit", "at", "fits"),
    [
        ("60 s", "high", False),  # 50 s, at most 62.5
        ("60 s", "expected", True),
        ("49 s", "expected", False),
        ("6 kJ", "high", False),  # 5 kJ, at most 6.25
        ("6.3 kJ", "high", True),
        ("1 gCO2e", "high", True),
        ("0.5 gCO2e", "high", False),  # 1.74 Wh at 433 g/kWh
        ("0.0001 USD", "high", False),
    ],
)
def test_what_does_not_fit_is_not_begun(bench: Callable[..., Bench], limit: str, at: str, fits: bool) -> None:
    run = bench(limit, at=at).run
    if fits:
        run.predict(step_of)
        return
    with pytest.raises(BudgetExceeded, match=r"before the first of 100 steps, \d+ of which would fit") as caught:
        run.predict(step_of)
    assert caught.value.verdict.limit.text == limit
    assert "\n" not in str(caught.value)


def test_the_error_tells_how_many_steps_would_fit(bench: Callable[..., Bench]) -> None:
    with pytest.raises(BudgetExceeded, match="100 steps, 40 of which would fit"):
        bench("25 s").run.predict(step_of)  # 62.5 s at most: 0.625 s a step


def test_the_worst_of_several_limits_is_told(bench: Callable[..., Bench]) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        bench("60 s", "1 J", "2 kWh").run.predict(step_of)
    assert caught.value.verdict.limit.text == "1 J"


def test_a_warning_lets_it_begin_and_does_not_stop_it(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    made = bench("10 s", "2 kWh", on_exceed="warn")
    made.run.predict(step_of)
    assert sum("of 10 s at" in line for line in caplog.messages) == 1
    made.run.start()
    made.train(100)
    made.run.finish()
    made.run.settle()
    assert made.run.stopping is None


def test_nobody_to_ask_is_a_no(bench: Callable[..., Bench]) -> None:
    with pytest.raises(BudgetExceeded):
        bench("10 s", on_exceed="ask").run.predict(step_of)


# -- while it trains -----------------------------------------------------------------------------


def test_what_is_logged_is_what_was_metered(bench: Callable[..., Bench]) -> None:
    made = bench("2 kWh", length=Length(100))
    made.run.predict(step_of)
    made.run.start()
    made.train(100)
    made.run.finish()
    assert len(made.logged) == 11  # every ten steps, and at the end
    at_40 = made.logged[3]
    assert at_40["joulecast/seconds"] == pytest.approx(20)
    assert at_40["joulecast/energy_measured_j"] == pytest.approx(800)
    assert at_40["joulecast/forecast_seconds"] == pytest.approx(50, rel=0.01)
    assert at_40["joulecast/forecast_energy_kwh"] == pytest.approx(2000 / 3.6e6, rel=0.05)  # predicted were 5000 J
    end = made.logged[-1]
    for name, truth in (("joulecast/forecast_seconds", 50), ("joulecast/forecast_energy_kwh", 2000 / 3.6e6)):
        assert end[name] == end[f"{name}_low"] == end[f"{name}_high"] == pytest.approx(truth)
        widths = [row[f"{name}_high"] - row[f"{name}_low"] for row in made.logged]
        assert all(after <= before for before, after in pairwise(widths))


def test_the_warm_up_s_watts_already_contradict_a_prediction_far_off(bench: Callable[..., Bench]) -> None:
    """The profile says 100 W and the meter 4 W: the first forecast must not repeat the profile's."""
    made = bench("2 kWh", length=Length(100), log_every=1)
    made.run.predict(step_of)
    made.run.start()
    made.train(100, watts=4.0)
    first = made.logged[4]
    truth_kwh = 100 * 0.5 * 4.0 / 3.6e6
    assert first["joulecast/forecast_energy_kwh_low"] < truth_kwh < first["joulecast/forecast_energy_kwh_high"]
    assert first["joulecast/forecast_energy_kwh"] < 3 * truth_kwh
    widths = [
        row["joulecast/forecast_energy_kwh_high"] - row["joulecast/forecast_energy_kwh_low"] for row in made.logged
    ]
    assert all(after <= before for before, after in pairwise(widths[4:]))


def test_validation_has_a_pace_of_its_own(bench: Callable[..., Bench]) -> None:
    made = bench("2 kWh", length=Length(100, validations=5, validation_batches=4))
    made.run.predict(step_of)
    made.run.start()
    for _ in range(2):
        made.train(20)
        made.validate(6.0)
    forecast = made.run.figures()["joulecast/forecast_seconds"]
    # Predicted 2 s each, measured 6 s: the three to come are nearer to that.
    assert forecast == pytest.approx(2 * (10 + 6) + 60 * 0.5 + 3 * 6, rel=0.03)


def test_a_run_that_breaks_its_limit_is_stopped(bench: Callable[..., Bench]) -> None:
    made = bench("80 s", length=Length(100))
    made.run.predict(step_of)
    made.run.start()
    made.train(5, step_s=2.0)
    assert made.run.stopping is None  # nothing stands behind a forecast yet
    made.train(5, step_s=2.0)
    assert made.run.stopping is not None
    made.run.stopped(Path("last.ckpt"))
    made.run.finish()
    with pytest.raises(BudgetExceeded, match=r"stopped after 10 of 100 steps, saved as last.ckpt") as caught:
        made.run.settle()
    assert caught.value.verdict.figure == pytest.approx(200, rel=0.1)
    assert caught.value.checkpoint == "last.ckpt"


def test_energy_is_stopped_by_what_the_meter_says(bench: Callable[..., Bench]) -> None:
    made = bench("6.3 kJ")
    made.run.predict(step_of)
    made.run.start()
    made.train(20, watts=200.0)  # predicted were 100
    assert made.run.stopping is not None
    assert "steps, energy measured" in str(made.run.stopping)


def test_of_a_run_that_may_break_its_limit_one_warning_is_given(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    made = bench("64 s")
    made.run.predict(step_of)
    made.run.start()
    made.train(100, step_s=0.63)
    made.run.finish()
    assert made.run.stopping is None
    (line,) = [line for line in caplog.messages if "may not fit" in line]
    assert "interval's upper end" in line


def test_warn_warns_of_a_stop(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    made = bench("80 s", on_exceed="warn")
    made.run.predict(step_of)
    made.run.start()
    made.train(10, step_s=2.0)
    assert made.run.stopping is not None
    made.run.settle()
    assert any("stopped after 10 of 100 steps" in line for line in caplog.messages)


def test_of_unknown_length_what_is_used_counts(bench: Callable[..., Bench]) -> None:
    made = bench("30 s", length=Length(None))
    made.run.predict(step_of)
    made.run.start()
    made.train(60)
    assert made.run.stopping is None
    assert "joulecast/forecast_seconds" not in made.logged[-1]
    made.train(10)
    assert made.run.stopping is not None
    assert "stopped after 70 steps" in str(made.run.stopping)


# -- the rest ------------------------------------------------------------------------------------


def test_processes_that_train_together_stop_together(bench: Callable[..., Bench]) -> None:
    first = bench("80 s", log_every=None, peers=Peers(True, 2)).run
    first.predict(step_of)
    told = BudgetExceeded(first.terms.verdicts(Interval.exact(200.0), None, "expected")[0], "stopped")
    sent = pickle.loads(pickle.dumps(told))
    made = bench("80 s", log_every=None, peers=Peers(False, 2, lambda _: sent))
    made.run.predict(step_of)
    made.run.start()
    made.train(4)
    assert made.run.stopping is None
    made.train(1)  # the end of the warm-up, in every process
    assert str(made.run.stopping) == str(told)


def test_without_a_number_of_steps_forecasts_come_by_time(bench: Callable[..., Bench]) -> None:
    made = bench("2 kWh", log_every=None, length=Length(100_000))
    made.run.predict(step_of)
    made.run.start()
    made.train(200, step_s=0.1)
    # 20 s of steps of 0.1 s: one forecast at the end of the warm-up, then about one a second.
    assert 18 <= len(made.logged) <= 22
    made.train(200, step_s=100.0)
    assert len(made.logged) <= 222
    made.train(400, step_s=50.0)  # 20,000 s in, another each 100 s
    assert len(made.logged) <= 222 + 220


@pytest.mark.parametrize(("steps", "warm_up"), [(1, 1), (19, 1), (40, 2), (100, 5), (200, 10), (10**6, 10), (None, 3)])
def test_the_warm_up_is_a_twentieth_of_the_run(steps: int | None, warm_up: int) -> None:
    assert warm_up_steps(steps) == warm_up
