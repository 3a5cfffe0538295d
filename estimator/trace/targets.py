"""The targets that a model takes in addition to its inputs, to compute its own loss: `forward(idx, targets=None)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .batch import tensors_in
from .shapes import output_shapes
from .signature import arguments

_NAMES = ("targets", "target", "labels", "label")


def missing_targets(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The optional argument of `forward` for targets that a call does not give, or "".

    A transformers model computes the same without it.
    """
    if getattr(model, "main_input_name", None):
        return ""
    takes = arguments(model)
    given = {*list(takes)[: len(args)], *kwargs}
    return next((name for name in _NAMES if name in takes and takes[name].default is None and name not in given), "")


def with_targets(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`kwargs` with the targets from which the model computes its loss, where it has an argument for them.

    Without targets, such a model may skip work: nanoGPT then scores the last token only. A note says what was given.
    """
    name = missing_targets(model, args, kwargs)
    first = next(tensors_in([args, dict(kwargs)]), None)
    if not name or first is None or not first.dim() or _has_loss(model, args, kwargs):
        return dict(kwargs), ()
    for targets in _possible(first):
        wanted = {**kwargs, name: targets}
        if _has_loss(model, args, wanted):
            shape = "x".join(map(str, targets.shape[1:])) or "one"
            dtype = str(targets.dtype).removeprefix("torch.")
            return wanted, (f"the model computes its loss from `{name}`: {shape} {dtype} a sample are given to it",)
    return dict(kwargs), ()


def _possible(first: torch.Tensor) -> Iterator[torch.Tensor]:
    """For a text, a token for each token; else a class for each sample or each place, or a number for each number."""
    classes = first.shape[:1]
    if not first.is_floating_point():
        yield torch.zeros_like(first, dtype=torch.int64)
    yield torch.zeros(classes, dtype=torch.int64, device=first.device)
    if first.is_floating_point() and first.dim() > 2:
        yield torch.zeros((*classes, *first.shape[2:]), dtype=torch.int64, device=first.device)
    if first.is_floating_point():
        yield torch.zeros_like(first)


def _has_loss(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the model takes the call and returns a single number."""

    def numbers(**arguments: Any) -> bool:
        return any(tensor.dim() == 0 for tensor in tensors_in(model.forward(**arguments)))

    try:
        return bool(output_shapes(model, numbers, {**dict(zip(arguments(model), args, strict=False)), **kwargs}))
    except Exception:  # the model's code may raise anything for targets that are not its own
        return False
