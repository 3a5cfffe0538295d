"""Small networks of many kinds, for calibration: each as short as its kind allows.

A cost model learns from them what ops cost inside a network, so they differ in op kinds and shapes, not
in accuracy. Every builder takes `width`, which scales channels, and builds the default without
arguments. Images are 3x32x32 in 10 classes, text is 64 tokens of a vocabulary of 2,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10
VOCABULARY = 2_000
TOKENS = 64


def _channels(base: int, width: float, multiple: int = 8) -> int:
    """`base * width`, to the next multiple of `multiple` (heads and groups must divide it)."""
    return max(multiple, round(base * width / multiple) * multiple)


# -- blocks --------------------------------------------------------------------------------------


class Residual(nn.Module):
    """`body(x) + shortcut(x)`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x) + self.shortcut(x)
        return result


class Concatenate(nn.Module):
    """`x` with `body(x)` concatenated as further channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


class Gate(nn.Module):
    """Squeeze and excitation: scales each channel by a gate computed from the whole image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(4, channels // 4)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x * self.scale(x)
        return result


class Transpose(nn.Module):
    """Exchanges dimensions 1 and 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, channels)."""

    def __init__(self, channels: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.project_in = nn.Linear(channels, 3 * channels)
        self.project_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project_in(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        result: Tensor = self.project_out(mixed.transpose(1, 2).flatten(2))
        return result


class Embedding(nn.Module):
    """Token ids (batch, tokens) to vectors with learned positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, channels)
        self.positions = nn.Parameter(torch.zeros(TOKENS, channels))

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.tokens(ids) + self.positions[: ids.shape[1]]
        return result


class Recurrent(nn.Module):
    """A recurrent layer that returns its outputs without its state."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], channels: int, layers: int) -> None:
        super().__init__()
        self.cell = cell(channels, channels, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.cell(x)[0]
        return result


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), act())


def _classifier(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def _feed_forward(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))


def _transformer(channels: int, heads: int, depth: int, causal: bool = False) -> nn.Sequential:
    """Pre-norm blocks and the norm after the last."""
    blocks: list[nn.Module] = []
    for _ in range(depth):
        attention = Attention(channels, heads, causal)
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(channels), attention)))
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(channels), _feed_forward(channels, 4 * channels))))
    return nn.Sequential(*blocks, nn.LayerNorm(channels))


# -- image networks ------------------------------------------------------------------------------


def residual_cnn(width: float = 1.0, blocks: int = 2) -> nn.Module:
    """Two 3x3 convolutions a block, channels doubling as the image halves (ResNet)."""
    channels = _channels(32, width)
    layers: list[nn.Module] = [_conv(3, channels)]
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            outputs = _channels(32, width) << stage
            body = nn.Sequential(_conv(channels, outputs, stride=stride), _conv(outputs, outputs, act=nn.Identity))
            shortcut = _conv(channels, outputs, 1, stride, act=nn.Identity) if outputs != channels else None
            layers += [Residual(body, shortcut), nn.ReLU()]
            channels = outputs
    return nn.Sequential(*layers, _classifier(channels))


def mobile_cnn(width: float = 1.0) -> nn.Module:
    """Depthwise 3x3 and pointwise convolutions in turn (MobileNet)."""
    channels = _channels(32, width)
    layers: list[nn.Module] = [_conv(3, channels)]
    for base, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        outputs = _channels(base, width)
        layers += [_conv(channels, channels, 3, stride, groups=channels), _conv(channels, outputs, 1)]
        channels = outputs
    return nn.Sequential(*layers, _classifier(channels))


def inverted_residual_cnn(width: float = 1.0, expansion: int = 4) -> nn.Module:
    """Expand, depthwise 5x5, gate, project (MobileNetV3, EfficientNet)."""
    channels = _channels(16, width)
    layers: list[nn.Module] = [_conv(3, channels, act=nn.SiLU)]
    for base, stride in ((24, 2), (24, 1), (48, 2), (48, 1)):
        outputs, hidden = _channels(base, width), channels * expansion
        body = nn.Sequential(
            _conv(channels, hidden, 1, act=nn.SiLU),
            _conv(hidden, hidden, 5, stride, groups=hidden, act=nn.SiLU),
            Gate(hidden),
            _conv(hidden, outputs, 1, act=nn.Identity),
        )
        layers.append(Residual(body) if stride == 1 and outputs == channels else body)
        channels = outputs
    return nn.Sequential(*layers, _classifier(channels))


