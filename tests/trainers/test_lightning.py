"""Real trainings with Lightning's Trainer and a Budget in `callbacks=[...]`."""

from __future__ import annotations

import csv
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from joulecast.trainers.budget import Budget
from joulecast.trainers.terms import BudgetExceeded

L = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS, BATCHES, BATCH = 2, 20, 4


class Net(L.LightningModule):  # type: ignore[misc, name-defined]
    """With the usual contents of a training_step: dropout, a metric, a list of losses, logs, and a pause."""

    def __init__(self, pause_s: float = 0.0) -> None:
        from torchmetrics.classification import MulticlassAccuracy

        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))
        self.accuracy = MulticlassAccuracy(2)
        self.losses: list[torch.Tensor] = []
        self.pause_s = pause_s

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        scores = self.net(batch[0])
        loss = nn.functional.cross_entropy(scores, batch[1])
        self.accuracy(scores, batch[1])
        self.log("loss", loss)
        self.log("accuracy", self.accuracy)
        self.losses.append(loss.detach())
        time.sleep(self.pause_s)
        return loss

    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ByHand(Net):
    """Calls its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def fit(folder: Path, *callbacks: Any, module: Net | None = None, **options: Any) -> tuple[Any, Net]:
    L.seed_everything(1)
    data = TensorDataset(torch.randn(BATCHES * BATCH, 8), torch.randint(2, (BATCHES * BATCH,)))
    settings = {"max_epochs": EPOCHS, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    ckpt_path = options.pop("ckpt_path", None)
    trainer = L.Trainer(callbacks=list(callbacks), **{**settings, **quiet, **options})
    module = module or Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(data, BATCH, shuffle=True), DataLoader(data, BATCH), ckpt_path=ckpt_path)
    return trainer, module


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "joulecast")


def test_training_is_the_same_under_watch(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, alone = fit(tmp_path)
    trainer, watched = fit(tmp_path, budget("2 kWh"))
    assert torch.equal(torch.stack(watched.losses), torch.stack(alone.losses))
    assert len(watched.losses) == EPOCHS * BATCHES  # the trace left nothing in the list
    assert torch.equal(watched.accuracy.compute(), alone.accuracy.compute())
    first, last = (line for line in caplog.messages if "steps" in line)
    assert first.startswith("40 steps of Net (batch 4, momentum, float32) on made-up will take")
    assert last.startswith("40 steps took")
    assert "measured" in last
    assert trainer.global_step == EPOCHS * BATCHES


def test_figures_go_to_the_trainers_logger(budget: Callable[..., Budget], tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fit(tmp_path, budget("2 kWh"), logger=logger, log_every_n_steps=10)
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
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = budget("2 kWh").lightning()
    seconds = {}

    class Spy(L.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, *_: Any) -> None:
            seconds["estimate"] = held._run.estimate.seconds.value
            seconds["step"] = held._run.prediction.step_s.value
            seconds["validation"] = held._run.prediction.validation_s.value
            seconds["length"] = held._run.length

    fit(tmp_path, held, Spy(), accumulate_grad_batches=4)
    assert "10 steps of Net (batch 16," in caplog.text  # 20 batches an epoch in fours, twice
    length: Any = seconds["length"]
    assert (length.steps, length.accumulation, length.validations, length.validation_batches) == (10, 4, 2, 20)
    expected = 10 * seconds["step"] + 2 * seconds["validation"]
    assert seconds["estimate"] == pytest.approx(expected)
    # A validation of 20 batches forward is less than 20 times a quarter of a step, and more than a third of that.
    assert 20 * seconds["step"] / 4 / 3 < seconds["validation"] < 20 * seconds["step"] / 4


def test_what_does_not_fit_is_not_begun(budget: Callable[..., Budget], tmp_path: Path) -> None:
    module = Net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(BudgetExceeded, match="before the first of 40 steps"):
        fit(tmp_path, budget("1 J"), module=module)
    assert module.trainer.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_what_breaks_its_budget_is_saved_and_stopped(budget: Callable[..., Budget], tmp_path: Path) -> None:
    module = Net(pause_s=0.005)
    with pytest.raises(BudgetExceeded, match=r"stopped after \d+ of 40 steps, energy measured, saved as") as caught:
        fit(tmp_path, budget("60 J"), module=module, enable_checkpointing=True)
    stopped_at = module.trainer.global_step
    assert stopped_at < EPOCHS * BATCHES
    assert caught.value.checkpoint is not None
    again = Net.load_from_checkpoint(caught.value.checkpoint)
    assert again.pause_s == 0.005
    saved = torch.load(caught.value.checkpoint, weights_only=False)
    assert saved["global_step"] == stopped_at
    trainer, _ = fit(tmp_path, budget("2 kWh"), ckpt_path=caught.value.checkpoint)
    assert trainer.global_step == EPOCHS * BATCHES  # it goes on where it was stopped


def test_with_checkpoints_off_only_a_path_that_is_given_is_written(
    budget: Callable[..., Budget], tmp_path: Path
) -> None:
    with pytest.raises(BudgetExceeded) as without:
        fit(tmp_path, budget("60 J"), module=Net(0.005))
    assert without.value.checkpoint is None
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(BudgetExceeded, match=r"saved as .*stopped\.ckpt"):
        fit(tmp_path, budget("60 J", checkpoint=path), module=Net(0.005))
    assert path.is_file()


def test_warn_stops_and_goes_on_after_fit(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, _ = fit(tmp_path, budget("60 J", on_exceed="warn"), module=Net(0.005))
    assert 0 < trainer.global_step < EPOCHS * BATCHES
    assert "stopped after" in caplog.text


def test_min_epochs_holds_nothing_back(budget: Callable[..., Budget], tmp_path: Path) -> None:
    module = Net(0.005)
    with pytest.raises(BudgetExceeded, match="stopped after"):
        fit(tmp_path, budget("60 J"), module=module, min_epochs=2)
    assert module.trainer.global_step < EPOCHS * BATCHES


def test_a_meter_that_fails_ends_no_training(
    budget: Callable[..., Budget],
    constant_power: Callable[..., str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = budget("2 kWh", meter=constant_power(1000.0, 0.1))
    trainer, _ = fit(tmp_path, held, module=Net(0.005))
    assert trainer.global_step == EPOCHS * BATCHES
    assert len([line for line in caplog.messages if "the energy meter failed" in line]) == 1
    assert "their energy is unknown" in caplog.text


def test_what_calls_its_optimizer_itself_is_predicted(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, module = fit(tmp_path, budget("2 kWh"), module=ByHand())
    assert len(module.losses) == EPOCHS * BATCHES
    assert "40 steps of ByHand (batch 4, momentum, float32)" in caplog.text
    assert "40 steps took" in caplog.text


def test_a_step_that_counts_its_labels_is_traced(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.most = int(torch.bincount(batch[1]).max())
            return super().training_step(batch, batch_idx)

    fit(tmp_path, budget("2 kWh"), module=Counting())
    assert "40 steps of Counting (batch 4, momentum, float32)" in caplog.text
    assert "cannot be traced" not in caplog.text


def test_if_the_step_cannot_be_traced_its_forward_pass_is(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(Net):
        def forward(self, inputs: torch.Tensor) -> Any:
            return self.net(inputs)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch[0].is_meta or type(batch[0]) is not torch.Tensor:
                raise RuntimeError("only a real batch will do")
            return super().training_step(batch, batch_idx)

    fit(tmp_path, budget("2 kWh"), module=Counting())
    assert "40 steps of Counting (batch 4, momentum, float32)" in caplog.text
    assert "training_step cannot be traced" in caplog.text
    assert "the prediction uses its forward pass" in caplog.text


def test_one_budget_watches_one_fit_after_the_other(
    budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = budget("2 kWh")
    for _ in range(2):
        fit(tmp_path, held)
    assert caplog.text.count("40 steps took") == 2


def test_a_training_that_fails_leaves_no_meter_behind(budget: Callable[..., Budget], tmp_path: Path) -> None:
    import threading

    class Failing(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch_idx == 3:
                raise RuntimeError("out of data")
            return super().training_step(batch, batch_idx)

    before = threading.enumerate()
    with pytest.raises(RuntimeError, match="out of data"):
        fit(tmp_path, budget("2 kWh"), module=Failing())
    assert not [one for one in threading.enumerate() if one.name == "joulecast-meter" and one not in before]
