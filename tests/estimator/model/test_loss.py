"""The loss that is given by name or defined in the model's file: what a step then costs, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.estimator.answer.estimate import estimate
from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.model.inputs import parse_input
from joulecast.estimator.model.read_model import TraceOptions, read_model

BATCH = 10
BODY, HEAD = BATCH * 8 * 8, BATCH * 8 * 4
# The inputs of the model get no gradient; each head costs the gradients of its weight and of its input.
FORWARD = BODY + 2 * HEAD
ONE_HEAD, TWO_HEADS = FORWARD + BODY + 2 * HEAD, FORWARD + BODY + 4 * HEAD
NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 8, bias=False)
        self.left, self.right = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
    def forward(self, x):
        x = self.body(x)
        return self.left(x), self.right(x)
"""
FILE_LOSS = "def loss(output):\n    return output[0].mean()\n"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def read(text: str = NET, **options):
        (tmp_path / "net.py").write_text(text)
        return read_model("net.py", TraceOptions(specs=(parse_input("8"),), batch_size=BATCH, **options))

    return read


def test_without_one_every_output_is_trained(read):
    assert (read().forward_flops, read().flops) == (FORWARD, TWO_HEADS)


def test_the_file_may_define_it(read):
    work = read(NET + FILE_LOSS)
    assert work.flops == ONE_HEAD
    assert any("1 trainable parameter" in note for note in work.warnings)


@pytest.mark.parametrize(
    "beside", ["loss = 3.0\n", "loss = nn.CrossEntropyLoss\n", "def loss(model, x, y):\n    return 0\n"]
)
def test_what_is_no_loss_of_an_output_is_left_out(read, beside):
    assert read(NET + beside).flops == TWO_HEADS


def test_a_criterion_in_the_file(read):
    one = NET.replace("return self.left(x), self.right(x)", "return self.left(x)")
    work = read(one + "loss = nn.CrossEntropyLoss()\n")
    assert work.flops == BODY + HEAD + BODY + 2 * HEAD
    assert any(op.name == "nll_loss_forward" for op in work.ops)
    assert not any(op.name == "nll_loss_forward" for op in read(one, loss="torch.nn:MSELoss").ops)


@pytest.mark.parametrize("name", ["losses:right", "losses.py:right", "net.py:right", "losses:Losses.right"])
def test_one_given_by_name_comes_before_the_files(read, tmp_path, name):
    right = "def right(output):\n    return output[1].sum()\n"
    (tmp_path / "losses.py").write_text(right + "class Losses:\n    right = staticmethod(right)\n")
    assert read(NET + FILE_LOSS + right, loss=name).flops == ONE_HEAD


def test_a_second_parameter_gets_the_inputs_or_a_target(read, tmp_path):
    (tmp_path / "losses.py").write_text(
        "def rebuilt(output, x):\n    return (output[0] - x[:, :4]).square().mean()\n"
        "def labelled(output, target):\n"
        "    assert target.shape == (10,) and not target.is_floating_point()\n    return output[0].sum()\n"
    )
    assert read(loss="losses:rebuilt").flops == ONE_HEAD
    assert read(loss="losses:labelled").flops == ONE_HEAD


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:f",
            "`loss` no_such_module:f: there is no module no_such_module; give package.module:function",
        ),
        ("torch.no_such:f", "`loss` torch.no_such:f: there is no module torch.no_such;"),
        ("missing.py:f", "`loss` missing.py:f: there is no file missing.py; check the path"),
        ("torch.nn.functional:mse_los", "torch.nn.functional has no mse_los; did you mean mse_loss?"),
        ("math:pi", "`loss` math:pi is a float; give a function from the model's output to a scalar"),
        ("builtins:dict", "`loss` builtins:dict is a class; give a function"),
        ("no function", "`loss` 'no function' is not the name of a function; give package.module:function or FILE"),
        ("losses:whole", "`loss` returned a tensor of shape 10x4; return a tensor with one element"),
        ("losses:number", "`loss` returned a float; return a tensor with one element"),
        ("losses:constant", "`loss` returned a tensor without a gradient; compute it from the model's output"),
        ("losses:three", "`loss` takes output, a, b; give a function of the output"),
    ],
)
def test_errors_are_one_line(read, tmp_path, name, message):
    (tmp_path / "losses.py").write_text(
        "import torch\n"
        "def whole(output):\n    return output[0]\n"
        "def number(output):\n    return 1.0\n"
        "def constant(output):\n    return torch.zeros(())\n"
        "def three(output, a, b):\n    return output[0].sum()\n"
    )
    with pytest.raises(JoulecastError) as raised:
        read(loss=name)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_errors_of_its_own_code_name_the_line(read, tmp_path):
    (tmp_path / "losses.py").write_text("def bad(output):\n    return output[0] @ output[1]\n")
    with pytest.raises(ModelError, match=r"losses.py:2 in bad: RuntimeError"):
        read(loss="losses:bad")
    (tmp_path / "broken.py").write_text("import no_such_package\ndef f(output): return output[0].sum()\n")
    with pytest.raises(JoulecastError, match="no_such_package"):
        read(loss="broken:f")


def test_a_request_checks_it(tmp_path):
    for fields, message in (
        ({"loss": "nothing"}, "is not the name of a function"),
        ({"loss": "a:b", "train": False}, "has no use without training"),
        ({"loss": sum}, "is a function: give its name"),
    ):
        with pytest.raises(JoulecastError, match=message):
            estimate("net.py", "8", steps=1, hardware="rtx-3090", **fields)


def test_keras_models_have_their_own():
    with pytest.raises(JoulecastError, match="`loss` is not available for Keras models"):
        read_model("joulecast.models.simplenet_keras:build_model", TraceOptions(loss="torch.nn:MSELoss"))
