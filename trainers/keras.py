"""A budget as a callback of Keras' `fit`; see `Budget`."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from ..estimator.base.errors import JoulecastError
from ..estimator.model.input_spec import InputSpec
from ..estimator.model.read_model import TraceOptions
from ..estimator.model.reader import Reader, ReadRequest
from ..estimator.trace.optimizers import optimizer_of
from ..estimator.trace.workload import Workload
from .frames import running
from .run import Length, Run
from .terms import Terms

_REBUILT = f"{__package__}.keras_copy:rebuilt"


class KerasBudget(keras.callbacks.Callback):
    """Applies a budget to `fit`. One run at a time; reused, it watches the next run.

    A batch counts as finished when the next one begins: a hook at its end would make TensorFlow wait for its losses.
    """

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self._terms = terms
        self._run: Run | None = None
        self._under_way = 0  # batches
        self._stopped = False

    # -- Keras' hooks ----------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        if self._run is not None:  # left by a `fit` that failed
            self._run.finish()
        fit = running("fit", keras.Model) or {}
        self._go_first(fit)
        self._under_way, self._stopped = 0, False
        replicas = getattr(getattr(self.model, "distribute_strategy", None), "num_replicas_in_sync", 1)
        self._run = Run(self._terms, lambda: _length(fit, self.params, replicas))
        self._run.predict(lambda: _read(self.model, fit, replicas))
        self._run.start()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._batches_are_over()
        self._under_way = getattr(self.model, "steps_per_execution", 1)

    def on_test_begin(self, logs: Any = None) -> None:
        self._batches_are_over()
        if self._run is not None:
            self._run.validation_begins()

    def on_test_end(self, logs: Any = None) -> None:
        if self._run is not None:
            self._run.validation_ends()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._batches_are_over()
        if self._run is not None and logs is not None:
            logs.update(self._run.figures())

    def on_train_end(self, logs: Any = None) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            if self._stopped:
                run.stopped(self._saved(run))
            run.finish()
            run.settle()

    # -- what they do ----------------------------------------------------------------------------

    def _batches_are_over(self) -> None:
        if self._run is not None and self._under_way:
            if self._run.step(self._under_way):
                self._stopped = self.model.stop_training = True
            self._under_way = 0

    def _go_first(self, fit: Mapping[str, Any]) -> None:
        """Moves this callback to the front: callbacks share one dict of logs, and later ones write it to their log."""
        every = getattr(fit.get("callbacks"), "callbacks", [])
        for index, one in enumerate(every):
            if one is self or getattr(one, "__dict__", {}).get("_callback") is self:
                every.insert(0, every.pop(index))
                return

    def _saved(self, run: Run) -> object | None:
        """Where the weights were saved: at the given path, else where a ModelCheckpoint saves them."""
        path = self._terms.checkpoint
        if path is None:
            fit = running("fit", keras.Model) or {}
            every = getattr(fit.get("callbacks"), "callbacks", [])
            return next((one.filepath for one in every if isinstance(one, keras.callbacks.ModelCheckpoint)), None)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save = self.model.save_weights if path.name.endswith(".weights.h5") else self.model.save
            save(path)
        except Exception as error:
            run.complain("the checkpoint", error)
            return None
        return path


def _length(fit: Mapping[str, Any], params: Mapping[str, Any], replicas: int) -> Length:
    per_epoch, epochs = params["steps"], params["epochs"] - (fit.get("initial_epoch") or 0)
    validations, batches = 0, fit.get("validation_steps") or 0
    if fit.get("validation_data") is not None:
        every = fit.get("validation_freq", 1)
        validations = epochs // every if isinstance(every, int) else len(every)
        samples = getattr(fit.get("val_x"), "shape", (0,))[0]
        size = fit.get("validation_batch_size") or _batch_size(fit)
        batches = batches or math.ceil(samples / size)
    return Length(
        steps=None if per_epoch is None else per_epoch * epochs,
        devices=replicas,
        validations=validations,
        validation_batches=batches,
    )


def _batch_size(fit: Mapping[str, Any]) -> int:
    size = getattr(getattr(fit.get("epoch_iterator"), "data_adapter", None), "batch_size", None)
    if not size:
        raise JoulecastError("the batch size of the data is unknown; for tf.data use batch(..., drop_remainder=True)")
    return int(size)


def _read(model: Any, fit: Mapping[str, Any], replicas: int) -> Workload:
    """Traces the model with Keras on torch, in a separate process; the training process is not changed."""
    if own := sorted({type(part).__name__ for part in model._flatten_layers() if type(part).__module__ == "__main__"}):
        raise JoulecastError(
            f"{', '.join(own)} is defined in the main script: move it into a separate module, "
            "with @keras.saving.register_keras_serializable()"
        )
    return _traced(
        _architecture(model),
        model.name,
        _inputs(model, fit.get("x")),
        math.ceil(_batch_size(fit) / replicas),
        optimizer_of(model.optimizer),
    )


def _architecture(model: Any) -> str:
    """The model as JSON, without its loss and optimizer: learning rates and losses change no trace."""
    document = json.loads(model.to_json())
    document.pop("compile_config", None)
    return json.dumps(document)


def _inputs(model: Any, x: Any) -> tuple[InputSpec, ...]:
    """Nothing if the model declares its inputs; else the shape of the one array that it is given."""
    declared = getattr(model, "inputs", None)
    if declared and not any(None in tensor.shape[1:] for tensor in declared):
        return ()
    shape = getattr(x, "shape", None)
    if shape is None:
        raise JoulecastError("the model does not declare its inputs; build it with keras.Input")
    return (InputSpec(tuple(int(size) for size in shape[1:]), keras.backend.standardize_dtype(x.dtype)),)


@functools.lru_cache(
    maxsize=8
)  # a worker takes seconds to start, and hyperparameter searches fit the same network many times
def _traced(config: str, name: str, inputs: tuple[InputSpec, ...], batch_size: int, optimizer: str) -> Workload:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        path.write_text(config, encoding="utf-8")
        options = TraceOptions(
            args={"path": repr(str(path))}, specs=inputs, batch_size=batch_size, optimizer=optimizer, layers=False
        )
        reader = Reader()
        try:
            return replace(reader.read(ReadRequest(_REBUILT, options), quiet=True).work, name=name)
        finally:
            reader.close()
