"""Scripts that ask Lightning, Fabric or accelerate for GPUs, read on a machine without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.estimator.model.read_model import TraceOptions, read_model
from joulecast.estimator.trace.workload import Workload

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
def data():
    return DataLoader(TensorDataset(torch.randn(640, 32), torch.randint(10, (640,))), batch_size=64)
def network():
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
"""
LOOP = """
    for x, y in batches:
        loss = nn.functional.cross_entropy(net(x), y)
        {backward}
        optimizer.step()
        optimizer.zero_grad()
"""
LIGHTNING = """
import {package} as L
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()
    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
if __name__ == "__main__":
    L.Trainer(max_epochs=1, accelerator="gpu", devices=8, num_nodes=2, strategy="ddp", precision={precision!r}).fit(
        Net(), data())
"""
FABRIC = """
import lightning as L
def main():
    fabric = L.Fabric(accelerator="cuda", devices=8, strategy="fsdp", precision={precision!r})
    fabric.launch()
    net = network()
    net, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters()))
    batches = fabric.setup_dataloaders(data())
""" + LOOP.format(backward="fabric.backward(loss)")
ACCELERATE = """
from accelerate import Accelerator
def main():
    accelerator = Accelerator(mixed_precision={precision!r})
    net = network()
    net, optimizer, batches = accelerator.prepare(net, torch.optim.AdamW(net.parameters()), data())
""" + LOOP.format(backward="accelerator.backward(loss)")
TRANSFORMERS = """
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 128
    def __getitem__(self, index):
        return {{"input_ids": torch.arange(7), "labels": torch.arange(7)}}
def main():
    net = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=1, vocab_size=50))
    options = TrainingArguments({folder!r}, per_device_train_batch_size=64, report_to=[], {options})
    Trainer(model=net, args=options, train_dataset=Data()).train()
"""
MAIN = '\nif __name__ == "__main__":\n    main()\n'
PRODUCTS = 32 * 64 + 64 * 10


def read(folder: Path, text: str, **options: object) -> Workload:
    path = folder / "train.py"
    path.write_text(HEAD + text)
    return read_model(str(path), TraceOptions(own_batch=True, own_optimizer=True, **options))  # type: ignore[arg-type]


def forward_products(work: Workload) -> float:
    return sum(op.flops * op.count for op in work.ops if op.phase == "forward" and op.kind == "matmul") / 64


@pytest.mark.parametrize("package", ["lightning", "pytorch_lightning"])
@pytest.mark.parametrize(
    ("asked", "precision"), [("16-mixed", "float16"), ("bf16-mixed", "bfloat16"), (16, "float16"), (None, "float32")]
)
def test_a_lightning_trainer_for_several_gpus(tmp_path: Path, package: str, asked: object, precision: str) -> None:
    pytest.importorskip(package)
    work = read(tmp_path, LIGHTNING.format(package=package, precision=asked))
    assert (work.precision, work.optimizer, work.batch_size) == (precision, "adamw", 64)
    assert forward_products(work) == PRODUCTS


@pytest.mark.parametrize(("asked", "precision"), [("bf16-mixed", "bfloat16"), ("32-true", "float32")])
def test_a_fabric_for_several_gpus(tmp_path: Path, asked: str, precision: str) -> None:
    pytest.importorskip("lightning")
    work = read(tmp_path, FABRIC.format(precision=asked) + MAIN)
    assert (work.precision, work.optimizer, work.batch_size) == (precision, "adamw", 64)
    assert forward_products(work) == PRODUCTS


@pytest.mark.parametrize(("asked", "precision"), [("fp16", "float16"), ("bf16", "bfloat16"), ("no", "float32")])
def test_an_accelerator_with_mixed_precision(tmp_path: Path, asked: str, precision: str) -> None:
    """accelerate has no autocast in float16 on a CPU."""
    state = pytest.importorskip("accelerate.state")
    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        work = read(tmp_path, ACCELERATE.format(precision=asked) + MAIN)
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)
    assert (work.precision, work.optimizer, work.batch_size) == (precision, "adamw", 64)
    assert forward_products(work) == PRODUCTS


@pytest.mark.parametrize(
    ("options", "times", "compiled"),
    [("bf16=True", 3, False), ("bf16=True, gradient_checkpointing=True", 4, False), ("torch_compile=True", 3, True)],
)
def test_training_arguments(tmp_path: Path, options: str, times: int, compiled: bool) -> None:
    """With checkpointing, the two blocks run forward once more; the head's product is not repeated."""
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    work = read(tmp_path, TRANSFORMERS.format(folder=str(tmp_path / "out"), options=options) + MAIN)
    blocks = sum(op.flops * op.count for op in work.ops if op.kind == "matmul" and ".h." in op.layer)
    assert blocks == times * 64 * 7 * 2 * 12 * 8 * 8  # projections and MLP of two blocks
    assert (work.compiled, work.batch_size, work.optimizer) == (compiled, 64, "adamw")


def test_an_accelerator_around_two_models(tmp_path: Path) -> None:
    """Its format is that of the whole step: of the student's products and of its teacher's."""
    state = pytest.importorskip("accelerate.state")
    text = ACCELERATE.format(precision="fp16").replace("cross_entropy(net(x), y)", "mse_loss(net(x), teacher(x))")
    text = text.replace("    net = network()\n", "    net, teacher = network(), network().requires_grad_(False)\n")
    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        work = read(tmp_path, text + MAIN)
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)
    products = [op for op in work.ops if op.kind == "matmul" and op.phase == "forward"]
    assert sum(op.flops * op.count for op in products) == 2 * 64 * PRODUCTS
    assert {op.dtype for op in products} == {"float16"}


def test_accumulation_has_a_note(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    options = "gradient_accumulation_steps=4, gradient_checkpointing=False"
    work = read(tmp_path, TRANSFORMERS.format(folder=str(tmp_path / "out"), options=options) + MAIN)
    assert any("the training updates once in 4 batches: `accumulate` 4" in note for note in work.warnings)


def test_a_stated_optimizer_is_the_one_that_counts(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    text = LIGHTNING.format(package="lightning", precision=None)
    path = tmp_path / "train.py"
    path.write_text(HEAD + text)
    work = read_model(str(path), TraceOptions(optimizer="sgd"))
    assert work.optimizer == "sgd"
    assert any("has adamw, the update is costed as sgd: give `optimizer` adamw" in note for note in work.warnings)
