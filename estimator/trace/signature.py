"""The arguments that a model's forward pass has by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def arguments(model: Any) -> dict[str, inspect.Parameter]:
    """The named arguments of the forward pass, behind whatever decorates it; none for compiled code."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in _parameters(model).items() if one.kind in kinds}


def takes_any_name(model: Any) -> bool:
    """Whether the forward pass has `**kwargs`."""
    return any(one.kind is one.VAR_KEYWORD for one in _parameters(model).values())


def takes_whole(model: Any, batch: Iterable[Any]) -> bool:
    """Whether the forward pass has one argument for the batch and none with the name of a part."""
    positional = [one for one in _parameters(model).values() if one.kind in _POSITIONAL]
    required = [one for one in positional if one.default is one.empty]
    named = takes_any_name(model) or not arguments(model).keys().isdisjoint(batch)
    return bool(positional) and len(required) <= 1 and not named


def _parameters(model: Any) -> dict[str, inspect.Parameter]:
    """Those of the object's own forward where it has one, which libraries put over that of the class."""
    try:
        return dict(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError, AttributeError):  # TorchScript has no signature
        return {}
