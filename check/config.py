"""The configuration of a check: `joulecast.toml`, or `[tool.joulecast]` in `pyproject.toml`.

Keys are the options of `estimate`, with underscores for dashes. Each model becomes a `Request`, as it does on the
command line, so that a check and an estimate give the same figures.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..estimator.answer.estimate import find_profile
from ..estimator.answer.parallel_config import config_notes, with_config
from ..estimator.answer.request import Request
from ..estimator.base.errors import JoulecastError, RequestError, name_fields
from ..estimator.base.files import read_text
from ..estimator.base.notes import Note
from ..estimator.base.suggest import near
from ..estimator.cost.profile import Profile

OWN_FILE, SHARED_FILE = "joulecast.toml", "pyproject.toml"
# What a value may be, in words; `_fits` checks it.
_TEXT, _TEXTS, _NUMBER, _WHOLE, _FLAG, _TABLE = (
    "a text",
    "a text or a list of texts",
    "a number",
    "a whole number",
    "true or false",
    "a table of arguments",
)
_OPTIONS = {
    "model_arg": _TABLE,
    "input": _TEXTS,
    "dataset": _TEXT,
    "sequence_length": _WHOLE,
    "batch_size": _NUMBER,
    "optimizer": _TEXT,
    "loss": _TEXT,
    "precision": _TEXT,
    "accumulate": _WHOLE,
    "clip_gradients": _FLAG,
    "ema": _FLAG,
    "lora": _TEXT,
    "freeze": _TEXTS,
    "inference": _FLAG,
    "epochs": _NUMBER,
    "steps": _NUMBER,
    "samples": _NUMBER,
    "tokens": _NUMBER,
    "val_samples": _NUMBER,
    "devices": _WHOLE,
    "hardware": _TEXT,
    "software": _TEXT,
    "cluster": _TEXT,
    "parallel": _TEXT,
    "zero": _WHOLE,
    "activation_checkpointing": _TEXT,
    "global_batch": _NUMBER,
    "parallel_config": _TEXT,
    "input_bound": _NUMBER,
    "overhead": _NUMBER,
    "restart_hours": _NUMBER,
    "idle_hosts": _WHOLE,
    "storage_w": _NUMBER,
    "pue": _NUMBER,
    "region": _TEXT,
    "carbon_intensity": _NUMBER,
    "price": _NUMBER,
    "currency": _TEXT,
    "device_hour": _NUMBER,
    "embodied": _FLAG,
    "budget": _TEXTS,
    "budget_at": _TEXT,
    "time_limit": _NUMBER,
}
_MODEL = {"name": _TEXT, "model": _TEXT, **_OPTIONS}
_DEFAULTS = {"models": "a list of tables", **_OPTIONS}
# If a model gives one of these, the defaults of the others do not apply.
_EITHER = (("epochs", "steps", "tokens"), ("region", "carbon_intensity"))
# Keys whose field has another name.
_FIELDS = {"input": "inputs", "model_arg": "model_args", "time_limit": "time_limit_s"}
_KEYS = {name: name for name in _MODEL} | {field: key for key, field in _FIELDS.items()}


class ConfigError(RequestError):
    """A configuration that cannot be used; the command line exits with 2."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the configuration. `model` and the paths in its options are relative to the file's folder.

    `notes` are those on the file of `parallel_config`.
    """

    name: str
    model: str
    request: Request
    profile: Profile
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """The models to check. `root` is the folder of the file, `top` that of the project around it."""

    path: Path
    top: Path
    entries: tuple[Entry, ...]

    @property
    def root(self) -> Path:
        return self.path.parent

    def named(self, names: Sequence[str]) -> tuple[Entry, ...]:
        """The entries of these names, or all if there are none. Raises ConfigError for an unknown name."""
        known = {entry.name: entry for entry in self.entries}
        for name in names:
            if name not in known:
                hint = near(name, known) or f"; it has {', '.join(known)}"
                raise ConfigError(f"{self.path.name} has no model {name!r}{hint}")
        return tuple(known[name] for name in dict.fromkeys(names)) or self.entries


def find_config(start: Path) -> Path:
    """The configuration in `start`, else in the nearest folder above it. Raises ConfigError if there is none."""
    for folder in (start, *start.parents):
        if (found := config_in(folder)) is not None:
            return found
    raise ConfigError(
        f"no {OWN_FILE} and no {SHARED_FILE} with [tool.joulecast] in {start} or above it; write one, or give `config`"
    )


def config_in(folder: Path) -> Path | None:
    """`joulecast.toml` in `folder`, else its `pyproject.toml` if that has `[tool.joulecast]`."""
    own, shared = folder / OWN_FILE, folder / SHARED_FILE
    if own.is_file():
        return own
    return shared if shared.is_file() and _section(shared) is not None else None


def read_config(path: Path, top: Path | None = None) -> Config:
    """The configuration in a TOML file. Raises ConfigError, with the place, for anything it cannot use."""
    section = _section(path)
    if section is None:
        raise ConfigError(f"{path} has no [tool.joulecast]; write one, or a {OWN_FILE}")
    table = "tool.joulecast.models" if path.name == SHARED_FILE else "models"
    _check_keys(section, _DEFAULTS, path.name)
    models = section.get("models", [])
    if not (isinstance(models, list) and models and all(isinstance(item, dict) for item in models)):
        raise ConfigError(f'{path.name} has no models; give at least one [[{table}]] with its model = "FILE.py"')
    defaults = {key: value for key, value in section.items() if key != "models"}
    profiles: dict[object, Profile] = {}
    entries = [
        _entry(item, defaults, _place(path, table, number, item), path.parent, profiles)
        for number, item in enumerate(models, start=1)
    ]
    _check_names(path, entries)
    return Config(path, top or project_top(path.parent), tuple(entries))


def project_top(folder: Path) -> Path:
    """The folder of the git repository around `folder`, or `folder` itself."""
    return next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)


def _section(path: Path) -> dict[str, Any] | None:
    """The file's own table, or None for a pyproject.toml without one."""
    try:
        document = tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}); give another `config`") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML ({error}); correct it") from None
    if path.name != SHARED_FILE:
        return document
    tool = document.get("tool", {})
    section = tool.get("joulecast") if isinstance(tool, dict) else None
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{path}: tool.joulecast is {section!r}; make it a table, [tool.joulecast]")
    return section


