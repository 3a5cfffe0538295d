"""Reads Keras models on Keras' torch backend, where every layer is an `nn.Module`: one tracer serves both frameworks.

Keras chooses its backend once per process, so this runs in a process of its own (worker.py).
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError, ModelError
from ..sandbox.time_limit import time_limit
from ..trace.workload import Workload
from .input_spec import InputSpec

if TYPE_CHECKING:
    from .load import LoadedModel
    from .read_model import TraceOptions

INSTALL_KERAS = "pip install 'joulecast[keras]'"
# Nothing is computed, no GPU is to be taken from a running job, and TensorFlow is not to write about its libraries.
_ENVIRONMENT = {
    "KERAS_BACKEND": "torch",
    "KERAS_TORCH_DEVICE": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}
_TENSORFLOW_OP = re.compile(r"\b(tf|tensorflow)\.(?!keras\b)\w")
_TENSORFLOW_HINT = "; TensorFlow's own ops cannot run on Keras' torch backend, which reads the model: use keras.ops"


def read_keras(loaded: LoadedModel, options: TraceOptions) -> Workload:
    """One step of a Keras model, with `framework="keras"` and Keras' layer names.

    Inputs come from `options.specs`; else from the file's `example_inputs(batch_size)`; else from what the model
    declares; else from the dataset. Raises what `load_model` and `trace` raise, and JoulecastError without Keras 3.
    """
    os.environ.update(_ENVIRONMENT)
    _require_keras_3(loaded.spec)
    from ..trace.trace import trace
    from .keras_view import keras_view

    try:
        built = loaded.on_cpu()
        with time_limit(options.time_limit_s, f"tracing {loaded.name}"), built.running():
            model = _keras_model(built)
            inputs = _inputs(built, model, options)
            _build(model, inputs)
            work = trace(
                keras_view(model),
                inputs,
                train=options.train,
                optimizer=options.optimizer,
                precision=options.precision,
                accumulate=options.accumulate,
                name=loaded.name,
                layers=options.layers,
            )
    except ModelError as error:
        hint = _TENSORFLOW_HINT if _TENSORFLOW_OP.search(error.frames) else ""
        raise ModelError(f"{error}{hint}", error.frames) from error
    return replace(work, framework="keras", warnings=(*work.warnings, *built.notes))


def _require_keras_3(target: str) -> None:
    """Loads Keras on the torch backend before the model's own imports can choose another."""
    if importlib.util.find_spec("keras") is None:
        raise JoulecastError(f"{target} needs Keras 3, which is not installed; {INSTALL_KERAS}")
    try:
        import keras
    except ImportError as error:
        raise JoulecastError(f"{target} needs Keras 3; importing it fails ({error}); {INSTALL_KERAS}") from error
    if int(keras.__version__.partition(".")[0]) < 3:
        raise JoulecastError(f"{target} needs Keras 3, and {keras.__version__} is installed; {INSTALL_KERAS}")
    if keras.backend.backend() != "torch":
        raise JoulecastError(f"{target}: Keras already runs on {keras.backend.backend()}; start a new process")
    keras.config.disable_traceback_filtering()  # its errors then keep the model's frames and say one thing


def _keras_model(built: LoadedModel) -> Any:
    import keras

    if not isinstance(built.model, keras.layers.Layer):
        raise JoulecastError(f"{built.spec} is a {type(built.model).__name__}, not a Keras model; name another")
    return built.model


# -- its inputs ----------------------------------------------------------------------------------


def _inputs(built: LoadedModel, model: Any, options: TraceOptions) -> tuple[Any, ...]:
    """Positional arguments of the model's call, as torch tensors."""
    if options.specs:
        return _arguments(model, options.specs, options.batch_size)
    example = built.example_inputs
    if example is not None:
        values = example(options.batch_size) if inspect.signature(example).parameters else example()
        return tuple(_torch_tensors(values if isinstance(values, tuple) else (values,)))
    declared = getattr(model, "inputs", None)
    if declared:
        return _arguments(model, [_declared(tensor, model) for tensor in declared], options.batch_size)
    if options.preset is not None:
        channels, *sides = options.preset.input_shape  # Keras has channels last
        return _arguments(model, [InputSpec((*sides, channels), options.preset.input_dtype)], options.batch_size)
    raise JoulecastError(
        f"{built.spec}: {type(model).__name__} does not say what it takes; give `inputs`, such as 32,32,3"
    )


def _declared(tensor: Any, model: Any) -> InputSpec:
    shape = tuple(tensor.shape[1:])
    if None in shape:
        sizes = ",".join("?" if size is None else str(size) for size in shape)
        raise JoulecastError(f"{model.name}: input {tensor.name} is {sizes}; give its sizes as `inputs`")
    return InputSpec(shape, str(tensor.dtype), tensor.name)


def _arguments(model: Any, inputs: Sequence[InputSpec], batch_size: int) -> tuple[Any, ...]:
    """A functional model takes its inputs as one list or, where it says so, one dict; others one by one."""
    import torch

    values = [torch.zeros(batch_size, *item.shape, dtype=getattr(torch, item.dtype or "float32")) for item in inputs]
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
