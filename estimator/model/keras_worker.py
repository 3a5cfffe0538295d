"""The process that keras_bridge.py starts: one request on stdin, one answer on stdout.

What the model prints goes to stderr: the real stdout is kept for the answer.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ..base.errors import JoulecastError, ModelError
from ..sandbox.importing import UserImports
from ..sandbox.opened_files import recording
from ..sandbox.source import is_source
from ..sandbox.training_stop import TrainingStarted, training_stopped
from ..sandbox.user_code import time_limit, user_code
from ..trace.workload import Workload
from .builders import build, choose, named
from .interrupted import where_it_trains
from .keras_bridge import INSTALL_KERAS, KerasInput, KerasRequest, split_target

_TENSORFLOW_OP = re.compile(r"\b(tf|tensorflow)\.(?!keras\b)\w")
_TENSORFLOW_HINT = "; TensorFlow's own ops cannot run on Keras' torch backend, which reads the model: use keras.ops"


def main() -> None:
    answer_file = os.dup(1)
    os.dup2(2, 1)
    document = _answer(json.load(sys.stdin))
    with os.fdopen(answer_file, "w") as answer:
        json.dump(document, answer)


def _answer(document: dict[str, Any]) -> dict[str, Any]:
    inputs = [_input(row) for row in document.pop("inputs")]
    fallback = document.pop("fallback")
    seconds, folders = document.pop("time_limit_s"), document.pop("record_under")
    request = KerasRequest(**document, inputs=inputs, fallback=_input(fallback) if fallback else None)
    try:
        with recording(folders) as read:
            work = _trace(request, seconds)
        return {"workload": work.to_json(), "sources": read.files()}
    except ModelError as error:
        hint = _TENSORFLOW_HINT if _TENSORFLOW_OP.search(error.frames) else ""
        return {"error": f"{error}{hint}", "kind": "ModelError", "frames": error.frames}
    except JoulecastError as error:
        return {"error": str(error), "kind": "JoulecastError", "frames": ""}


def _input(row: dict[str, Any]) -> KerasInput:
    return KerasInput(tuple(row["shape"]), row["dtype"], row["name"])


def _trace(request: KerasRequest, seconds: float) -> Workload:
    _require_keras_3(request.target)
    from ..trace.trace import trace
    from .keras_view import keras_view

    location, name = split_target(request.target)
    imports = _imports(location)
    what = Path(location).name
    with time_limit(seconds, f"reading {what}"), imports.active(), user_code(what):
        with training_stopped():
            module, notes = _module(location, imports)
            model = _model(module, name, request)
        inputs = _inputs(module, model, request)
        _build(model, inputs)
        workload = trace(
            keras_view(model),
            inputs,
            train=request.train,
            optimizer=request.optimizer,
            precision=request.precision,
            accumulate=request.accumulate,
            name=request.name or model.name,
            layers=request.layers,
        )
    return replace(workload, framework="keras", warnings=(*workload.warnings, *notes))


def _module(location: str, imports: UserImports) -> tuple[ModuleType, list[str]]:
    """The module, up to where it starts a training, with a note that says so."""
    try:
        if not is_source(location):
            return importlib.import_module(location), []
        return imports.import_file(Path(location)), []
    except TrainingStarted as stop:
        where = where_it_trains(stop, Path(location).name)
        if stop.module is None:
            raise JoulecastError(f"{where} on import; name another file") from None
        return stop.module, [f"{where}: it was stopped there, and the file is read as far as it ran"]


def _require_keras_3(target: str) -> None:
    """Loads Keras on the torch backend before the model's own imports can choose another."""
    try:
        import keras
    except ImportError as error:
        raise JoulecastError(f"{target} needs Keras 3; importing it fails ({error}); {INSTALL_KERAS}") from error
    if int(keras.__version__.partition(".")[0]) < 3:
        raise JoulecastError(f"{target} needs Keras 3, and {keras.__version__} is installed; {INSTALL_KERAS}")
    keras.config.disable_traceback_filtering()  # its errors then keep the model's frames and say one thing


