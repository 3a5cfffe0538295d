"""Calls of a block: what one that ran has listed, what two are compared by, and what one that is left out returns."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from .blocks import PLAIN, Block
from .workload import Op


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient on its way through the boundary of a block, and what was listed until then."""

    ops: int
    unsupported: dict[str, int]
    reads: int
    layout: Any


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
    input_saved: bool
    output_saved: bool
    output_is_view: bool
    followed: int
    after: Gradient | None = None
    before: Gradient | None = None
    broken: bool = False

    @property
    def form(self) -> Any:
        return self.output, self.input_saved, self.output_saved, self.output_is_view, self.followed

    @property
    def saved_bytes(self) -> int:
        return sum(size for _, size in self.saved)


Place = tuple[int, int]  # the number of ops listed before, and of blocks left out before


@dataclass(eq=False, slots=True)
class Kind:
    """Calls with equal arguments: those that ran, and the blocks that were left out."""

    tries: int = 0
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
    return getattr(sys.modules.get("transformers.cache_utils"), "DynamicCache", None)


def cache_entry(cache: Any, number: int) -> Any:
    """The kind of a block's own entry in a key-value cache, before its call."""
    if number >= len(cache.layers):
        return None
    entry = cache.layers[number]
    return type(entry), tuple((name, repr(value)) for name, value in vars(entry).items() if type(value) in PLAIN)


def flat_arguments(args: Any, kwargs: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for value in (*args, *kwargs.values()):
        found += flat_arguments(value, {}) if isinstance(value, tuple) else [value]
    return found


def only_new(output: Any, data: Any, args: Any, kwargs: Any) -> tuple[torch.Tensor, Any] | None:
    """The one new tensor in a block's output, and the structure around it; None where there is not exactly one."""
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
        return ("new",)

    template = part(output)
    if len(made) != 1 or not is_plain(made[0]) or made[0] is data:
        return None
    return made[0], template


def filled(template: Any, made: torch.Tensor, args: Any, kwargs: Any) -> Any:
    if template[0] == "tuple":
        return tuple(filled(one, made, args, kwargs) for one in template[1:])
    if template[0] == "plain":
        return template[1]
    return made if template[0] == "new" else flat_arguments(args, kwargs)[template[1]]


def renamed(ops: Sequence[Op], old: str, new: str) -> list[Op]:
    """The ops of the block at `old`, as those of the block at `new`."""
    below = f"{old}."
    return [
        replace(op, layer=new + op.layer[len(old) :]) if op.layer == old or op.layer.startswith(below) else op
        for op in ops
    ]


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
