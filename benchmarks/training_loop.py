"""A plain training loop on random batches, with or without a budget, and what a training leaves; see trainings.py."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

import joulecast as jc
from joulecast.estimator.trace.losses import training_loss

STEPS = 3
MOMENTUM = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)

Train = Callable[[bool], dict[str, Any]]
"""Trains with (True) or without a budget; returns everything that must be the same afterwards."""


def budget() -> jc.Budget:
    return jc.Budget("1000 kWh", hardware="i7-4770", meter="none")


def seed(number: int) -> None:
    for one in (random.seed, np.random.seed, torch.manual_seed):
        one(number)


def state(model: nn.Module, *others: Any) -> dict[str, Any]:
    """Parameters, buffers, gradients, attributes, hooks and modes of a model, other objects, and random states."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"{path}: class and mode"] = type(module).__name__, module.training
        for name, value in sorted(vars(module).items()):
            if name in ("_modules", "trainer", "_trainer", "_forward_pre_hooks_with_kwargs", "_fabric"):
                continue
            if name.endswith("_hooks"):
                found[f"{path}.{name}"] = len(value)
            else:
                found[f"{path}.{name}"] = plain(value)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found[f"{path}.{name}: gradient"] = parameter.requires_grad, plain(parameter.grad)
    for index, other in enumerate(others):
        found[f"object {index}"] = plain(other)
    found["random"] = plain([random.getstate(), np.random.get_state(), torch.get_rng_state()])
    found["torch"] = str(torch.get_default_dtype()), torch.is_grad_enabled(), str(torch.get_default_device())
    return found


def plain(value: Any) -> Any:
    """Tensors as bytes, containers by content; other objects by their type."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            value = value.to_dense()
        content = (
            value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        )
        return str(value.dtype), tuple(value.shape), content
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bytes, bool, type(None))) else type(value).__name__


def call_arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Of a batch that is a tensor, a tuple of positional arguments or a dictionary of named ones."""
    if isinstance(batch, dict):
        return (), batch
    return batch if isinstance(batch, tuple) else (batch,), {}


def loop(
    make: Callable[[], nn.Module],
    batches: Callable[[], Sequence[Any]],
    *,
    optimizer: Callable[[Any], torch.optim.Optimizer] = MOMENTUM,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    autocast: torch.dtype | None = None,
    average: bool = False,
    accumulate: int = 1,
    clip: bool = False,
    cleared_last: bool = False,
    to_none: bool = True,
    schedule: bool = False,
    compiled: str | None = None,
    ahead: bool = False,
    validation: bool = False,
    prepare: Callable[[nn.Module], Any] | None = None,
) -> Train:
    """A training in which each batch is what `call_arguments` takes."""

    def train(watched: bool) -> dict[str, Any]:
        seed(0)
        model = make()
        if prepare is not None:
            prepare(model)
        seed(1)
        data = batches()
        used: Any = torch.compile(model, backend=compiled) if compiled else model
        trained = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
        mean = torch.optim.swa_utils.AveragedModel(model) if average else None
        pace = torch.optim.lr_scheduler.CosineAnnealingLR(trained, len(data)) if schedule else None
        losses: list[float] = []
        inputs = (data[0] if isinstance(data[0], (tuple, dict)) else (data[0],)) if ahead else None
        with ExitStack() as stack:
            run = None
            if watched:
                watch = budget().watch(used, inputs, steps=len(data), optimizer=trained)
                run = stack.enter_context(watch)
            for batch in data:
                if not cleared_last:
                    trained.zero_grad(set_to_none=to_none)
                args, kwargs = call_arguments(batch)
                for _ in range(accumulate):
                    with torch.autocast("cpu", autocast) if autocast else nullcontext():
                        output = used(*args, **kwargs)
                        value = loss(output, batch) if loss else training_loss(None, output, (args, kwargs))
                    (value / accumulate).backward()
                    losses.append(float(value))
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                trained.step()
                if cleared_last:
                    trained.zero_grad(set_to_none=to_none)
                if mean is not None:
                    mean.update_parameters(model)
                if pace is not None:
                    pace.step()
                if run is not None:
                    run.step()
                if validation:
                    with run.validation() if run else nullcontext(), torch.no_grad():
                        model.eval()
                        used(*args, **kwargs)
                        model.train()
        others = [trained.state_dict(), losses, mean.state_dict() if mean else None]
        return state(model, *others) | {"predicted": run is not None and run.estimate is not None}

    return train


# -- batches ---------------------------------------------------------------------------------------


def vectors(width: int = 8, rows: int = 4) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: [torch.randn(rows, width) for _ in range(STEPS)]


def images(side: int = 16, rows: int = 2, channels: int = 3) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: [torch.randn(rows, channels, side, side) for _ in range(STEPS)]


def tokens(length: int = 16, vocabulary: int = 100, rows: int = 2) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: [torch.randint(3, vocabulary, (rows, length)) for _ in range(STEPS)]


def sequences() -> Sequence[torch.Tensor]:
    return [torch.randn(3, 5, 8) for _ in range(STEPS)]
