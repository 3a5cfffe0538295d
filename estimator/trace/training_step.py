"""A LightningModule as a module whose forward is its `training_step`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..base.errors import JoulecastError


def has_training_step(model: nn.Module) -> bool:
    """True for a LightningModule, of any package: its work is in `training_step`, not in `forward`."""
    return callable(getattr(model, "training_step", None)) and callable(getattr(model, "configure_optimizers", None))


class TrainingStep(nn.Module):
    """`training_step` of a module, which logs nothing while it is traced."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        takes_index = len(inspect.signature(module.training_step).parameters) > 1  # type: ignore[arg-type]
        self._index = (0,) if takes_index else ()

    def forward(self, batch: Any) -> Any:
        silent = {"log": _nothing, "log_dict": _nothing}
        before = {name: vars(self.module)[name] for name in silent if name in vars(self.module)}
        vars(self.module).update(silent)
        try:
            return self.module.training_step(batch, *self._index)  # type: ignore[operator]
        finally:
            for name in silent:
                del vars(self.module)[name]
            vars(self.module).update(before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for `self.log`."""


def step_loss(output: Any) -> torch.Tensor:
    """What `training_step` may return: the loss, or a dictionary that contains it."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, torch.Tensor):
        raise JoulecastError(
            "training_step returned no loss: one that runs its optimizers itself cannot be traced; "
            "return the loss, or define forward"
        )
    return loss


def possible_batches(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch_size: int) -> Iterator[Any]:
    """Forms of a batch that `training_step` may take, if the inputs are those of one sample's data alone."""
    data = args[0] if len(args) == 1 and not kwargs else None
    if not isinstance(data, torch.Tensor):
        yield dict(kwargs) if kwargs else (args[0] if len(args) == 1 else args)
        return
    yield data, torch.zeros(batch_size, dtype=torch.int64, device=data.device)
    yield data
    yield data, data
