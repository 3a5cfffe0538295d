"""Stops code that starts a training while a model is being loaded.

A script that trains at module level would otherwise run for hours on the CPU before anything is predicted.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch
    from torch import nn

# The calls that start a training, by the module that defines them. Each ends in `Tensor.backward` at the latest,
# but prepares folders, logs and data before. A loop of the user's own starts with the first call of the model.
_STARTS = {
    "torch._tensor": ("Tensor.backward",),
    "torch.autograd": ("backward",),
    "lightning.pytorch.trainer.trainer": ("Trainer.fit",),
    "pytorch_lightning.trainer.trainer": ("Trainer.fit",),
    "transformers.trainer": ("Trainer.train",),
    "keras.src.backend.torch.trainer": ("TorchTrainer.fit", "TorchTrainer.train_on_batch"),
    "fastai.learner": ("Learner.fit",),
    "ultralytics.engine.model": ("Model.train",),
}
_active: list[contextlib.ExitStack] = []


@dataclass(frozen=True, slots=True)
class FirstCall:
    """The first call of a model after optimizers were made for its parameters."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    optimizers: tuple[Any, ...]
    autocast: torch.dtype | None
    """The number format of the innermost autocast region around the call."""


class TrainingStarted(BaseException):
    """The code reached a training step. Not an Exception, so that `except Exception` does not catch it.

    `call` is what it called; `first_call` has the arguments if that is the model; `frames` are those of the code,
    innermost first.
    """

    def __init__(self, call: str, first_call: FirstCall | None = None) -> None:
        super().__init__(call)
        self.call = call
        self.first_call = first_call
        self.module: ModuleType | None = None  # the file as far as it ran
        self.frames = tuple(_frames(sys._getframe(2)))


@contextlib.contextmanager
def training_stopped() -> Iterator[None]:
    """Calls that start a training raise TrainingStarted."""
    from torch import nn
    from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

    optimizers: list[Any] = []
    with contextlib.ExitStack() as stack:
        regions = stack.enter_context(_autocast_regions())
        stack.enter_context(mock.patch.object(Optimizer, "__init__", _noting(Optimizer.__init__, optimizers)))
        stop_model = _stopping_model(nn.Module.__call__, optimizers, regions)
        stack.enter_context(mock.patch.object(nn.Module, "__call__", stop_model))
        hook = register_optimizer_step_pre_hook(_stop_step)
        stack.callback(hook.remove)
        _active.append(stack)
        stack.callback(_active.remove, stack)
        for name in _STARTS:
            if name in sys.modules:
                guard_module(sys.modules[name])
        yield


def guard_module(module: ModuleType) -> None:
    """Guards a module that was just imported, while `training_stopped` is active."""
    if not _active:
        return
    for path in _STARTS.get(module.__name__, ()):
        *outer, name = path.split(".")
        owner: Any = getattr(module, outer[0], None) if outer else module
        start = vars(owner).get(name) if owner is not None else None
        if start is not None:
            setattr(owner, name, _stopping(start, path.removeprefix("Torch")))
            _active[-1].callback(setattr, owner, name, start)


def _noting(init: Callable[..., None], optimizers: list[Any]) -> Callable[..., None]:
    @functools.wraps(init)
    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        optimizers.append(self)

    return note


def _stopping_model(
    call: Callable[..., Any], optimizers: Sequence[Any], regions: Sequence[torch.dtype | None]
) -> Callable[..., Any]:
    """`Module.__call__` that stops at the model: the module that holds what all optimizers update.

    The call may be an evaluation before the first step, of hundreds of batches, or one that compiles the model.
    """

    @functools.wraps(call)
    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        if optimizers and _holds(self, optimizers):
            autocast = regions[-1] if regions else None
            raise TrainingStarted(
                f"{type(self).__name__}.forward", FirstCall(self, args, kwargs, tuple(optimizers), autocast)
            )
        return call(self, *args, **kwargs)

    return stop


@contextlib.contextmanager
def _autocast_regions() -> Iterator[list[torch.dtype | None]]:
    """The formats of the autocast regions that are entered, innermost last; None for one that is switched off.

    PyTorch itself switches off the regions of a device that this machine lacks.
    """
    import torch
    from torch.amp.autocast_mode import autocast

    init, enter, leave = autocast.__init__, autocast.__enter__, autocast.__exit__
    regions: list[torch.dtype | None] = []

    def note(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, *args: Any, **kwargs: Any) -> None:
        init(self, device_type, dtype, enabled, *args, **kwargs)
        self.noted = (dtype or torch.get_autocast_dtype(device_type)) if enabled else None

    def entered(self: Any) -> Any:
        regions.append(self.noted)
        return enter(self)

    def left(self: Any, *error: Any) -> Any:
        regions.pop()
        return leave(self, *error)

    with mock.patch.multiple(autocast, __init__=note, __enter__=entered, __exit__=left):
        yield regions


def _holds(module: nn.Module, optimizers: Sequence[Any]) -> bool:
    updated = {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}
    return bool(updated) and updated <= {id(parameter) for parameter in module.parameters()}


def _stopping(start: Callable[..., Any], call: str) -> Callable[..., Any]:
    @functools.wraps(start)
    def stop(*_args: Any, **_kwargs: Any) -> Any:
        raise TrainingStarted(call)

    return stop


def _stop_step(optimizer: Any, *_: Any) -> None:
    raise TrainingStarted(f"{type(optimizer).__name__}.step")


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
