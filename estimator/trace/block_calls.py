"""Calls of a block: what one that ran has listed, what two are compared by, and what one that is left out returns."""

from __future__ import annotations

import functools
import inspect
import random
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from .blocks import PLAIN, Block, HiddenNumber
from .workload import Op


class NotEqualError(RuntimeError):
    """Blocks that were taken as equal are not: the step must be traced in full."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient on its way through the boundary of a block, and what was listed until then."""

    ops: int
    unsupported: dict[str, int]
    reads: int
    layout: Any


@dataclass(frozen=True, slots=True)
class Made:
    """A new tensor that a block returned: its layout, and whether autograd keeps it."""

    layout: Any
    requires_grad: bool
    is_saved: bool
    is_view: bool


@dataclass(eq=False, slots=True)
class Run:
    """A call of a block that ran: what it listed in forward, and the gradients at its boundaries."""

    block: Block
    start: int
    end: int
    nodes: tuple[int, int]
    unsupported: dict[str, int]
    saved: list[tuple[int, int]]  # key and size of each storage that it was the first to save
    output: Any  # the structure of what it returned
    made: tuple[Made, ...]  # its new tensors; the first goes to the next block
    input_saved: bool
    followed: int
    drawn: int  # values that it read and that were made up
    after: Gradient | None = None
    before: Gradient | None = None
    broken: bool = False

    @property
    def form(self) -> Any:
        return self.output, self.made, self.input_saved

    @property
    def saved_bytes(self) -> int:
        return sum(size for _, size in self.saved)


Place = tuple[int, int]  # the number of ops listed before, and of blocks left out before


@dataclass(eq=False, slots=True)
class Kind:
    """Calls with equal arguments: those that ran, and the blocks that were left out.

    `entries` are those of the block in key-value caches, by the slots of its numbers.
    """

    key: Any
    entries: Mapping[Any, Any]
    tries: int = 0
    usable: bool = True
    runs: list[Run] = field(default_factory=list)
    equal: tuple[Run, Run] | None = None
    repeated: list[tuple[Block, Place]] = field(default_factory=list)
    passed: dict[int, tuple[Place, Any]] = field(default_factory=dict)  # by the block's position, with the layout
    kept: list[Any] = field(default_factory=list)  # what the key names by its id


def is_plain(tensor: Any) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter, FakeTensor) and tensor.layout is torch.strided


def layout(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """Shape, strides, number format and device of a tensor that has its storage to itself; None for others."""
    size = tensor.numel() * tensor.element_size()
    if tensor.storage_offset() or tensor.untyped_storage().nbytes() != size:
        return None
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, type(tensor), tensor.device


def gradient_layout(grad: torch.Tensor) -> Any:
    return tuple(grad.shape), grad.stride(), grad.dtype, grad.device


def difference(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: size - before.get(name, 0) for name, size in now.items() if size != before.get(name, 0)}


def random_state() -> Any:
    with _disable_current_modes():
        own_state = bytes(torch.get_rng_state().numpy())
    numpy = sys.modules.get("numpy")
    numbers = numpy.random.get_state() if numpy else ()
    own = tuple(one.tobytes() if hasattr(one, "tobytes") else one for one in numbers)
    return own_state, random.getstate(), own


def cache_class() -> Any:
    """transformers' key-value cache of decoders, if that is loaded."""
    return getattr(sys.modules.get("transformers.cache_utils"), "DynamicCache", None)


def pair_class() -> Any:
    """transformers' pair of caches of an encoder-decoder, for its own positions and for those of the encoder."""
    return getattr(sys.modules.get("transformers.cache_utils"), "EncoderDecoderCache", None)


def is_cache(value: Any) -> bool:
    """Whether `value` is a key-value cache whose entries can be compared."""
    if type(value) is pair_class():
        return is_cache(value.self_attention_cache) and is_cache(value.cross_attention_cache)
    return type(value) is cache_class()


def cache_entry(cache: Any, number: int) -> Any:
    """The kind of a block's own entry in a key-value cache, before its call."""
    if type(cache) is pair_class():
        entries = [cache_entry(one, number) for one in (cache.self_attention_cache, cache.cross_attention_cache)]
        return (*entries, cache.is_updated.get(number))
    if number >= len(cache.layers):
        return ()
    entry = cache.layers[number]
    return type(entry), tuple(
        (name, tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value))
        for name, value in vars(entry).items()
        if type(value) in PLAIN or isinstance(value, torch.Tensor)
    )