def grouped_cnn(width: float = 1.0, groups: int = 8) -> nn.Module:
    """Residual bottlenecks whose 3x3 convolution has groups (ResNeXt)."""
    channels = _channels(64, width, groups)
    layers: list[nn.Module] = [_conv(3, channels, stride=2)]
    for _ in range(4):
        body = nn.Sequential(
            _conv(channels, 2 * channels, 1),
            _conv(2 * channels, 2 * channels, groups=groups),
            _conv(2 * channels, channels, 1, act=nn.Identity),
        )
        layers += [Residual(body), nn.ReLU()]
    return nn.Sequential(*layers, _classifier(channels))


def dense_cnn(width: float = 1.0, layers_per_stage: int = 4) -> nn.Module:
    """Each layer receives the outputs of all earlier layers (DenseNet)."""
    growth = _channels(24, width)
    channels = 2 * growth
    layers: list[nn.Module] = [_conv(3, channels)]
    for stage in range(3):
        if stage:
            layers += [_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(layers_per_stage):
            layers.append(Concatenate(nn.Sequential(_conv(channels, 4 * growth, 1), _conv(4 * growth, growth))))
            channels += growth
    return nn.Sequential(*layers, _classifier(channels))


def convnext(width: float = 1.0) -> nn.Module:
    """Patches, then depthwise 7x7, LayerNorm and a feed-forward per pixel (ConvNeXt)."""
    channels = _channels(64, width)
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 2, stride=2), nn.GroupNorm(1, channels)]
    for _ in range(3):
        body = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        layers.append(Residual(body))
    return nn.Sequential(*layers, _classifier(channels))


class UNet(nn.Module):
    """Down to a quarter of the size and up again with skip connections (U-Net): one class per pixel."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        first, second, third = (_channels(base, width) for base in (32, 64, 128))
        self.encode1 = _conv(3, first)
        self.encode2 = nn.Sequential(nn.MaxPool2d(2), _conv(first, second))
        self.middle = nn.Sequential(nn.MaxPool2d(2), _conv(second, third))
        self.up2 = nn.ConvTranspose2d(third, second, 2, stride=2)
        self.decode2 = _conv(2 * second, second)
        self.up1 = nn.ConvTranspose2d(second, first, 2, stride=2)
        self.decode1 = nn.Sequential(_conv(2 * first, first), nn.Conv2d(first, CLASSES, 1))

    def forward(self, images: Tensor) -> Tensor:
        fine = self.encode1(images)
        coarse = self.encode2(fine)
        coarse_again = self.decode2(torch.cat([coarse, self.up2(self.middle(coarse))], dim=1))
        result: Tensor = self.decode1(torch.cat([fine, self.up1(coarse_again)], dim=1))
        return result


def mlp(width: float = 1.0, depth: int = 4) -> nn.Module:
    """Linear layers on flat images."""
    hidden = _channels(512, width)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(3 * 32 * 32, hidden), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(hidden, CLASSES))


def _patches(channels: int) -> nn.Sequential:
    """Images to (batch, 64, channels): a token for each 4x4 patch."""
    return nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), nn.Flatten(2), Transpose())


class TokenMean(nn.Module):
    """(batch, tokens, channels) to (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def mlp_mixer(width: float = 1.0, depth: int = 3) -> nn.Module:
    """Feed-forwards over patches and over channels in turn (MLP-Mixer)."""
    channels = _channels(128, width)
    blocks: list[nn.Module] = []
    for _ in range(depth):
        across = (Transpose(), _feed_forward(64, 128), Transpose())
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(channels), *across)))
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(channels), _feed_forward(channels, 4 * channels))))
    return nn.Sequential(_patches(channels), *blocks, TokenMean(), nn.Linear(channels, CLASSES))


def vision_transformer(width: float = 1.0, depth: int = 3) -> nn.Module:
    """Patches as tokens of a transformer (ViT)."""
    channels = _channels(128, width, 16)
    return nn.Sequential(
        _patches(channels), _transformer(channels, 4, depth), TokenMean(), nn.Linear(channels, CLASSES)
    )


# -- text, sound, volumes ------------------------------------------------------------------------


def bert(width: float = 1.0, depth: int = 2) -> nn.Module:
    """A bidirectional encoder that predicts every token (BERT)."""
    channels = _channels(128, width, 16)
    head = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.LayerNorm(channels))
    return nn.Sequential(Embedding(channels), _transformer(channels, 4, depth), head, nn.Linear(channels, VOCABULARY))


