"""The loss of a training step, if the caller gives none."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..base.errors import JoulecastError
from .batch import tensors_in

# Outputs of a model that no loss is computed on: caches, and copies of what passed through the layers.
_ASIDE = ("past_key_values", "hidden_states", "attentions", "cache", "mems", "encoder_last_hidden_state")
_TARGETS = ("target", "targets", "label", "labels", "y", "y_true", "ground_truth")


def training_loss(loss: Callable[..., Any] | None, output: Any, inputs: Any) -> torch.Tensor:
    """A scalar to start backward from.

    The caller's loss, if there is one; otherwise the sum of the scalars in the output (its own `loss`, a dictionary of
    losses). A scalar behind a result may be an auxiliary loss, such as that of a codebook or a router: results with
    parameters that no scalar reaches are added. Without scalars, it is the sum over every output that depends on the
    parameters. Outputs count by cross-entropy where they are class scores (batch x classes, or a row of scores for each
    position of an integer sequence), others by their mean square.
    """
    if loss is not None:
        return _own_loss(loss, output, inputs)
    given = _field(output, "loss")
    if isinstance(given, torch.Tensor) and given.numel() == 1 and given.requires_grad:
        return given
    outputs = list(differentiable(output))
    if not outputs:
        raise JoulecastError("no output of the model depends on its parameters; give a loss, or ask for inference")
    scalars = [tensor for tensor in outputs if not tensor.dim()]
    results = [tensor for tensor in outputs if tensor.dim()]
    if not outputs[0].dim():  # a loss, and what it was computed on
        return _sum(scalars)
    if scalars:
        reached = _parameters_of(scalars)
        results = [tensor for tensor in results if not _parameters_of([tensor]) <= reached]
    sequences = _has_integer_sequence(inputs)
    return _sum([*scalars, *(_default(tensor, sequences) for tensor in results)])


def _parameters_of(tensors: list[torch.Tensor]) -> set[Any]:
    """The nodes of the graph at which gradients of these tensors end in parameters."""
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        below = {node for node, _ in waiting.pop().next_functions if node is not None} - seen
        seen |= below
        waiting += below
    return {node for node in seen if not node.next_functions}


def _sum(values: list[torch.Tensor]) -> torch.Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _default(scores: torch.Tensor, sequences: bool) -> torch.Tensor:
    if scores.is_complex():
        return torch.view_as_real(scores).square().mean()
    if scores.dim() == 2 or (scores.dim() == 3 and sequences):
        flat = scores.reshape(-1, scores.shape[-1])
        targets = torch.zeros(flat.shape[0], dtype=torch.int64, device=flat.device)
        return F.cross_entropy(flat.float(), targets)
    return scores.float().square().mean()


def _own_loss(loss: Callable[..., Any], output: Any, inputs: Any) -> torch.Tensor:
    """The caller's loss, from the output alone, or from the output and a target or the inputs."""
    needed = _needed_parameters(loss)
    if len(needed) > 2:
        raise JoulecastError(
            f"`loss` takes {', '.join(needed)}; give a function of the output, or of the output and a target "
            f"(a parameter named {' or '.join(_TARGETS[:2])}) or the inputs"
        )
    second = needed[1] if len(needed) > 1 else None
    if second is None:
        value = loss(output)
    elif second in _TARGETS:
        value = _with_target(loss, output)
    else:
        args, kwargs = inputs
        whole = args if not kwargs else (args, kwargs)
        value = loss(output, whole[0] if len(whole) == 1 else whole)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        tensor = isinstance(value, torch.Tensor)
        what = f"tensor of shape {'x'.join(map(str, value.shape))}" if tensor else type(value).__name__
        raise JoulecastError(f"`loss` returned a {what}; return a tensor with one element")
    if not value.requires_grad:
        raise JoulecastError("`loss` returned a tensor without a gradient; compute it from the model's output")
    return value


def _needed_parameters(loss: Callable[..., Any]) -> list[str]:
    """The names of the arguments that have no default."""
    function = loss.forward if isinstance(loss, torch.nn.Module) else loss
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    return [one.name for one in parameters if one.default is one.empty and one.kind <= one.POSITIONAL_OR_KEYWORD]


def _with_target(loss: Callable[..., Any], output: Any) -> Any:
    """With class numbers as the target, else with one shaped as the output; the other way round for one value each."""
    scores = output if isinstance(output, torch.Tensor) else next(differentiable(output), None)
    if scores is None:
        raise JoulecastError("no output of the model depends on its parameters; give another loss")
    classes = torch.zeros((*scores.shape[:1], *scores.shape[2:]), dtype=torch.int64, device=scores.device)
    alike = torch.zeros_like(scores)
    first, second = (alike, classes) if scores.dim() < 2 or scores.shape[1] == 1 else (classes, alike)
    try:
        return loss(output, first)
    except (RuntimeError, ValueError, TypeError):
        return loss(output, second)


def differentiable(output: Any) -> Iterator[torch.Tensor]:
    """Each output tensor that has a gradient, once; caches and copies of hidden states are left out."""
    seen: set[int] = set()
    for part in _parts(output):
        for tensor in tensors_in(part):
            if tensor.requires_grad and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def _parts(output: Any) -> list[Any]:
    """The fields of a mapping or dataclass without those that no loss is computed on, if others have a gradient."""
    if isinstance(output, Mapping):
        named = list(output.items())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        named = [(field.name, getattr(output, field.name, None)) for field in dataclasses.fields(output)]
    else:
        return [output]
    kept = [value for name, value in named if not str(name).endswith(_ASIDE)]
    with_gradient = any(tensor.requires_grad for value in kept for tensor in tensors_in(value))
    return kept if with_gradient else [value for _, value in named]


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _has_integer_sequence(inputs: Any) -> bool:
    return any(tensor.dim() == 2 and not tensor.is_floating_point() for tensor in tensors_in(list(inputs)))
