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
        "train.py:14 starts a training (Net.forward): it was stopped there, and model is read as it was then",
    )


def test_a_loop_in_a_function(tmp_path):
    text = NET + "def fit(net):\n    model = net" + LOOP + "def main():\n    net = Net(6)\n    fit(net)\nmain()\n"
    model = loaded(tmp_path, text)
    assert model.model.lin.out_features == 6
    assert model.notes[0].startswith("train.py:14 in fit starts a training (Net.forward)")


def test_a_step_without_backward_of_torchs_own(tmp_path):
    text = NET + "model = Net()\ntorch.optim.Adam(model.parameters()).step()\n"
    assert "starts a training (Adam.step)" in loaded(tmp_path, text).notes[0]


def test_several_models_are_listed_with_the_line(tmp_path):
    text = NET + "class Other(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 3)\n"
    text += "a, b = Net(), Other()\nwhile True:\n    b(a.lin.weight).sum().backward()\n"
    with pytest.raises(JoulecastError, match=r"train\.py:15 starts a training .* of a and b; name the class of one"):
        loaded(tmp_path, text)


def test_a_builder_that_trains(tmp_path):
    text = NET + "def build_model():\n    net = Net(7)\n    net.lin.weight.sum().backward()\n    return net\n"
    model = loaded(tmp_path, text)
    assert model.model.lin.out_features == 7
    assert model.notes[0].startswith("train.py:12 in build_model starts a training (Tensor.backward)")


def test_a_builder_that_trains_several_models(tmp_path):
    text = NET + "def build_model():\n    a, b = Net(), Net()\n    (a.lin.weight + b.lin.weight).sum().backward()\n"
    with pytest.raises(JoulecastError, match=r"train\.py:12 in build_model starts a training .* while it builds"):
        loaded(tmp_path, text)


def test_a_function_that_trains_can_be_named(tmp_path):
    text = NET + "def main():\n    net = Net(6)\n" + LOOP.replace("model", "net") + "main = main\n"
    path = tmp_path / "train.py"
    path.write_text(text)
    model = load_model(f"{path}:main")
    assert model.model.lin.out_features == 6
    assert model.training.name == "net"


def test_an_evaluation_before_the_training(tmp_path):
    evaluation = "model.eval()\nfor _ in range(10**9):\n    with torch.no_grad():\n        model(torch.zeros(5, 3))\n"
    optimizer = "optimizer = torch.optim.AdamW(model.parameters())\n"
    model = loaded(tmp_path, NET + "model = Net(5)\n" + optimizer + evaluation)
    assert model.notes[0].startswith("train.py:15 starts a training (Net.forward)")
    ((batch,), kwargs) = model.training.called_with
    assert (tuple(batch.shape), kwargs) == ((5, 3), {})
    assert [type(optimizer) for optimizer in model.training.optimizers] == [torch.optim.AdamW]


def test_a_call_that_only_shows_the_output_is_not_a_training(tmp_path):
    text = NET + "model = Net(5)\nwidth = model(torch.zeros(2, 3)).shape[1]\nmodel = Net(width + 1)\n"
    found = loaded(tmp_path, text)
    assert found.model.lin.out_features == 6
    assert found.training is None


def test_a_training_without_an_optimizer(tmp_path):
    text = NET + "model = Net(5)\nfor _ in range(10**9):\n"
    text += "    model(torch.zeros(7, 3)).sum().backward()\n    model.lin.weight.data -= model.lin.weight.grad\n"
    training = loaded(tmp_path, text).training
    assert [tuple(tensor.shape) for tensor in training.called_with[0]] == [(7, 3)]
    assert training.optimizers == ()


def test_backward_of_a_tensor_alone_is_no_training(tmp_path):
    text = NET + "torch.ones(1, device='cuda:0', requires_grad=True).backward()\nmodel = Net(5)\n"
    found = loaded(tmp_path, text)
    assert (found.model.lin.out_features, found.training, found.notes) == (5, None, ())


def test_one_of_two_models_with_optimizers_is_not_taken_for_the_whole(tmp_path):
    text = NET + NET.replace("Net", "Other") + "a, b = Net(3), Other()\n"
    text += "optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in (a, b)]\n"
    text += "b(a(torch.zeros(1, 3))).sum().backward()\n"
    with pytest.raises(JoulecastError, match=r"train\.py:21 starts a training \(Tensor\.backward\) of a and b"):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("region", "precision"),
    [
        ('torch.autocast("cuda")', "float16"),
        ('torch.autocast("cuda", dtype=torch.bfloat16)', "bfloat16"),
        ('torch.amp.autocast("cuda", enabled=False)', None),
        ("torch.cuda.amp.autocast()", "float16"),
        ("contextlib.nullcontext()", None),
    ],
)
@pytest.mark.filterwarnings("ignore:User provided device_type:UserWarning", "ignore:.*autocast:FutureWarning")
@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
def test_the_autocast_around_the_call(tmp_path, region, precision):
    text = NET + "import contextlib\nmodel = Net(5)\ntorch.optim.SGD(model.parameters(), 0.1)\n"
    text += f"with torch.autocast('cpu'):\n    pass\nwith {region}:\n    model(torch.zeros(5, 3))\n"
    assert loaded(tmp_path, text).training.precision == precision


def test_bare_excepts_do_not_let_it_train(tmp_path):
    text = NET + "model = Net(5)\nsteps = 0\ntry:" + LOOP.replace("float(loss)", "steps += 1")
    text += "except Exception:\n    steps = -1\nmodel = None\n"
    assert loaded(tmp_path, text).model.lin.out_features == 5


def test_torch_is_as_before(tmp_path):
    hooks = sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    backward, before = torch.Tensor.backward, len(hooks)
    patched = nn.Module.__call__, torch.optim.Optimizer.__init__, torch.autocast.__init__
    loaded(tmp_path, NET + "model = Net(5)\nif True:" + LOOP)
    assert torch.Tensor.backward is backward
    assert len(hooks) == before
    assert (nn.Module.__call__, torch.optim.Optimizer.__init__, torch.autocast.__init__) == patched
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


def test_a_script_with_its_main_block(tmp_path):
    text = NET.replace(
        "import torch", "from __future__ import annotations\nimport dataclasses, typing\nimport torch", 1
    )
    text += "@dataclasses.dataclass\nclass Width:\n    value: Number = 5\nNumber = int\n"
    text += "if __name__ == '__main__':\n    assert typing.get_type_hints(Width) == {'value': int}\n"
    text += "    import wave  # a module that stays imported\n    model = Net(Width().value)\n" + LOOP
    path, own = tmp_path / "train.py", sys.modules["__main__"]
    path.write_text(text)
    assert load_model(f"{path}:__main__").training.name == "model"
    assert load_model(str(path)).training is None
    assert sys.modules["__main__"] is own
    assert "wave" in sys.modules