def gpt(width: float = 1.0, depth: int = 2) -> nn.Module:
    """A causal decoder that predicts every next token (GPT)."""
    channels = _channels(128, width, 16)
    head = nn.Linear(channels, VOCABULARY, bias=False)
    return nn.Sequential(Embedding(channels), _transformer(channels, 4, depth, causal=True), head)


def recurrent_language_model(
    width: float = 1.0, cell: type[nn.LSTM] | type[nn.GRU] = nn.LSTM, depth: int = 2
) -> nn.Module:
    """Embedding, recurrent layers, and a score for each word."""
    channels = _channels(192, width)
    return nn.Sequential(
        nn.Embedding(VOCABULARY, channels), Recurrent(cell, channels, depth), nn.Linear(channels, VOCABULARY)
    )


def conv1d(width: float = 1.0) -> nn.Module:
    """Strided 1-D convolutions on a second of sound at 4 kHz."""
    channels, layers = 1, list[nn.Module]()
    for base, kernel, stride in ((32, 9, 4), (64, 9, 4), (128, 5, 2), (128, 3, 1)):
        outputs = _channels(base, width)
        convolution = nn.Conv1d(channels, outputs, kernel, stride, kernel // 2)
        layers += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def conv3d(width: float = 1.0) -> nn.Module:
    """3-D convolutions on eight frames."""
    channels, layers = 3, list[nn.Module]()
    for base, stride in ((16, 1), (32, 2), (64, 2)):
        outputs = _channels(base, width)
        layers += [nn.Conv3d(channels, outputs, 3, stride, 1), nn.BatchNorm3d(outputs), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


# -- the registry --------------------------------------------------------------------------------


def _noise(*shape: int) -> Callable[[int], Tensor]:
    return lambda batch_size: torch.randn(batch_size, *shape)


def _token_ids(batch_size: int) -> Tensor:
    return torch.randint(VOCABULARY, (batch_size, TOKENS))


@dataclass(frozen=True, slots=True)
class ReferenceNetwork:
    """`build(width=...)` returns the network, `inputs(batch_size)` a batch of its inputs.

    `scores` says what dimension of the output holds the class scores of the cross-entropy that trains
    it: 1 for one label a sample or a pixel, -1 for one a token.
    """

    build: Callable[..., nn.Module]
    inputs: Callable[[int], Tensor]
    scores: int = 1

    def loss(self, output: Tensor) -> Tensor:
        """Cross-entropy against the first class everywhere: a real loss whose cost does not depend on the labels."""
        scores = output.movedim(self.scores, 1)
        labels = torch.zeros(scores.shape[:1] + scores.shape[2:], dtype=torch.int64, device=scores.device)
        return F.cross_entropy(scores, labels)


_IMAGES = _noise(3, 32, 32)
NETWORKS: dict[str, ReferenceNetwork] = {
    "residual-cnn": ReferenceNetwork(residual_cnn, _IMAGES),
    "mobile-cnn": ReferenceNetwork(mobile_cnn, _IMAGES),
    "inverted-residual-cnn": ReferenceNetwork(inverted_residual_cnn, _IMAGES),
    "grouped-cnn": ReferenceNetwork(grouped_cnn, _IMAGES),
    "dense-cnn": ReferenceNetwork(dense_cnn, _IMAGES),
    "convnext": ReferenceNetwork(convnext, _IMAGES),
    "unet": ReferenceNetwork(UNet, _IMAGES),
    "mlp": ReferenceNetwork(mlp, _IMAGES),
    "mlp-mixer": ReferenceNetwork(mlp_mixer, _IMAGES),
    "vision-transformer": ReferenceNetwork(vision_transformer, _IMAGES),
    "bert": ReferenceNetwork(bert, _token_ids, scores=-1),
    "gpt": ReferenceNetwork(gpt, _token_ids, scores=-1),
    "lstm": ReferenceNetwork(recurrent_language_model, _token_ids, scores=-1),
    "gru": ReferenceNetwork(partial(recurrent_language_model, cell=nn.GRU), _token_ids, scores=-1),
    "conv1d": ReferenceNetwork(conv1d, _noise(1, 4_000)),
    "conv3d": ReferenceNetwork(conv3d, _noise(3, 8, 32, 32)),
}
