"""Chooses what builds the model in a namespace, and calls it with the arguments it takes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError, NoModelError
from ..base.suggest import near
from ..sandbox.source import has_main_block
from .config_objects import ConfigObject, config_object, signature_of_call
from .interrupted import whole_models

if TYPE_CHECKING:
    from torch import nn

NAMES = ("model", "build_model", "get_model")
_NAMES_A_MODEL = re.compile(r"^[A-Z]|model|net")

# These packages pass `num_classes` on in **kwargs, without a parameter of that name.
_NUM_CLASSES_BEHIND_KWARGS = ("timm", "torchvision", "pytorchcv")


def parse_args(args: Mapping[str, str]) -> dict[str, Any]:
    """Model arguments as Python literals if they can be parsed as such, otherwise as strings."""
    values: dict[str, Any] = {}
    for name, text in args.items():
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            values[name] = text
    return values


# -- choosing ------------------------------------------------------------------------------------


def named(namespace: ModuleType, name: str, label: str) -> Any:
    """The attribute `name` (dots allowed) of `namespace`; raises JoulecastError with near names."""
    value: Any = namespace
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            known = [known for known in dir(value) if not known.startswith("_")]
            hint = near(part, known) or _inventory(namespace)
            raise JoulecastError(f"{label} has no {name}{hint}") from None
    return value


def choose(module: ModuleType, label: str, args: Mapping[str, Any]) -> tuple[str, Any]:
    """The name and value of what builds the model of a file that was given without a name.

    `model`, `build_model` or `get_model`; otherwise the one model class of the file that builds with `args`
    and is not part of another one; otherwise the one variable that holds a model. Raises JoulecastError
    that lists what there is.
    """
    from torch import nn

    for name in NAMES:
        value = vars(module).get(name)
        if isinstance(value, nn.Module) or (callable(value) and _counts(value, module, args)):
            return name, value
    classes = _own_classes(module)
    ready = {name: value for name, value in classes.items() if _is_ready(value, args)}
    used = _used_in_others(module, classes)
    whole = {name: value for name, value in ready.items() if name not in used} or ready
    if len(whole) == 1:
        return next(iter(whole.items()))
    variables = whole_models(vars(module))
    if len(variables) == 1 and not args:
        return next(iter(variables.items()))
    if whole:
        trained = (
            f", or give {label}:__main__ for what it trains as a script"
            if has_main_block(Path(str(module.__file__)))
            else ""
        )
        raise JoulecastError(
            f"{label} contains several models: {', '.join(whole)}; name one, as in {label}:{next(iter(whole))}{trained}"
        )
    if len(classes) == 1:  # calling it says which arguments it needs
        return next(iter(classes.items()))
    raise NoModelError(f"{label} contains no model class that builds without arguments{_inventory(module)}")


def _counts(value: Callable[..., Any], module: ModuleType, args: Mapping[str, Any]) -> bool:
    """A function of the file's own, or an imported one (`from lib import get_model`) that can be called."""
    return getattr(value, "__module__", None) == module.__name__ or not missing(value, args)


def _is_ready(value: type[nn.Module], args: Mapping[str, Any]) -> bool:
    """Whether `args` and a config object of the file's own are all that the class needs."""
    if not missing(value, args):
        return True
    found = config_object(value, args)
    return found is not None and not found.missing


def _own_classes(module: ModuleType) -> dict[str, type[nn.Module]]:
    from torch import nn

    return {
        value.__name__: value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    }


