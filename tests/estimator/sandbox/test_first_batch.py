"""The model and the first batch of a trainer's training, read before it starts."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from joulecast.estimator.model.load import load_model
from joulecast.estimator.sandbox.first_batch import Batch, first_batch

LOADER = DataLoader(TensorDataset(torch.zeros(9, 3), torch.ones(9)), batch_size=4, shuffle=True)
NET = nn.Linear(3, 4)


def shapes(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in batch.args[0]]


def test_of_lightning():
    trainer = SimpleNamespace(precision="bf16-mixed")
    with torch.device("meta"):  # as while a model is built
        batch = first_batch("Trainer.fit", (trainer, NET, LOADER), {})
    assert (batch.model, batch.autocast, batch.problem) == (NET, torch.bfloat16, "")
    assert shapes(batch) == [(4, 3), (4,)]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "TypeError: 'NoneType' object is not iterable"),
        ({"train_dataloaders": [LOADER]}, "it is a DataLoader without tensors"),
        ({"train_dataloaders": [{"text": "a"}]}, "it is a dict without tensors"),
    ],
)
def test_a_batch_that_is_not_read_has_a_reason(given, problem):
    batch = first_batch("Trainer.fit", (SimpleNamespace(precision="bf16-true"), NET), given)
    assert (batch.args, batch.problem, batch.autocast) == ((), problem, None)


def test_of_transformers():
    batches = [{"input_ids": torch.zeros(4, 7), "labels": torch.zeros(4, 7)}]
    options = SimpleNamespace(bf16=False, fp16=True, optim=SimpleNamespace(value="adamw_torch"))
    trainer = SimpleNamespace(model=NET, args=options, get_train_dataloader=lambda: batches)
    batch = first_batch("Trainer.train", (trainer,), {})
    assert (batch.model, dict(batch.kwargs), batch.autocast) == (NET, batches[0], torch.float16)
    assert batch.optimizers == ("adamw_torch",)


def test_a_tokenizers_batch_is_a_dictionary():
    """transformers' collators give a UserDict."""
    batches = [UserDict(input_ids=torch.zeros(4, 7), labels=torch.zeros(4, 7))]
    options = SimpleNamespace(bf16=False, fp16=False, optim="sgd")
    trainer = SimpleNamespace(model=NET, args=options, get_train_dataloader=lambda: batches)
    assert dict(first_batch("Trainer.train", (trainer,), {}).kwargs) == batches[0].data
    batch = first_batch("Trainer.fit", (SimpleNamespace(precision=None), NET, batches), {})
    assert (batch.args, batch.problem) == ((batches[0].data,), "")


def test_data_that_cannot_be_read():
    def missing():
        raise FileNotFoundError("train.bin")

    options = SimpleNamespace(bf16=False, fp16=False, optim="sgd")
    trainer = SimpleNamespace(model=NET, args=options, get_train_dataloader=missing)
    assert first_batch("Trainer.train", (trainer,), {}) == Batch(
        NET, optimizers=("sgd",), problem="FileNotFoundError: train.bin"
    )
    assert first_batch("Tensor.backward", (), {}) is None


def test_a_script_of_transformers(tmp_path):
    pytest.importorskip("accelerate")
    TrainingArguments = pytest.importorskip("transformers").TrainingArguments  # noqa: N806
    (tmp_path / "train.py").write_text(
        "import torch\nfrom transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments\n"
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n        return 100\n"
        "    def __getitem__(self, index):\n"
        "        return {'input_ids': torch.arange(7), 'labels': torch.arange(7)}\n"
        "if __name__ == '__main__':\n"
        "    args = TrainingArguments(use_cpu=True, bf16=True, per_device_train_batch_size=4, report_to=[],\n"
        f"                             output_dir={str(tmp_path / 'out')!r})\n"
        "    net = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1))\n"
        "    Trainer(model=net, args=args, train_dataset=Data()).train()\n"
    )
    training = load_model(f"{tmp_path / 'train.py'}:__main__").training
    args, kwargs = training.called_with
    assert (training.name, args, training.precision) == ("net", (), "bfloat16")
    assert training.optimizers == (TrainingArguments(use_cpu=True, output_dir=str(tmp_path)).optim.value,)
    assert {name: tuple(tensor.shape) for name, tensor in kwargs.items()} == {"input_ids": (4, 7), "labels": (4, 7)}


def test_a_script_of_lightning(tmp_path):
    pytest.importorskip("lightning")
    (tmp_path / "train.py").write_text(
        "import lightning, torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "class Lit(lightning.LightningModule):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = torch.nn.Linear(3, 4)\n"
        "    def training_step(self, batch, index):\n        return self.net(batch[0]).sum() + batch[1].sum()\n"
        "def main():\n"
        "    loader = DataLoader(TensorDataset(torch.zeros(9, 3), torch.ones(9)), batch_size=4)\n"
        "    lightning.Trainer(accelerator='cpu', logger=False, enable_checkpointing=False).fit(Lit(), loader)\n"
    )
    training = load_model(f"{tmp_path / 'train.py'}:main").training
    (batch,), kwargs = training.called_with
    assert ([tuple(tensor.shape) for tensor in batch], kwargs) == ([(4, 3), (4,)], {})


def test_data_that_is_not_read_has_a_note(tmp_path):
    pytest.importorskip("lightning")
    (tmp_path / "train.py").write_text(
        "import lightning, torch\n"
        "class Lit(lightning.LightningModule):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = torch.nn.Linear(3, 4)\n"
        "def main():\n"
        "    lightning.Trainer(accelerator='cpu', logger=False, enable_checkpointing=False).fit(Lit(), [['text']])\n"
    )
    loaded = load_model(f"{tmp_path / 'train.py'}:main")
    assert loaded.training.called_with is None
    assert loaded.notes[-1] == (
        "the first batch of the training was not read (it is a list without tensors): its shapes are not used"
    )
