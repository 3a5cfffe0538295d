"""Transformers models from their configuration alone: no weights, and no code from a hub."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..base.errors import JoulecastError
from ..base.files import read_text
from ..base.notes import Note, Topic, Weight
from ..base.suggest import clipped, near
from ..sandbox.collection import without_collection
from ..sandbox.redirect import asks_for_flash_attention
from ..sandbox.user_code import one_line

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)


def takes_config(value: Any) -> bool:
    """Whether `value` is a transformers model class, which is built from an object of its config class."""
    if not isinstance(value, type) or getattr(value, "config_class", None) is None:
        return False
    return "config" in inspect.signature(value).parameters


def from_config_class(model_class: Any, args: Mapping[str, Any], num_classes: int | None) -> nn.Module:
    """The model with its config class's defaults changed by `args`; JoulecastError for an unknown setting."""
    config_class = model_class.config_class
    if args:
        _check_settings(config_class(), config_class.__name__, args)
    return _in_own_dtype(model_class, config_class(**_with_labels(model_class, args, num_classes)))


def from_config_file(
    path: Path, args: Mapping[str, Any], num_classes: int | None, notes: list[str] | None = None
) -> nn.Module:
    """The model that a Hugging Face `config.json` describes, its settings changed by `args`.

    timm's configs have an `architecture`. For transformers, the class is the first of `architectures`, otherwise the
    bare model of `model_type`, which `notes` then says; parameters have the config's `dtype`. Only the file is read.
    """
    document = _read(path)
    if isinstance(document.get("architecture"), str):
        return _from_timm(document, path, args, num_classes)
    with without_collection():
        import transformers

        config_class = _config_class(document, path)
        document = {key: value for key, value in document.items() if not _is_left_out(key, value)}
        _check_settings(config_class.from_dict(document), path.name, args)
        model_class = _model_class(transformers, document, config_class, path)
        if notes is not None and (head := _head_left_out(document["model_type"], model_class)):
            text = f"the config names no class of transformers: {model_class.__name__} has no language model's head"
            notes.append(Note(f'{text}; add "architectures": ["{head}"] for it', Topic.MODEL, Weight.ACT))
    config = config_class.from_dict({**document, **_with_labels(model_class, args, num_classes)})
    return _in_own_dtype(model_class, config)


def _is_left_out(key: str, value: Any) -> bool:
    """Code from a hub, and the kernels that attention runs on: they may not run here, and a trace needs none."""
    return key == "auto_map" or (key.endswith("attn_implementation") and asks_for_flash_attention(value))


def _in_own_dtype(model_class: Any, config: Any) -> nn.Module:
    """The model with its parameters in the config's `dtype` (`torch_dtype` before transformers 5), if it has one."""
    import torch

    # transformers 5 warns where the old name is read.
    own = config.dtype if hasattr(config, "dtype") else getattr(config, "torch_dtype", None)
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
    except (OSError, ValueError, RecursionError) as error:
        raise JoulecastError(f"{path} cannot be read as JSON ({error}); give a Hugging Face config.json") from None
    if isinstance(document, dict) and isinstance(document.get("architecture"), str):
        return document
    if not isinstance(document, dict) or not isinstance(document.get("model_type"), str):
        raise JoulecastError(f"{path} has no model_type; give a Hugging Face config.json, or a FILE.py")
    return document


def _config_class(document: Mapping[str, Any], path: Path) -> Any:
    from transformers import CONFIG_MAPPING, __version__

    kind = document["model_type"]
    if kind not in CONFIG_MAPPING:
        raise JoulecastError(
            f"{path}: model_type {kind!r} is not in transformers {__version__}; install a version that has it (code "
            f"from a hub is not run){near(kind, CONFIG_MAPPING.keys())}"
        )
    return CONFIG_MAPPING[kind]


def _model_class(transformers: Any, document: Mapping[str, Any], config_class: Any, path: Path) -> Any:
    architectures = document.get("architectures")
    for architecture in architectures if isinstance(architectures, list) else ():
        # Where a package that the class needs is missing or broken, this raises, with the cause.
        model_class = getattr(transformers, architecture, None) if isinstance(architecture, str) else None
        if model_class is not None:
            return model_class
    if config_class in transformers.MODEL_MAPPING:
        model_class = transformers.MODEL_MAPPING[config_class]
        return model_class[0] if isinstance(model_class, (tuple, list)) else model_class
    raise JoulecastError(
        f"{path}: transformers has no model for {config_class.__name__}; name its class under architectures"
    )


