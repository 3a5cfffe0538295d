"""Random networks for the calibration suite: every op kind in many shapes, with a real network's footprint.

Each function draws one network from a random generator and gives it back with an example batch. The
networks are small enough to train a step in a fraction of a second on a CPU core.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModelAndInputs = tuple[nn.Module, Any]

_ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.ReLU(inplace=True),
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.GELU,
    nn.Hardswish,
    lambda: nn.LeakyReLU(0.1),
    nn.ELU,
    nn.PReLU,
    nn.Sigmoid,
    nn.Tanh,
)

# Forward multiply-adds and activation elements of one step, at most: a few tenths of a second a core.
MOST_MACS = 2_500_000_000
MOST_ELEMENTS = 12_000_000
_MOST_WEIGHTS = 40_000_000  # of one layer; 640 MB with its gradient and two moments


def batch_for(random: Random, macs: float, elements: float, most: int = 256) -> int:
    """A batch size that keeps the step small, given what one sample costs."""
    limit = min(MOST_MACS / max(macs, 1), MOST_ELEMENTS / max(elements, 1), most)
    return max(2, round(limit * random.uniform(0.25, 1.0)))


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, scale: int | None = None) -> None:
        super().__init__()
        self.body = body
        self.scale = nn.Parameter(1e-2 * torch.ones(scale)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        result: Tensor = x + (y if self.scale is None else self.scale * y)
        return result


class _Concatenate(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class _Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool2d(x, 1)
        result: Tensor = x * torch.sigmoid(self.expand(F.relu(self.reduce(gate))))
        return result


class _ChannelsLastNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result


# -- images ----------------------------------------------------------------------------------------


def convolutions(random: Random) -> ModelAndInputs:
    """Stages of the kinds of blocks that image classifiers use, from plain to depthwise."""
    size = random.choice((24, 32, 48, 64, 96, 128, 160))
    channels = random.choice((16, 24, 32, 48, 64))
    act = random.choice(_ACTIVATIONS[:9])
    norm = random.choice((nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm2d, _group_norm, _ChannelsLastNorm))
    stride = random.choice((1, 2, 4)) if size >= 64 else 1
    kernel = max(stride, random.choice((3, 3, 5, 7)))
    layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel, stride, kernel // 2), norm(channels), act()]
    side = size // stride
    macs, elements = 3.0 * channels * kernel**2 * side**2, 4.0 * channels * side**2
    for _ in range(random.randint(2, 4)):
        for _ in range(random.randint(1, 3)):
            block, cost = _block(random, channels, norm, act)
            layers.append(block)
            macs, elements = macs + cost * side**2, elements + 8 * channels * side**2
        if side < 8:
            break
        wider = min(round(channels * random.choice((1.5, 2, 2, 2.5)) / 8) * 8, 1024)
        layers += _shrink(random, channels, wider, norm, act)
        side //= 2
        macs, elements = macs + 9 * channels * wider * side**2, elements + 4 * wider * side**2
        channels = wider
    classes = random.choice((10, 100, 1000))
    if random.random() < 0.25:
        layers += _wide_head(random, channels, classes)
    else:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, classes)]
    batch = batch_for(random, macs, elements, 64)
    return nn.Sequential(*layers), torch.randn(batch, 3, size, size)


def _wide_head(random: Random, channels: int, classes: int) -> list[nn.Module]:
    """Hidden layers as in AlexNet and VGG, whose weights are larger than any cache."""
    side = random.choice((2, 4, 6))
    features = channels * side**2
    hidden = min(random.choice((512, 1024, 2048, 4096)), _MOST_WEIGHTS // features)
    first = (nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Dropout(0.5), nn.Linear(features, hidden), nn.ReLU())
    return [*first, nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)]


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)


def _block(random: Random, c: int, norm: Any, act: Any) -> tuple[nn.Module, float]:
    """A block that keeps the shape, with its multiply-adds per pixel."""
    kind = random.choice(("plain", "plain", "bottleneck", "inverted", "separable", "grouped", "dense", "next"))
    k = random.choice((3, 3, 3, 5, 7))
    if kind == "plain":
        body = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), norm(c), act())
        return _Residual(body) if random.random() < 0.7 else body, 9.0 * c * c
    if kind == "bottleneck":
        m = max(c // 4, 8)
        convs = (nn.Conv2d(c, m, 1, bias=False), norm(m), act(), nn.Conv2d(m, m, 3, padding=1, bias=False))
        return _Residual(nn.Sequential(*convs, norm(m), act(), nn.Conv2d(m, c, 1), norm(c))), 2 * c * m + 9 * m * m
    if kind == "inverted":
        m = c * random.choice((2, 4, 6))
        convs = (nn.Conv2d(c, m, 1, bias=False), norm(m), act(), nn.Conv2d(m, m, k, padding=k // 2, groups=m))
        gate = [_Gate(m, max(m // 16, 4))] if random.random() < 0.5 else []
        return _Residual(nn.Sequential(*convs, norm(m), act(), *gate, nn.Conv2d(m, c, 1), norm(c))), 2.5 * c * m
    if kind == "separable":
        convs = (nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False), nn.Conv2d(c, c, 1), norm(c), act())
        return nn.Sequential(*convs), float(c * c + c * k * k)
    if kind == "grouped":
        groups = random.choice((2, 4, 8))
        groups = groups if c % groups == 0 else 1
        body = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=groups), norm(c), act())
        return _Residual(body), 9.0 * c * c / groups
    if kind == "dense":
        half = c // 2
        branches = [
            nn.Sequential(nn.Conv2d(c, half, 1), act()),
            nn.Sequential(
                nn.AvgPool2d(3, 1, 1) if random.random() < 0.5 else nn.MaxPool2d(3, 1, 1), _point(c, c - half)
            ),
        ]
        return nn.Sequential(_Concatenate(*branches), norm(c), act()), float(c * c)
    layers = (nn.Conv2d(c, c, 7, padding=3, groups=c), _ChannelsLast(c, 4 * c))
    return _Residual(nn.Sequential(*layers)), 8.0 * c * c


def _point(c_in: int, c_out: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, 1)


class _ChannelsLast(nn.Module):
    """ConvNeXt's perceptron over channels (Liu et al. 2022)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.scale = nn.Parameter(1e-2 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.permute(0, 2, 3, 1))
        result: Tensor = (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        return result


def _shrink(random: Random, c: int, wider: int, norm: Any, act: Any) -> list[nn.Module]:
    kind = random.choice(("max", "average", "strided", "patch"))
    if kind == "strided":
        return [nn.Conv2d(c, wider, 3, 2, 1, bias=False), norm(wider), act()]
    if kind == "patch":
        return [norm(c), nn.Conv2d(c, wider, 2, 2)]
    pool = nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2)
    return [nn.Conv2d(c, wider, random.choice((1, 3)), padding="same"), norm(wider), act(), pool]


