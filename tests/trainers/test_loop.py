"""Real trainings in hand-written loops: unchanged by a budget, and stopped when they exceed one."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.optimizers import optimizer_of
from joulecast.trainers.budget import Budget
from joulecast.trainers.loop import Loop
from joulecast.trainers.terms import BudgetExceeded
from joulecast.trainers.tracing import bare

STEPS = 40
PAUSE_S = 0.005


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """From all three sources of random numbers."""
    noise = random.random() + np.random.random()
    return torch.randn(4, 8) + noise, torch.randint(2, (4,))


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, run: Loop | None, pause_s: float = 0.0) -> list[float]:
    losses = []
    for _ in range(STEPS):
        inputs, labels = batch()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        time.sleep(pause_s)
        if run is not None:
            run.step()
            if run.should_stop:
                break
    return losses


def seeded() -> tuple[nn.Module, torch.optim.Optimizer]:
    random.seed(1)
    np.random.seed(1)
    model = network()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_autocasts_cache_is_no_tensor_left_behind(
    budget: Callable[..., Budget], caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = seeded()
    with budget("2 kWh").watch(model, steps=2, optimizer=optimizer) as run:
        for _ in range(2):
            inputs, labels = batch()
            with torch.autocast("cpu", dtype=torch.bfloat16):  # it keeps casts of the trace's weights until it ends
                loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            run.step()
    assert run.estimate is not None
    assert not [line for line in caplog.messages if "still kept" in line]


@pytest.mark.parametrize("given", [True, False], ids=["example inputs", "first call"])
def test_training_is_the_same_under_watch(budget: Callable[..., Budget], given: bool) -> None:
    model, optimizer = seeded()
    alone = fit(model, optimizer, None)
    watched, optimizer = seeded()
    logged: list[Mapping[str, float]] = []
    inputs = torch.zeros(4, 8) if given else None
    with budget("2 kWh").watch(watched, inputs, steps=STEPS, optimizer=optimizer, log=logged.append) as run:
        assert fit(watched, optimizer, run) == alone
    for one, other in zip(model.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not watched._forward_pre_hooks
    assert run.estimate is not None
    assert run.forecast is not None
    assert run.forecast.steps == STEPS
    assert run.forecast.energy_label == "measured"
    assert logged[-1]["joulecast/energy_measured_j"] == pytest.approx(1000 * logged[-1]["joulecast/seconds"], rel=0.2)


def test_the_first_call_in_training_is_what_an_example_is(budget: Callable[..., Budget]) -> None:
    estimates = []
    for inputs in (torch.zeros(4, 8), None):
        model, optimizer = seeded()
        with torch.no_grad():
            model.eval()(torch.zeros(64, 8))  # no training yet
        model.train()
        with budget("2 kWh").watch(model, inputs, steps=STEPS, optimizer=optimizer) as run:
            fit(model, optimizer, run)
        estimates.append(run.estimate)
    assert estimates[0] == estimates[1] is not None


@pytest.mark.parametrize("given", [True, False], ids=["example inputs", "first call"])
def test_what_does_not_fit_is_not_begun(budget: Callable[..., Budget], given: bool) -> None:
    model, optimizer = seeded()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.zeros(4, 8) if given else None
    watch = budget("0.01 s").watch(model, inputs, steps=STEPS, optimizer=optimizer)
    with pytest.raises(BudgetExceeded, match="before the first of 40 steps"), watch as run:
        fit(model, optimizer, run)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_breaks_its_budget_is_saved_and_stopped(budget: Callable[..., Budget], tmp_path: Path) -> None:
    model, optimizer = seeded()
    limit = "50 J"  # predicted: 40 steps of 4 ms at 100 W; measured: of 5 ms and more at 1000 W
    path = tmp_path / "stopped.pt"
    watch = budget(limit, checkpoint=path).watch(model, steps=STEPS, optimizer=optimizer)
    with pytest.raises(BudgetExceeded, match=r"stopped after \d+ of 40 steps, energy measured, saved as"), watch as run:
        fit(model, optimizer, run, PAUSE_S)
    assert run.should_stop
    saved = torch.load(path, weights_only=True)
    again, optimizer = seeded()
    again.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_what_saves_is_yours_to_choose(budget: Callable[..., Budget], caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = seeded()
    saves: list[int] = []
    watch = budget("50 J", on_exceed="warn").watch(
        model, steps=STEPS, optimizer=optimizer, save=lambda: saves.append(1) or "the cloud"
    )
    with watch as run:
        losses = fit(model, optimizer, run, PAUSE_S)
    assert saves == [1]
    assert len(losses) < STEPS
    assert [line for line in caplog.messages if "saved as the cloud" in line]


def test_a_save_that_fails_hides_nothing(budget: Callable[..., Budget], caplog: pytest.LogCaptureFixture) -> None:
    def full() -> None:
        raise OSError("no space left on device")

    model, optimizer = seeded()
    watch = budget("50 J").watch(model, steps=STEPS, optimizer=optimizer, save=full)
    with pytest.raises(BudgetExceeded, match="stopped after"), watch as run:
        fit(model, optimizer, run, PAUSE_S)
    assert [line for line in caplog.messages if "the checkpoint failed (no space left on device)" in line]


def test_as_a_decorator(budget: Callable[..., Budget]) -> None:
    model, optimizer = seeded()

    @budget("2 kWh").watch(model, steps=STEPS, optimizer=optimizer)
    def training(run: Loop, scale: int, *, name: str) -> tuple[int, str, Loop]:
        fit(model, optimizer, run)
        return scale, name, run

    for _ in range(2):
        scale, name, run = training(3, name="net")
        assert (scale, name) == (3, "net")
        assert run.forecast is not None
        assert run.forecast.steps == STEPS


def test_a_meter_that_fails_ends_no_training(
    budget: Callable[..., Budget], constant_power: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = seeded()
    logged: list[Mapping[str, float]] = []
    meter = constant_power(1000.0, 0.1)
    with budget("2 kWh", meter=meter).watch(model, steps=STEPS, optimizer=optimizer, log=logged.append) as run:
        assert len(fit(model, optimizer, run, PAUSE_S)) == STEPS
    assert len([line for line in caplog.messages if "the energy meter failed" in line and "ends after" in line]) == 1
    assert "joulecast/energy_measured_j" not in logged[-1]


def test_a_model_that_cannot_be_traced_is_trained(
    budget: Callable[..., Budget], caplog: pytest.LogCaptureFixture
) -> None:
    class Exotic(nn.Module):
        ready = False

        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, inputs: torch.Tensor) -> Any:
            if not self.ready:
                raise ValueError("not in a trace, please")
            return self.net(inputs)

    model = Exotic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with budget("2 kWh").watch(model, torch.zeros(4, 8), steps=STEPS, optimizer=optimizer) as run:
        model.ready = True
        assert len(fit(model, optimizer, run)) == STEPS
    (line,) = [line for line in caplog.messages if "the prediction failed" in line]
    assert "ValueError: not in a trace, please" in line
    assert run.estimate is None


def test_autocast_is_seen(budget: Callable[..., Budget], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "joulecast")
    model, optimizer = seeded()
    watch = budget("2 kWh").watch(model, steps=STEPS, optimizer=optimizer)
    with watch as run, torch.autocast("cpu", dtype=torch.bfloat16):
        fit(model, optimizer, run)
    assert "(batch 4, momentum, bfloat16)" in caplog.text


def test_what_is_compiled_is_read_as_it_was_written(budget: Callable[..., Budget]) -> None:
    estimates = []
    for compiled in (False, True):
        model, optimizer = seeded()
        if compiled:
            model[0] = torch.compile(model[0], backend="eager")  # type: ignore[index, operator]
        with budget("2 kWh").watch(model, torch.zeros(4, 8), steps=STEPS, optimizer=optimizer) as run:
            estimates.append(run.estimate)
    assert estimates[0] is not None
    assert estimates[1] is not None
    assert estimates[1].seconds == estimates[0].seconds


def test_validation_is_set_apart(budget: Callable[..., Budget]) -> None:
    model, optimizer = seeded()
    watch = budget("2 kWh").watch(model, steps=STEPS, optimizer=optimizer, validations=1, validation_batches=4)
    with watch as run:
        fit(model, optimizer, run)
        with run.validation():
            time.sleep(0.2)
    assert run.forecast is not None
    assert run.forecast.so_far_s > 0.2
    parts = run._run._steps.total, run._run._validations.total
    assert parts[1] > 0.2
    assert run.forecast.so_far_s >= sum(parts)


@pytest.mark.parametrize(
    ("model", "steps", "message"),
    [("net", 10, r"the model to watch is a str; give a torch.nn.Module"), (nn.Linear(1, 1), 0, r"`steps` 0 cannot be")],
)
def test_what_cannot_be_watched(model: Any, steps: int, message: str) -> None:
    with pytest.raises(JoulecastError, match=message):
        Budget("2 kWh").watch(model, steps=steps)


def test_the_model_inside_its_wrappers() -> None:
    model = nn.Linear(1, 1)
    assert bare(torch.compile(model)) is model  # type: ignore[arg-type]
    assert bare(nn.DataParallel(model)) is model


class _Wrapped:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


def test_optimizers_are_priced_by_the_state_they_keep() -> None:
    weights = [nn.Parameter(torch.zeros(1))]
    assert optimizer_of(torch.optim.SGD(weights, lr=1)) == "sgd"
    assert optimizer_of(torch.optim.SGD(weights, lr=1, momentum=0.9)) == "momentum"
    assert optimizer_of(torch.optim.Adam(weights)) == "adam"
    assert optimizer_of(_Wrapped(torch.optim.AdamW(weights))) == "adamw"
    assert optimizer_of(torch.optim.RMSprop(weights)) == "rmsprop"
    assert optimizer_of(torch.optim.Adadelta(weights)) == "adadelta"
    assert [optimizer_of(name) for name in ("sgd", "momentum", "adam", "AdamW")] == [
        "sgd",
        "momentum",
        "adam",
        "adamw",
    ]


def test_a_scripted_model_trains_and_is_predicted_from_its_first_batch(budget: Callable[..., Budget]) -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with budget("2 kWh").watch(model, steps=2, optimizer=optimizer) as run:
        for _ in range(2):
            model(torch.zeros(3, 8)).sum().backward()
            optimizer.step()
            run.step()
    assert run.estimate is not None
