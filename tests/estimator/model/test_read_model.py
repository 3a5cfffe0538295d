"""From `--model` to a workload: second attempts with real values, training steps, options that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.model.input_spec import InputSpec
from joulecast.estimator.model.inputs import parse_input
from joulecast.estimator.model.read_model import TraceOptions, read_model
from joulecast.estimator.trace.workload import Workload

HEAD = "import torch\nfrom torch import nn\n"
BATCH, MACS = 6, 6 * 8 * 4  # of a linear layer of 8 x 4


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Workload]:
    def read(text: str, **options: object) -> Workload:
        (tmp_path / "net.py").write_text(text if "keras" in text else HEAD + text)
        wanted = {"specs": (InputSpec((8,)),), "batch_size": BATCH, **options}
        return read_model(str(tmp_path / "net.py"), TraceOptions(**wanted))

    return read


NEEDS_MEMORY = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4, bias=False)
    def forward(self, x):
        if type(x) is not torch.Tensor or x.device.type != "cpu":
            raise RuntimeError("this kernel needs memory")
        return self.layer(x)
"""


def test_a_model_that_fails_on_stand_ins_is_built_again_with_real_tensors(read: Callable[..., Workload]) -> None:
    work = read(NEEDS_MEMORY, train=False)
    assert (work.flops, work.tracer) == (MACS, "real")
    assert "the model needs real values, so one step was run on the CPU to list its ops" in work.warnings


def test_a_failure_with_real_values_is_reported(read: Callable[..., Workload]) -> None:
    with pytest.raises(ModelError, match=r"net\.py:\d+ in forward: AttributeError: .*leyer"):
        read(NEEDS_MEMORY.replace("return self.layer", "return self.leyer"))


def test_a_model_that_is_too_large_for_real_values_is_not_built_for_real(read: Callable[..., Workload]) -> None:
    with pytest.raises(ModelError, match=r"net\.py:\d+ in forward: RuntimeError: this kernel needs memory"):
        read(NEEDS_MEMORY.replace("8, 4", "8, 10**12"))


LIGHTNING = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4, bias=False)
    def forward(self, x):
        return self.layer(x)
    def training_step(self, batch):
        return {step}
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""


def test_a_training_step_comes_before_the_forward_pass(read: Callable[..., Workload]) -> None:
    """Two passes of the layer in the step, one in forward."""
    work = read(LIGHTNING.format(step="self.layer(batch).sum() + self.layer(2 * batch).sum()"))
    assert (work.forward_flops, work.batch_size) == (2 * MACS, BATCH)
    assert read(LIGHTNING.format(step="None"), train=False).forward_flops == MACS


def test_a_training_step_without_a_loss_is_replaced_by_the_forward_pass(read: Callable[..., Workload]) -> None:
    work = read(LIGHTNING.format(step="None"))
    assert work.forward_flops == MACS
    assert work.warnings[-1].startswith("forward was traced in place of training_step (training_step returned no loss")


KERAS = "import keras\nmodel = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])\n"


@pytest.mark.skipif(find_spec("keras") is None, reason="needs joulecast[keras]")  # without importing it
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("freeze", ("dense",)),
        ("checkpointing", True),
        ("clip_gradients", True),
        ("ema", True),
    ],
)
def test_options_that_keras_models_do_not_have(read: Callable[..., Workload], option: str, value: object) -> None:
    name = {"checkpointing": "activation_checkpointing"}.get(option, option)
    with pytest.raises(JoulecastError, match=rf"^`{name}` is not available for Keras models; leave it out$"):
        read(KERAS, **{option: value})


WRONG_SHAPE = """
import builtins
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        builtins.built.append(torch.empty(0).device.type)
        self.layer = nn.Linear(9, 4)
    def forward(self, x):
        return self.layer(x)
"""


