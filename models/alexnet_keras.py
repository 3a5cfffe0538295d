"""AlexNet for CIFAR-10 in Keras 3: the twin of alexnet.py, name for name, channels last."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import layers, ops


class LocalResponseNormalization(layers.Layer):
    """x / (bias + alpha * sum of x**2 over the 2 * depth_radius + 1 nearest channels) ** beta.

    Input and output (..., channels); the same numbers as `tf.nn.lrn` with the same arguments.
    """

    def __init__(
        self, depth_radius: int = 5, bias: float = 1.0, alpha: float = 1.0, beta: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.depth_radius, self.bias, self.alpha, self.beta = depth_radius, bias, alpha, beta

    def call(self, inputs: Any) -> Any:
        radius, channels = self.depth_radius, inputs.shape[-1]
        squares = ops.pad(ops.square(inputs), [(0, 0)] * (len(inputs.shape) - 1) + [(radius, radius)])
        total = squares[..., :channels]
        for shift in range(1, 2 * radius + 1):
            total = total + squares[..., shift : shift + channels]
        return inputs / (self.bias + self.alpha * total) ** self.beta

    def get_config(self) -> dict[str, Any]:
        own = {"depth_radius": self.depth_radius, "bias": self.bias, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **own}


def build_model(num_classes: int = 10, width: float = 1.0, dropout: float = 0.5) -> keras.Sequential:
    """Images (batch, 32, 32, 3) to logits (batch, num_classes); arguments as `AlexNet` in alexnet.py."""
    c1, c2, c3, c4, c5, hidden = (max(1, round(c * width)) for c in (96, 256, 384, 384, 256, 256))
    response_norm = partial(LocalResponseNormalization, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(c1, 11, strides=4, padding="same", name="conv1"),
            layers.ReLU(name="relu1"),
            response_norm(name="lrn1"),
            layers.MaxPooling2D(3, strides=2, padding="same", name="pool1"),
            layers.Conv2D(c2, 5, strides=4, padding="same", name="conv2"),
            layers.ReLU(name="relu2"),
            response_norm(name="lrn2"),
            layers.MaxPooling2D(3, strides=2, padding="same", name="pool2"),
            layers.Conv2D(c3, 3, padding="same", name="conv3"),
            layers.ReLU(name="relu3"),
            layers.Conv2D(c4, 3, padding="same", name="conv4"),
            layers.ReLU(name="relu4"),
            layers.Conv2D(c5, 3, padding="same", name="conv5"),
            layers.ReLU(name="relu5"),
            layers.Flatten(name="flatten"),
            layers.Dense(hidden, name="fc1"),
            layers.ReLU(name="relu6"),
            layers.Dropout(dropout, name="drop1"),
            layers.Dense(hidden, name="fc2"),
            layers.ReLU(name="relu7"),
            layers.Dropout(dropout, name="drop2"),
            layers.Dense(num_classes, name="fc3"),
        ],
        name="alexnet",
    )


def example_inputs(batch_size: int = 128) -> Any:
    """A batch of CIFAR-10's shape: float32 (batch_size, 32, 32, 3)."""
    return ops.zeros((batch_size, 32, 32, 3))
