"""Stops code that starts a training while a model is being loaded.

A script that trains at module level would otherwise run for hours on the CPU before anything is predicted.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from .first_batch import first_batch

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


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a module by code that is no module itself."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    autocast: torch.dtype | None
    """The number format of the innermost autocast region around the call."""
    with_grad: bool = True


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the code has done while `training_stopped` is active; `guards` are removed at its end."""

    guards: contextlib.ExitStack
    optimizers: list[Any] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    """The latest call of each module, by its id."""
    loaders: list[Any] = field(default_factory=list)
    """The `DataLoader`s that gave batches, latest last."""


_active: list[_Seen] = []


class TrainingStarted(BaseException):
    """The code reached a training step. Not an Exception, so that `except Exception` does not catch it.

    `call` is what it called, `model` the module that it called or gave to a trainer; `calls` and `optimizers` are those
    of the code so far, `frames` those of the code, innermost first; `problem` is why a trainer's batch was not read,
    and `accumulated` the batches of one of its updates.
    `loader` is the DataLoader that gave the latest batch; None in an evaluation.
    """

    def __init__(self, call: str, model: nn.Module | None = None, problem: str = "", *, accumulated: int = 1) -> None:
        super().__init__(call)
        self.call = call
        self.model = model
        self.problem = problem
        self.accumulated = accumulated
        self.calls = tuple(_active[-1].calls.values()) if _active else ()
        self.optimizers = tuple(_active[-1].optimizers) if _active else ()
        self.loader = _loader(model, call)
        self.module: ModuleType | None = None  # the file as far as it ran
        self.frames = tuple(_frames(sys._getframe(2)))


def _loader(model: nn.Module | None, call: str) -> Any:
    import torch

    evaluates = call.endswith(".forward") and not (torch.is_grad_enabled() and (model is None or model.training))
    return _active[-1].loaders[-1] if _active and _active[-1].loaders and not evaluates else None


@contextlib.contextmanager
def training_stopped() -> Iterator[None]:
    """Calls that start a training raise TrainingStarted."""
    from unittest import mock  # takes as long to import as the rest of what starts the process of the user's code

    from torch import nn
    from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
    from torch.utils.data import DataLoader

    with contextlib.ExitStack() as stack:
        seen = _Seen(stack)
        regions = stack.enter_context(_autocast_regions())
        stack.enter_context(mock.patch.object(Optimizer, "__init__", _noting(Optimizer.__init__, seen)))
        stack.enter_context(mock.patch.object(nn.Module, "__call__", _watched(nn.Module.__call__, seen, regions)))
        stack.enter_context(mock.patch.object(DataLoader, "__iter__", _noting_loader(DataLoader.__iter__, seen)))
        hook = register_optimizer_step_pre_hook(_stop_step)
        stack.callback(hook.remove)
        _active.append(seen)
        stack.callback(_active.remove, seen)
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
            _active[-1].guards.callback(setattr, owner, name, start)


def _noting(init: Callable[..., None], seen: _Seen) -> Callable[..., None]:
    @functools.wraps(init)
    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        seen.optimizers.append(self)

    return note


def _noting_loader(iterate: Callable[..., Any], seen: _Seen) -> Callable[..., Any]:
    @functools.wraps(iterate)
    def note(self: Any) -> Any:
        seen.loaders.append(self)
        return iterate(self)

    return note


def _watched(call: Callable[..., Any], seen: _Seen, regions: Sequence[torch.dtype | None]) -> Callable[..., Any]:
    """`Module.__call__` that keeps the arguments, and stops at the module that holds what all optimizers update.

    That call may be an evaluation before the first step, of hundreds of batches, or one that compiles the model.
    """
    import torch

    depth = 0

    @functools.wraps(call)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        if not depth:
            autocast = regions[-1] if regions else None
            seen.calls[id(self)] = Call(self, args, kwargs, autocast, torch.is_grad_enabled())
            if _holds(self, seen.optimizers):
                raise TrainingStarted(f"{type(self).__name__}.forward", self)
        depth += 1
        try:
            return call(self, *args, **kwargs)
        finally:
            depth -= 1

    return watched


@contextlib.contextmanager
def _autocast_regions() -> Iterator[list[torch.dtype | None]]:
    """The formats of the autocast regions that are entered, innermost last; None for one that is switched off.

    PyTorch itself switches off the regions of a device that this machine lacks.
    """
    from unittest import mock

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
    def stop(*args: Any, **kwargs: Any) -> Any:
        if call == "Tensor.backward" and args[0].grad_fn is None:  # of a number that no model computed
            return None
        batch = first_batch(call, args, kwargs)
        if batch is None or not _active:
            raise TrainingStarted(call)
        if batch.args or batch.kwargs:
            _active[-1].calls[id(batch.model)] = Call(batch.model, batch.args, batch.kwargs, batch.autocast)
        _active[-1].optimizers[:] = batch.optimizers
        raise TrainingStarted(call, batch.model, batch.problem, accumulated=batch.accumulated)

    return stop


def _stop_step(optimizer: Any, *_: Any) -> None:
    raise TrainingStarted(f"{type(optimizer).__name__}.step")


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
