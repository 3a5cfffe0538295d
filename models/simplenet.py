"""SimpleNet for CIFAR-10: thirteen convolutions and a classifier.

Architecture: Hasanpour et al., "Lets keep it simple" (arXiv:1608.06037), as the thesis trains it
(Listing 3.2). At 3x32x32 and 10 classes: 5,498,378 parameters, 632.8 M multiply-adds forward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Output channels of the convolutions; every stage but the last ends in a 2x2 max-pool.
STAGES = ((64, 128, 128, 128), (128, 128, 256), (256, 256), (512,), (2048, 256), (256,))
POINTWISE = (11, 12)  # these convolutions are 1x1, all others 3x3


class SimpleNet(nn.Sequential):
    """Images (batch, 3, height, width), at least 32x32, to logits (batch, num_classes).

    `width` scales the channels of every layer.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        channels, number = 3, 0
        for depth, stage in enumerate(STAGES, start=1):
            for base_channels in stage:
                number += 1
                kernel = 1 if number in POINTWISE else 3
                out_channels = max(1, round(base_channels * width))
                convolution = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2)
                self.add_module(f"conv{number}", convolution)
                self.add_module(f"norm{number}", nn.BatchNorm2d(out_channels, momentum=0.05))
                self.add_module(f"relu{number}", nn.ReLU(inplace=True))
                channels = out_channels
            if depth < len(STAGES):
                self.add_module(f"pool{depth}", nn.MaxPool2d(2))
                self.add_module(f"drop{depth}", nn.Dropout2d(0.1))
        self.add_module("pool", nn.AdaptiveMaxPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("classifier", nn.Linear(channels, num_classes))


def example_inputs(batch_size: int = 128) -> Tensor:
    """A batch of CIFAR-10's shape: float32 (batch_size, 3, 32, 32)."""
    return torch.zeros(batch_size, 3, 32, 32)
