"""The loss that the user gives: `--loss package.module:function`, or `loss` in the model's file."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..base.errors import JoulecastError
from ..base.suggest import clipped, near
from ..sandbox.importing import UserImports
from .builders import missing

Loss = Callable[..., Any]

_DOTTED = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_SPEC = re.compile(rf"(?P<module>{_DOTTED}|.*\.py):(?P<name>{_DOTTED})", re.DOTALL)
_USAGE = "give package.module:function or FILE.py:function"


def check_loss(text: str) -> str:
    """`text`, if it has the form of a loss. Raises JoulecastError otherwise; nothing is imported."""
    if not _SPEC.fullmatch(text):
        raise JoulecastError(f"`loss` {clipped(text)!r} is not the name of a function; {_USAGE}")
    return text


def named_loss(text: str, imports: UserImports, model_file: ModuleType | None = None) -> Loss:
    """The function that `text` names, while `imports` are active. Errors of its module are raised as they are."""
    found = _SPEC.fullmatch(check_loss(text))
    assert found is not None
    value: Any = _module(found["module"], text, imports, model_file)
    for part in found["name"].split("."):
        if not hasattr(value, part):
            hint = near(part, [name for name in dir(value) if not name.startswith("_")])
            raise JoulecastError(f"`loss` {text}: {found['module']} has no {found['name']}{hint}")
        value = getattr(value, part)
    if _is_criterion(value):
        value = value()
    if isinstance(value, type) or not callable(value):
        kind = "a class" if isinstance(value, type) else f"a {type(value).__name__}"
        raise JoulecastError(f"`loss` {text} is {kind}; give a function from the model's output to a scalar")
    loss: Loss = value
    return loss


def file_loss(module: ModuleType) -> Loss | None:
    """`loss` of the model's file: a function of the output, or of the output and a second argument."""
    value = vars(module).get("loss")
    if isinstance(value, type) or not callable(value) or not 1 <= _required(value) <= 2:
        return None
    loss: Loss = value
    return loss


def _module(name: str, text: str, imports: UserImports, model_file: ModuleType | None) -> ModuleType:
    if name.endswith(".py"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise JoulecastError(f"`loss` {text}: there is no file {path}; check the path")
        own = getattr(model_file, "__file__", None)
        if model_file is not None and own and path.samefile(own):
            return model_file
        return imports.import_file(path)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # another module, which the loss's own imports
        raise JoulecastError(f"`loss` {text}: there is no module {error.name}; {_USAGE}") from None


def _is_criterion(value: Any) -> bool:
    """True for a class such as `torch.nn.CrossEntropyLoss`, which needs no arguments."""
    from torch import nn

    return isinstance(value, type) and issubclass(value, nn.Module) and not missing(value, {})


def _required(function: Loss) -> int:
    """How many arguments a call must give."""
    from torch import nn

    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):
        return 1
    parameters = signature.parameters.values()
    return sum(one.default is one.empty and one.kind <= one.POSITIONAL_OR_KEYWORD for one in parameters)