def _used_in_others(module: ModuleType, classes: Mapping[str, Any]) -> set[str]:
    """Those of `classes` whose names occur in the body or the bases of another one."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, SyntaxError):
        return set()
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            used |= (names & classes.keys()) - {node.name}
    return used


def _inventory(module: ModuleType) -> str:
    """The end of an error: what the module defines, and how to name one of it."""
    own = {name: v for name, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
    functions = {f"{name}()": v for name, v in own.items() if inspect.isfunction(v) and not name.startswith("_")}
    found = _own_classes(module) | functions
    if not found:
        return "; define a torch.nn.Module class, or a function build_model() that returns one"
    ready = [name for name, value in found.items() if not missing(value, {})]
    main = [name for name in ready if name == "main()"]
    likely = [name for name in (*ready, *_own_classes(module), *found) if _NAMES_A_MODEL.search(name)]
    first = next(iter([*likely, *main, *found]))
    listed = ", ".join([*ready, *(_with_needs(name, value) for name, value in found.items() if name not in ready)][:12])
    return f"; it has {listed}: name one (FILE.py:{first.removesuffix('()')}), or define build_model()"


def _with_needs(name: str, value: Callable[..., Any]) -> str:
    return f"{name} (needs {', '.join(missing(value, {}))})"


# -- calling -------------------------------------------------------------------------------------


def missing(function: Callable[..., Any], args: Mapping[str, Any]) -> list[str]:
    """The required parameters of `function` that `args` does not give."""
    return [
        parameter.name
        for parameter in _parameters(function)
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in args
    ]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(signature_of_call(function).parameters.values())
    except (TypeError, ValueError):  # some callables written in C have no signature: they take anything
        return [inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]


def build(
    value: Any, label: str, args: Mapping[str, Any], num_classes: int | None, notes: list[str] | None = None
) -> nn.Module:
    """The module that `value` is or makes; `num_classes` is passed where it is taken and not in `args`.

    A class that takes one config object, whose class is defined in the same file, gets that object with its defaults,
    changed by `args`; `notes` then says so. Raises JoulecastError for arguments that do not fit; errors of the call
    itself are the user's.
    """
    from torch import nn

    from .hub import from_config_class, takes_config

    if isinstance(value, nn.Module):
        if args:
            raise JoulecastError(
                f"{label} is built already and takes no `model_args` ({', '.join(args)}); name its class"
            )
        return value
    if not callable(value):
        raise JoulecastError(f"{label} is a {type(value).__name__}, not a model, class or function; name another")
    if takes_config(value) and "config" not in args:
        return from_config_class(value, args, num_classes)
    if found := config_object(value, args):
        args = _with_config(found, label, args, notes)
    parameters = _parameters(value)
    if (getattr(value, "__module__", None) or "").startswith("keras.src.applications"):
        args = {"weights": None, **args}  # else they fetch trained weights: the cost is the same
    _check_args(parameters, label, args)
    lacking = missing(value, args)
    if lacking:
        given = " ".join(f"`model_args` {name}=VALUE" for name in lacking)
        raise JoulecastError(f"{label} needs {', '.join(lacking)}; give {given}, or define build_model()")
    if num_classes is not None and "num_classes" not in args and _takes_num_classes(value, parameters):
        args = {**args, "num_classes": num_classes}
    result = value(**args)
    if not isinstance(result, nn.Module):
        raise JoulecastError(f"{label} returned a {type(result).__name__}, not a torch.nn.Module; return the model")
    return result


def _with_config(found: ConfigObject, label: str, args: Mapping[str, Any], notes: list[str] | None) -> dict[str, Any]:
    """`args` with the config object in place of its fields."""
    if found.missing:
        given = " ".join(f"`model_args` {name}=VALUE" for name in found.missing)
        raise JoulecastError(
            f"{label} takes {found.parameter}, a {found.kind.__name__} that needs {', '.join(found.missing)}; "
            f"give {given}, or define build_model()"
        )
    if unknown := [name for name in args if name not in found.fields and name not in found.own]:
        raise JoulecastError(
            f"{found.kind.__name__} has no field {unknown[0]!r}, it has {', '.join(found.fields)}"
            f"{near(unknown[0], found.fields)}"
        )
    if notes is not None:
        changed = ", ".join(f"{name}={args[name]!r}" for name in args if name in found.fields)
        notes.append(f"{label} is built with {found.kind.__name__}({changed}), its other fields by default")
    rest = {name: value for name, value in args.items() if name not in found.fields}
    return {**rest, found.parameter: found.make(args)}


def _check_args(parameters: list[inspect.Parameter], label: str, args: Mapping[str, Any]) -> None:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in args:
        if name not in names:
            takes = f"it takes {', '.join(names)}" if names else "it takes none"
            raise JoulecastError(f"{label} takes no argument {name!r}, {takes}{near(name, names)}")


def _takes_num_classes(value: Any, parameters: list[inspect.Parameter]) -> bool:
    if any(parameter.name == "num_classes" for parameter in parameters):
        return True
    package = (getattr(value, "__module__", None) or "").partition(".")[0]
    return package in _NUM_CLASSES_BEHIND_KWARGS and any(p.kind is p.VAR_KEYWORD for p in parameters)
