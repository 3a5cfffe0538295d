"""What an object reaches and which meta tensors are alive, for comparisons before and after a trace."""

from __future__ import annotations

import gc
import itertools
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


def picture(value: Any, seen: set[int] | None = None) -> Any:
    """Everything in an object: identities of its members, and values of tensors, arrays and numbers."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        content = None if isinstance(value, nn.UninitializedParameter) else value.detach().clone().numpy().tobytes()
        return id(value), type(value), value.requires_grad, content, id(value.grad) if value.is_leaf else None
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().numpy())
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, (int, float, str, type(None), bytes)):
        return value
    if id(value) in seen:
        return id(value)
    seen.add(id(value))
    parts: list[Any] = [id(value), type(value)]
    if isinstance(value, dict):
        parts += [(str(key), picture(item, seen)) for key, item in value.items()]
    elif isinstance(value, (list, tuple, deque, set)):
        parts += [picture(item, seen) for item in value]
    if hasattr(value, "__closure__"):
        parts += [picture(cell.cell_contents, seen) for cell in value.__closure__ or ()]
    for name in getattr(type(value), "__slots__", ()):
        parts.append((name, picture(getattr(value, name, "missing"), seen)))
    if isinstance(getattr(value, "__dict__", None), dict):
        parts.append(picture(value.__dict__, seen))
    return tuple(parts)


def meta_tensors() -> list[torch.Tensor]:
    """All that are alive; a million objects are compared by their type, in C code."""
    kinds, objects = set(tensor_kinds(torch.Tensor)), gc.get_objects()
    tensors = itertools.compress(objects, map(kinds.__contains__, map(type, objects)))
    return [value for value in tensors if value.is_meta]


def left_beside(known: list[torch.Tensor]) -> int:
    """How many meta tensors are alive that are not `known`."""
    ids = {id(tensor) for tensor in known}
    return sum(id(tensor) not in ids for tensor in meta_tensors())


def tensor_kinds(kind: type) -> Iterator[type]:
    yield kind
    for below in type.__subclasses__(kind):
        yield from tensor_kinds(below)
