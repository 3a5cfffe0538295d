"""Reading the caller's variables: Keras' `fit` and transformers' `train` give callbacks neither batch nor trainer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any


def running(function: str, owner: type) -> Mapping[str, Any] | None:
    """A copy of the variables of the nearest running call of `function` on an `owner`; None if none is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and isinstance(frame.f_locals.get("self"), owner):
            return dict(frame.f_locals)
        frame = frame.f_back
    return None
