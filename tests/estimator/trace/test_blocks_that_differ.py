"""Blocks that differ, or may differ, all run: the workload is that of a full trace."""

import itertools
import random
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from joulecast.estimator.trace import step
from joulecast.estimator.trace.trace import trace

from .block_networks import COUNT, DATA, Block, Net, blocks, same_as_in_full


class Numbered(Block):
    def forward(self, data):
        return super().forward(data * 2) if self.number >= 4 else super().forward(data)


class Growing(Block):
    """The number is a key."""

    def forward(self, data):
        scale = {4: 1.0}.get(self.number, 2.0)
        return super().forward(data * scale) if scale == 1.0 else super().forward(data)


class InItsDict(Block):
    """Its number looks as if it were missing."""

    def forward(self, data):
        return super().forward(data * 2) if self.__dict__.get("number", 0) >= 4 else super().forward(data)


class InItsVars(Block):
    def forward(self, data):
        seen = [value for value in (lambda: vars(self).items())() if value == ("number", 4)]
        return super().forward(data * 2) if seen else super().forward(data)


COUNTER = 0


class Counting(Block):
    def forward(self, data):
        global COUNTER
        COUNTER += 1
        return super().forward(data) * 2 if COUNTER > 5 else super().forward(data)


class WithIterator(Block):
    def __init__(self, number, shared):
        super().__init__(number)
        self.steps = shared

    def forward(self, data):
        return super().forward(data) * 2 if next(self.steps) % 8 > 4 else super().forward(data)


class Stateful(Block):
    calls: ClassVar[list] = []

    def forward(self, data):
        self.calls.append(None)
        return super().forward(data) * 2 if len(self.calls) > 5 else super().forward(data)


class Drawing(Block):
    def forward(self, data):
        return super().forward(data) if random.random() < 0.5 else data * 2


class DrawingTensors(Block):
    def forward(self, data):
        return super().forward(data) if torch.rand([]) < 0.5 else data * 2


class Reading(Block):
    """Reads a weight, which has a value where it is small."""

    def __init__(self, number):
        super().__init__(number)
        self.gate = nn.Parameter(torch.tensor(float(number)))

    def forward(self, data):
        return super().forward(data) * 2 if self.gate > 5 else super().forward(data)


class ReadingWhatFollows(Block):
    """Reads what follows from its own weight and an argument."""

    def __init__(self, number):
        super().__init__(number)
        self.gate = nn.Parameter(torch.tensor(float(number)))

    def forward(self, data):
        steps = torch.arange(4, device=data.device)
        return super().forward(data) * 2 if (steps + self.gate).sum() > 26 else super().forward(data)


class ReadingALargeWeight(Block):
    def forward(self, data):
        return super().forward(data) * 2 if self.up.weight.norm() > 100 else super().forward(data)


class Changing(Block):
    def forward(self, data):
        self.last = data.shape
        return super().forward(data)


@pytest.mark.parametrize(
    "kind",
    [
        *(Numbered, Growing, InItsDict, InItsVars, Counting, Stateful, Drawing, DrawingTensors),
        *(Reading, ReadingWhatFollows, ReadingALargeWeight, Changing),
    ],
    ids=lambda k: k.__name__,
)
def test_blocks_that_may_differ_all_run(monkeypatch, left_out, kind):
    same_as_in_full(monkeypatch, Net(blocks(kind)))
    assert set(left_out) == {0}


def test_a_shared_iterator(monkeypatch, left_out):
    def model():
        return Net(blocks(WithIterator, shared=itertools.count()))

    fast = trace(model(), DATA, layers=False)
    monkeypatch.setattr(step, "_listed", step._run)
    assert fast == trace(model(), DATA, layers=False)
    assert left_out == [0]


def test_a_hook_on_one_block(monkeypatch, left_out):
    model = Net(blocks(count=9))
    model.blocks[4].register_forward_hook(lambda module, args, output: output * 2)
    work = same_as_in_full(monkeypatch, model)
    assert left_out == [8 - 3]  # the other eight are equal
    assert len([op for op in work.ops if op.name == "mul" and op.phase == "forward"]) == 1


def test_shared_weights_and_modules(monkeypatch, left_out):
    model = Net(blocks())
    model.blocks[6].up.weight = model.blocks[2].up.weight
    same_as_in_full(monkeypatch, model)
    assert left_out.pop() == 6 - 3
    same_as_in_full(monkeypatch, Net([Block()] * COUNT))
    assert left_out.pop() == 0


