"""The models that a file had built when its training was stopped (sandbox/training_stop.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..sandbox.training_stop import TrainingStarted
from ..sandbox.user_code import is_joulecasts, is_users

if TYPE_CHECKING:
    from torch import nn

_NAMES = ("model", "net")


def where_it_trains(stop: TrainingStarted, label: str) -> str:
    """`train.py:13 starts a training (Tensor.backward)`."""
    frame = next(_users(stop), None)
    if frame is None:
        return f"{label} starts a training ({stop.call})"
    code, line = frame.f_code, frame.f_lineno
    place = "" if code.co_name == "<module>" else f" in {code.co_name}"
    return f"{Path(code.co_filename).name}:{line}{place} starts a training ({stop.call})"


def choose_in_frames(stop: TrainingStarted) -> tuple[str, nn.Module] | None:
    """The one model among the variables of the user's functions that led to the training."""
    for frame in _users(stop):
        found = whole_models(frame.f_locals)
        for name in (*_NAMES, *found):
            if name in found and (name in _NAMES or len(found) == 1):
                return name, found[name]
    return None


def _users(stop: TrainingStarted) -> Iterator[FrameType]:
    """The frames of the user's files, innermost first, up to joulecast's own that loaded the file."""
    for frame in stop.frames:
        if is_joulecasts(frame.f_code.co_filename):
            return
        if is_users(frame.f_code.co_filename):
            yield frame


def whole_models(variables: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The variables that hold a model with parameters which is not part of another one; each model once."""
    from torch import nn

    models: dict[int, tuple[str, nn.Module]] = {}
    for name, value in variables.items():
        if isinstance(value, nn.Module) and not name.startswith("_") and any(True for _ in value.parameters()):
            models.setdefault(id(value), (name, value))
    parts = {id(part) for _, model in models.values() for part in _parts(model)}
    return {name: model for key, (name, model) in models.items() if key not in parts}


def _parts(model: nn.Module) -> Iterable[nn.Module]:
    return (module for module in model.modules() if module is not model)
