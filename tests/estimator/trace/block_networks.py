"""A network of repeated blocks, and the comparison of its trace with one in full."""

import itertools

import torch
from torch import nn

from joulecast.estimator.trace import step
from joulecast.estimator.trace.trace import trace

WIDTH, COUNT = 32, 8
DATA = torch.zeros(4, 80, WIDTH)  # above the size up to which inputs have known values


def same_as_in_full(monkeypatch, model, inputs=DATA, **options):
    """Asserts that both ways give one workload, and returns it."""
    fast = trace(model, inputs, layers=False, **options)
    with monkeypatch.context() as patched:
        patched.setattr(step, "_listed", step._run)
        full = trace(model, inputs, layers=False, **options)
    for name in ("ops", "layers"):
        for one, other in itertools.zip_longest(getattr(fast, name), getattr(full, name)):
            assert one == other
    assert fast == full
    return fast


class Block(nn.Module):
    def __init__(self, number=0, width=WIDTH, dropout=0.0):
        super().__init__()
        self.number = number
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, data):
        return data + self.dropout(self.down(torch.relu(self.up(self.norm(data)))))


class Net(nn.Module):
    """Embeds its input, so that the input of the first block has a gradient."""

    def __init__(self, blocks):
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, data):
        data = self.embed(data) + 1
        for block in self.blocks:
            data = block(data)
        return self.head(data.mean(1))


def blocks(kind=Block, count=COUNT, **options):
    return [kind(number, **options) for number in range(count)]
