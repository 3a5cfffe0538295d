"""Random networks over tokens, patches and tables, for the calibration suite (see random_networks)."""

from __future__ import annotations

import itertools
import math
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .random_networks import MOST_ELEMENTS, MOST_MACS, ModelAndInputs, batch_for


class _Attention(nn.Module):
    """Multi-head attention, as the fused call or in parts; with one projection or three."""

    def __init__(self, random: Random, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.by_parts = random.random() < 0.35
        self.joined = nn.Linear(width, 3 * width) if random.random() < 0.5 else None
        if self.joined is None:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(random.choice((0.0, 0.1)))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.joined(x).chunk(3, -1) if self.joined else (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        if self.by_parts:
            scores = q @ k.transpose(-2, -1) / math.sqrt(width / self.heads)
            if self.causal:
                mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
                scores = scores.masked_fill(~mask, float("-inf"))
            y = self.dropout(scores.softmax(-1)) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p, is_causal=self.causal)
        result: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return result


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gate = nn.Linear(width, hidden) if kind == "gated" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            y = F.silu(self.gate(x)) * self.up(x)
        elif self.kind == "gelu-tanh":
            y = F.gelu(self.up(x), approximate="tanh")
        else:
            y = F.gelu(self.up(x)) if self.kind == "gelu" else F.relu(self.up(x))
        result: Tensor = self.down(y)
        return result


class _RootMeanSquare(nn.Module):
    """RMSNorm in parts (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        return result


class _Block(nn.Module):
    def __init__(self, random: Random, width: int, heads: int, causal: bool, style: dict[str, object]) -> None:
        super().__init__()
        norm = _RootMeanSquare if style["rms"] else nn.LayerNorm
        self.before = bool(style["before"])
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = _Attention(random, width, heads, causal)
        self.perceptron = _Perceptron(width, int(width * random.choice((2, 4, 4))), str(style["perceptron"]))
        self.dropout = nn.Dropout(random.choice((0.0, 0.1)))

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = x + self.dropout(self.attention(self.norm1(x)))
            result: Tensor = x + self.dropout(self.perceptron(self.norm2(x)))
        else:
            x = self.norm1(x + self.dropout(self.attention(x)))
            result = self.norm2(x + self.dropout(self.perceptron(x)))
        return result


class _Transformer(nn.Module):
    def __init__(self, random: Random, width: int, vocabulary: int, length: int, layers: int) -> None:
        super().__init__()
        causal = random.random() < 0.5
        style: dict[str, object] = {
            "rms": random.random() < 0.25,
            "before": causal or random.random() < 0.5,
            "perceptron": random.choice(("gelu", "gelu-tanh", "relu", "gated")),
        }
        heads = max(1, width // random.choice((32, 64)))
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(random, width, heads, causal, style) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, 2) if not causal and random.random() < 0.5 else None
        self.scores = nn.Linear(width, vocabulary, bias=False)
        if self.classes is not None:
            del self.scores
        elif random.random() < 0.5:
            self.scores.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        y = self.norm(self.blocks(y))
        result: Tensor = self.classes(y[:, 0]) if self.classes is not None else self.scores(y)
        return result


def transformers(random: Random) -> ModelAndInputs:
    width = random.choice((64, 128, 192, 256, 384, 512, 768))
    vocabulary = random.choice((500, 2000, 8000, 16000, 32000, 50000))
    length, layers = random.choice((16, 32, 64, 128, 256, 512)), random.randint(1, 4)
    per_token = layers * 12 * width**2 + width * vocabulary + layers * 2 * length * width
    while length > 16 and 2 * length * per_token > MOST_MACS:
        length //= 2
    model = _Transformer(random, width, vocabulary, length, layers)
    elements = layers * (16 * width + length * max(1, width // 64)) + 3 * vocabulary
    batch = batch_for(random, per_token * length, elements * length, 64)
    return model, torch.randint(vocabulary, (batch, length))


class _Patches(nn.Module):
    """A vision transformer or a perceptron mixer over patches."""

    def __init__(self, random: Random, width: int, patch: int, side: int, layers: int) -> None:
        super().__init__()
        count = side**2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.mixer = random.random() < 0.35
        self.token = None if self.mixer else nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, count + (0 if self.mixer else 1), width))
        style: dict[str, object] = {"rms": False, "before": True, "perceptron": "gelu"}
        heads = max(1, width // 64)
        blocks: list[nn.Module] = [
            _Mixer(count, width) if self.mixer else _Block(random, width, heads, False, style) for _ in range(layers)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, random.choice((10, 100, 1000)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        result: Tensor = self.head(x.mean(1) if self.token is None else x[:, 0])
        return result


class _Mixer(nn.Module):
    """One layer of an MLP-mixer (Tolstikhin et al. 2021)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = _Perceptron(count, 2 * count, "gelu")
        self.along = _Perceptron(width, 4 * width, "gelu")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        result: Tensor = x + self.along(self.norm2(x))
        return result


def patches(random: Random) -> ModelAndInputs:
    width, patch = random.choice((64, 128, 192, 256, 384)), random.choice((4, 8, 16))
    side, layers = random.choice((4, 7, 8, 14)), random.randint(2, 5)
    model = _Patches(random, width, patch, side, layers)
    batch = batch_for(random, side**2 * layers * 12 * width**2, side**2 * layers * 16 * width, 64)
    return model, torch.randn(batch, 3, patch * side, patch * side)


class _Recurrent(nn.Module):
    def __init__(self, random: Random, vocabulary: int, width: int, hidden: int) -> None:
        super().__init__()
        cell = random.choice((nn.LSTM, nn.LSTM, nn.GRU, nn.RNN))
        both = random.random() < 0.3
        self.tokens = nn.Embedding(vocabulary, width)
        layers = random.randint(1, 3)
        self.cell = cell(width, hidden, layers, batch_first=random.random() < 0.7, bidirectional=both)
        self.last = random.random() < 0.4
        self.head = nn.Linear(hidden * (2 if both else 1), 4 if self.last else vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cell(self.tokens(x))[0]
        result: Tensor = self.head(y[:, -1] if self.last else y)
        return result


def recurrent(random: Random) -> ModelAndInputs:
    vocabulary, width = random.choice((100, 2000, 10000, 30000)), random.choice((32, 64, 128, 256))
    hidden, length = random.choice((32, 64, 128, 256, 512)), random.choice((8, 16, 32, 64, 128))
    model = _Recurrent(random, vocabulary, width, hidden)
    per_token = 12 * hidden * (width + hidden) + hidden * vocabulary
    batch = batch_for(random, per_token * length, (8 * hidden + 3 * vocabulary) * length, 64)
    return model, torch.randint(vocabulary, (batch, length))


# -- tables ----------------------------------------------------------------------------------------


def perceptrons(random: Random) -> ModelAndInputs:
    widths = [random.choice((64, 256, 784, 1024, 2048, 4096)) for _ in range(random.randint(3, 6))]
    layers: list[nn.Module] = []
    for c_in, c_out in itertools.pairwise(widths):
        layers += [nn.Linear(c_in, c_out), random.choice((nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU))()]
        if random.random() < 0.4:
            layers.append(nn.BatchNorm1d(c_out))
        if random.random() < 0.4:
            layers.append(nn.Dropout(0.3))
    layers.append(nn.Linear(widths[-1], random.choice((2, 10, 1000))))
    macs = sum(a * b for a, b in itertools.pairwise(widths))
    batch = batch_for(random, macs, 4 * sum(widths), random.choice((32, 256, 2048)))
    return nn.Sequential(*layers), torch.randn(batch, widths[0])


class _Tables(nn.Module):
    """Embedding tables, their pairwise products and a perceptron, as in recommenders."""

    def __init__(self, rows: list[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in rows)
        pairs = len(rows) * (len(rows) - 1) // 2
        sizes = (len(rows) * width + pairs, 256, 64)
        self.top = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]), nn.ReLU(), nn.Linear(sizes[2], 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        found = torch.stack([table(x[:, i]) for i, table in enumerate(self.tables)], dim=1)
        products = torch.bmm(found, found.transpose(1, 2))
        rows, columns = torch.tril_indices(found.shape[1], found.shape[1], -1, device=x.device)
        result: Tensor = self.top(torch.cat([found.flatten(1), products[:, rows, columns]], dim=1))
        return result


def tables(random: Random) -> ModelAndInputs:
    rows = [random.choice((1000, 10_000, 100_000)) for _ in range(random.randint(3, 8))]
    width = random.choice((16, 32, 64))
    batch = min(random.choice((64, 256, 1024, 4096)), MOST_ELEMENTS // (8 * len(rows) * width))
    return _Tables(rows, width), torch.randint(min(rows), (batch, len(rows)))
