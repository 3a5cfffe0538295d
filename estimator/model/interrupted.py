"""What a file had built when its training was stopped (sandbox/training_stop.py): its model, inputs and optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..base.autocast import accelerate_autocast, lightning_autocast
from ..sandbox.loop_body import LoopBody, loops_around
from ..sandbox.training_stop import TrainingStarted
from ..sandbox.user_code import is_joulecasts, is_users

if TYPE_CHECKING:
    from torch import nn

_NAMES = ("model", "net")
_MOST_LOOPS, _MOST_ITEMS = 3, 100


def where_it_trains(stop: TrainingStarted, label: str) -> str:
    """`train.py:13 starts a training (Tensor.backward)`."""
    frame = next(_users(stop), None)
    if frame is None:
        return f"{label} starts a training ({stop.call})"
    code, line = frame.f_code, frame.f_lineno
    place = "" if code.co_name == "<module>" else f" in {code.co_name}"
    return f"{Path(code.co_filename).name}:{line}{place} starts a training ({stop.call})"


@dataclass(frozen=True, slots=True)
class Loading:
    """What the training's `DataLoader` gives: samples in a batch and in an epoch, None where that is not known."""

    batch_size: int | None
    samples: int | None


@dataclass(frozen=True, slots=True)
class Training:
    """The model of a training that was stopped. Where the training had called it: with what, under which autocast."""

    name: str
    model: nn.Module
    called_with: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    optimizers: tuple[Any, ...] = ()
    precision: str | None = None
    loops: tuple[LoopBody, ...] = ()
    """Loops of which an iteration may be one step, where the training is that of several models."""
    samples: int | None = None
    """Of the batch that the first of several models was called with."""
    loading: Loading | None = None
    with_others: Training | None = None
    """The same training with the other models at hand, which it may call: a teacher, an encoder."""


def stopped_training(stop: TrainingStarted) -> Training | None:
    """The model that was called, otherwise the one model among the variables of the functions that led there."""
    found = _called(stop) if stop.model is not None else _in_frames(stop)
    if found is None:
        return None
    name, model = found
    loading = _loading(stop.loader)
    call = next((one for one in stop.calls if any(part is model for part in one.module.modules())), None)
    together = whole_step(stop)
    if call is None:
        return Training(name, model, optimizers=stop.optimizers, loading=loading, with_others=together)
    precision = str(call.autocast).removeprefix("torch.") if call.autocast else _of_trainers(stop)
    arguments = call.args, dict(call.kwargs)
    return Training(name, model, arguments, stop.optimizers, precision, loading=loading, with_others=together)


def whole_step(stop: TrainingStarted) -> Training | None:
    """The step of a training of several models: an iteration of a loop that it was stopped in."""
    import torch

    from ..trace.batch import tensors_in
    from ..trace.script_step import ScriptStep

    frames = list(_users(stop))
    loops = [loop for frame in frames for loop in loops_around(frame)][:_MOST_LOOPS]
    models = whole_models({name: value for frame in reversed(frames) for name, value in _all_in(frame.f_locals)})
    known = {id(parameter) for model in models.values() for parameter in model.parameters()}
    optimizers = [
        one
        for one in stop.optimizers
        if isinstance(one, torch.optim.Optimizer)
        and any(id(parameter) in known for group in one.param_groups for parameter in group["params"])
    ]
    if not loops or len(models) < 2 or not optimizers:
        return None
    name = " and ".join(models)
    step = ScriptStep(loops[0], {one.replace(".", "_"): model for one, model in models.items()}, optimizers)
    learning_first = sorted(stop.calls, key=lambda one: not one.with_grad)  # others may act on one sample
    calls = (tensors_in([one.args, one.kwargs]) for one in learning_first)
    samples = next((tensor.shape[0] for call in calls for tensor in call if tensor.dim()), None)
    loading = _loading(stop.loader)
    return Training(
        name,
        step,
        optimizers=tuple(optimizers),
        precision=_of_trainers(stop),
        loops=tuple(loops),
        samples=samples,
        loading=loading,
    )


def _of_trainers(stop: TrainingStarted) -> str | None:
    """The autocast that Lightning's `Fabric` or an `Accelerator` among the variables would enter on a GPU."""
    from ..sandbox.redirect import is_fabrics

    if is_fabrics(stop.model):
        plugin = getattr(getattr(stop.model, "_strategy", None), "precision", None)
        return lightning_autocast(getattr(plugin, "precision", None))
    for frame in _users(stop):
        for _, value in _all_in(frame.f_locals):
            if type(value).__name__ == "Accelerator" and hasattr(value, "mixed_precision"):
                return accelerate_autocast(value)
    return None


def _loading(loader: Any) -> Loading | None:
    if loader is None:
        return None
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    try:
        samples = len(loader.sampler) if loader.batch_size else len(loader) * (size or 0)
    except Exception:  # of the user's data, which may be a stream
        samples = None
    return Loading(size if isinstance(size, int) else None, samples if isinstance(samples, int) and samples else None)


def _all_in(variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Variables, and what the user's own objects, lists and dictionaries among them contain."""
    for name, value in variables.items():
        yield name, value
        if isinstance(value, dict) and len(value) <= _MOST_ITEMS:
            yield from ((f"{name}.{key}", one) for key, one in value.items() if isinstance(key, str))
        elif isinstance(value, (list, tuple)) and len(value) <= _MOST_ITEMS:
            yield from ((f"{name}.{index}", one) for index, one in enumerate(value))
        elif _is_of_users(type(value)):
            yield from ((f"{name}.{key}", one) for key, one in getattr(value, "__dict__", {}).items())


def _is_of_users(kind: type) -> bool:
    codes = (getattr(one, "__code__", None) for one in vars(kind).values())
    return any(code is not None and is_users(code.co_filename) for code in codes)


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
