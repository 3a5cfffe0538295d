"""Steps counted by hand, properties of every schedule, and options without effect."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.base.interval import Interval
from joulecast.estimator.place.schedule import make_schedule, time_left


def test_cifar10_for_a_hundred_epochs() -> None:
    plan = make_schedule(epochs=100, batch_size=128, dataset_samples=50_000)
    assert plan.steps_per_epoch == 391  # 390 full batches and one of 80
    assert plan.steps == 39_100
    assert plan.last_step_samples == 80
    assert plan.note == "the last step of each epoch has 80 of 128 samples, costed as a full step"
    assert plan.epochs == 100
    assert plan.validation_steps == 0


def test_full_last_batches_need_no_note() -> None:
    plan = make_schedule(epochs=2, batch_size=500, samples=50_000)
    assert (plan.steps, plan.last_step_samples, plan.note) == (200, 500, None)


def test_samples_alone_are_one_epoch() -> None:
    plan = make_schedule(samples=1000, batch_size=64)
    assert (plan.steps, plan.epochs) == (16, 1.0)


def test_samples_stand_above_the_dataset() -> None:
    assert make_schedule(epochs=1, samples=100, dataset_samples=50_000, batch_size=10).steps == 10


def test_steps_need_nothing_else() -> None:
    plan = make_schedule(steps=625, batch_size=256)
    assert (plan.steps, plan.epochs, plan.steps_per_epoch, plan.note) == (625, None, None, None)
    known = make_schedule(steps=625, batch_size=256, dataset_samples=40_000)
    assert known.steps_per_epoch == 157
    assert known.epochs == pytest.approx(625 / 157)


def test_tokens_of_llama_2() -> None:
    """2 T tokens in sequences of 4096, 1024 sequences a step: 476,838 steps."""
    plan = make_schedule(tokens="2e12", tokens_per_sample=4096, batch_size=1, devices=1024)
    assert plan.steps == math.ceil(2e12 / (4096 * 1024)) == 476_838


def test_accumulation_and_devices_make_larger_steps() -> None:
    plan = make_schedule(epochs=3, samples=1000, batch_size=8, accumulation=4, devices=2, val_samples=100)
    assert plan.samples_per_step == 64
    assert plan.steps_per_epoch == 16
    assert plan.steps == 48
    assert plan.validation_steps == 7 * 3  # 16 samples a forward pass


def test_options_may_come_as_text() -> None:
    assert make_schedule(epochs="1e2", samples="50_000", batch_size="128", val_samples=" 1e4 ") == make_schedule(
        epochs=100, samples=50_000, batch_size=128, val_samples=10_000
    )


def test_fractions_of_epochs_are_taken_as_written() -> None:
    assert make_schedule(epochs=0.07, samples=100, batch_size=1).steps == 7
    assert make_schedule(epochs="0.5", samples=101, batch_size=1).steps == 51
    assert make_schedule(epochs=0.5, samples=100, batch_size=1, val_samples=10).validation_steps == 10


@given(
    epochs=st.integers(1, 1000),
    samples=st.integers(1, 10**7),
    batch=st.integers(1, 4096),
    accumulation=st.integers(1, 16),
    devices=st.integers(1, 64),
)
def test_steps_cover_the_samples_and_no_step_is_empty(
    epochs: int, samples: int, batch: int, accumulation: int, devices: int
) -> None:
    plan = make_schedule(epochs=epochs, samples=samples, batch_size=batch, accumulation=accumulation, devices=devices)
    assert plan.steps_per_epoch is not None
    assert plan.last_step_samples is not None
    assert plan.steps == epochs * plan.steps_per_epoch
    assert 0 < plan.last_step_samples <= plan.samples_per_step
    more = make_schedule(
        epochs=epochs + 1, samples=samples, batch_size=batch, accumulation=accumulation, devices=devices
    )
    assert more.steps > plan.steps


LENGTH: dict[str, Any] = {"epochs": 1, "samples": 100}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 5}, r"`epochs` 5 needs the size of the training set: give `samples` or `dataset`"),
        ({}, r"run length missing"),
        ({"dataset_samples": 50_000}, r"run length missing"),
        ({"epochs": 5, "steps": 7, "samples": 9}, r"`epochs` 5 and `steps` 7 contradict"),
        ({"steps": 7, "tokens": 9, "tokens_per_sample": 4}, r"`steps` 7 and `tokens` 9 contradict"),
        ({"tokens": 1000}, r"`tokens` 1000 needs a model that reads sequences"),
        ({"steps": 7, "val_samples": 10}, r"`val_samples` 10 needs the number of epochs"),
        ({"epochs": math.nan, "samples": 9}, r"`epochs` nan cannot be used"),
        ({"epochs": 0, "samples": 9}, r"`epochs` 0 cannot be used: give a number above 0"),
        ({"epochs": -3, "samples": 9}, r"`epochs` -3 cannot"),
        ({"epochs": "inf", "samples": 9}, r"`epochs` inf cannot"),
        ({"epochs": "ten", "samples": 9}, r"`epochs` ten cannot"),
        ({"steps": 1.5}, r"`steps` 1.5 cannot be used: give a whole number"),
        ({**LENGTH, "batch_size": 0}, r"`batch_size` 0 cannot"),
        ({**LENGTH, "batch_size": "nan"}, r"`batch_size` nan cannot"),
        ({**LENGTH, "batch_size": 2.5}, r"`batch_size` 2.5 cannot be used: give a whole number"),
        ({**LENGTH, "samples": -1}, r"`samples` -1 cannot"),
        ({**LENGTH, "val_samples": 0}, r"`val_samples` 0 cannot"),
        ({**LENGTH, "accumulation": 0}, r"`accumulate` 0 cannot"),
        ({**LENGTH, "devices": "1e999"}, r"`devices` 1e999 cannot"),
        ({"steps": 10**15 + 1}, r"the run has more than 1,000,000,000,000,000 steps: give a shorter one"),
        ({"epochs": 1e308, "samples": 1e300}, r"the run has more than"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(JoulecastError, match=message) as caught:
        make_schedule(**{"batch_size": 10, **options})
    assert "\n" not in str(caught.value)


def test_equation_3_5_1() -> None:
    assert time_left(70.6, 100, 4) == pytest.approx(6777.6)
    assert time_left(70.6, 100, 100) == 0
    kwh = time_left(Interval(0.02, 0.01, 0.04), 10, 5)
    assert (kwh.low, kwh.value, kwh.high) == pytest.approx((0.05, 0.1, 0.2))


@pytest.mark.parametrize(("total", "current"), [(10, 11), (10, -1), (math.nan, 1), (10, math.nan), (math.inf, 1)])
def test_time_left_outside_the_run(total: float, current: float) -> None:
    with pytest.raises(JoulecastError, match="cannot be used"):
        time_left(1.0, total, current)