def test_a_block_that_is_called_twice(monkeypatch, left_out):
    class Twice(Net):
        def forward(self, data):
            data = self.embed(data) + 1
            for block in (*self.blocks, self.blocks[3]):
                data = block(data)
            return self.head(data.mean(1))

    same_as_in_full(monkeypatch, Twice(blocks()))
    assert left_out == []  # the second run follows no blocks


def test_weights_in_the_loss_too(monkeypatch, left_out):
    model = Net(blocks())

    def loss(output):
        return output.square().mean() + sum(block.up.weight.square().sum() for block in model.blocks)

    same_as_in_full(monkeypatch, model, loss=loss)
    assert left_out == []  # the second run follows no blocks


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_around_the_blocks(monkeypatch, left_out, reentrant):
    class Around(Net):
        def forward(self, data):
            data = self.embed(data) + 1
            for block in self.blocks:
                data = checkpoint(block, data, use_reentrant=reentrant)
            return self.head(data.mean(1))

    same_as_in_full(monkeypatch, Around(blocks()))
    assert left_out == [0]


class Tapped(Net):
    """Outputs in the middle are used too, before and after the next block."""

    def forward(self, data):
        data, seen = self.embed(data) + 1, []
        for block in self.blocks:
            seen.append(torch.sigmoid(data))
            data = block(data)
            seen.append(data)
        return self.head(data.mean(1) + sum(one.mean(1) for one in seen))


class Skipping(Net):
    def forward(self, data):
        data = self.embed(data) + 1
        for block in self.blocks:
            data = data + block(data)
        return self.head(data.mean(1))


class Mirrored(Net):
    """A U-shaped network: the second half adds what the first has returned."""

    def forward(self, data):
        data, kept = self.embed(data) + 1, []
        for block in self.blocks[: COUNT // 2]:
            data = block(data)
            kept.append(data)
        for block in self.blocks[COUNT // 2 :]:
            data = block(data + kept.pop())
        return self.head(data.mean(1))


class Early(Net):
    """The loss does not see the last blocks."""

    def forward(self, data):
        data = self.embed(data) + 1
        for number, block in enumerate(self.blocks):
            data = block(data)
            if number == 4:
                early = data
        return self.head(early.mean(1))


class Stepping(Net):
    """The loop sets what the blocks read."""

    def forward(self, data):
        data = self.embed(data) + 1
        for number, block in enumerate(self.blocks):
            self.state["number"] = number
            data = block(data)
        return self.head(data.mean(1))


class Detached(Net):
    def forward(self, data):
        data = self.embed(data) + 1
        for number, block in enumerate(self.blocks):
            data = block(data if number != 4 else data.detach())
        return self.head(data.mean(1))


class Differentiated(Net):
    """Forces: a gradient within the forward pass, and the second derivative in backward."""

    def forward(self, data):
        data = self.embed(data) + 1
        first = data
        for block in self.blocks:
            data = block(data)
        (slope,) = torch.autograd.grad(data.sum(), first, create_graph=True)
        return self.head((data + slope).mean(1))


class Dropping(Net):
    """Whole layers are left out at random."""

    def forward(self, data):
        data = self.embed(data) + 1
        for block in self.blocks:
            if torch.rand([]) > 0.3:
                data = block(data)
        return self.head(data.mean(1))


class Reversed(Net):
    def forward(self, data):
        data = self.embed(data) + 1
        for block in reversed(self.blocks):
            data = block(data)
        return self.head(data.mean(1))


@pytest.mark.parametrize(
    "kind",
    [Tapped, Skipping, Mirrored, Early, Detached, Differentiated, Dropping, Reversed],
    ids=lambda kind: kind.__name__,
)
def test_models_that_use_their_blocks_otherwise(monkeypatch, kind):
    same_as_in_full(monkeypatch, kind(blocks()))
    if kind is not Differentiated:
        same_as_in_full(monkeypatch, kind(blocks()), train=False)


def test_state_that_the_loop_sets(monkeypatch, left_out):
    state = {"number": 0}

    class Told(Block):
        def __init__(self, number):
            super().__init__(number)
            self.state = state

        def forward(self, data):
            return super().forward(data) * 2 if self.state["number"] > 4 else super().forward(data)

    model = Stepping(blocks(Told))
    model.state = state
    same_as_in_full(monkeypatch, model)
    assert left_out == [0]
