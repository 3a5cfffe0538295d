"""Forward FLOPs per module by fvcore, with the handles that it lacks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .formulas import rnn_flops


class _FlatInterface(nn.Module):
    """The model with a flat tuple of tensors in and out: what TorchScript can trace of dict models."""

    def __init__(self, model: nn.Module, spec: Any, constants: list[Any]) -> None:
        super().__init__()
        self.model = model
        self._spec, self._constants = spec, constants

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        waiting = iter(tensors)
        leaves = [next(waiting) if value is _TENSOR else value for value in self._constants]
        args, kwargs = tree_unflatten(leaves, self._spec)
        flat, _ = tree_flatten(self.model(*args, **kwargs))
        return tuple(value for value in flat if isinstance(value, torch.Tensor))


_TENSOR = object()


def fvcore_forward_flops(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-adds of one forward pass in evaluation mode, by module path ("" is the whole).

    Runs the model for real, without gradients: call it with one sample. Raises whatever the model or
    TorchScript raises when the model cannot be traced.
    """
    from fvcore.nn import FlopCountAnalysis

    leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    constants = [_TENSOR if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    wrapper = _FlatInterface(model, spec, constants)
    modes = {module: module.training for module in model.modules()}
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    try:
        wrapper.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            analysis = FlopCountAnalysis(wrapper, tuple(tensors))
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            analysis.set_op_handle(**_EXTRA_HANDLES)
            by_module = analysis.by_module()
    finally:
        for module, training in modes.items():
            module.training = training
    prefix = "model."
    counts = {path.removeprefix(prefix): int(count) for path, count in by_module.items() if path.startswith(prefix)}
    return {**counts, "": int(by_module[""])}


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.type().sizes() or ())


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    query, key, value = (_shape(item) for item in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _convolution(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """padding="same" and "valid": weights of shape (channels out, channels in of a group, kernel...)."""
    (output,), (_, weight, *_) = outputs, inputs
    return prod(_shape(output)) * prod(_shape(weight)[1:])


def _recurrent(cell: str) -> Any:
    def handle(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        # data, state (of an LSTM two), weights, biases, layers, dropout, train, bidirectional, ...
        *outer, width = _shape(inputs[0])
        states = [_shape(state) for state in (inputs[1].node().inputs() if cell == "lstm" else inputs[1:2])]
        (stacked, *_, state), (*_, hidden) = states[0], states[-1]
        directions = 2 if inputs[7].toIValue() else 1
        return rnn_flops(
            cell,
            tokens=prod(outer),
            input_size=width,
            hidden=hidden,
            layers=stacked // directions,
            directions=directions,
            projection=state if state != hidden else 0,
        )

    return handle


_EXTRA_HANDLES = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::_convolution_mode": _convolution,
    "aten::gru": _recurrent("gru"),
    "aten::rnn_tanh": _recurrent("rnn_tanh"),
    "aten::rnn_relu": _recurrent("rnn_relu"),
    "aten::lstm": _recurrent("lstm"),
}


def zeros_for(values: Any, *, cut_from: int | None) -> Any:
    """The inputs with zeros for values, on the CPU; a batch of `cut_from` samples is cut to one."""

    def zeros(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        shape = list(value.shape)
        if shape and shape[0] == cut_from:
            shape[0] = 1
        return torch.zeros(shape, dtype=value.dtype, device="cpu")

    return tree_map(zeros, values)
