"""Real trainings with transformers' Trainer and a Budget in `callbacks=[...]`."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from joulecast.trainers.budget import Budget
from joulecast.trainers.run import Length
from joulecast.trainers.terms import BudgetExceeded

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate"),
]

EPOCHS, BATCHES, BATCH = 2, 20, 4


def network() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    return transformers.BertForSequenceClassification(config)


# The callbacks' classes are made in functions: their base takes seconds to import, also where tests are only collected.


def slow() -> Any:
    """Makes steps of 5 ms and more."""

    class Slow(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            time.sleep(0.005)

    return Slow()


def heard() -> Any:
    """Has in `logs` what a logger receives before the callbacks of the user."""

    class Heard(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.logs: list[dict[str, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.logs.append({**logs, "step": state.global_step})

    return Heard()


def make(folder: Path, *callbacks: Any, model: Any = None, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": torch.randint(50, (8,), generator=generator), "labels": torch.tensor(index % 2)}
        for index in range(BATCHES * BATCH)
    ]
    settings = {
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "num_train_epochs": EPOCHS,
        "save_strategy": "no",
        "logging_steps": 5,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 1,
    }
    args = transformers.TrainingArguments(str(folder), **{**settings, **options})
    trainer = transformers.Trainer(
        model or network(), args, train_dataset=rows, eval_dataset=rows, callbacks=list(callbacks)
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "joulecast")


def losses(trainer: Any) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_training_is_the_same_under_watch(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = make(tmp_path)
    alone.train()
    watched = make(tmp_path, budget("2 kWh"))
    watched.train()
    assert losses(watched) == losses(alone)  # of every fifth step, as asked: none is lost to the figures
    assert len(losses(watched)) == EPOCHS * BATCHES // 5
    for one, other in zip(alone.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not watched.model._forward_pre_hooks
    first, last = (line for line in caplog.messages if "steps" in line)
    assert first.startswith("40 steps of BertForSequenceClassification (batch 4, adamw, float32) on made-up")
    assert last.startswith("40 steps took")


def test_figures_go_to_every_logger(budget: Callable[..., Budget], tmp_path: Path) -> None:
    logger = heard()
    trainer = make(tmp_path, logger, budget("2 kWh"))
    metrics = trainer.train().metrics
    assert metrics["joulecast/energy_measured_j"] == pytest.approx(1000 * metrics["joulecast/seconds"], rel=0.2)
    assert trainer.state.log_history[-1].items() >= metrics.items()
    rows = [row for row in logger.logs if "joulecast/energy_measured_j" in row]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert rows[-1]["joulecast/energy_measured_j"] == pytest.approx(1000 * rows[-1]["joulecast/seconds"], rel=0.2)
    assert [row for row in trainer.state.log_history if "joulecast/forecast_energy_kwh_high" in row]


def evaluated(held: Any, trainer: Any) -> tuple[Length, float]:
    """The length that the run expected, and the number of its validations."""
    seen: dict[str, Any] = {}

    class Spy(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_evaluate(self, *_: Any, **__: Any) -> None:
            seen["length"], seen["validations"] = held._run.length, held._run._validations.units

    trainer.add_callback(held)
    trainer.add_callback(Spy())
    trainer.train()
    return seen["length"], seen["validations"]


def test_evaluation_is_set_apart(budget: Callable[..., Budget], tmp_path: Path) -> None:
    trainer = make(tmp_path, eval_strategy="epoch", gradient_accumulation_steps=2)
    length, seen = evaluated(budget("2 kWh").transformers(), trainer)
    assert (length.steps, length.accumulation, length.validations, length.validation_batches) == (20, 2, 2, 20)
    assert seen == 2


def test_several_datasets_are_evaluated_each(budget: Callable[..., Budget], tmp_path: Path) -> None:
    trainer = make(tmp_path, eval_strategy="epoch")
    trainer.eval_dataset = {"one": trainer.train_dataset[:20], "other": trainer.train_dataset[20:80]}
    length, seen = evaluated(budget("2 kWh").transformers(), trainer)
    assert (length.validations, length.validation_batches) == (4, 10)
    assert seen == 4


def test_what_does_not_fit_is_not_begun(budget: Callable[..., Budget], tmp_path: Path) -> None:
    model = network()
    trainer = make(tmp_path, budget("1 J"), model=model)
    with pytest.raises(BudgetExceeded, match="before the first of 40 steps"):
        trainer.train()
    assert trainer.state.global_step == 0
    for one, other in zip(model.parameters(), network().parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_breaks_its_budget_is_saved_and_stopped(budget: Callable[..., Budget], tmp_path: Path) -> None:
    trainer = make(tmp_path, slow(), budget("80 J"))
    with pytest.raises(BudgetExceeded, match=r"stopped after \d+ of 40 steps, energy measured, saved as") as caught:
        trainer.train()
    stopped_at = trainer.state.global_step
    assert stopped_at < EPOCHS * BATCHES
    assert caught.value.checkpoint == f"{tmp_path}/checkpoint-{stopped_at}"
    again = transformers.BertForSequenceClassification.from_pretrained(caught.value.checkpoint)
    for one, other in zip(again.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, other)
    goes_on = make(tmp_path, budget("2 kWh"))
    goes_on.train(resume_from_checkpoint=caught.value.checkpoint)
    assert goes_on.state.global_step == EPOCHS * BATCHES


def test_warn_stops_and_train_returns(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(tmp_path, slow(), budget("80 J", on_exceed="warn"))
    assert trainer.train().global_step < EPOCHS * BATCHES
    assert "stopped after" in caplog.text


def test_a_meter_that_fails_ends_no_training(
    budget: Callable[..., Budget],
    constant_power: Callable[..., str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = heard()
    trainer = make(tmp_path, slow(), logger, budget("2 kWh", meter=constant_power(1000.0, 0.1)))
    assert trainer.train().global_step == EPOCHS * BATCHES
    assert len([line for line in caplog.messages if "the energy meter failed" in line]) == 1
    last = [row for row in logger.logs if "joulecast/seconds" in row][-1]
    assert "joulecast/energy_measured_j" not in last


def test_added_later_and_used_again(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(tmp_path)
    trainer.add_callback(budget("2 kWh"))
    trainer.train()
    trainer.train()
    assert caplog.text.count("40 steps took") == 2


def test_bfloat16_is_predicted_as_such(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, budget("2 kWh"), bf16=True, max_steps=3).train()
    assert "3 steps of BertForSequenceClassification (batch 4, adamw, bfloat16)" in caplog.text
