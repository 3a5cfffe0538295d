"""The networks of NAS-Bench-101 as torch modules, from their adjacency matrices.

The rules (Ying et al., ICML 2019, https://arxiv.org/abs/1902.09635, section 2): a 3x3 stem of 128 channels,
three stacks of three equal cells with 2x2 max pooling and channel doubling between stacks, global average
pooling and a dense layer. Inside a cell, vertices that reach the output share its channels, edges from the
cell's input are 1x1 projections, other edges are cut to the channels of their target, and a vertex sums its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEM_CHANNELS = 128
CELLS = (3, 3, 3)
"""Cells in each stack; the channels double from stack to stack."""


def vertex_channels(c_in: int, c_out: int, adjacency: Sequence[Sequence[int]]) -> list[int]:
    """Channels of every vertex of a cell, input and output included."""
    last = len(adjacency) - 1
    channels = [c_in] + [0] * (last - 1) + [c_out]
    to_output = [v for v in range(1, last) if adjacency[v][last]]
    for position, vertex in enumerate(to_output):
        channels[vertex] = c_out // len(to_output) + (position < c_out % len(to_output))
    for vertex in range(last - 1, 0, -1):
        if vertex not in to_output:
            channels[vertex] = max(channels[t] for t in range(vertex + 1, last) if adjacency[vertex][t])
    return channels


class ConvBnRelu(nn.Sequential):
    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


def _operation(name: str, channels: int) -> nn.Module:
    if name == "conv3x3-bn-relu":
        return ConvBnRelu(channels, channels, 3)
    if name == "conv1x1-bn-relu":
        return ConvBnRelu(channels, channels, 1)
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    raise ValueError(f"{name!r} is no operation of NAS-Bench-101")


class Cell(nn.Module):
    """One cell: `adjacency` is upper triangular, `ops` names the vertices from input to output."""

    def __init__(self, c_in: int, c_out: int, adjacency: Sequence[Sequence[int]], ops: Sequence[str]) -> None:
        super().__init__()
        self.adjacency = [list(row) for row in adjacency]
        self.last = len(ops) - 1
        self.channels = vertex_channels(c_in, c_out, adjacency)
        self.ops = nn.ModuleDict({str(v): _operation(ops[v], self.channels[v]) for v in range(1, self.last)})
        # The output takes its projection by addition, or as it is where nothing else reaches it.
        targets = [v for v in range(1, self.last + 1) if adjacency[0][v]]
        self.projections = nn.ModuleDict({str(v): ConvBnRelu(c_in, self.channels[v], 1) for v in targets})

    def forward(self, x: Tensor) -> Tensor:
        values = {0: x}
        for v in range(1, self.last):
            width = self.channels[v]
            parts = [self._cut(values[u], width) for u in range(1, v) if self.adjacency[u][v]]
            values[v] = self.ops[str(v)](self._sum(parts, x, v))
        ends = [values[v] for v in range(1, self.last) if self.adjacency[v][self.last]]
        joined = [torch.cat(ends, dim=1)] if len(ends) > 1 else ends
        return self._sum(joined, x, self.last)

    def _sum(self, parts: list[Tensor], x: Tensor, vertex: int) -> Tensor:
        if str(vertex) in self.projections:
            parts = [*parts, self.projections[str(vertex)](x)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    @staticmethod
    def _cut(value: Tensor, width: int) -> Tensor:
        return value if value.shape[1] == width else value[:, :width]


class NasBench(nn.Module):
    """The whole network; takes images of shape (n, 3, 32, 32), gives logits of shape (n, 10)."""

    def __init__(self, adjacency: Sequence[Sequence[int]], ops: Sequence[str], cells: Sequence[int] = CELLS) -> None:
        super().__init__()
        body: list[nn.Module] = []
        c_in = STEM_CHANNELS
        for stack, count in enumerate(cells):
            c_out = STEM_CHANNELS * 2**stack
            if stack:
                body.append(nn.MaxPool2d(2))
            for _ in range(count):
                body.append(Cell(c_in, c_out, adjacency, ops))
                c_in = c_out
        self.stem = ConvBnRelu(3, STEM_CHANNELS, 3)
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(c_in, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.stem(x)).mean(dim=(2, 3)))
        return logits
