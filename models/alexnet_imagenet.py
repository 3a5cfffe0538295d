"""AlexNet as Krizhevsky et al. 2012 trained it on ImageNet, its two GPU halves as grouped convolutions.

At 3x227x227 and 1000 classes: 60,965,224 parameters and 724,406,816 multiply-adds forward (1.45 G
operations when a multiply and an add count as two). The paper says 224x224; its own layer sizes
(55x55 after the first convolution) need 227.

Table 3.0.1 of the thesis, taken from the SimpleNet paper, agrees on the parameters (60 M) and
disagrees on the operations: its 7.27 G is ten times the multiply-adds, and no way of counting the
forward pass gives it. The table's GoogLeNet, NIN and VGG16 rows are ten times too high as well (VGG16
at 224x224 has 15.5 G multiply-adds, the table says 154.7 G) while ResNet152 (11.3 G) and SimpleNet
(652 M) stand in plain multiply-adds, which suggests a misplaced decimal point in four rows. ImageNet's AlexNet
therefore costs little more per image than SimpleNet does per CIFAR-10 image, not eleven times as much.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AlexNetImageNet(nn.Sequential):
    """Images (batch, 3, 227, 227) to logits (batch, num_classes); `width` scales channels and units."""

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        # Even, because the two GPU halves are separate in three of the convolutions.
        sizes = (96, 256, 384, 384, 256, 4096)
        c1, c2, c3, c4, c5, hidden = (2 * max(1, round(size * width / 2)) for size in sizes)
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, c1, 11, stride=4),
            "relu1": nn.ReLU(inplace=True),
            # torch takes the mean over the window where the paper takes the sum: alpha = 5 * 1e-4.
            "lrn1": nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0),
            "pool1": nn.MaxPool2d(3, stride=2),
            "conv2": nn.Conv2d(c1, c2, 5, padding=2, groups=2),
            "relu2": nn.ReLU(inplace=True),
            "lrn2": nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0),
            "pool2": nn.MaxPool2d(3, stride=2),
            "conv3": nn.Conv2d(c2, c3, 3, padding=1),
            "relu3": nn.ReLU(inplace=True),
            "conv4": nn.Conv2d(c3, c4, 3, padding=1, groups=2),
            "relu4": nn.ReLU(inplace=True),
            "conv5": nn.Conv2d(c4, c5, 3, padding=1, groups=2),
            "relu5": nn.ReLU(inplace=True),
            "pool5": nn.MaxPool2d(3, stride=2),
            "flatten": nn.Flatten(),
            "drop1": nn.Dropout(0.5),
            "fc1": nn.Linear(c5 * 6 * 6, hidden),
            "relu6": nn.ReLU(inplace=True),
            "drop2": nn.Dropout(0.5),
            "fc2": nn.Linear(hidden, hidden),
            "relu7": nn.ReLU(inplace=True),
            "fc3": nn.Linear(hidden, num_classes),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)


def example_inputs(batch_size: int = 128) -> Tensor:
    """A batch of the original's crops: float32 (batch_size, 3, 227, 227)."""
    return torch.zeros(batch_size, 3, 227, 227)