def _head_left_out(kind: str, model_class: Any) -> str:
    """The class with a head of the language model that `model_class` is the body of; "" for others."""
    from transformers.models.auto import modeling_auto as auto  # names alone: no model is imported

    if auto.MODEL_MAPPING_NAMES.get(kind) != model_class.__name__:
        return ""
    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    return masked or auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, "")


def _from_timm(document: Mapping[str, Any], path: Path, args: Mapping[str, Any], num_classes: int | None) -> nn.Module:
    """timm's model of that name, with the config's classes, arguments and size of images."""
    import timm  # its absence is reported with how to install it

    name = document["architecture"]
    if not timm.is_model(name):
        raise JoulecastError(f"{path}: timm {timm.__version__} has no model {name}; install a version that has it")
    classes = document.get("num_classes") if num_classes is None else num_classes
    own = {**({} if classes is None else {"num_classes": classes}), **_mapping(document.get("model_args"))}
    model: Any = timm.create_model(name, pretrained=False, **{**own, **args})
    if size := _mapping(document.get("pretrained_cfg")).get("input_size"):
        model.pretrained_cfg = {**_mapping(getattr(model, "pretrained_cfg", None)), "input_size": size}
    return cast("nn.Module", model)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# -- files of the hub ----------------------------------------------------------------------------

_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_PROCESSOR_PARTS = ("image_processor", "video_processor", "feature_extractor")


def processor_beside(config: Path) -> dict[str, Any]:
    """The settings of the processor in a config's folder: image sizes, audio features. Empty without one."""
    settings: dict[str, Any] = {}
    for name in _PROCESSORS:
        path = config.with_name(name)
        if not path.is_file():
            continue
        try:
            document = json.loads(read_text(path))
        except (OSError, ValueError, RecursionError, JoulecastError) as error:
            raise JoulecastError(f"{path} cannot be read as JSON ({error}); correct or remove it") from None
        if isinstance(document, dict):
            parts = [document[part] for part in _PROCESSOR_PARTS if isinstance(document.get(part), dict)]
            for part in (document, *parts):
                settings.update(part)
    return settings


def fetch_config(name: str) -> Path:
    """The `config.json` of a repository on the Hugging Face hub, by the hub's own client, and its processor's files.

    The client's cache, `HF_HUB_OFFLINE`, `HF_ENDPOINT` and `HF_TOKEN` apply. Weights are not downloaded. Raises
    JoulecastError in one line where the repository or the network is not there.
    """
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download

    repository, _, revision = name.partition("@")
    download = functools.partial(
        hf_hub_download, repository, revision=revision or None, local_files_only=not _is_hub_known()
    )
    try:
        config = Path(download("config.json"))
    except hub_errors.GatedRepoError:
        raise JoulecastError(f"hf:{name} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except hub_errors.RepositoryNotFoundError:
        raise JoulecastError(f"the hub has no repository {repository}, or it is private: check the name") from None
    except hub_errors.RevisionNotFoundError:
        raise JoulecastError(f"{repository} has no revision {revision}; give a branch, tag or commit") from None
    except hub_errors.RemoteEntryNotFoundError:
        raise JoulecastError(
            f"hf:{name} has no config.json; name a repository of a transformers or timm model"
        ) from None
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled):
        raise JoulecastError(
            f"hf:{name} is not in the local cache and the hub cannot be reached; "
            "connect to the network, or give a config.json"
        ) from None
    except hub_errors.HFValidationError:
        raise JoulecastError(f"hf:{clipped(name)} is not a repository; give hf:ORGANISATION/NAME") from None
    except (OSError, hub_errors.HfHubHTTPError) as error:
        raise JoulecastError(f"hf:{name} cannot be downloaded ({one_line(str(error))})") from None
    for processor in _PROCESSORS:
        try:
            download(processor)
        except Exception as error:  # most repositories have one of them, and without it the family's size is used
            _log.debug("%s has no %s: %s", name, processor, error)
    return config


def _is_hub_known() -> bool:
    """Whether the hub's address resolves; without it the client would retry for half a minute."""
    from huggingface_hub import constants

    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(address.hostname, address.port or address.scheme))
    except OSError:
        return False


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
