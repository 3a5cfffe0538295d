"""Records of the former state of objects that a trace may change; each can be put back."""

from __future__ import annotations

import pickle
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

_MAX_ARRAY_BYTES = 64 * 2**20


class Record:
    """The former state of one object."""

    def put_back(self) -> None:
        raise NotImplementedError

    def now(self) -> Iterable[Any]:
        """What it contains now: objects, or bytes that describe it."""
        return ()

    def swap(self, stand_ins: dict[int, torch.Tensor]) -> None:
        """Replaces tensors by their stand-ins; only containers have any."""


class Items(Record):
    """A dictionary or the attributes of an object."""

    def __init__(self, names: dict[Any, Any]) -> None:
        self._names = names
        self._methods: Any = OrderedDict if isinstance(names, OrderedDict) else dict
        self.saved = list(self._methods.items(names))

    def put_back(self) -> None:
        now = list(self._methods.items(self._names))
        if not now and not self.saved:  # most are
            return
        same = len(now) == len(self.saved) and all(
            a[0] is b[0] and a[1] is b[1] for a, b in zip(now, self.saved, strict=True)
        )
        if not same:
            self._methods.clear(self._names)
            self._methods.update(self._names, self.saved)

    def now(self) -> Iterable[Any]:
        return [*self._methods.keys(self._names), *self._methods.values(self._names)]

    def swap(self, stand_ins: dict[int, torch.Tensor]) -> None:
        for key, value in self.saved:
            if (stand_in := stand_ins.get(id(value))) is not None:
                self._methods.__setitem__(self._names, key, stand_in)


class Globals(Items):
    """A module's globals: values and containers are restored; imports and definitions stay."""

    def put_back(self) -> None:
        before = dict(self.saved)
        for name, value in list(self._names.items()):
            if name not in before and is_value(value):
                del self._names[name]
        for name, value in self.saved:
            now = self._names.get(name, value)
            if name not in self._names or (now is not value and (is_value(now) or is_value(value))):
                self._names[name] = value

    def now(self) -> Iterable[Any]:
        return [value for name, value in self._names.items() if name[:2] != "__" and is_value(value)]


class Elements(Record):
    def __init__(self, values: Any) -> None:
        self._values, self._saved = values, list(values)

    def put_back(self) -> None:
        now = list(self._values)
        if len(now) != len(self._saved) or any(a is not b for a, b in zip(now, self._saved, strict=True)):
            self._values.clear()
            self._values.extend(self._saved)

    def now(self) -> Iterable[Any]:
        return list(self._values)

    def swap(self, stand_ins: dict[int, torch.Tensor]) -> None:
        for index, value in enumerate(self._saved):
            if (stand_in := stand_ins.get(id(value))) is not None:
                self._values[index] = stand_in


class Members(Record):
    def now(self) -> Iterable[Any]:
        return list(self._values)

    def __init__(self, values: set[Any]) -> None:
        self._values, self._saved = values, list(values)

    def put_back(self) -> None:
        if {id(value) for value in self._values} != {id(value) for value in self._saved}:
            self._values.clear()
            self._values.update(self._saved)


class Cell(Record):
    """A variable that a function shares with the one around it."""

    def __init__(self, cell: types.CellType) -> None:
        self._cell = cell
        self.saved: tuple[Any, ...] = _cell_contents(cell)

    def put_back(self) -> None:
        if self.saved:
            self._cell.cell_contents = self.saved[0]
        elif _cell_contents(self._cell):
            del self._cell.cell_contents

    def now(self) -> Iterable[Any]:
        return _cell_contents(self._cell)

    def swap(self, stand_ins: dict[int, torch.Tensor]) -> None:
        if self.saved and (stand_in := stand_ins.get(id(self.saved[0]))) is not None:
            self._cell.cell_contents = stand_in


class Slots(Record):
    def __init__(self, owner: Any, names: Iterable[str]) -> None:
        self._owner, self._names = owner, tuple(names)
        self.saved = self._now()

    def _now(self) -> dict[str, Any]:
        """The values of the filled slots, without calling the owner's `__getattr__`, which may do anything."""
        filled = {}
        for name in self._names:
            with suppress(AttributeError):
                filled[name] = object.__getattribute__(self._owner, name)
        return filled

    def now(self) -> Iterable[Any]:
        return [*self._now(), *self._now().values()]

    def put_back(self) -> None:
        now = self._now()
        for name in now.keys() - self.saved.keys():
            object.__delattr__(self._owner, name)
        for name, value in self.saved.items():
            if now.get(name, self) is not value:
                object.__setattr__(self._owner, name, value)

    def swap(self, stand_ins: dict[int, torch.Tensor]) -> None:
        for name, value in self.saved.items():
            if (stand_in := stand_ins.get(id(value))) is not None:
                object.__setattr__(self._owner, name, stand_in)


