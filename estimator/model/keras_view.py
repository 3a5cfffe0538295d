"""A Keras model on Keras' torch backend as an `nn.Module` with Keras' layer names.

Keras layers are `nn.Module`s on this backend and call their hooks. But the module tree does not contain the
layers, every layer registers all variables below it again, and BatchNorm's moving statistics are parameters.
`KerasView` builds a new tree: the children of a layer are its sublayers by name, the parameters its own
weights, the buffers its own other state. The model is changed permanently: use a separate process.
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
    """Runs `model` on the tensors that replace its parameters and buffers (meta, fake or real)."""

    _model: Any
    _homes: list[tuple[Any, dict[str, Any], str]]  # variable, the dict with its tensor, its key in the dict

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not in the module tree: the model itself is the root, ""
        self._homes = []
        self._adopt(self, model)
        for layer in model._flatten_layers(include_self=False):
            # Keras finds sublayers as plain attributes. With an empty `_torch_params` it does not register
            # all variables below again.
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
        """Gives Keras' variables the tensors that are in the module tree now (`functional_call` swaps them)."""
        before = [variable._value for variable, _, _ in self._homes]
        for variable, registry, key in self._homes:
            variable._value = registry[key]
        try:
            yield
        finally:
            for (variable, _, _), value in zip(self._homes, before, strict=True):
                variable._value = value


def keras_view(model: Any) -> KerasView:
    """The view of a built model. Its class has the name of the model's class, which layer tables show."""
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

    `keras.device("meta")` selects Keras' own shape inference, which detaches tensors (in `convert_to_tensor`
    and before pooling) if its device equals that string. A `torch.device` never equals a string, so meta
    tensors are treated as real ones.
    """
    before = global_state.get_global_attribute("torch_device", None)
    global_state.set_global_attribute("torch_device", device if device.type == "meta" else device.type)
    try:
        yield
    finally:
        global_state.set_global_attribute("torch_device", before)


@contextmanager
def _as_tensorflow_runs() -> Iterator[None]:
    """Removes ops that only Keras' torch backend adds, so that the ops listed are those of the network.

    The backend copies every image batch to channels-first and back, and computes BatchNorm in ten
    elementwise ops; TensorFlow reads channels-last directly and has one kernel. Random masks are drawn
    without a generator: meta tensors have none, and a fake tensor as the seed has no value.
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


_elementwise_batch_norm = BatchNormalization.call


def _fused_batch_norm(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """`BatchNormalization.call` as one op, which also updates the moving statistics."""
    if mask is not None or getattr(layer, "renorm", False):
        return _elementwise_batch_norm(layer, inputs, training=training, mask=mask)
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
