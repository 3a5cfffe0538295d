"""SimpleNet in Keras 3: the twin of simplenet.py, layer for layer and name for name, channels last."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

# Output channels of the convolutions; every stage but the last ends in a 2x2 max-pool.
STAGES = ((64, 128, 128, 128), (128, 128, 256), (256, 256), (512,), (2048, 256), (256,))
POINTWISE = (11, 12)  # these convolutions are 1x1, all others 3x3


def build_model(num_classes: int = 10, width: float = 1.0) -> keras.Sequential:
    """Images (batch, 32, 32, 3) to logits (batch, num_classes); `width` scales every layer's channels."""
    net, number = keras.Sequential([keras.Input((32, 32, 3))], name="simplenet"), 0
    for depth, stage in enumerate(STAGES, start=1):
        for base_channels in stage:
            number += 1
            kernel = 1 if number in POINTWISE else 3
            channels = max(1, round(base_channels * width))
            net.add(layers.Conv2D(channels, kernel, padding="same", name=f"conv{number}"))
            net.add(layers.BatchNormalization(momentum=0.95, epsilon=1e-5, name=f"norm{number}"))
            net.add(layers.ReLU(name=f"relu{number}"))
        if depth < len(STAGES):
            net.add(layers.MaxPooling2D(2, name=f"pool{depth}"))
            net.add(layers.SpatialDropout2D(0.1, name=f"drop{depth}"))
    net.add(layers.GlobalMaxPooling2D(keepdims=True, name="pool"))
    net.add(layers.Flatten(name="flatten"))
    net.add(layers.Dense(num_classes, name="classifier"))
    return net


def example_inputs(batch_size: int = 128) -> Any:
    """A batch of CIFAR-10's shape: float32 (batch_size, 32, 32, 3)."""
    return keras.ops.zeros((batch_size, 32, 32, 3))
