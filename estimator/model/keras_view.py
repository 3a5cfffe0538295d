"""A Keras model on Keras' torch backend, seen as an `nn.Module` with Keras' layer names.

Keras layers are `nn.Module`s there and their hooks fire, but the module tree does not hold the layers,
every layer registers all variables below it again, and BatchNorm's moving statistics count as parameters.
`KerasView` builds a new tree: children are the sublayers by name, parameters the layer's own weights,
buffers its own other state. The model is changed for good: use it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from keras.layers import BatchNormalization
from keras.src.backend.common import global_state
from keras.src.backend.torch import nn as keras_nn
from keras.src.backend.torch import random as keras_random
from torch import nn


class KerasView(nn.Module):
    """Runs `model` on whatever tensors its parameters and buffers are replaced with (meta, fake, real)."""

    _model: Any
    _homes: list[tuple[Any, dict[str, Any], str]]  # variable, the dict that holds its tensor, its key there

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # outside the module tree, because the model itself is the root, ""
        self._homes = []
        self._adopt(self, model)
        for layer in model._flatten_layers(include_self=False):
            # Sublayers stay where Keras looks for them, as plain attributes. An empty `_torch_params`
            # keeps Keras from registering all variables below once more.
            layer.__dict__.update(layer._modules, _torch_params={})
            layer._modules.clear()
            self._adopt(layer, layer)

    def _adopt(self, module: nn.Module, layer: Any) -> None:
        for child in layer._layers:
            module._modules[_free_name(child.name, module._modules)] = child
        for variables, registry in (
            (layer._trainable_variables, module._parameters),
            (layer._non_trainable_variables, module._buffers),
        ):
            for variable in variables:
                key = _free_name(variable.name, registry)
                registry[key] = variable.value if registry is module._parameters else variable.value.detach()
                self._homes.append((variable, registry, key))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _keras_device(self._device()), _as_tensorflow_runs(), self._values_in_place():
            return self._model(*args, **kwargs, training=self.training)

    def _device(self) -> torch.device:
        return next(tensor.device for tensor in (*self.parameters(), *self.buffers()))

    @contextmanager
    def _values_in_place(self) -> Iterator[None]:
        """Keras' variables hold the tensors that the module tree holds now (`functional_call` swaps them)."""
        before = [variable._value for variable, _, _ in self._homes]
        for variable, registry, key in self._homes:
            variable._value = registry[key]
        try:
            yield
        finally:
            for (variable, _, _), value in zip(self._homes, before, strict=True):
                variable._value = value


def keras_view(model: Any) -> KerasView:
    """The view of a built model, its class named like the model's, as layer tables show it."""
    kind: type[KerasView] = type(type(model).__name__, (KerasView,), {})
    return kind(model)


def _free_name(name: str, taken: Any) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


@contextmanager
def _keras_device(device: torch.device) -> Iterator[None]:
    """Keras places its tensors on `device` while the block runs.

    `keras.device("meta")` is Keras' own shape inference, which cuts autograd (in `convert_to_tensor` and
    before pooling) whenever its device equals that string. A `torch.device` never equals a string, so
    meta tensors go the way of real ones.
    """
    before = global_state.get_global_attribute("torch_device", None)
    global_state.set_global_attribute("torch_device", device if device.type == "meta" else device.type)
    try:
        yield
    finally:
        global_state.set_global_attribute("torch_device", before)


@contextmanager
def _as_tensorflow_runs() -> Iterator[None]:
    """Takes out what only Keras' torch backend does, so that the ops listed are those of the network.

    That backend copies every image batch to channels-first and back, and spells BatchNorm out in ten
    elementwise ops, where TensorFlow reads channels-last as it is and has one kernel. Random masks come
    without a generator: meta tensors have none, and a seed of fake tensors has no value.
    """
    replacements = (
        (keras_random, "torch_seed_generator", lambda seed: None),
        (keras_nn, "_transpose_spatial_inputs", lambda inputs: inputs.movedim(-1, 1)),
        (BatchNormalization, "call", _fused_batch_norm),
    )
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, new in replacements:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, old in before:
            setattr(owner, name, old)


_spelled_out_batch_norm = BatchNormalization.call


def _fused_batch_norm(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """`BatchNormalization.call` as one op, which updates the moving statistics as well."""
    if mask is not None or getattr(layer, "renorm", False):
        return _spelled_out_batch_norm(layer, inputs, training=training, mask=mask)
    outputs = F.batch_norm(
        inputs.movedim(layer.axis, 1),
        layer.moving_mean.value,
        layer.moving_variance.value,
        layer.gamma.value if layer.scale else None,
        layer.beta.value if layer.center else None,
        training=bool(training and layer.trainable),
        momentum=1 - layer.momentum,
        eps=layer.epsilon,
    )
    return outputs.movedim(1, layer.axis)