# -- the model -----------------------------------------------------------------------------------


def _imports(location: str) -> UserImports:
    if not is_source(location):
        return UserImports([Path.cwd()], before_installed=False)
    path = Path(location)
    if not path.is_file():
        raise JoulecastError(f"there is no file {location}; check the path")
    return UserImports([path.resolve().parent], file=path)


def _model(module: ModuleType, name: str, request: KerasRequest) -> Any:
    """The model, chosen as one of PyTorch would be: on this backend Keras layers are `nn.Module`s."""
    import keras

    label = Path(request.target.removesuffix(f":{name}")).name
    value = named(module, name, label) if name else choose(module, label, request.arguments)[1]
    arguments = _without_download(value, request.arguments)
    model = build(value, f"{label}:{name}" if name else label, arguments, request.num_classes)
    if not isinstance(model, keras.layers.Layer):
        raise JoulecastError(f"{request.target} is a {type(model).__name__}, not a Keras model; name another")
    return model


def _without_download(value: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`weights=None` where Keras' ready-made networks would fetch trained ones: the cost is the same."""
    parameter = inspect.signature(value).parameters.get("weights") if callable(value) else None
    if parameter is not None and isinstance(parameter.default, str):
        return {"weights": None, **arguments}
    return dict(arguments)


# -- its inputs ----------------------------------------------------------------------------------


def _inputs(module: ModuleType, model: Any, request: KerasRequest) -> tuple[Any, ...]:
    """Positional arguments of the model's call, as torch tensors."""
    if request.inputs:
        return _arguments(model, request.inputs, request.batch_size)
    example = getattr(module, "example_inputs", None)
    if example is not None:
        values = example(request.batch_size) if inspect.signature(example).parameters else example()
        return tuple(_torch_tensors(values if isinstance(values, tuple) else (values,)))
    declared = getattr(model, "inputs", None)
    if declared:
        return _arguments(model, [_declared(tensor, model) for tensor in declared], request.batch_size)
    if request.fallback is not None:
        return _arguments(model, [request.fallback], request.batch_size)
    raise JoulecastError(
        f"{request.target}: {type(model).__name__} does not say what it takes; give `inputs`, such as 32,32,3"
    )


def _declared(tensor: Any, model: Any) -> KerasInput:
    shape = tuple(tensor.shape[1:])
    if None in shape:
        sizes = ",".join("?" if size is None else str(size) for size in shape)
        raise JoulecastError(f"{model.name}: input {tensor.name} is {sizes}; give its sizes as `inputs`")
    return KerasInput(shape, str(tensor.dtype), tensor.name)


def _arguments(model: Any, inputs: Any, batch_size: int) -> tuple[Any, ...]:
    """A functional model takes its inputs as one list or, where it says so, one dict; others one by one."""
    import torch

    values = [torch.zeros(batch_size, *item.shape, dtype=getattr(torch, item.dtype)) for item in inputs]
    structure = getattr(model, "_inputs_struct", None)
    if len(values) == 1 and not isinstance(structure, Mapping):
        return (values[0],)
    if isinstance(structure, Mapping):
        names = [item.name for item in inputs]
        return (dict(zip(names if all(names) else structure, values, strict=True)),)
    return (values,) if structure is not None else tuple(values)


def _torch_tensors(values: Any) -> Any:
    import keras
    import numpy as np
    import torch

    return keras.tree.map_structure(
        lambda value: value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value)), values
    )


def _build(model: Any, inputs: tuple[Any, ...]) -> None:
    """Runs two samples through a model that has no weights yet."""
    import keras
    import torch

    if all(layer.built for layer in model._flatten_layers()):
        return
    with torch.no_grad():
        model(*keras.tree.map_structure(lambda tensor: tensor[:2], inputs))


if __name__ == "__main__":
    main()
