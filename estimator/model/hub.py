"""Transformers models from their configuration alone: no weights, no network, no code from a hub."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from ..base.files import read_text
from ..base.suggest import near

if TYPE_CHECKING:
    from torch import nn


def takes_config(value: Any) -> bool:
    """Whether `value` is a transformers model class, which builds from an object of its config class."""
    if not isinstance(value, type) or getattr(value, "config_class", None) is None:
        return False
    return "config" in inspect.signature(value).parameters


def from_config_class(model_class: Any, args: Mapping[str, Any], num_classes: int | None) -> nn.Module:
    """The model with its config class's defaults changed by `args`; JoulecastError for an unknown setting."""
    config_class = model_class.config_class
    if args:
        _check_settings(config_class(), config_class.__name__, args)
    return _in_own_dtype(model_class, config_class(**_with_labels(model_class, args, num_classes)))


def from_config_file(path: Path, args: Mapping[str, Any], num_classes: int | None) -> nn.Module:
    """The model that a Hugging Face `config.json` describes, its settings changed by `args`.

    The class is the first of `architectures`, else the bare model of `model_type`; parameters have the config's
    `dtype`. Nothing but the file is read.
    """
    document = _read(path)
    import transformers

    config_class = _config_class(document, path)
    document = {key: value for key, value in document.items() if key != "auto_map"}
    _check_settings(config_class.from_dict(document), path.name, args)
    model_class = _model_class(transformers, document, config_class, path)
    config = config_class.from_dict({**document, **_with_labels(model_class, args, num_classes)})
    return _in_own_dtype(model_class, config)


def _in_own_dtype(model_class: Any, config: Any) -> nn.Module:
    """The model with its parameters in the config's `dtype` (`torch_dtype` before transformers 5), if it has one."""
    import torch

    own = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    own = getattr(torch, own.removeprefix("torch."), None) if isinstance(own, str) else own
    before = torch.get_default_dtype()
    try:
        if isinstance(own, torch.dtype) and own.is_floating_point:
            torch.set_default_dtype(own)
        model: nn.Module = model_class(config)
    finally:
        torch.set_default_dtype(before)
    return model


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise JoulecastError(f"{path} cannot be read as JSON ({error}); give a Hugging Face config.json") from None
    if not isinstance(document, dict) or not isinstance(document.get("model_type"), str):
        raise JoulecastError(f"{path} has no model_type; give a Hugging Face config.json, or a FILE.py")
    return document


def _config_class(document: Mapping[str, Any], path: Path) -> Any:
    from transformers import CONFIG_MAPPING, __version__

    kind = document["model_type"]
    if kind not in CONFIG_MAPPING:
        raise JoulecastError(
            f"{path}: model_type {kind!r} is not in transformers {__version__}"
            f"{near(kind, CONFIG_MAPPING.keys())}; "
            "install a version that has it (code from a hub is not run)"
        )
    return CONFIG_MAPPING[kind]


def _model_class(transformers: Any, document: Mapping[str, Any], config_class: Any, path: Path) -> Any:
    for architecture in document.get("architectures") or ():
        model_class = getattr(transformers, architecture, None)
        if model_class is not None:
            return model_class
    if config_class in transformers.MODEL_MAPPING:
        model_class = transformers.MODEL_MAPPING[config_class]
        return model_class[0] if isinstance(model_class, (tuple, list)) else model_class
    raise JoulecastError(
        f"{path}: transformers has no model for {config_class.__name__}; name its class under architectures"
    )


def _check_settings(config: Any, label: str, args: Mapping[str, Any]) -> None:
    for name in args:
        if not hasattr(config, name):
            settings = [key for key in config.to_dict() if not key.startswith("_")]
            hint = near(name, settings) or f"; it has {', '.join(settings[:12])}, ..."
            raise JoulecastError(f"{label} has no setting {name!r}{hint}")


def _with_labels(model_class: Any, args: Mapping[str, Any], num_classes: int | None) -> dict[str, Any]:
    """`args`, with the classes of the dataset for a model that classifies."""
    classifies = "Classification" in getattr(model_class, "__name__", "")
    if num_classes is None or not classifies or "num_labels" in args:
        return dict(args)
    return {**args, "num_labels": num_classes}
