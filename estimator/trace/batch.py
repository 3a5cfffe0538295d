"""What goes into a call of the model: its arguments, the tensors in them and the number of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..base.errors import JoulecastError
from .signature import takes_whole

_MAX_DEPTH = 6


def call_arguments(inputs: Any, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from a tensor, a tuple or list of arguments, a mapping or an object.

    A mapping gives keyword arguments, or is passed whole to a model that takes the batch as one argument.
    """
    if isinstance(inputs, Mapping):
        return ((inputs,), {}) if takes_whole(model, inputs) else ((), dict(inputs))
    if isinstance(inputs, (tuple, list)) and not hasattr(inputs, "_fields"):
        if len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], dict):
            return inputs[0], inputs[1]
        return tuple(inputs), {}
    return (inputs,), {}


def tensors_in(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Every tensor in containers, dataclasses, named tuples and objects (distributions, graphs), in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth >= _MAX_DEPTH or isinstance(value, (str, bytes, int, float, type(None), nn.Module, type)):
        return
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part, depth + 1)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part, depth + 1)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name, None), depth + 1)
    elif isinstance(getattr(value, "__dict__", None), dict) and not callable(value):
        for name, part in vars(value).items():
            if not name.startswith("__"):
                yield from tensors_in(part, depth + 1)


def samples_in(inputs: Any) -> int:
    """The batch size that inputs show: the first dimension of their first tensor, or a list's length."""
    for value in _first_level(inputs):
        if isinstance(value, list) and value and is_list_of_samples(value):
            return len(value)
        for tensor in tensors_in(value):
            if tensor.dim():
                if tensor.shape[0] < 1:
                    raise JoulecastError(f"the batch dimension is {tensor.shape[0]}; give a batch of 1 or more")
                return int(tensor.shape[0])
    raise JoulecastError(
        "inputs contain no tensor with a batch dimension; give a tensor, a tuple or a dict of them, or `batch_size`"
    )


def _first_level(inputs: Any) -> Iterator[Any]:
    args, kwargs = inputs
    yield from (*args, *kwargs.values())


def is_list_of_samples(values: list[Any]) -> bool:
    """True for a list of images of their own sizes (channels, height, width) or of a dictionary for each sample."""
    if all(isinstance(value, Mapping) for value in values):
        return True
    if not all(isinstance(value, torch.Tensor) for value in values):
        return False
    shapes = {tuple(value.shape) for value in values}
    images = all(len(shape) == 3 and shape[0] in (1, 3, 4) for shape in shapes)
    return images or len({shape[:1] for shape in shapes}) > 1


def tokens_per_sample(inputs: Any) -> int:
    """Sequence length where the first integer input is (batch, positions); else 1."""
    for tensor in tensors_in(list(_first_level(inputs))):
        if tensor.dim() == 2 and not tensor.is_floating_point():
            return int(tensor.shape[1])
    return 1


def leads_with_batch(inputs: Any, batch_size: int) -> bool:
    """True where the first dimension of every tensor is the batch, so that inputs can be cut to one sample."""
    tensors = list(tensors_in(list(_first_level(inputs))))
    return bool(tensors) and all(tensor.dim() and tensor.shape[0] == batch_size for tensor in tensors)
