"""Frozen parts, LoRA and activation checkpointing: the cost of a step by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.adapt import Lora, adapt, parse_lora
from joulecast.estimator.model.inputs import parse_input
from joulecast.estimator.model.read_model import TraceOptions, read_model

NET = """
from torch import nn
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
    def forward(self, x):
        return x + self.down(self.up(x).relu())
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.blocks = nn.Sequential(*[Block() for _ in range(3)])
        self.head = nn.Linear(8, 2)
    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))
"""
BATCH = 10
STEM, BLOCK, HEAD = BATCH * 4 * 8, BATCH * 2 * 8 * 32, BATCH * 8 * 2
FORWARD = STEM + 3 * BLOCK + HEAD
STEP = 3 * FORWARD - STEM  # the input of the stem gets no gradient


@pytest.fixture
def step(tmp_path: Path):
    path = tmp_path / "net.py"
    path.write_text(NET)

    def step(**options):
        return read_model(str(path), TraceOptions(specs=(parse_input("4"),), batch_size=BATCH, **options))

    return step


def test_the_whole_model(step):
    work = step()
    assert (work.forward_flops, work.flops) == (FORWARD, STEP)


def test_frozen_parts_get_no_gradient_of_their_weights(step):
    work = step(freeze=("blocks.*",))
    assert work.flops == STEP - 3 * BLOCK
    assert work.trainable_parameters == work.parameters - 3 * (2 * 8 * 32 + 32 + 8)
    assert work.warnings[-1] == f"frozen by blocks.*: {3 * 552:,} parameters"
    assert step(freeze=("blocks",)).flops == work.flops
    below = STEM + 2 * BLOCK + BLOCK // 2  # up to the first product of block 1, whose input needs no gradient
    assert step(freeze=("stem", "blocks.0")).flops == STEP - below


def test_a_pattern_that_matches_nothing(step):
    with pytest.raises(JoulecastError, match=r"`freeze` 'block' matches no parameter; did you mean blocks"):
        step(freeze=("block",))


def test_a_pattern_unlike_any_name_lists_the_parts(step):
    with pytest.raises(JoulecastError, match=r"`freeze` 'zzz' matches no parameter; its parts are stem, blocks, head$"):
        step(freeze=("zzz",))


def test_lora_without_peft_names_the_extra(step, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    with pytest.raises(JoulecastError, match=r"`lora` needs PEFT .*pip install 'joulecast\[lora\]'"):
        step(lora=Lora(2))


def test_checkpointing_runs_the_blocks_again(step):
    """All but the last product of each block: the backward pass does not need its output."""
    work = step(checkpointing=True)
    assert work.flops == STEP + 3 * BLOCK // 2
    assert work.warnings[-1] == "activations of 3 Block blocks are checkpointed"
    assert work.activation_bytes < step().activation_bytes


def test_models_with_their_own_checkpointing_use_it():
    class Transformers(nn.Module):
        def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs):
            self.asked = gradient_checkpointing_kwargs

    class Timm(nn.Module):
        def set_grad_checkpointing(self, enable):
            self.asked = enable

    class Without(nn.Module):
        def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs):
            raise ValueError("Without does not support gradient checkpointing.")

    ours, timms = Transformers(), Timm()
    own_method = ("activations are checkpointed by the model's own method",)
    assert adapt(ours, checkpointing=True) == adapt(timms, checkpointing=True) == own_method
    assert (ours.asked, timms.asked) == ({"use_reentrant": False}, True)
    with pytest.raises(JoulecastError, match=r"not supported by the model \(Without does not support"):
        adapt(Without(), checkpointing=True)


def test_blocks_of_the_most_frequent_class_are_checkpointed_at_the_outermost_level():
    class Block(nn.Sequential):
        pass

    body = nn.ModuleList([Block(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3)])
    model = nn.Sequential(nn.ModuleDict({"stem": nn.Sequential(nn.Linear(2, 2)), "body": body}))
    assert adapt(model, checkpointing=True) == ("activations of 3 Block blocks are checkpointed",)


def test_a_model_without_blocks_cannot_be_checkpointed(tmp_path):
    path = tmp_path / "flat.py"
    path.write_text("from torch import nn\nmodel = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))\n")
    with pytest.raises(JoulecastError, match="has no repeated blocks to checkpoint"):
        read_model(str(path), TraceOptions(specs=(parse_input("4"),), checkpointing=True))


def test_lora_trains_its_adapters_alone(step):
    """Rank 2 on the three `up`: 2 x (8 + 32) parameters each; only the path to the lowest adapter goes backward."""
    pytest.importorskip("peft")
    work = step(lora=Lora(2, ("up",)))
    adapter = BATCH * 2 * (8 + 32)
    assert work.trainable_parameters == 3 * 80
    assert work.forward_flops == FORWARD + 3 * adapter
    # Gradients flow through the head, all of the blocks 2 and 3, and in block 1 to the output of `up`; every adapter's
    # two weights and the input of its second matrix get one, and below block 1 nothing does.
    through = HEAD + 2 * BLOCK + BLOCK // 2 + 2 * adapter + BATCH * 2 * 32
    assert work.flops == work.forward_flops + through + 3 * adapter


def test_lora_names_the_layers_that_there_are(step):
    pytest.importorskip("peft")
    with pytest.raises(JoulecastError, match=r"`lora` cannot be added .*; layers are down, head, stem, up$"):
        step(lora=Lora(2, ("q_proj",)))


@pytest.mark.parametrize("text", ["", "16", "r=0", "r=x", "r=-1", "r=" + "9" * 99, "r=4,alpha=2", "targets=up", "r=٣"])
def test_lora_that_says_no_rank(text):
    with pytest.raises(JoulecastError, match=r"is not r=RANK\[,targets=NAME\+NAME\]"):
        parse_lora(text)


def test_lora_as_text():
    assert parse_lora("r=16") == Lora(16)
    assert parse_lora("r=8,targets=q_proj+v_proj") == Lora(8, ("q_proj", "v_proj"))
