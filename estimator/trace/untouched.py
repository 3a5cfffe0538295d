"""Restores everything that a model reaches after a trace.

A forward pass may keep tensors between calls (attributes, dictionaries, globals, `lru_cache`), draw
random numbers, count its calls or change its hooks. `untouched` records all of this before a trace
and restores the same objects afterwards. Tensors of the trace that are kept elsewhere are found with
the garbage collector and removed from their containers.
"""

from __future__ import annotations

import functools
import gc
import pickle
import random
import sys
import traceback
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

# The most objects that are recorded, nearest to the model first: a bound for models that contain their data set.
MAX_OBJECTS = 300_000
_MAX_ARRAY_BYTES = 64 * 2**20

# Packages whose globals and classes contain no state of a model.
_SYSTEM = frozenset(sys.stdlib_module_names) | {
    *("torch", "numpy", "scipy", "pandas", "joulecast", "tensorflow", "jax", "keras", "fvcore"),
    *("lightning", "pytorch_lightning", "torchmetrics", "accelerate", "datasets", "wandb", "pytest", "_pytest"),
}
# Modules whose objects are not visited: data, optimizers and the compiler.
_CLOSED = ("torch.utils.data", "torch.optim", "torch.distributed", "torch.cuda", "torch._", "torch.jit", "torch.fx")
_CLOSED_NAMES = frozenset({"Trainer", "Accelerator", "Dataset", "DataLoader", "Logger"})
_ATOMS = (
    *(int, float, complex, str, bytes, bool, type(None), type(...), slice, range, property, staticmethod, classmethod),
    *(torch.dtype, torch.device, torch.Size, types.ModuleType, types.CodeType, types.FrameType, types.TracebackType),
    *(types.GeneratorType, types.CoroutineType, types.BuiltinFunctionType, types.MappingProxyType),
)


@contextmanager
def untouched(*roots: Any) -> Iterator[Reached]:
    """Restores everything that `roots` reach, and the states of random numbers, after the block."""
    with _torch_state():
        reached = Reached(roots)
        survivors = reached.survivors = _Survivors()
        try:
            yield reached
        except BaseException as error:
            _clear_frames(error)
            raise
        finally:
            reached.put_back()
            reached.notes += survivors.released()


