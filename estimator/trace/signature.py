"""The arguments that a model's forward pass has by name."""

from __future__ import annotations

import inspect
from typing import Any


def arguments(model: Any) -> dict[str, inspect.Parameter]:
    """The named arguments of the forward pass, behind whatever decorates it; none for compiled code."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in _parameters(model).items() if one.kind in kinds and name != "self"}


def takes_any_name(model: Any) -> bool:
    """Whether the forward pass has `**kwargs`."""
    return any(one.kind is one.VAR_KEYWORD for one in _parameters(model).values())


def _parameters(model: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(inspect.unwrap(type(model).forward)).parameters)
    except (TypeError, ValueError, AttributeError):  # TorchScript has no signature
        return {}