class ClassBody(Record):
    """Class attributes that are values or containers; changed methods stay."""

    def __init__(self, owner: type) -> None:
        self._owner = owner
        self.saved = {name: value for name, value in vars(owner).items() if not name.startswith("__")}

    def put_back(self) -> None:
        now = vars(self._owner)
        for name in [name for name, value in now.items() if not name.startswith("__")]:
            if name not in self.saved and is_value(now[name]):
                delattr(self._owner, name)
        for name, value in self.saved.items():
            changed = now.get(name, self) is not value
            if changed and (is_value(value) or name not in now or is_value(now[name])):
                setattr(self._owner, name, value)

    def now(self) -> Iterable[Any]:
        return [value for name, value in vars(self._owner).items() if not name.startswith("__") and is_value(value)]


class ModuleClass(Record):
    """The class of a module: lazy ones change theirs in the first call."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._saved = module, type(module)

    def put_back(self) -> None:
        if type(self._module) is not self._saved:
            self._module.__class__ = self._saved

    def now(self) -> Iterable[Any]:
        return (type(self._module),)


class TensorState(Record):
    """A tensor's gradient, hooks and attributes. Its values do not change: a trace computes on stand-ins."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._names = tensor, dict(tensor.__dict__)
        self._grad = tensor.grad if tensor.is_leaf else None
        self._requires_grad = tensor.requires_grad

    def put_back(self) -> None:
        tensor = self._tensor
        if tensor.is_leaf:
            if tensor.requires_grad != self._requires_grad:
                tensor.requires_grad_(self._requires_grad)
            if tensor.grad is not self._grad:
                tensor.grad = self._grad
        if tensor.__dict__ != self._names:
            tensor.__dict__.clear()
            tensor.__dict__.update(self._names)

    def now(self) -> Iterable[Any]:
        return list(self._tensor.__dict__.values())


class Content(Record):
    """State that is read and written as a whole: arrays and generators of random numbers."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        self._read, self._write, self._saved = read, write, read()

    def put_back(self) -> None:
        self._write(self._saved)

    def now(self) -> Iterable[Any]:
        return (pickle.dumps(self._read()),)


class RandomStates(Record):
    """The states of Python's, NumPy's and torch's (CPU) random numbers."""

    def __init__(self) -> None:
        numpy = sys.modules.get("numpy")
        self._numpy = numpy.random if numpy else None
        self._saved = random.getstate(), torch.get_rng_state(), self._numpy.get_state() if self._numpy else None

    def seed(self) -> None:
        random.seed(0)
        torch.default_generator.manual_seed(0)
        if self._numpy:
            self._numpy.seed(0)

    def put_back(self) -> None:
        random.setstate(self._saved[0])
        torch.set_rng_state(self._saved[1])
        if self._numpy:
            self._numpy.set_state(self._saved[2])


def content_of(value: Any) -> Content | None:
    kind = type(value)
    if issubclass(kind, torch.Generator):
        return Content(value.get_state, value.set_state)
    if issubclass(kind, random.Random):
        return Content(value.getstate, value.setstate)
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if kind is numpy.ndarray:
        if value.nbytes > _MAX_ARRAY_BYTES or value.dtype.hasobject or not value.flags.writeable:
            return None
        return Content(value.copy, lambda saved: _restore_array(value, saved))
    if issubclass(kind, numpy.random.RandomState):
        return Content(value.get_state, value.set_state)
    if issubclass(kind, numpy.random.Generator):
        bits = value.bit_generator
        return Content(lambda: bits.state, lambda saved: setattr(bits, "state", saved))
    return None


def _restore_array(array: Any, saved: Any) -> None:
    if array.tobytes() != saved.tobytes():
        array[...] = saved


def is_value(value: Any) -> bool:
    """True for a number, text, tensor or container; False for what a module imports, defines or registers."""
    kind = type(value)
    plain = (int, float, complex, str, bytes, bool, type(None), list, dict, set, tuple, frozenset, deque)
    return issubclass(kind, (*plain, torch.Tensor))


def own_dict(value: Any) -> dict[Any, Any] | None:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if isinstance(attributes, dict) else None


def _cell_contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()