def caches_in(args: Any, kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The key-value caches of transformers among the arguments of a call."""
    for value in flat_arguments(args, kwargs):
        if type(value) is pair_class():
            yield from (value.self_attention_cache, value.cross_attention_cache)
        elif type(value) is cache_class():
            yield value


@contextmanager
def numbers_into_caches(unfilled: Container[tuple[int, int]]) -> Iterator[None]:
    """A block's hidden number may name its entry in a key-value cache of transformers.

    `unfilled` are the entries of blocks that were left out, by the cache's id and the block's number. A call for one of
    them raises NotEqualError: something else reads what the block would have written.
    """
    cache, pair = cache_class(), pair_class()
    if cache is None:
        yield
        return
    with ExitStack() as stack:
        for name, method in inspect.getmembers(cache, inspect.isfunction):
            if "layer_idx" in inspect.signature(method).parameters:
                stack.enter_context(_replaced(cache, name, _with_numbers(method, unfilled)))
        if pair is not None:
            stack.enter_context(_replaced(pair, "__init__", _with_flags(pair.__init__)))
        yield


@contextmanager
def _replaced(cls: Any, name: str, method: Any) -> Iterator[None]:
    own = vars(cls).get(name)
    setattr(cls, name, method)
    try:
        yield
    finally:
        delattr(cls, name) if own is None else setattr(cls, name, own)


def _with_numbers(method: Any, unfilled: Container[tuple[int, int]]) -> Any:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*map(_as_entry, args), **{name: _as_entry(value) for name, value in kwargs.items()})
        if (id(args[0]), call.arguments.get("layer_idx")) in unfilled:
            raise NotEqualError("the cache of a block that was left out is read")
        return method(*call.args, **call.kwargs)

    return called


def _with_flags(init: Any) -> Any:
    @functools.wraps(init)
    def called(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.is_updated = _Flags(self.is_updated)

    return called


class _Flags(dict[int, bool]):
    """Which entries of a pair of caches are filled, by the numbers of the blocks."""

    def get(self, number: Any, default: Any = None) -> Any:
        return super().get(_as_entry(number), default)

    def __getitem__(self, number: Any) -> Any:
        return super().__getitem__(_as_entry(number))

    def __setitem__(self, number: Any, value: Any) -> None:
        super().__setitem__(_as_entry(number), value)


def _as_entry(value: Any) -> Any:
    if type(value) is not HiddenNumber:
        return value
    value.cached = True
    return int.__int__(value)


def flat_arguments(args: Any, kwargs: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for value in (*args, *kwargs.values()):
        found += flat_arguments(value, {}) if isinstance(value, tuple) else [value]
    return found


def only_new(output: Any, data: Any, args: Any, kwargs: Any) -> tuple[list[torch.Tensor], Any] | None:
    """The new tensors in a block's output, and the structure around them; None for an output that is not plain."""
    leaves = flat_arguments(args, kwargs)
    made: list[torch.Tensor] = []

    def part(value: Any) -> Any:
        if type(value) is tuple:
            return ("tuple", *[part(one) for one in value])
        if type(value) in PLAIN:
            return "plain", value
        for index, leaf in enumerate(leaves):
            if leaf is value and value is not data:
                return "argument", index
        made.append(value)
        return "new", len(made) - 1

    template = part(output)
    if not made or not all(is_plain(one) and one is not data for one in made) or len({*map(id, made)}) != len(made):
        return None
    return made, template


def filled(template: Any, made: Sequence[torch.Tensor], args: Any, kwargs: Any) -> Any:
    if template[0] == "tuple":
        return tuple(filled(one, made, args, kwargs) for one in template[1:])
    if template[0] == "plain":
        return template[1]
    return made[template[1]] if template[0] == "new" else flat_arguments(args, kwargs)[template[1]]


def alike(one: Sequence[Op], two: Sequence[Op]) -> bool:
    """Whether two lists have the same ops in the same layers, of any sizes."""
    return len(one) == len(two) and all(
        (a.name, a.kind, a.layer, a.phase, a.dtype) == (b.name, b.kind, b.layer, b.phase, b.dtype)
        for a, b in zip(one, two, strict=True)
    )


def renamed(ops: Sequence[Op], old: str, new: str) -> list[Op]:
    """The ops of the block at `old`, as those of the block at `new`."""
    layers = {layer: new + layer[len(old) :] for layer in {op.layer for op in ops} if f"{layer}.".startswith(f"{old}.")}
    return [op.in_layer(layers[op.layer]) if op.layer in layers else op for op in ops]


def inserted(ops: Sequence[Op], places: Sequence[tuple[Place, list[Op]]]) -> list[Op]:
    merged: list[Op] = []
    start = 0
    for (place, _), added in sorted(places, key=lambda one: one[0]):
        merged += ops[start:place]
        merged += added
        start = place
    return merged + list(ops[start:])


def gradients(module: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def grad_forms(grads: Mapping[str, torch.Tensor | None]) -> Any:
    return {
        name: None if grad is None else (tuple(grad.shape), grad.dtype, grad.layout) for name, grad in grads.items()
    }
