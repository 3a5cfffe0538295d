"""Rebuilding a Keras model from its configuration, in the process that traces it (estimator/model/keras_read.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rebuilt(path: str) -> Any:
    """The model that `to_json` wrote to the file `path`, without its loss and optimizer."""
    import keras

    document = json.loads(Path(path).read_text(encoding="utf-8"))
    document.pop("compile_config", None)
    return keras.models.model_from_json(json.dumps(document))
