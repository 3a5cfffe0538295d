"""What a file had built when its training was stopped (sandbox/training_stop.py): its model, inputs and optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Training:
    """The model of a training that was stopped. Where the training had called it: with what, under which autocast."""

    name: str
    model: nn.Module
    called_with: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    optimizers: tuple[Any, ...] = ()
    precision: str | None = None


def stopped_training(stop: TrainingStarted) -> Training | None:
    """The model that was called, otherwise the one model among the variables of the functions that led there."""
    found = _called(stop) if stop.model is not None else _in_frames(stop)
    if found is None:
        return None
    name, model = found
    call = next((one for one in stop.calls if any(part is model for part in one.module.modules())), None)
    if call is None:
        return Training(name, model, optimizers=stop.optimizers)
    precision = str(call.autocast).removeprefix("torch.") if call.autocast else None
    return Training(name, model, (call.args, dict(call.kwargs)), stop.optimizers, precision)


def _called(stop: TrainingStarted) -> tuple[str, Any]:
    from ..sandbox.redirect import unwrapped

    assert stop.model is not None
    variables = (item for frame in _users(stop) for item in frame.f_locals.items())
    own_class = type(unwrapped(stop.model)).__name__
    return next((item for item in variables if item[1] is stop.model), (own_class, stop.model))


def _in_frames(stop: TrainingStarted) -> tuple[str, nn.Module] | None:
    for frame in _users(stop):
        found = whole_models(frame.f_locals)
        for name in (*_NAMES, *found):
            if name in found and (name in _NAMES or len(found) == 1):
                return name, found[name]
    return None


def models_in_frames(stop: TrainingStarted) -> dict[str, nn.Module]:
    """The models among the variables of the innermost function that has some."""
    return next((found for frame in _users(stop) if (found := whole_models(frame.f_locals))), {})


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
