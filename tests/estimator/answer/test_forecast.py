"""A run consists of steps and validation passes, with one start-up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.answer.forecast import forecast
from joulecast.estimator.cost.bounds import ErrorModel, Range
from joulecast.estimator.cost.profile import features
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.place.schedule import make_schedule

from ..synthetic import network, suite

WORK = network(depth=6, width=32)


def test_validation_passes_add_up_and_the_run_starts_once() -> None:
    profile = replace(fit(suite(), name="made-up"), startup_s=12.0)
    schedule = make_schedule(batch_size=32, epochs=3, samples=3200, val_samples=640)
    estimate = forecast(profile, WORK, schedule)
    step_s = profile.time.seconds(WORK.ops).sum()
    pass_s = profile.time.seconds(WORK.forward_only().ops).sum()
    assert estimate.seconds.value == pytest.approx(12.0 + 3 * 100 * step_s + 3 * 20 * pass_s)
    assert estimate.steps == 300 + 60
    (start,) = [part for part in estimate.breakdown if part.name == "start-up"]
    assert start.energy_kwh == pytest.approx(12.0 * profile.power.static_w / 3_600_000)


def test_validation_is_as_sure_as_the_training_and_adds_no_notes() -> None:
    """A forward pass has fewer ops and bytes than the fitted steps; this must not widen the interval."""
    profile = replace(
        fit(suite(), name="made-up"),
        time_error=ErrorModel(0.8, 1.25),
        energy_error=ErrorModel(0.7, 1.5),
        ranges={name: Range(value, value) for name, value in features(WORK).items()},
    )
    alone = profile.predict(WORK.forward_only())
    assert any(" profile covers " in note for note in alone.warnings)
    run = forecast(profile, WORK, make_schedule(batch_size=32, epochs=1, samples=320, val_samples=3200))
    training = profile.predict(WORK, steps=10)
    assert run.warnings == training.warnings
    for name in ("seconds", "energy_kwh"):
        whole, steps = getattr(run, name), getattr(training, name)
        assert whole.value > steps.value
        assert (whole.low / whole.value, whole.high / whole.value) == pytest.approx(
            (steps.low / steps.value, steps.high / steps.value)
        )


def test_without_validation_it_is_the_prediction() -> None:
    profile = fit(suite(), name="made-up")
    schedule = make_schedule(batch_size=32, steps=50)
    assert forecast(profile, WORK, schedule) == profile.predict(WORK, steps=50)