def _clear_frames(error: BaseException | None) -> None:
    """Removes the local variables of failed calls, which keep tensors of the trace."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:  # an error may be the context of its own cause
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += (one.__cause__, one.__context__)


class Reached:
    """A record of the containers, attributes, closures and globals that some objects reach."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self.notes: list[str] = []
        self.complete = True  # all objects are recorded
        self.survivors: _Survivors | None = None
        self.tensors: dict[int, torch.Tensor] = {}
        self._records: list[_Record] = []
        self._seen: dict[int, Any] = {}  # by id; the reference keeps the id unique
        self._queue: deque[Any] = deque(roots)
        self._undo: list[Callable[[], Any]] = []
        self._random = _Random()
        while self._queue and len(self._seen) < MAX_OBJECTS:
            self._visit(self._queue.popleft())
        if self._queue:
            self.complete = False
            self.notes.append(f"the model reaches more than {MAX_OBJECTS:,} objects: not all were recorded")
        self._queue.clear()

    def swap(self, stand_ins: dict[int, torch.Tensor]) -> None:
        """Replaces tensors in recorded containers by `stand_ins[id(tensor)]`, until `put_back`."""
        for record in self._records:
            record.swap(stand_ins)

    def state(self) -> list[Any]:
        """What all recorded containers keep now: two states are equal if all their elements are the same objects."""
        return [value for record in self._records for value in record.now()]

    def has_new(self, state: Iterable[Any]) -> bool:
        """Whether a state contains an object that can change and that no record follows."""
        plain = (*_ATOMS, torch.Tensor, type, types.FunctionType, types.MethodType)
        return any(id(value) not in self._seen and not issubclass(type(value), plain) for value in state)

    def undo(self, action: Callable[[], Any]) -> None:
        """Adds `action` to the next `put_back`."""
        self._undo.append(action)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """One of several tries: random numbers start from the same seed, and everything is restored at its end."""
        self._random.seed()
        try:
            yield
        finally:
            self.put_back()

    def try_again(self) -> None:
        """Between two tries: the next one must not find the stand-ins of the last in a cache."""
        if self.survivors is not None:
            self.survivors.release()

    def put_back(self) -> None:
        while self._undo:
            self._undo.pop()()
        for record in reversed(self._records):
            record.put_back()
        self._random.put_back()

    def _add_record(self, record: _Record) -> None:
        self._records.append(record)

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if issubclass(kind, _ATOMS) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if issubclass(kind, torch.Tensor):
            self.tensors[id(value)] = value
            self._add_record(_Tensor(value))
        elif issubclass(kind, type):
            self._visit_class(value)
        elif issubclass(kind, types.FunctionType):
            self._visit_function(value)
        elif issubclass(kind, types.MethodType):
            self._queue += (value.__self__, value.__func__)
        elif issubclass(kind, functools.partial):
            self._queue += (value.func, *value.args, *value.keywords.values())
        elif (content := _content(value)) is not None:
            self._add_record(content)
        elif not _closed(kind):
            self._visit_object(value)

    def _visit_object(self, value: Any) -> None:
        kind = type(value)
        if issubclass(kind, dict):
            self._visit_dict(value)
        elif issubclass(kind, (list, deque)):
            self._add_record(_Elements(value))
            self._queue += value
        elif issubclass(kind, set):
            self._add_record(_Members(value))
        elif issubclass(kind, (tuple, frozenset)):
            self._queue += value
        attributes = _own_dict(value)
        if attributes is not None:
            if issubclass(kind, nn.Module):
                self._add_record(_Class(value))
            self._visit_dict(attributes)
        if slots := _slots(kind):
            record = _Slots(value, slots)
            self._add_record(record)
            self._queue += record.saved.values()
        if not _is_system(kind.__module__):
            self._queue.append(kind)

    def _visit_dict(self, value: dict[Any, Any]) -> None:
        record = _Items(value)
        self._add_record(record)
        self._queue += (item for _, item in record.saved)

    def _visit_class(self, value: type) -> None:
        for one in value.__mro__:
            if _is_system(one.__module__):
                continue
            record = _ClassBody(one)
            self._add_record(record)
            self._queue += record.saved.values()
            self._visit_globals(getattr(sys.modules.get(one.__module__), "__dict__", None))

    def _visit_function(self, value: types.FunctionType) -> None:
        self._queue += (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        if value.__dict__:
            self._visit_dict(value.__dict__)
        for cell in value.__closure__ or ():
            if id(cell) not in self._seen:
                self._seen[id(cell)] = cell
                record = _Cell(cell)
                self._add_record(record)
                self._queue += record.saved
        if not _is_system(value.__module__ or ""):
            self._visit_globals(value.__globals__)

    def _visit_globals(self, names: dict[str, Any] | None) -> None:
        if names is None or id(names) in self._seen or _is_system(str(names.get("__name__", ""))):
            return
        self._seen[id(names)] = names
        record = _Globals(names)
        self._add_record(record)
        self._queue += (value for name, value in record.saved if not isinstance(value, type) and name[:2] != "__")


# -- what is recorded ----------------------------------------------------------------------------


class _Record:
    """The former state of one object."""

    def put_back(self) -> None:
        raise NotImplementedError

    def now(self) -> Iterable[Any]:
        """What it contains now: objects, or bytes that describe it."""
        return ()

    def swap(self, stand_ins: dict[int, torch.Tensor]) -> None:
        """Replaces tensors by their stand-ins; only containers have any."""


class _Items(_Record):
    """A dictionary or the attributes of an object."""

    def __init__(self, names: dict[Any, Any]) -> None:
        self._names = names
        self._methods: Any = OrderedDict if isinstance(names, OrderedDict) else dict
        self.saved = list(self._methods.items(names))

    def put_back(self) -> None:
        now = list(self._methods.items(self._names))
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


class _Globals(_Items):
    """A module's globals: values and containers are restored; imports and definitions stay."""

    def put_back(self) -> None:
        before = dict(self.saved)
        for name, value in list(self._names.items()):
            if name not in before and _is_value(value):
                del self._names[name]
        for name, value in self.saved:
            now = self._names.get(name, value)
            if name not in self._names or (now is not value and (_is_value(now) or _is_value(value))):
                self._names[name] = value

    def now(self) -> Iterable[Any]:
        return [value for name, value in self._names.items() if name[:2] != "__" and _is_value(value)]


class _Elements(_Record):
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


class _Members(_Record):
    def now(self) -> Iterable[Any]:
        return list(self._values)

    def __init__(self, values: set[Any]) -> None:
        self._values, self._saved = values, list(values)

    def put_back(self) -> None:
        if {id(value) for value in self._values} != {id(value) for value in self._saved}:
            self._values.clear()
            self._values.update(self._saved)


class _Cell(_Record):
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


class _Slots(_Record):
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


class _ClassBody(_Record):
    """Class attributes that are values or containers; changed methods stay."""

    def __init__(self, owner: type) -> None:
        self._owner = owner
        self.saved = {name: value for name, value in vars(owner).items() if not name.startswith("__")}

    def put_back(self) -> None:
        now = vars(self._owner)
        for name in [name for name, value in now.items() if not name.startswith("__")]:
            if name not in self.saved and _is_value(now[name]):
                delattr(self._owner, name)
        for name, value in self.saved.items():
            changed = now.get(name, self) is not value
            if changed and (_is_value(value) or name not in now or _is_value(now[name])):
                setattr(self._owner, name, value)

    def now(self) -> Iterable[Any]:
        return [value for name, value in vars(self._owner).items() if not name.startswith("__") and _is_value(value)]


class _Class(_Record):
    """The class of a module: lazy ones change theirs in the first call."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._saved = module, type(module)

    def put_back(self) -> None:
        if type(self._module) is not self._saved:
            self._module.__class__ = self._saved

    def now(self) -> Iterable[Any]:
        return (type(self._module),)


class _Tensor(_Record):
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


class _Content(_Record):
    """State that is read and written as a whole: arrays and generators of random numbers."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        self._read, self._write, self._saved = read, write, read()

    def put_back(self) -> None:
        self._write(self._saved)

    def now(self) -> Iterable[Any]:
        return (pickle.dumps(self._read()),)


class _Random(_Record):
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


def _content(value: Any) -> _Content | None:
    kind = type(value)
    if issubclass(kind, torch.Generator):
        return _Content(value.get_state, value.set_state)
    if issubclass(kind, random.Random):
        return _Content(value.getstate, value.setstate)
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if kind is numpy.ndarray:
        if value.nbytes > _MAX_ARRAY_BYTES or value.dtype.hasobject or not value.flags.writeable:
            return None
        return _Content(value.copy, lambda saved: _restore_array(value, saved))
    if issubclass(kind, numpy.random.RandomState):
        return _Content(value.get_state, value.set_state)
    if issubclass(kind, numpy.random.Generator):
        bits = value.bit_generator
        return _Content(lambda: bits.state, lambda saved: setattr(bits, "state", saved))
    return None


def _restore_array(array: Any, saved: Any) -> None:
    if array.tobytes() != saved.tobytes():
        array[...] = saved


def _closed(kind: type) -> bool:
    """True for objects that contain no state of the model, or belong to other threads."""
    if issubclass(kind, (nn.Module, list, tuple, dict, set, frozenset, deque)):
        return False
    module = kind.__module__ or ""
    root = module.partition(".")[0]
    if root in ("numpy", "pandas", "scipy", "joulecast") or module.startswith(_CLOSED):
        return True
    if root in sys.stdlib_module_names and root not in ("__main__", "types", "weakref", "collections", "functools"):
        return root != "_thread" or kind.__name__ != "_local"
    return any(one.__name__ in _CLOSED_NAMES for one in kind.__mro__)


def _is_system(module: str) -> bool:
    return not module or module.partition(".")[0] in _SYSTEM


def _is_value(value: Any) -> bool:
    """True for a number, text, tensor or container; False for what a module imports, defines or registers."""
    kind = type(value)
    plain = (int, float, complex, str, bytes, bool, type(None), list, dict, set, tuple, frozenset, deque)
    return issubclass(kind, (*plain, torch.Tensor))


def _own_dict(value: Any) -> dict[Any, Any] | None:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if isinstance(attributes, dict) else None


def _slots(kind: type) -> list[str]:
    names: list[str] = []
    for one in kind.__mro__:
        if _is_system(one.__module__):
            continue
        slots = vars(one).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                names.append(f"_{one.__name__.lstrip('_')}{name}" if private else name)
    # A class may put a property in place of its base's slot, which then cannot be written.
    return [name for name in names if isinstance(_of_class(kind, name), types.MemberDescriptorType)]


def _of_class(kind: type, name: str) -> Any:
    return next((vars(one)[name] for one in kind.__mro__ if name in vars(one)), None)


def _cell_contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


# -- torch's own state ---------------------------------------------------------------------------


@contextmanager
def _torch_state() -> Iterator[None]:
    """Restores the default dtype and the gradient mode. Inference mode is off in the block: it prevents training."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


# -- tensors that are kept elsewhere -------------------------------------------------------------

# `gc.get_referrers` compares every reference with each value, so it is faster only for a few: 0.05 s instead of 0.4 s.
_FEW = 100


class _Survivors:
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
        elif (attributes := _own_dict(holder)) is not None:
            removed |= _delete(attributes, ids)
    return _release(above, depth - 1) | removed if above else removed


def _delete(names: dict[Any, Any], ids: set[int]) -> bool:
    """Uses the methods of `dict`: some subclasses refuse `del` (outputs of transformers)."""
    methods: Any = OrderedDict if isinstance(names, OrderedDict) else dict
    keys = [key for key, value in methods.items(names) if id(value) in ids]
    for key in keys:
        methods.__delitem__(names, key)
    return bool(keys)
