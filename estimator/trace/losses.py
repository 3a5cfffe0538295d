"""The loss of a training step when the caller names none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_flatten

from ..base.errors import JoulecastError


def training_loss(loss: Callable[[Any], torch.Tensor] | None, output: Any, inputs: Any) -> torch.Tensor:
    """A scalar to start backward from.

    The caller's loss if there is one; else the model's own (`output.loss`); else cross-entropy where
    the main output holds class scores (batch x classes, or one row of scores for each position of an
    integer sequence); else its mean square.
    """
    if loss is not None:
        value = loss(output)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise JoulecastError(f"loss gave {type(value).__name__}; it must give a tensor with one element")
        return value
    own = _field(output, "loss")
    if isinstance(own, torch.Tensor) and own.numel() == 1 and own.requires_grad:
        return own
    scores = main_output(output)
    if scores is None:
        raise JoulecastError("no output of the model depends on its parameters; give a loss, or ask for inference")
    if scores.dim() == 2 or (scores.dim() == 3 and _has_integer_sequence(inputs)):
        flat = scores.reshape(-1, scores.shape[-1])
        targets = torch.zeros(flat.shape[0], dtype=torch.int64, device=flat.device)
        return F.cross_entropy(flat.float(), targets)
    return scores.float().square().mean()


def main_output(output: Any) -> torch.Tensor | None:
    """`logits` where the output has them, else its first tensor with a gradient."""
    logits = _field(output, "logits")
    if isinstance(logits, torch.Tensor) and logits.requires_grad:
        return logits
    for leaf in _leaves(output):
        if leaf.requires_grad:
            return leaf
    return None


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _leaves(output: Any) -> list[torch.Tensor]:
    values = list(output.values()) if isinstance(output, Mapping) else output
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor)]


def _has_integer_sequence(inputs: Any) -> bool:
    return any(leaf.dim() == 2 and not leaf.is_floating_point() for leaf in _leaves(list(inputs)))