def _place(path: Path, table: str, number: int, item: Mapping[str, Any]) -> str:
    name = item.get("name", item.get("model"))
    return f"{path.name}, [[{table}]] {number}" + (f" ({name})" if isinstance(name, str) else "")


def _check_names(path: Path, entries: Iterable[Entry]) -> None:
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        if entry.name in seen:
            raise ConfigError(
                f"{path.name}: models {seen[entry.name]} and {number} are both named {entry.name!r}; "
                "give each its own name"
            )
        seen[entry.name] = number


# -- one model -----------------------------------------------------------------------------------


def _entry(
    item: Mapping[str, Any],
    defaults: Mapping[str, Any],
    place: str,
    root: Path,
    profiles: dict[object, Profile],
) -> Entry:
    _check_keys(item, _MODEL, place)
    if "model" not in item:
        raise ConfigError(
            f'{place} has no model; give model = "FILE.py", or another text that `estimate` takes as a model'
        )
    for group in _EITHER:
        if any(key in item for key in group):
            defaults = {key: value for key, value in defaults.items() if key not in group}
    values = {**defaults, **item}
    name = values.pop("name", values["model"])
    if "hardware" in values:
        values["hardware"] = _hardware(values["hardware"], root)
    if "parallel_config" in values:
        values["parallel_config"] = str(root / values["parallel_config"])
    try:
        asked = _request(values)
        notes, request = config_notes(asked), with_config(asked)
        if request.hardware_key not in profiles:
            profiles[request.hardware_key] = find_profile(request)
    except JoulecastError as error:
        raise ConfigError(f"{place}: {with_keys(str(error))}") from error
    return Entry(name, values["model"], request, profiles[request.hardware_key], notes)


def _hardware(name: str, root: Path) -> str:
    """The path of a profile is relative to the configuration, like that of a model."""
    return str(root / name) if "/" in name or name.endswith(".json") else name


def _request(values: Mapping[str, Any]) -> Request:
    """The keys as fields of a request. A flag or table differs from its field; the others have its name."""
    fields = {_FIELDS.get(key, key): value for key, value in values.items()}
    if "inference" in fields:
        fields["train"] = not fields.pop("inference")
    if "model_args" in fields:
        fields["model_args"] = {name: repr(value) for name, value in fields["model_args"].items()}
    return Request(**fields)


def with_keys(message: str) -> str:
    """A message of the core, which names fields, with the keys of the configuration in their place."""
    return name_fields(message, _KEYS)


# -- keys and values -----------------------------------------------------------------------------


def _check_keys(table: Mapping[str, Any], known: Mapping[str, str], place: str) -> None:
    for key, value in table.items():
        if key not in known:
            hint = near(key, known) or f"; known are {', '.join(known)}"
            raise ConfigError(f"{place}: unknown key {key!r}{hint}")
        if not _fits(value, known[key]):
            raise ConfigError(f"{place}: {key} is {value!r}; give {known[key]}")


def _fits(value: Any, wanted: str) -> bool:
    if wanted == _FLAG:
        return isinstance(value, bool)
    if wanted == _TABLE:
        return isinstance(value, dict)
    if wanted == _WHOLE:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == _NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted == _TEXTS and isinstance(value, list):
        return bool(value) and all(_fits(item, _TEXT) for item in value)
    return isinstance(value, str) and bool(value.strip()) if wanted in (_TEXT, _TEXTS) else True
