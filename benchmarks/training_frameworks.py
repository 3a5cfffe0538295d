"""Short trainings under the trainers of transformers, Lightning and Keras; see trainings.py."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from training_loop import Train, budget, plain, seed, state
from training_networks import convolutions


def transformers_trainer(**options: Any) -> Train:
    def train(watched: bool) -> dict[str, Any]:
        from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

        seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
        )
        model = BertForSequenceClassification(config)
        data = [{"input_ids": torch.randint(50, (12,)), "labels": index % 2} for index in range(24)]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=4,
                per_device_train_batch_size=4, **options,
            )  # fmt: skip
            trainer = Trainer(
                model, arguments, train_dataset=data, eval_dataset=data[:8], callbacks=[budget()] if watched else []
            )
            trainer.train()
        logs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        return state(model, trainer.optimizer.optimizer.state_dict(), logs)

    return train


def lightning_trainer(kind: str, **options: Any) -> Train:
    def train(watched: bool) -> dict[str, Any]:
        import lightning as L
        from torch.utils.data import DataLoader, TensorDataset

        seed(0)
        module = _adversarial() if kind == "adversarial" else _classifier(in_dictionary=kind == "dictionary")
        data = TensorDataset(torch.randn(12, 3, 16, 16), torch.randint(4, (12,)))
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=folder, callbacks=[budget()] if watched else [], **options,
            )  # fmt: skip
            validation = DataLoader(data, 4) if kind == "validation" else None
            trainer.fit(module, DataLoader(data, 4, shuffle=True), validation)
        return state(module, [optimizer.state_dict() for optimizer in trainer.optimizers])

    return train


def _classifier(in_dictionary: bool) -> Any:
    """A LightningModule with metrics and logs; its `training_step` returns the loss, or a dictionary with it."""
    import lightning as L
    import torchmetrics

    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = convolutions(), []
            self.right = torchmetrics.MeanMetric()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.right(loss)
            self.log("loss", loss)
            self.log("mean", self.right)
            self.seen.append(batch_idx)
            return {"loss": loss} if in_dictionary else loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-3)

    return Plain()


def _adversarial() -> Any:
    """A LightningModule that runs two optimizers itself."""
    import lightning as L

    class Adversarial(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = nn.Linear(4, 3 * 16 * 16), nn.Linear(3 * 16 * 16, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            real = batch[0].flatten(1)
            fake = self.generator(torch.randn(len(real), 4))
            second.zero_grad()
            self.manual_backward(F.softplus(self.critic(fake.detach())).mean() + F.softplus(-self.critic(real)).mean())
            second.step()
            first.zero_grad()
            self.manual_backward(F.softplus(-self.critic(fake)).mean())
            first.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.critic.parameters())

    return Adversarial()


def keras_fit(kind: str) -> Train:
    def train(watched: bool) -> dict[str, Any]:
        import keras
        from keras import layers

        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu")])
        if kind == "norm":
            model.add(layers.BatchNormalization())
        if kind == "dropout":
            model.add(layers.Dropout(0.3))
        model.add(layers.Flatten())
        model.add(layers.Dense(3))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data, labels = np.random.rand(16, 8, 8, 3).astype("float32"), np.random.randint(0, 3, 16)
        callbacks = [budget()] if watched else []
        history = model.fit(data, labels, epochs=2, batch_size=4, verbose=0, callbacks=callbacks)
        weights = [plain(np.asarray(value)) for value in model.get_weights()]
        kept = [plain(value.numpy(force=True)) for value in (one.value for one in model.optimizer.variables)]
        return {"weights": weights, "optimizer": kept, "losses": history.history["loss"]}

    return train