def test_an_error_of_shapes_alone_is_shown_without_real_weights(
    read: Callable[..., Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr("builtins.built", built, raising=False)
    with pytest.raises(ModelError, match=r"8.*9") as caught:
        read(WRONG_SHAPE)
    assert caught.value.is_final
    assert built == ["meta"]


def test_a_model_without_a_forward_pass_is_named(read: Callable[..., Workload]) -> None:
    text = "class Parts(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    with pytest.raises(JoulecastError, match="Parts has no forward pass of its own: other code calls its parts; name"):
        read(text)


COUNTS_FROM_TWO = """
from transformers import BertConfig, BertModel
class Late(BertModel):
    def forward(self, input_ids, **kwargs):
        places = 2 + torch.arange(input_ids.shape[1])
        table = self.embeddings.position_embeddings.weight
        table[: len(places) + 2].view(len(places) + 2, -1)
        return super().forward(input_ids[:, : table[2:].shape[0]].view(len(input_ids), len(places)), **kwargs)
def model():
    return Late(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                           vocab_size=50, max_position_embeddings=32))
"""


def test_a_text_is_shortened_where_a_model_does_not_take_its_config_s_longest(read: Callable[..., Workload]) -> None:
    pytest.importorskip("transformers", minversion="5")
    work = read(COUNTS_FROM_TWO, specs=())
    assert work.tokens_per_sample == 28
    assert "28 tokens a sample: the model does not take the 32 that its config allows" in work.warnings


def test_patches_of_several_images_are_not_taken_for_samples() -> None:
    pytest.importorskip("transformers", minversion="5")
    small = {"depth": "1", "hidden_size": "32", "num_heads": "2", "deepstack_visual_indexes": "[0]"}
    one, three = (
        read_model("transformers:Qwen3VLVisionModel", TraceOptions(batch_size=size, args=small)) for size in (1, 3)
    )
    assert (one.batch_size, three.batch_size) == (1, 3)
    assert three.forward_flops == 3 * one.forward_flops


SCRIPT = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4, bias=False)
    def forward(self, x, targets=None):
        scores = self.layer(x)
        if targets is None:
            return scores[:1]
        return nn.functional.cross_entropy(scores, targets)

def main():
    net = Net().cuda()
    optimizer = torch.optim.AdamW(net.parameters())
    for _ in range(10**9):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = net(torch.zeros(3, 8, device="cuda"), torch.zeros(3, dtype=torch.int64, device="cuda"))
        loss.backward()
        optimizer.step()
"""


@pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning", "ignore:User provided device:UserWarning")
@pytest.mark.parametrize("ending", ["", "main()\n"])
def test_a_training_script_shows_its_batch_its_optimizer_and_its_autocast(
    read: Callable[..., Workload], tmp_path: Path, ending: str
) -> None:
    (tmp_path / "train.py").write_text(HEAD + SCRIPT + ending)
    name = "" if ending else ":main"
    work = read_model(f"{tmp_path / 'train.py'}{name}", TraceOptions(batch_size=BATCH))
    forward = [op for op in work.ops if op.phase == "forward" and op.name == "mm"]
    assert [(op.flops, op.dtype) for op in forward] == [(BATCH * 8 * 4, "bfloat16")]
    assert any("cross_entropy" in op.name or "nll_loss" in op.name for op in work.ops)  # its targets were given
    notes = "\n".join(work.warnings)
    assert "inputs as in the training's call, its first dimension as the batch: float32 3x8, int64 3" in notes
    assert f"train{name} trains under autocast in bfloat16" in notes
    assert f"train{name} has adamw, the update is costed as sgd: give `optimizer` adamw" in notes


def test_the_options_come_before_what_a_script_does(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(HEAD + SCRIPT)
    specs = (InputSpec((8,)), InputSpec((), "int64"))
    options = TraceOptions(batch_size=BATCH, optimizer="adamw", precision="float16", specs=specs)
    work = read_model(f"{tmp_path / 'train.py'}:main", options)
    assert (work.precision, work.optimizer) == ("float16", "adamw")
    assert not any("autocast" in note or "training's call" in note or "optimizer" in note for note in work.warnings)


def test_a_model_that_declares_nothing_is_read_from_its_first_layer_with_its_targets(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + SCRIPT)
    work = read_model(str(tmp_path / "net.py"), TraceOptions(batch_size=BATCH))
    assert sum(op.flops for op in work.ops if op.phase == "forward" and op.name == "mm") == BATCH * 8 * 4
    assert "net: a sample is 8 numbers, the width of its first layer" in work.warnings
    assert "the model computes its loss from `targets`: one int64 a sample are given to it" in work.warnings


def test_a_script_gets_its_arguments(tmp_path: Path) -> None:
    text = (
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--width', type=int, required=True)\n"
    )
    text += "parser.add_argument('--name')\noptions = parser.parse_args()\n"
    (tmp_path / "net.py").write_text(HEAD + text + "model = nn.Linear(options.width, len(options.name))\n")
    work = read_model(f"{tmp_path / 'net.py'} --width 12 --name 'a b'", TraceOptions(batch_size=BATCH))
    assert work.parameters == 12 * 3 + 3
    work = read_model(f"{tmp_path / 'net.py'}:model --width 5 --name x", TraceOptions(batch_size=BATCH))
    assert work.parameters == 5 + 1
    with pytest.raises(JoulecastError, match=r"arguments .--name .a.: No closing quotation; close the quotation"):
        read_model(f"{tmp_path / 'net.py'} --name 'a", TraceOptions())


def test_a_call_without_a_batch_is_one_sample(tmp_path: Path) -> None:
    text = "net = nn.Linear(8, 4, bias=False)\nnet(torch.zeros(8)).sum().backward()\n"
    (tmp_path / "net.py").write_text(HEAD + text)
    work = read_model(str(tmp_path / "net.py"), TraceOptions(batch_size=BATCH, train=False))
    assert work.flops == BATCH * 8 * 4
    assert "inputs as in the training's call, of one sample: float32 8" in work.warnings


TOKENS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.layer = nn.Linear(8, 4, bias=False)
    def forward(self, ids):
        return self.layer(self.table(ids) * 2.0)
"""
SIXTEEN = parse_input("ids:int64:16")


def test_training_stacks_keep_weights_and_sums_in_16_bits(read: Callable[..., Workload]) -> None:
    def dtypes(**options: object) -> dict[str, str]:
        ops = read(TOKENS, specs=(SIXTEEN,), precision="bf16", **options).ops
        return {op.name: op.dtype for op in ops if op.phase != "backward"}

    assert {dtypes(half_weights=True)[name] for name in ("mul", "mm", "sgd")} == {"bfloat16"}
    autocast = dtypes()
    assert (autocast["mul"], autocast["mm"], autocast["sgd"]) == ("float32", "bfloat16", "float32")
    whole = read(TOKENS, specs=(SIXTEEN,), precision="fp32", half_weights=True)
    assert "bfloat16" not in {op.dtype for op in whole.ops}


def test_weights_in_16_bits_with_inputs_in_32_run_under_autocast(read: Callable[..., Workload]) -> None:
    text = "\nclass Net(nn.Sequential):\n    def __init__(self):\n        super().__init__(nn.Linear(8, 4))\n"
    work = read(text, precision="bf16", half_weights=True)
    assert {op.dtype for op in work.ops if op.kind in ("matmul", "optimizer")} == {"bfloat16"}


def test_fp8_with_weights_in_16_bits(read: Callable[..., Workload]) -> None:
    text = TOKENS.replace("16, 8", "16, 32").replace("8, 4", "32, 16")
    text = text.replace("self.layer(", "self.last(self.layer(").replace("* 2.0)", "* 2.0))")
    text = text.replace(
        "        self.layer =", "        self.last = nn.Linear(16, 16, bias=False)\n        self.layer ="
    )
    work = read(text, specs=(SIXTEEN,), batch_size=16, precision="fp8", half_weights=True)
    assert work.precision == "float8"
    assert {op.dtype for op in work.ops if op.layer == "layer" and op.kind == "matmul"} == {"float8_e4m3fn"}
