"""Rebuilding a Keras model from its configuration, in the process that traces it (estimator/model/keras_read.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def rebuilt(path: str) -> Any:
    """The model whose JSON is in the file `path`."""
    import keras

    return keras.models.model_from_json(Path(path).read_text(encoding="utf-8"))
