"""AlexNet, ResNet-18 and MobileNetV3-small as torchvision builds them, small enough to read.

Sources: Krizhevsky, arXiv 1404.5997 (AlexNet, one tower); He et al., arXiv 1512.03385 (ResNet-18);
Howard et al., arXiv 1905.02244, table 2 (MobileNetV3-small). All take images and give 1,000 classes.
"""

from __future__ import annotations

from torch import Tensor, nn

CLASSES = 1000


class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 3
        for c_out, kernel, stride, padding, pool in (
            (64, 11, 4, 2, True),
            (192, 5, 1, 2, True),
            (384, 3, 1, 1, False),
            (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        ):
            layers += [nn.Conv2d(c_in, c_out, kernel, stride, padding), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if pool else []
            c_in = c_out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 36, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out)]


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv_bn(c_in, c_out, 3, stride), nn.ReLU(inplace=True), *_conv_bn(c_out, c_out, 3))
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_bn(c_in, c_out, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        out += self.shortcut(x)
        result: Tensor = self.relu(out)
        return result


class ResNet18(nn.Sequential):
    def __init__(self) -> None:
        layers: list[nn.Module] = [*_conv_bn(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        c_in = 64
        for c_out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [BasicBlock(c_in, c_out, stride), BasicBlock(c_out, c_out, 1)]
            c_in = c_out
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def _eighth(channels: float) -> int:
    """The multiple of 8 next to `channels`, never less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _eighth(channels / 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.gate(x) * x
        return scaled


class InvertedResidual(nn.Module):
    def __init__(self, c_in: int, kernel: int, wide: int, c_out: int, squeeze: bool, hard: bool, stride: int):
        super().__init__()
        act: type[nn.Module] = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = []
        if wide != c_in:
            layers += [*_conv_bn(c_in, wide, 1), act(inplace=True)]
        layers += [*_conv_bn(wide, wide, kernel, stride, groups=wide), act(inplace=True)]
        layers += [SqueezeExcite(wide)] if squeeze else []
        self.body = nn.Sequential(*layers, *_conv_bn(wide, c_out, 1))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        if self.residual:
            out += x
        return out


class MobileNetV3Small(nn.Sequential):
    def __init__(self) -> None:
        layers: list[nn.Module] = [*_conv_bn(3, 16, 3, 2), nn.Hardswish(inplace=True)]
        c_in = 16
        for kernel, wide, c_out, squeeze, hard, stride in (
            (3, 16, 16, True, False, 2),
            (3, 72, 24, False, False, 2),
            (3, 88, 24, False, False, 1),
            (5, 96, 40, True, True, 2),
            (5, 240, 40, True, True, 1),
            (5, 240, 40, True, True, 1),
            (5, 120, 48, True, True, 1),
            (5, 144, 48, True, True, 1),
            (5, 288, 96, True, True, 2),
            (5, 576, 96, True, True, 1),
            (5, 576, 96, True, True, 1),
        ):
            layers.append(InvertedResidual(c_in, kernel, wide, c_out, squeeze, hard, stride))
            c_in = c_out
        layers += [*_conv_bn(96, 576, 1), nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Linear(576, 1024), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(1024, CLASSES)]
        super().__init__(*layers)
