"""Config objects: the dataclass or plain class, defined in a model's file, that its constructor takes."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_PARAMETER = re.compile(r"(.*_)?(config|configuration|cfg|conf|args|hparams|params|opt|opts|dims|settings)$", re.I)
_CLASS = re.compile(r".*(Config|Configuration|Args|Arguments|Params|HParams|Dimensions|Settings|Options)$")


@dataclass(frozen=True, slots=True)
class ConfigObject:
    """The config of one model class: the `parameter` that takes it, its class, and that class' `fields`.

    `missing` are fields without a default that were not given; `own` the constructor's other parameters.
    """

    parameter: str
    kind: type
    fields: tuple[str, ...]
    missing: tuple[str, ...]
    own: tuple[str, ...]

    def make(self, values: Mapping[str, Any]) -> Any:
        """The object with its defaults, changed by those of `values` that are its fields."""
        chosen = {name: value for name, value in values.items() if name in self.fields}
        taken = _init_names(self.kind)
        made = self.kind(**{name: value for name, value in chosen.items() if name in taken})
        for name in chosen.keys() - taken:  # class attributes of a plain class
            setattr(made, name, chosen[name])
        return made


def signature_of_call(function: Callable[..., Any]) -> inspect.Signature:
    """What a call takes: of a decorated function, the wrapper's own parameters where it names them.

    `hydra.main` gives the function its config, so that it is called without one.
    """
    outer = inspect.signature(function, follow_wrapped=False)
    takes_all = any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in outer.parameters.values())
    return inspect.signature(function) if takes_all else outer


def config_object(value: Any, args: Mapping[str, Any]) -> ConfigObject | None:
    """The config object that a constructor or function needs besides `args`, or None."""
    try:
        parameters = signature_of_call(value).parameters
    except (TypeError, ValueError):
        return None
    required = [
        parameter
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in args
    ]
    if len(required) != 1:
        return None
    parameter = required[0]
    kind = _annotated(value, parameter.name) or _beside(value, parameter.name)
    if kind is None:
        return None
    own = tuple(name for name in parameters if name != parameter.name)
    missing = tuple(name for name in _required(kind) if name not in args)
    return ConfigObject(parameter.name, kind, _fields(kind), missing, own)


def _annotated(value: Any, name: str) -> type | None:
    """The class that the parameter is annotated with, where that is a class of settings."""
    function = vars(value).get("__init__", value) if isinstance(value, type) else value
    try:
        kind = typing.get_type_hints(function).get(name)
    except Exception:  # an annotation may name anything, also what is not imported
        return None
    return kind if isinstance(kind, type) and _is_settings(kind) else None


def _beside(value: Any, parameter: str) -> type | None:
    """The class of settings in the model's module: `NetConfig` for `Net`, otherwise the only one."""
    if not _PARAMETER.fullmatch(parameter):
        return None
    module = sys.modules.get(getattr(value, "__module__", ""))
    found = {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind is not value and _is_settings(kind)
    }
    own = next((kind for name, kind in found.items() if name.startswith(value.__name__)), None)
    return own or (next(iter(found.values())) if len(set(found.values())) == 1 else None)


def _is_settings(kind: type) -> bool:
    """Whether a class is one of settings; not a model, and not one of the standard library, torch or omegaconf."""
    from torch import nn

    if issubclass(kind, nn.Module) or kind.__module__.partition(".")[0] in (
        *sys.stdlib_module_names,
        "torch",
        "omegaconf",
    ):
        return False
    return dataclasses.is_dataclass(kind) or bool(_CLASS.fullmatch(kind.__name__))


def _required(kind: type) -> list[str]:
    return [
        parameter.name
        for parameter in _init(kind)
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _init(kind: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(kind).parameters.values())
    except (TypeError, ValueError):
        return []


def _init_names(kind: type) -> set[str]:
    return {p.name for p in _init(kind) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _fields(kind: type) -> tuple[str, ...]:
    """The parameters of the class, and the plain class attributes that hold settings."""
    names = [p.name for p in _init(kind) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    attributes = [name for name, value in vars(kind).items() if not name.startswith("_") and not callable(value)]
    return tuple(dict.fromkeys((*names, *attributes)))
