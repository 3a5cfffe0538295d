"""A file that starts a training is stopped before its first step."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.load import load_model
from joulecast.estimator.sandbox.training_stop import TrainingStarted, guard_module, training_stopped

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.lin = nn.Linear(3, width)
    def forward(self, x):
        return self.lin(x)
"""
LOOP = """
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(10**9):
        loss = model(torch.randn(8, 3)).sum()
        loss.backward()
        optimizer.step()
        float(loss)
"""


def loaded(tmp_path, text, **options):
    path = tmp_path / "train.py"
    path.write_text(text)
    return load_model(str(path), **options)


def test_a_loop_at_module_level(tmp_path):
    model = loaded(tmp_path, NET + "model = Net(5)\nif True:" + LOOP)
    assert model.model.lin.out_features == 5
    assert model.notes == (
        "train.py:15 starts a training (Tensor.backward): it was stopped there, and model is read as it was then",
    )


def test_a_loop_in_a_function(tmp_path):
    text = NET + "def fit(net):\n    model = net" + LOOP + "def main():\n    net = Net(6)\n    fit(net)\nmain()\n"
    model = loaded(tmp_path, text)
    assert model.model.lin.out_features == 6
    assert model.notes[0].startswith("train.py:15 in fit starts a training (Tensor.backward)")


def test_a_step_without_backward_of_torchs_own(tmp_path):
    text = NET + "model = Net()\ntorch.optim.Adam(model.parameters()).step()\n"
    assert "starts a training (Adam.step)" in loaded(tmp_path, text).notes[0]


def test_several_models_are_listed_with_the_line(tmp_path):
    text = NET + "class Other(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 3)\n"
    text += "a, b = Net(), Other()\nwhile True:\n    b(a.lin.weight).sum().backward()\n"
    with pytest.raises(JoulecastError, match=r"train\.py:15 starts a training .* several models: Net, Other"):
        loaded(tmp_path, text)


def test_a_builder_that_trains(tmp_path):
    text = NET + "def build_model():\n    net = Net()\n    net.lin.weight.sum().backward()\n    return net\n"
    with pytest.raises(JoulecastError, match=r"train\.py:12 in build_model starts a training .* while it builds"):
        loaded(tmp_path, text)


def test_bare_excepts_do_not_let_it_train(tmp_path):
    text = NET + "model = Net(5)\nsteps = 0\ntry:" + LOOP.replace("float(loss)", "steps += 1")
    text += "except Exception:\n    steps = -1\nmodel = None\n"
    assert loaded(tmp_path, text).model.lin.out_features == 5


def test_torch_is_as_before(tmp_path):
    hooks = sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    backward, before = torch.Tensor.backward, len(hooks)
    loaded(tmp_path, NET + "model = Net(5)\nif True:" + LOOP)
    assert torch.Tensor.backward is backward
    assert len(hooks) == before
    weight = nn.Parameter(torch.ones(1))
    (weight * 2).sum().backward()
    assert weight.grad.item() == 2


def test_a_trainer_that_is_imported_meanwhile_is_guarded(monkeypatch):
    trainer = type("Trainer", (), {"train": lambda self: "trained"})
    module = ModuleType("transformers.trainer")
    module.Trainer = trainer
    monkeypatch.setitem(sys.modules, "transformers.trainer", module)
    with training_stopped():
        guard_module(module)
        with pytest.raises(TrainingStarted, match=r"Trainer\.train"):
            trainer().train()
    assert trainer().train() == "trained"
    guard_module(module)  # outside: nothing
    assert trainer().train() == "trained"
