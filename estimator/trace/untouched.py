"""Restores everything that a model reaches after a trace.

A forward pass may keep tensors between calls (attributes, dictionaries, globals, `lru_cache`), draw
random numbers, count its calls or change its hooks. `untouched` records all of this before a trace
and restores the same objects afterwards. Tensors of the trace that are kept elsewhere are found with
the garbage collector and removed from their containers.
"""

from __future__ import annotations

import functools
import sys
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..sandbox.collection import without_collection
from .state_records import (
    Cell,
    ClassBody,
    Elements,
    Globals,
    Items,
    Members,
    ModuleClass,
    RandomStates,
    Record,
    Slots,
    TensorState,
    content_of,
    own_dict,
)
from .survivors import Survivors

# The most objects that are recorded, nearest to the model first: a bound for models that contain their data set.
MAX_OBJECTS = 300_000

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
        with without_collection():  # the first collection after imports walks all that they made
            reached = Reached(roots)
        survivors = reached.survivors = Survivors()
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
        self.survivors: Survivors | None = None
        self.tensors: dict[int, torch.Tensor] = {}
        self._records: list[Record] = []
        self._seen: dict[int, Any] = {}  # by id; the reference keeps the id unique
        self._queue: deque[Any] = deque(roots)
        self._undo: list[Callable[[], Any]] = []
        self._random = RandomStates()
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

    def _add_record(self, record: Record) -> None:
        self._records.append(record)

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if issubclass(kind, _ATOMS) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if issubclass(kind, torch.Tensor):
            self.tensors[id(value)] = value
            self._add_record(TensorState(value))
        elif issubclass(kind, type):
            self._visit_class(value)
        elif issubclass(kind, types.FunctionType):
            self._visit_function(value)
        elif issubclass(kind, types.MethodType):
            self._queue += (value.__self__, value.__func__)
        elif issubclass(kind, functools.partial):
            self._queue += (value.func, *value.args, *value.keywords.values())
        elif (content := content_of(value)) is not None:
            self._add_record(content)
        elif not _closed(kind):
            self._visit_object(value)

    def _visit_object(self, value: Any) -> None:
        kind = type(value)
        if issubclass(kind, dict):
            self._visit_dict(value)
        elif issubclass(kind, (list, deque)):
            self._add_record(Elements(value))
            self._queue += value
        elif issubclass(kind, set):
            self._add_record(Members(value))
        elif issubclass(kind, (tuple, frozenset)):
            self._queue += value
        attributes = own_dict(value)
        if attributes is not None:
            if issubclass(kind, nn.Module):
                self._add_record(ModuleClass(value))
            self._visit_dict(attributes)
        if slots := _slots(kind):
            record = Slots(value, slots)
            self._add_record(record)
            self._queue += record.saved.values()
        if not _is_system(kind.__module__):
            self._queue.append(kind)

    def _visit_dict(self, value: dict[Any, Any]) -> None:
        record = Items(value)
        self._add_record(record)
        self._queue += (item for _, item in record.saved)

    def _visit_class(self, value: type) -> None:
        for one in value.__mro__:
            if _is_system(one.__module__):
                continue
            record = ClassBody(one)
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
                record = Cell(cell)
                self._add_record(record)
                self._queue += record.saved
        if not _is_system(value.__module__ or ""):
            self._visit_globals(value.__globals__)

    def _visit_globals(self, names: dict[str, Any] | None) -> None:
        if names is None or id(names) in self._seen or _is_system(str(names.get("__name__", ""))):
            return
        self._seen[id(names)] = names
        record = Globals(names)
        self._add_record(record)
        self._queue += (value for name, value in record.saved if not isinstance(value, type) and name[:2] != "__")


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
