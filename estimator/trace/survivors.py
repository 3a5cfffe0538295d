"""Tensors of a trace that something keeps after it: found with the garbage collector and removed."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections import OrderedDict
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .state_records import own_dict

# `gc.get_referrers` compares every reference with each value, so it is faster only for a few: 0.05 s instead of 0.4 s.
_FEW = 100


class Survivors:
    """Tensors of a trace that are alive after it, in a cache, closure or global that was not recorded."""

    def __init__(self) -> None:
        # Freezing removes existing objects from the collector's lists; the objects listed later are new.
        self._frozen = gc.get_freeze_count() > 0
        gc.freeze()

    def release(self) -> None:
        """Removes them from their containers, and goes on."""
        gc.collect()
        if (found := _freed(_new_stand_ins())) and not self._frozen:
            gc.unfreeze()  # the containers of those that are left are among the old objects
            _freed(found)
            gc.freeze()

    def released(self) -> list[str]:
        """Removes them from their containers; returns notes on those that remain."""
        found = _new_stand_ins()
        if found:
            found.clear()  # a reference here would keep them alive
            gc.collect()
            found = _freed(_new_stand_ins())
        if not self._frozen:
            gc.unfreeze()  # the containers of those that are left are among the old objects
        left = _alive(list(map(weakref.ref, _freed(found))))
        if not left:
            return []
        holders = {type(one).__name__ for one in _holders(left) if one is not left}
        holders -= {"frame"}
        if not holders and _in_autocast():
            return []  # autocast's own cache keeps them until the caller's region ends, which happens anyway
        kept_by = f"by a {' and a '.join(sorted(holders))}" if holders else "outside Python"
        return [f"tensors of the trace that are still kept {kept_by}: {len(left)}"]


def _in_autocast() -> bool:
    return any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


def _new_stand_ins() -> list[torch.Tensor]:
    with torch._C.DisableTorchFunctionSubclass():
        tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
        return [value for value in tensors if type(value) is FakeTensor or value.is_meta]


def _freed(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Removes tensors from the containers that the collector lists; returns those that something else keeps."""
    known = [weakref.ref(tensor) for tensor in tensors]
    removed = _release(tensors) if tensors else False
    tensors.clear()
    return _alive(known, collect=removed)


def _alive(known: list[weakref.ref[torch.Tensor]], collect: bool = True) -> list[torch.Tensor]:
    """Those that are no garbage; without `collect`, garbage too. Collecting old objects takes tenths of a second."""
    if collect and any(reference() is not None for reference in known):
        gc.collect()
    return [tensor for reference in known if (tensor := reference()) is not None]


def _holders(values: list[Any]) -> list[Any]:
    """Objects that refer to one of these."""
    if len(values) <= _FEW:
        return gc.get_referrers(*values)
    ids = {id(value) for value in values}
    return [one for one in gc.get_objects() if not ids.isdisjoint(map(id, gc.get_referents(one)))]


def _release(tensors: list[Any], depth: int = 3) -> bool:
    """Whether something was removed from a container."""
    removed = False
    ids = {id(tensor) for tensor in tensors}
    above: list[Any] = []
    for holder in _holders(tensors):
        if holder is tensors or isinstance(holder, types.FrameType):
            continue
        if hasattr(type(holder), "cache_clear"):
            holder.cache_clear()
            removed = True
        elif isinstance(holder, dict):
            removed |= _delete(holder, ids)
        elif isinstance(holder, list):
            list.__setitem__(holder, slice(None), [value for value in list.__iter__(holder) if id(value) not in ids])
            removed = True
        elif isinstance(holder, tuple) and depth:  # its own container may be a cache
            above.append(holder)
        elif (attributes := own_dict(holder)) is not None:
            removed |= _delete(attributes, ids)
    return _release(above, depth - 1) | removed if above else removed


def _delete(names: dict[Any, Any], ids: set[int]) -> bool:
    """Uses the methods of `dict`: some subclasses refuse `del` (outputs of transformers)."""
    methods: Any = OrderedDict if isinstance(names, OrderedDict) else dict
    keys = [key for key, value in methods.items(names) if id(value) in ids]
    is_global = getattr(sys.modules.get(names.get("__name__", "")), "__dict__", None) is names
    for key in keys:
        if is_global:  # where None says that there is nothing yet: code that names it must not fail
            names[key] = None
        else:
            methods.__delitem__(names, key)
    return bool(keys)
