"""Training Keras models with TensorFlow."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import numpy as np

from .cifar10 import ImageArray, LabelArray
from .errors import TrainingError
from .recipe import MEAN, STD, Recipe

_BACKEND = "tensorflow"


def make_keras_trainer(
    network: str, recipe: Recipe, *, width: float = 1.0, seed: int = 0, device: str = "auto"
) -> KerasTrainer:
    """A trainer of SimpleNet or AlexNet; see `make_trainer`.

    Raises TrainingError if TensorFlow is missing or Keras runs on another backend in this process.
    """
    keras, tensorflow = _import_keras()
    gpus = tensorflow.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise TrainingError("`device` is gpu and TensorFlow sees no GPU; give cpu, or install TensorFlow's CUDA build")
    if device == "cpu" and gpus:
        tensorflow.config.set_visible_devices([], "GPU")
    keras.utils.set_random_seed(seed)
    model = importlib.import_module(f"joulecast.models.{network}_keras").build_model(width=width)
    for number, layer in enumerate(model.layers):
        if getattr(layer, "kernel", None) is not None:
            layer.kernel.assign(keras.initializers.HeNormal(seed=seed * len(model.layers) + number)(layer.kernel.shape))
    name = "cpu" if device == "cpu" or not gpus else _gpu_name(tensorflow, gpus[0])
    return KerasTrainer(keras, tensorflow, model, recipe, name)


def _import_keras() -> tuple[Any, Any]:
    """Keras on TensorFlow. A process chooses the backend once, when Keras is first imported."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = _BACKEND
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import keras
        import tensorflow
    except ImportError as error:
        raise TrainingError(
            f"training with TensorFlow needs it and Keras 3 ({error}): pip install 'joulecast[tensorflow]'"
        ) from error
    if keras.backend.backend() != _BACKEND:
        raise TrainingError(
            f"Keras runs on {keras.backend.backend()} in this process;"
            " train with TensorFlow in a separate process (`measure train`)"
        )
    return keras, tensorflow


def _gpu_name(tensorflow: Any, gpu: Any) -> str:
    details = tensorflow.config.experimental.get_device_details(gpu)
    return str(details.get("device_name", gpu.name))


class KerasTrainer:
    """A `Trainer` of a Keras model that maps float32 (batch, 32, 32, 3) to logits (batch, classes)."""

    def __init__(self, keras: Any, tensorflow: Any, model: Any, recipe: Recipe, device: str) -> None:
        self.device = device
        self.framework = f"tensorflow {tensorflow.__version__}, keras {keras.__version__}"
        chosen = tensorflow.config.threading.get_intra_op_parallelism_threads()
        self.threads = chosen or int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or os.cpu_count() or 1
        self._model = model
        self._optimizer = _optimizer(keras, recipe)
        self._optimizer.build(model.trainable_variables)
        self._decay = recipe.weight_decay if recipe.optimizer == "sgd" else 0.0
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._mean = np.array(MEAN, np.float32) * 255
        self._std = np.array(STD, np.float32) * 255
        self._tensorflow = tensorflow
        self._step = tensorflow.function(self._update, reduce_retracing=True)
        self._predict = tensorflow.function(self._logits, reduce_retracing=True)

    def step(self, images: ImageArray, labels: LabelArray, learning_rate: float) -> float:
        self._optimizer.learning_rate.assign(learning_rate)
        return float(self._step(self._inputs(images), self._tensorflow.constant(labels)))

    def count_correct(self, images: ImageArray, labels: LabelArray) -> int:
        found = np.asarray(self._predict(self._inputs(images))).argmax(axis=1)
        return int((found == labels).sum())

    def state(self) -> bytes:
        """The variables in their order, as arrays."""
        buffer = io.BytesIO()
        arrays = {f"{number:04d}": np.asarray(value) for number, value in enumerate(self._variables())}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stubs take ** for allow_pickle
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        variables = self._variables()
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
                if len(arrays.files) != len(variables):
                    raise ValueError(f"{len(arrays.files)} variables, expected {len(variables)}")
                for number, variable in enumerate(variables):
                    variable.assign(arrays[f"{number:04d}"])
        except Exception as error:  # a damaged archive fails in many ways
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(f"checkpoint does not fit the network ({reason}); start a new run") from error

    def _variables(self) -> list[Any]:
        """Weights, statistics and the dropout layers' seeds; then the optimizer's."""
        return [*self._model.variables, *self._optimizer.variables]

    def _inputs(self, images: ImageArray) -> Any:
        return self._tensorflow.constant(images.transpose(0, 2, 3, 1))

    def _logits(self, pixels: Any, training: bool = False) -> Any:
        floats = self._tensorflow.cast(pixels, self._tensorflow.float32)
        return self._model((floats - self._mean) / self._std, training=training)

    def _update(self, pixels: Any, labels: Any) -> Any:
        weights = self._model.trainable_variables
        with self._tensorflow.GradientTape() as tape:
            loss = self._loss(labels, self._logits(pixels, training=True))
        gradients = tape.gradient(loss, weights)
        if self._decay:
            pairs = zip(gradients, weights, strict=True)
            gradients = [gradient + self._decay * weight for gradient, weight in pairs]
        self._optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return loss


def _optimizer(keras: Any, recipe: Recipe) -> Any:
    rate = recipe.learning_rate
    if recipe.optimizer == "adam":
        return keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, epsilon=1e-8)
    return keras.optimizers.SGD(rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
