"""A LightningModule is read through its training step."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.inputs import InputSpec
from joulecast.estimator.model.read_model import TraceOptions, read_model
from joulecast.estimator.trace.workload import Workload

MODEL = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4, bias=False)

    def training_step(self, batch, batch_idx):
        {body}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def log(self, *args):
        raise RuntimeError("there is no logger")
"""


@pytest.mark.parametrize(
    "body",
    [
        "x, y = batch; loss = F.cross_entropy(self.layer(x), y); self.log('loss', loss); return loss",
        "return {'loss': self.layer(batch).mean()}",
        "x, y = batch; return F.l1_loss(self.layer(x), y[:, :4])",
        "return {'first': self.layer(batch[0]).mean(), 'count': 3}",
    ],
)
def test_the_batch_is_the_one_that_the_step_takes(tmp_path: Path, body: str) -> None:
    (tmp_path / "net.py").write_text(MODEL.format(body=body))
    work = read_model(str(tmp_path / "net.py"), TraceOptions(specs=[InputSpec((8,))], batch_size=3))
    assert (work.batch_size, work.forward_flops, work.flops) == (3, 3 * 32, 2 * 3 * 32)


def test_a_step_that_cannot_be_traced_says_what_to_define(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL.format(body="return None"))
    with pytest.raises(
        JoulecastError, match=r"training_step returned no loss and ran no backward pass.*define example_inputs"
    ):
        read_model(str(tmp_path / "net.py"), TraceOptions(specs=[InputSpec((8,))]))


# -- a step that runs its optimizers itself --------------------------------------------------------

BATCH = 3
G, D = BATCH * 4 * 8, BATCH * 8 * 5  # multiply-adds of the generator and of the critic, forward
GAN = """
import torch
from torch import nn

class Gan({base}):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(4, 8, bias=False), nn.Linear(8, 5, bias=False)
        {init}

    def loss_of_critic(self, real):
        fake = self.generator(torch.randn(len(real), 4)).detach()
        return self.critic(real).mean() - self.critic(fake).mean()

    def loss_of_generator(self, real):
        return -self.critic(self.generator(torch.randn(len(real), 4))).mean()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.critic.parameters())], []

{step}
"""
# Forward of both losses: the generator twice, the critic three times. Backward: the critic's weight for two batches;
# then the critic's input and weight, and the generator's weight.
FORWARD, CRITIC_BACKWARD, GENERATOR_BACKWARD = 2 * G + 3 * D, 2 * D, 2 * D + G
MANUAL = """
    def training_step(self, batch, batch_idx):
        (first, second), real = self.optimizers(), batch[0]
        for optimizer, loss in ((second, self.loss_of_critic), (first, self.loss_of_generator)):
            optimizer.zero_grad()
            self.manual_backward(loss(real))
            self.clip_gradients(optimizer, 0.5)
            optimizer.step()
"""
TOGGLED = """
    def training_step(self, batch):
        first, second = self.optimizers()
        for optimizer, loss in ((second, self.loss_of_critic), (first, self.loss_of_generator)):
            self.toggle_optimizer(optimizer)
            self.manual_backward(loss(batch[0]))
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)
"""
BY_INDEX = """
    def training_step(self, batch, batch_idx, optimizer_idx):
        return self.loss_of_generator(batch[0]) if optimizer_idx == 0 else {"loss": self.loss_of_critic(batch[0])}
"""
OWN = """
    configure_optimizers = None
    def training_step(self, batch):
        real = batch[0] if isinstance(batch, tuple) else batch
        for name, loss in (("critic", self.loss_of_critic), ("generator", self.loss_of_generator)):
            self.optimizer[name].zero_grad()
            loss(real).backward()
            self.optimizer[name].step()
        return {"ok": True}
"""
INIT = """self.optimizer = {
            "generator": torch.optim.SGD(self.generator.parameters(), 0.1),
            "critic": torch.optim.SGD(self.critic.parameters(), 0.1),
        }"""


def read_gan(tmp_path: Path, step: str, *, init: str = "", base: str = "nn.Module", **options: object) -> Workload:
    (tmp_path / "gan.py").write_text(GAN.format(step=step, init=init, base=base))
    return read_model(
        str(tmp_path / "gan.py"), TraceOptions(specs=[InputSpec((8,))], batch_size=BATCH, **{"layers": False} | options)
    )


@pytest.mark.parametrize(
    ("step", "init", "backward"),
    [
        (MANUAL, "", CRITIC_BACKWARD + GENERATOR_BACKWARD),
        (TOGGLED, "", CRITIC_BACKWARD + GENERATOR_BACKWARD - D),  # the critic's weight gets no gradient there
        (BY_INDEX, "", CRITIC_BACKWARD + GENERATOR_BACKWARD - D),
        (OWN, INIT, CRITIC_BACKWARD + GENERATOR_BACKWARD),
    ],
    ids=["manual", "toggled", "by index", "own optimizers"],
)
@pytest.mark.parametrize("layers", [False, True])
def test_steps_of_two_optimizers(tmp_path: Path, step: str, init: str, backward: int, layers: bool) -> None:
    work = read_gan(tmp_path, step, init=init, optimizer="sgd", layers=layers)
    assert (work.forward_flops, work.flops) == (FORWARD, FORWARD + backward)
    assert work.batch_size == BATCH
    assert work.tracer == "meta"
    updates = [op for op in work.ops if op.phase == "optimizer"]
    assert sorted((op.layer, op.count, op.dims["elements"]) for op in updates) == [
        ("module.critic", 1, 40),
        ("module.generator", 1, 32),
    ]
    assert not any("no gradient" in note or "in place of training_step" in note for note in work.warnings)


def test_a_critic_that_is_updated_more_often(tmp_path: Path) -> None:
    often = MANUAL.replace("((second, self.loss_of_critic)", "(*[(second, self.loss_of_critic)] * 4")
    work = read_gan(tmp_path, often)
    assert work.flops == FORWARD + 3 * (G + 2 * D) + 4 * CRITIC_BACKWARD + GENERATOR_BACKWARD
    assert {op.layer: op.count for op in work.ops if op.phase == "optimizer"} == {
        "module.critic": 4,
        "module.generator": 1,
    }


def test_a_step_that_only_gathers_gradients_updates_what_has_some(tmp_path: Path) -> None:
    gathers = """
    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss_of_critic(batch[0]))
        if (batch_idx + 1) % 2 == 0:
            self.optimizers()[1].step()
"""
    work = read_gan(tmp_path, gathers)
    assert work.flops == G + 2 * D + CRITIC_BACKWARD
    assert {op.layer for op in work.ops if op.phase == "optimizer"} == {"module.critic"}


def test_a_lightning_module_with_manual_optimization(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    work = read_gan(tmp_path, MANUAL, base="__import__('lightning').LightningModule")
    assert work.flops == FORWARD + CRITIC_BACKWARD + GENERATOR_BACKWARD
