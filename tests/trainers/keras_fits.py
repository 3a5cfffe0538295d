"""The fits that test_keras.py checks, in one process: `python keras_fits.py MACHINE METER SHORT_METER FOLDER`.

Keras chooses its backend once per process, and other tests may use another one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from joulecast.trainers.budget import Budget
from joulecast.trainers.keras import _traced
from joulecast.trainers.terms import BudgetExceeded

EPOCHS, BATCHES, BATCH = 2, 20, 4
MACHINE, METER, SHORT_METER, FOLDER = sys.argv[1:]


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Slow(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes steps of 5 ms and more."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        time.sleep(0.005)


def network() -> Any:
    keras.utils.clear_session()  # layer names start at the beginning: one network, traced once
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(16), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(2)], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)  # XLA takes seconds a model
    return model


def budget(*limits: str, **options: Any) -> Budget:
    settings = {"hardware": MACHINE, "meter": METER, "pue": 1.0, "log_every": 5}
    return Budget(*limits, **{**settings, **options})


def fit(*callbacks: Any, model: Any = None, validated: bool = False) -> dict[str, Any]:
    """The result, as JSON. Keras takes two seconds to compile a validation."""
    heard = Heard()
    logger = logging.getLogger("joulecast")
    logger.handlers = [heard]
    logger.setLevel(logging.INFO)
    model = model or network()
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCHES * BATCH, 8)).astype("float32")
    y = generator.integers(0, 2, BATCHES * BATCH)
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "verbose": 0}
    if validated:
        settings["validation_data"] = (x, y)
    outcome: dict[str, Any] = {"error": None, "checkpoint": None}
    try:
        outcome["history"] = model.fit(x, y, callbacks=list(callbacks), **settings).history
    except BudgetExceeded as error:
        outcome |= {"error": str(error), "checkpoint": error.checkpoint}
    return {
        **outcome,
        "lines": heard.lines,
        "steps": int(model.optimizer.iterations.numpy()),
        "weights": [float(np.sum(weight)) for weight in model.get_weights()],
    }


def with_csv() -> dict[str, Any]:
    """A CSVLogger before the Budget in the list."""
    path = Path(FOLDER) / "log.csv"
    outcome = fit(keras.callbacks.CSVLogger(str(path)), budget("2 kWh"), validated=True)
    return {**outcome, "csv": path.read_text(encoding="utf-8")}


def with_model_checkpoint() -> dict[str, Any]:
    path = f"{FOLDER}/kept.keras"
    outcome = fit(Slow(), budget("60 J", on_exceed="warn"), keras.callbacks.ModelCheckpoint(path))
    return {**outcome, "loads": float(np.sum(keras.models.load_model(path).get_weights()[0]))}


def with_own_layer() -> dict[str, Any]:
    """A layer that other processes cannot create."""

    class Mine(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    model = keras.Sequential([keras.Input((8,)), Mine(), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return fit(budget("2 kWh"), model=model)


def in_fives() -> dict[str, Any]:
    """Batches that Keras runs five at a time, under the callback of its own type."""
    model = network()
    model.compile(model.optimizer, model.loss, steps_per_execution=5, jit_compile=False)
    callback = budget("2 kWh").keras()
    assert isinstance(callback, keras.callbacks.Callback)
    return fit(callback, model=model)


FITS: dict[str, Callable[[], dict[str, Any]]] = {
    "alone": lambda: fit(validated=True),
    "watched": with_csv,
    "too much": lambda: fit(budget("1 J")),
    "stopped": lambda: fit(Slow(), budget("60 J", checkpoint=f"{FOLDER}/stopped.weights.h5")),
    "warned": with_model_checkpoint,
    "meter fails": lambda: fit(Slow(), budget("2 kWh", meter=SHORT_METER)),
    "in fives": in_fives,
    "own layer": with_own_layer,
}


if __name__ == "__main__":
    outcomes = {name: run() for name, run in FITS.items()}
    print(json.dumps({**outcomes, "traced": _traced.cache_info().misses}))
