"""Real trainings with Lightning's Trainer and a Budget in `callbacks=[...]`."""

from __future__ import annotations

import csv
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from joulecast.trainers.budget import Budget
from joulecast.trainers.terms import BudgetExceeded

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs joulecast[lightning]"),
]
EPOCHS, BATCHES = 2, 20


@pytest.fixture(scope="module")
def fits() -> ModuleType:
    """Imported here, because Lightning takes seconds, also where its tests are only collected."""
    from . import lightning_fits

    return lightning_fits


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "joulecast")


def test_training_is_the_same_under_watch(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, alone = fits.fit(tmp_path)
    trainer, watched = fits.fit(tmp_path, budget("2 kWh"))
    assert torch.equal(torch.stack(watched.losses), torch.stack(alone.losses))
    assert len(watched.losses) == EPOCHS * BATCHES  # the trace left nothing in the list
    assert torch.equal(watched.accuracy.compute(), alone.accuracy.compute())
    first, last = (line for line in caplog.messages if "steps" in line)
    assert first.startswith("40 steps of Net (batch 4, momentum, float32) on made-up will take")
    assert last.startswith("40 steps took")
    assert "measured" in last
    assert trainer.global_step == EPOCHS * BATCHES


def test_figures_go_to_the_trainers_logger(fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fits.fit(tmp_path, budget("2 kWh"), logger=logger, log_every_n_steps=10)
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["joulecast/energy_measured_j"]]
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20, 25, 30, 35, 40, 40]
    joules = [float(row["joulecast/energy_measured_j"]) for row in rows]
    assert joules == sorted(joules)
    assert float(rows[-1]["joulecast/forecast_energy_kwh"]) == pytest.approx(joules[-1] / 3.6e6, rel=0.05)
    widths = [
        float(row["joulecast/forecast_seconds_high"]) - float(row["joulecast/forecast_seconds_low"]) for row in rows
    ]
    assert widths[-1] < widths[0] / 2


