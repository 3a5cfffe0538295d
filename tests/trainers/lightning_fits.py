"""The modules and the fit of test_lightning.py."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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
