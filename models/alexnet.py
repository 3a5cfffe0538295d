"""AlexNet for CIFAR-10: the thesis's version (Listing 3.3) of Krizhevsky et al. 2012.

Same five convolutions as the ImageNet original, the second with stride 4, and 256 instead of 4096
units per hidden layer. At 3x32x32 and 10 classes: 3,881,354 parameters, 6,074,880 multiply-adds in
convolutions and linear layers. Padding is TensorFlow's SAME, which splits an odd number of pixels
with the extra one at the end; it is written out here for 32x32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AlexNet(nn.Sequential):
    """Images (batch, 3, 32, 32) to logits (batch, num_classes).

    `width` scales the channels and hidden units. `dropout` is the fraction set to zero: the thesis
    leaves it open, the default is the 2012 paper's.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, hidden = (max(1, round(c * width)) for c in (96, 256, 384, 384, 256, 256))
        layers: dict[str, nn.Module] = {
            "pad1": nn.ZeroPad2d((3, 4, 3, 4)),
            "conv1": nn.Conv2d(3, c1, 11, stride=4),
            "relu1": nn.ReLU(inplace=True),
            "lrn1": _response_norm(),
            "pool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),
            "pad2": nn.ZeroPad2d((0, 1, 0, 1)),
            "conv2": nn.Conv2d(c1, c2, 5, stride=4),
            "relu2": nn.ReLU(inplace=True),
            "lrn2": _response_norm(),
            "pool2": nn.MaxPool2d(3, stride=2, padding=1),
            "conv3": nn.Conv2d(c2, c3, 3, padding=1),
            "relu3": nn.ReLU(inplace=True),
            "conv4": nn.Conv2d(c3, c4, 3, padding=1),
            "relu4": nn.ReLU(inplace=True),
            "conv5": nn.Conv2d(c4, c5, 3, padding=1),
            "relu5": nn.ReLU(inplace=True),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(c5, hidden),
            "relu6": nn.ReLU(inplace=True),
            "drop1": nn.Dropout(dropout),
            "fc2": nn.Linear(hidden, hidden),
            "relu7": nn.ReLU(inplace=True),
            "drop2": nn.Dropout(dropout),
            "fc3": nn.Linear(hidden, num_classes),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)


def _response_norm() -> nn.LocalResponseNorm:
    # TensorFlow multiplies alpha = 1e-4 with the window's sum, torch with its mean over `size`.
    return nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)


def example_inputs(batch_size: int = 128) -> Tensor:
    """A batch of CIFAR-10's shape: float32 (batch_size, 3, 32, 32)."""
    return torch.zeros(batch_size, 3, 32, 32)
