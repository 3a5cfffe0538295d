"""A LightningModule is read through its training step."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.inputs import InputSpec
from joulecast.estimator.model.read_model import TraceOptions, read_model

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
    ],
)
def test_the_batch_is_the_one_that_the_step_takes(tmp_path: Path, body: str) -> None:
    (tmp_path / "net.py").write_text(MODEL.format(body=body))
    work = read_model(str(tmp_path / "net.py"), TraceOptions(specs=[InputSpec((8,))], batch_size=3))
    assert (work.batch_size, work.forward_flops, work.flops) == (3, 3 * 32, 2 * 3 * 32)


def test_a_step_that_cannot_be_traced_says_what_to_define(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL.format(body="return None"))
    with pytest.raises(JoulecastError, match=r"training_step returned no loss.*define example_inputs"):
        read_model(str(tmp_path / "net.py"), TraceOptions(specs=[InputSpec((8,))]))
