"""Tracing one step of a torch model that is about to train, without changing the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..estimator.trace.trace import trace
from ..estimator.trace.workload import Workload


def bare(model: nn.Module) -> nn.Module:
    """The model without wrappers that compile it or distribute it over devices."""
    inner = model
    while True:
        if isinstance(inner, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        elif "_orig_mod" in inner._modules:  # torch.compile
            inner = inner._orig_mod  # type: ignore[assignment]
        else:
            return inner


def read_step(model: nn.Module, inputs: Any, **options: Any) -> Workload:
    """`trace`'s workload of one training step, with nothing compiled."""
    with torch.compiler.set_stance("force_eager"):
        return trace(model, inputs, train=True, layers=False, **options)


def autocast_precision(model: nn.Module) -> str | None:
    """The current autocast dtype on the model's device; None if autocast is off."""
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return str(torch.get_autocast_dtype(device)).removeprefix("torch.")


class FirstBatch:
    """Passes the arguments of a model's first call in training to `take((args, kwargs))`, before the call runs.

    This is the real batch, so the data need not be read twice. An exception of `take` ends the call.
    """

    def __init__(self, model: nn.Module, take: Callable[[Any], None]) -> None:
        self._model, self._take = model, take
        if isinstance(model, torch.jit.ScriptModule):  # takes no hooks of its own
            self._handle = register_module_forward_pre_hook(self._any_called)
        else:
            self._handle = model.register_forward_pre_hook(torch.compiler.disable(self._called), with_kwargs=True)

    def _called(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            self.forget()
            self._take((args, kwargs))

    def _any_called(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if model is self._model:
            self._called(model, args, {})

    def forget(self) -> None:
        self._handle.remove()
