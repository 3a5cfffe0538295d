"""Run by test_twins.py in a separate process: the Keras twins on TensorFlow, with torch's weights.

    python keras_twins.py IN.npz OUT.npz

IN holds `images`, `width` and, per network, the torch twin's weights as NETWORK/layer/name. OUT gets, per
network, logits, parameter counts, and each layer's output shape and multiply-adds; and `lrn` and `tf_lrn`.
"""

import math
import os
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from joulecast.models import alexnet_keras, simplenet_keras

NETWORKS = {"simplenet": simplenet_keras, "alexnet": alexnet_keras}


def keras_weights(layer: Any, given: Any, prefix: str) -> list[np.ndarray]:
    """torch's weights in Keras' order and layout: spatial sizes first, output channels last."""
    if isinstance(layer, keras.layers.BatchNormalization):
        names = ("weight", "bias", "running_mean", "running_var")
        return [given[f"{prefix}/{layer.name}/{name}"] for name in names]
    weight, bias = given[f"{prefix}/{layer.name}/weight"], given[f"{prefix}/{layer.name}/bias"]
    return [weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T, bias]


def multiply_adds(layer: Any) -> int:
    """Of one sample, by hand: every output position costs the size of the kernel."""
    if not isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
        return 0
    return math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])


def report(name: str, net: Any, given: Any) -> dict[str, Any]:
    for layer in net.layers:
        if layer.weights:
            layer.set_weights(keras_weights(layer, given, name))
    found: dict[str, Any] = {
        "logits": net(given["images"], training=False).numpy(),
        "parameters": net.count_params(),
        "trainable": sum(math.prod(weight.shape) for weight in net.trainable_weights),
    }
    for layer in net.layers:
        found[f"shape/{layer.name}"] = layer.output.shape[1:]
        found[f"flops/{layer.name}"] = multiply_adds(layer)
    return {f"{name}/{key}": value for key, value in found.items()}


def main(source: str, destination: str) -> None:
    assert keras.backend.backend() == "tensorflow"
    with np.load(source) as archive:
        given = dict(archive)
    out: dict[str, Any] = {}
    for name, module in NETWORKS.items():
        out |= report(name, module.build_model(width=float(given["width"])), given)
        out[f"{name}/full_parameters"] = sum(
            math.prod(weight.shape) for weight in module.build_model().trainable_weights
        )
        out[f"{name}/example"] = module.example_inputs(2).shape
    arguments = {"depth_radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}
    out["lrn"] = alexnet_keras.LocalResponseNormalization(**arguments)(given["activations"]).numpy()
    out["tf_lrn"] = tf.nn.lrn(given["activations"], **arguments).numpy()
    np.savez(destination, **out)


main(*sys.argv[1:])
