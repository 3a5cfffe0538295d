"""Stops code that starts a training while a model is being loaded.

A script that trains at module level would otherwise run for hours on the CPU before anything is predicted.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

# The calls that start a training, by the module that defines them. Each ends in `Tensor.backward` at the latest,
# but prepares folders, logs and data before.
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


class TrainingStarted(BaseException):
    """The code reached a training step. Not an Exception, so that `except Exception` does not catch it.

    `call` is what it called; `frames` are those of the code, innermost first.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call
        self.module: ModuleType | None = None  # the file as far as it ran
        self.frames = tuple(_frames(sys._getframe(2)))


@contextlib.contextmanager
def training_stopped() -> Iterator[None]:
    """Calls that start a training raise TrainingStarted."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    with contextlib.ExitStack() as stack:
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