class _UNet(nn.Module):
    def __init__(self, random: Random, base: int, depth: int) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth + 1)]
        self.stem = self._double(3, base)
        self.down = nn.ModuleList(self._double(a, b) for a, b in itertools.pairwise(widths))
        transposed = random.random() < 0.6
        mode = random.choice(("nearest", "bilinear"))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, 2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2, mode=mode), nn.Conv2d(b, a, 3, padding=1))
            for a, b in itertools.pairwise(widths)
        )
        self.join = nn.ModuleList(self._double(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(base, random.choice((1, 3, 21)), 1)

    @staticmethod
    def _double(c_in: int, c_out: int) -> nn.Module:
        first = (nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))
        return nn.Sequential(*first, nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.stem(x)]
        for down in self.down:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([skips.pop(), up(x)], dim=1))
        result: Tensor = self.head(x)
        return result


def unet(random: Random) -> ModelAndInputs:
    base, depth, size = random.choice((8, 12, 16, 24, 32)), random.randint(2, 3), random.choice((32, 64, 96, 128))
    batch = batch_for(random, (depth + 2) * 40 * base**2 * size**2, (depth + 1) * 24 * base * size**2, 32)
    return _UNet(random, base, depth), torch.randn(batch, 3, size, size)


def upscaler(random: Random) -> ModelAndInputs:
    """Convolutions at one resolution, pixel shuffle, and a loss on images."""
    c, size, factor = random.choice((16, 32, 48, 64)), random.choice((24, 32, 48)), random.choice((2, 3))
    layers: list[nn.Module] = [nn.Conv2d(3, c, 5, padding=2), nn.PReLU()]
    depth = random.randint(2, 6)
    for _ in range(depth):
        layers += [
            _Residual(nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.InstanceNorm2d(c, affine=True), nn.Tanh()))
        ]
    layers += [nn.Conv2d(c, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
    batch = batch_for(random, 9 * c * c * depth * size**2, 6 * depth * c * size**2, 32)
    return nn.Sequential(*layers), torch.randn(batch, 3, size, size)


# -- signals and volumes ---------------------------------------------------------------------------


def signals(random: Random) -> ModelAndInputs:
    c, length = random.choice((16, 32, 64, 128)), random.choice((256, 1024, 4096, 8000))
    kernel = random.choice((3, 7, 15, 41))
    layers: list[nn.Module] = [
        nn.Conv1d(1, c, kernel, random.choice((2, 4)), kernel // 2),
        nn.BatchNorm1d(c),
        nn.ReLU(),
    ]
    depth = random.randint(2, 5)
    for level in range(depth):
        groups = random.choice((1, 1, 4, c))
        dilation = 2**level if random.random() < 0.5 else 1
        convolution = nn.Conv1d(c, c, 3, padding=dilation, dilation=dilation, groups=groups)
        layers += [_Residual(nn.Sequential(convolution, nn.BatchNorm1d(c), random.choice(_ACTIVATIONS)()))]
        if random.random() < 0.4:
            layers.append(nn.MaxPool1d(2))
    layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(c, 35)]
    batch = batch_for(random, 3 * c * c * depth * length / 2, 6 * depth * c * length / 2, 64)
    return nn.Sequential(*layers), torch.randn(batch, 1, length)


def volumes(random: Random) -> ModelAndInputs:
    c, frames, size = random.choice((8, 16, 24)), random.choice((4, 8, 16)), random.choice((16, 24, 32))
    layers: list[nn.Module] = [nn.Conv3d(3, c, 3, padding=1), nn.BatchNorm3d(c), nn.ReLU()]
    depth = random.randint(1, 3)
    for level in range(depth):
        wider = c * 2 if level else c
        layers += [nn.Conv3d(c, wider, random.choice(((1, 3, 3), 3)), padding="same"), nn.BatchNorm3d(wider), nn.ReLU()]
        c = wider
        if random.random() < 0.6:
            layers.append(nn.MaxPool3d((1, 2, 2)))
    layers += [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(c, 101)]
    batch = batch_for(random, 27 * c * c * depth * frames * size**2, 8 * depth * c * frames * size**2, 16)
    return nn.Sequential(*layers), torch.randn(batch, 3, frames, size, size)