def test_accumulation_and_validation_are_predicted(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = budget("2 kWh").lightning()
    seconds = {}

    class Spy(fits.L.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, *_: Any) -> None:
            seconds["estimate"] = held._run.estimate.seconds.value
            seconds["step"] = held._run.prediction.step_s.value
            seconds["validation"] = held._run.prediction.validation_s.value
            seconds["length"] = held._run.length

    fits.fit(tmp_path, held, Spy(), accumulate_grad_batches=4)
    assert "10 steps of Net (batch 16," in caplog.text  # 20 batches an epoch in fours, twice
    length: Any = seconds["length"]
    assert (length.steps, length.accumulation, length.validations, length.validation_batches) == (10, 4, 2, 20)
    expected = 10 * seconds["step"] + 2 * seconds["validation"]
    assert seconds["estimate"] == pytest.approx(expected)
    # A validation of 20 batches forward is less than 20 times a quarter of a step, and more than a third of that.
    assert 20 * seconds["step"] / 4 / 3 < seconds["validation"] < 20 * seconds["step"] / 4


def test_what_does_not_fit_is_not_begun(fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path) -> None:
    module = fits.Net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(BudgetExceeded, match="before the first of 40 steps"):
        fits.fit(tmp_path, budget("1 J"), module=module)
    assert module.trainer.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_what_breaks_its_budget_is_saved_and_stopped(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path
) -> None:
    module = fits.Net(pause_s=0.005)
    with pytest.raises(BudgetExceeded, match=r"stopped after \d+ of 40 steps, energy measured, saved as") as caught:
        fits.fit(tmp_path, budget("60 J"), module=module, enable_checkpointing=True)
    stopped_at = module.trainer.global_step
    assert stopped_at < EPOCHS * BATCHES
    assert caught.value.checkpoint is not None
    again = fits.Net.load_from_checkpoint(caught.value.checkpoint)
    assert again.pause_s == 0.005
    saved = torch.load(caught.value.checkpoint, weights_only=False)
    assert saved["global_step"] == stopped_at
    trainer, _ = fits.fit(tmp_path, budget("2 kWh"), ckpt_path=caught.value.checkpoint)
    assert trainer.global_step == EPOCHS * BATCHES  # it goes on where it was stopped


def test_with_checkpoints_off_only_a_path_that_is_given_is_written(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path
) -> None:
    with pytest.raises(BudgetExceeded) as without:
        fits.fit(tmp_path, budget("60 J"), module=fits.Net(0.005))
    assert without.value.checkpoint is None
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(BudgetExceeded, match=r"saved as .*stopped\.ckpt"):
        fits.fit(tmp_path, budget("60 J", checkpoint=path), module=fits.Net(0.005))
    assert path.is_file()


def test_warn_stops_and_goes_on_after_fit(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, _ = fits.fit(tmp_path, budget("60 J", on_exceed="warn"), module=fits.Net(0.005))
    assert 0 < trainer.global_step < EPOCHS * BATCHES
    assert "stopped after" in caplog.text


def test_min_epochs_holds_nothing_back(fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path) -> None:
    module = fits.Net(0.005)
    with pytest.raises(BudgetExceeded, match="stopped after"):
        fits.fit(tmp_path, budget("60 J"), module=module, min_epochs=2)
    assert module.trainer.global_step < EPOCHS * BATCHES


def test_a_meter_that_fails_ends_no_training(
    fits: ModuleType,
    budget: Callable[..., Budget],
    constant_power: Callable[..., str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = budget("2 kWh", meter=constant_power(1000.0, 0.1))
    trainer, _ = fits.fit(tmp_path, held, module=fits.Net(0.005))
    assert trainer.global_step == EPOCHS * BATCHES
    assert len([line for line in caplog.messages if "the energy meter failed" in line]) == 1
    assert "energy unknown" in caplog.text


def test_what_calls_its_optimizer_itself_is_predicted(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, module = fits.fit(tmp_path, budget("2 kWh"), module=fits.ByHand())
    assert len(module.losses) == EPOCHS * BATCHES
    assert "40 steps of ByHand (batch 4, momentum, float32)" in caplog.text
    assert "40 steps took" in caplog.text


def test_a_step_that_counts_its_labels_is_traced(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(fits.Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.most = int(torch.bincount(batch[1]).max())
            return super().training_step(batch, batch_idx)

    fits.fit(tmp_path, budget("2 kWh"), module=Counting())
    assert "40 steps of Counting (batch 4, momentum, float32)" in caplog.text
    assert "cannot be traced" not in caplog.text


def test_if_the_step_cannot_be_traced_its_forward_pass_is(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(fits.Net):
        def forward(self, inputs: torch.Tensor) -> Any:
            return self.net(inputs)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch[0].is_meta or type(batch[0]) is not torch.Tensor:
                raise RuntimeError("only a real batch will do")
            return super().training_step(batch, batch_idx)

    fits.fit(tmp_path, budget("2 kWh"), module=Counting())
    assert "40 steps of Counting (batch 4, momentum, float32)" in caplog.text
    assert "training_step cannot be traced" in caplog.text
    assert "the prediction uses its forward pass" in caplog.text


def test_one_budget_watches_one_fit_after_the_other(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = budget("2 kWh")
    for _ in range(2):
        fits.fit(tmp_path, held)
    assert caplog.text.count("40 steps took") == 2


def test_a_training_that_fails_leaves_no_meter_behind(
    fits: ModuleType, budget: Callable[..., Budget], tmp_path: Path
) -> None:
    import threading

    class Failing(fits.Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch_idx == 3:
                raise RuntimeError("out of data")
            return super().training_step(batch, batch_idx)

    before = threading.enumerate()
    with pytest.raises(RuntimeError, match="out of data"):
        fits.fit(tmp_path, budget("2 kWh"), module=Failing())
    assert not [one for one in threading.enumerate() if one.name == "joulecast-meter" and one not in before]
