"""Shapes of what a part of a model returns, without running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from .step import StandIns
from .untouched import Reached, untouched
from .values import Following, ReadsValues, Values


def output_shapes(model: nn.Module, call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """The output of `call(**arguments)`, a method of `model`, with a shape in place of each tensor.

    It runs on meta stand-ins in evaluation mode; the model is left as it was. Raises what the call raises.
    """
    with untouched(model, arguments) as reached, reached.attempt():
        return _output_shapes(model, call, arguments, reached)


def _output_shapes(model: nn.Module, call: Callable[..., Any], arguments: dict[str, Any], reached: Reached) -> Any:
    values = Values("meta")
    stand_ins = StandIns("meta", values)
    stand_ins.swapped_in(model, reached)
    model.eval()
    with torch.device("meta"), torch.no_grad(), Following(values), ReadsValues(values):
        output = call(**tree_map_only(torch.Tensor, stand_ins.of, arguments))
    return tree_map_only(torch.Tensor, lambda tensor: tuple(tensor.shape), output)
