"""Run by test_keras_read.py in a process of its own, on Keras' torch backend; prints one JSON object."""

import json
import math
import os
import random
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"

import keras
import numpy as np
import torch
from keras import layers

from joulecast.estimator.model.keras_view import keras_view
from joulecast.estimator.trace.trace import trace


def build() -> keras.Model:
    """Everything that the view handles: layout, BatchNorm, nested models, seeds, shared layers."""
    images = keras.Input((16, 16, 3), name="images")
    features = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(images)
    features = layers.BatchNormalization(momentum=0.9, name="norm")(features)
    features = layers.SpatialDropout2D(0.25, seed=1, name="drop")(features)
    features = layers.MaxPooling2D(2, name="pool")(features)
    tokens = layers.Reshape((16, 8), name="tokens")(features)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(tokens, tokens)
    frozen = keras.Sequential([keras.Input((16, 8)), layers.Dense(8, name="mix")], name="frozen")
    frozen.trainable = False
    shared = layers.Dense(8, name="shared")
    hidden = layers.LSTM(6, name="memory")(shared(frozen(shared(attended))))
    return keras.Model(images, layers.Dense(3, name="head")(hidden), name="mixed")


def size(weights: list[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


random.seed(0)  # keras.utils.set_random_seed imports TensorFlow
torch.manual_seed(0)
model = build()
images = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype("float32")
expected = model(images, training=False).detach().numpy()
twin = build()  # Keras imports TensorFlow to clone a model
twin.set_weights(model.get_weights())
twin.get_layer("drop").rate = model.get_layer("drop").rate = 0.0
weights = model.get_weights()
trained = twin(images, training=True).detach().numpy()

view = keras_view(model)
work = trace(view, torch.zeros(4, 16, 16, 3))
untouched = all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
view.eval()
evaluated = view(torch.from_numpy(images)).detach().numpy()
view.train()
stepped = view(torch.from_numpy(images))
stepped.sum().backward()
moving = [np.asarray(net.get_layer("norm").moving_variance.value.detach()) for net in (model, twin)]

print(
    json.dumps(
        {
            "untouched": untouched,
            "evaluated": float(np.abs(evaluated - expected).max()),
            "trained": float(np.abs(stepped.detach().numpy() - trained).max()),
            # torch's running variance is that of a sample, n / (n - 1) times TensorFlow's and Keras'
            "moving_variance": float(np.abs(moving[0] / moving[1] - 1).max()),
            "gradients": {path: value.grad is not None for path, value in view.named_parameters()},
            "buffers": [path for path, _ in view.named_buffers()],
            "parameters": work.parameters,
            "expected_parameters": size(twin.weights) - size(twin.get_layer("norm").non_trainable_weights),
            "trainable": work.trainable_parameters,
            "expected_trainable": size(twin.trainable_weights),
            "layers": [layer.path for layer in work.layers],
            "tracer": work.tracer,
        }
    )
)
