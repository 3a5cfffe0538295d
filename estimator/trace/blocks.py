"""Which blocks of a network are equal: modules of one class with the same submodules, shapes and settings."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

# In smaller groups, too few blocks are left out.
MIN_BLOCKS = 5
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_MODULES = frozenset(nn.Module().__dict__) - {"training"}
PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


# Names a hidden attribute of every block of a group: the position of its owner in `Block.hidden`, and its name.
Slot = tuple[int, str]


@dataclass(eq=False, slots=True)
class Group:
    """Equal blocks of one parent, in order, and what is known of their calls."""

    blocks: list[Block] = field(default_factory=list)
    usable: bool = True
    called: int = -1  # position of the block that was called last
    state: list[Any] | None = None  # of all that the model reaches, when the first block was called
    kinds: list[Any] = field(default_factory=list)
    last_kind: Any = None
    cached: frozenset[Slot] | None = None  # the numbers that name a block's entries in caches; None before one ran


@dataclass(eq=False, slots=True)
class Block:
    """A block, and its attributes that have another value in every block of its group."""

    module: nn.Module
    path: str
    group: Group
    position: int
    hidden: list[tuple[nn.Module, dict[str, Any]]] = field(default_factory=list)

    @property
    def numbers(self) -> dict[Slot, int]:
        """Its own whole numbers, such as `layer_idx`."""
        return {
            (index, name): value
            for index, (_, names) in enumerate(self.hidden)
            for name, value in names.items()
            if type(value) is int
        }

    @property
    def cache_numbers(self) -> dict[Slot, int]:
        """Those of its numbers that may name its entries in caches."""
        cached = self.group.cached
        return {slot: number for slot, number in self.numbers.items() if cached is None or slot in cached}


def equal_blocks(model: nn.Module) -> list[Group]:
    """The groups of equal blocks in `model`, outermost first, without blocks inside of others."""
    modules = Counter(id(child) for module in model.modules() for child in module._modules.values())
    tensors = Counter(
        id(tensor)
        for module in model.modules()
        for own in (module._parameters, module._buffers)
        for tensor in own.values()
        if tensor is not None
    )
    groups: list[Group] = []
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        path, parent = waiting.pop()
        children = [(f"{path}.{name}" if path else name, child) for name, child in parent.named_children()]
        alike: dict[Any, list[tuple[str, nn.Module]]] = {}
        for at, child in children:
            if any(True for _ in child.children()):
                alike.setdefault(type(child), []).append((at, child))
        grouped: set[int] = set()
        for candidates in alike.values():
            if len(candidates) >= MIN_BLOCKS:
                described = [(at, child, _described(child, modules, tensors)) for at, child in candidates]
                for group in _groups([one for one in described if one[2] is not None]):
                    groups.append(group)
                    grouped |= {id(block.module) for block in group.blocks}
        waiting += [(at, child) for at, child in children if id(child) not in grouped]
    return groups


def _described(
    block: nn.Module, modules: Mapping[int, int], tensors: Mapping[int, int]
) -> tuple[Any, dict[tuple[str, str], Any]] | None:
    """What must be the same in an equal block, and its other attributes; None for blocks that are never repeated."""
    paths = {id(module): path for path, module in block.named_modules()}
    structure: list[Any] = []
    attributes: dict[tuple[str, str], Any] = {}
    for path, module in block.named_modules():
        if modules[id(module)] != 1 or isinstance(module, torch.jit.ScriptModule) or has_hooks(module):
            return None
        own: list[Any] = []
        for place in (module._parameters, module._buffers):
            for name, tensor in place.items():
                if tensor is None:
                    own.append((name, None))
                    continue
                if tensors[id(tensor)] != 1 or type(tensor) not in (torch.Tensor, nn.Parameter, FakeTensor):
                    return None
                own.append((name, type(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad))
        children = tuple((name, child is None) for name, child in module._modules.items())
        names = [name for name in module.__dict__ if name not in _OF_MODULES]
        structure.append((path, type(module), tuple(own), children, tuple(names)))
        for name in names:
            token = _token(module.__dict__[name], paths)
            if token is None:
                return None
            attributes[path, name] = token
    return tuple(structure), attributes


def has_hooks(module: nn.Module) -> bool:
    return any(module.__dict__.get(name) for name in _HOOKS)


def _token(value: Any, paths: Mapping[int, str], depth: int = 0) -> Any:
    """What `value` is compared by: the same for equal numbers and texts, and for one and the same object.

    None for values that can change without being seen: iterators and objects that keep no attributes.
    """
    kind = type(value)
    if kind in PLAIN:
        return kind, repr(value)
    if depth > 8:
        return None
    if id(value) in paths:
        return "module", paths[id(value)]
    if kind in (tuple, list, torch.Size, set, frozenset):
        parts = [_token(one, paths, depth + 1) for one in value]
        if kind in (set, frozenset):
            parts.sort(key=repr)  # equal sets may have another order
        return None if None in parts else (kind, tuple(parts))
    if issubclass(kind, dict):
        parts = [_token(one, paths, depth + 1) for item in value.items() for one in item]
        return None if None in parts else (kind, tuple(parts))
    if kind is partial:
        return _token([value.func, *value.args, *value.keywords.items()], paths, depth + 1)
    if kind is types.MethodType:
        return _token([value.__func__, value.__self__], paths, depth + 1)
    plain = isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, torch.Tensor))
    seen = plain or (hasattr(value, "__dict__") and not hasattr(value, "__next__"))
    return ("object", id(value)) if seen else None


def _groups(described: Sequence[tuple[str, nn.Module, Any]]) -> Iterator[Group]:
    """Blocks with one structure and the same attributes, apart from those with another value in each block."""
    structures: dict[Any, list[tuple[str, nn.Module, dict[tuple[str, str], Any]]]] = {}
    for path, module, (structure, attributes) in described:
        structures.setdefault(structure, []).append((path, module, attributes))
    for alike in structures.values():
        if len(alike) < MIN_BLOCKS:
            continue
        hidden, settings = [], []
        for key in alike[0][2]:
            values = {attributes[key] for _, _, attributes in alike}
            if len(values) == len(alike):
                hidden.append(key)
            elif len(values) > 1:
                settings.append(key)
        parts: dict[Any, list[tuple[str, nn.Module]]] = {}
        for path, module, attributes in alike:
            parts.setdefault(tuple(attributes[key] for key in settings), []).append((path, module))
        for blocks in parts.values():
            group = _group(blocks, hidden)
            owners = {type(owner) for owner, _ in group.blocks[0].hidden}
            if len(blocks) >= MIN_BLOCKS and not any(_looks_into_itself(owner) for owner in owners):
                yield group


def _group(blocks: Sequence[tuple[str, nn.Module]], hidden: Sequence[tuple[str, str]]) -> Group:
    group = Group()
    for position, (path, module) in enumerate(blocks):
        block = Block(module, path, group, position)
        for below in dict.fromkeys(below for below, _ in hidden):
            owner = module.get_submodule(below)
            block.hidden.append((owner, {name: owner.__dict__[name] for at, name in hidden if at == below}))
        group.blocks.append(block)
    return group


def _looks_into_itself(kind: type) -> bool:
    """Whether a method may find an attribute that is hidden, or miss it, without asking for it by name."""
    waiting: list[Any] = [
        getattr(method, "__code__", None)
        for one in kind.__mro__
        if not one.__module__.startswith("torch.")
        for name, method in vars(one).items()
        if name != "__init__"
    ]
    while waiting:
        code = waiting.pop()
        if isinstance(code, types.CodeType):
            if not {"__dict__", "vars"}.isdisjoint(code.co_names):
                return True
            waiting += code.co_consts
    return False


class HiddenNumber(int):
    """A whole number that notes whether something computes with it."""

    slot: Slot
    used = False
    cached = False


def _marking(name: str) -> Callable[..., Any]:
    def method(self: HiddenNumber, *args: Any) -> Any:
        self.used = True
        return getattr(int(self), name)(*args)

    return method


for _name in (
    *("__add__", "__sub__", "__mul__", "__floordiv__", "__truediv__", "__mod__", "__divmod__", "__pow__", "__and__"),
    *("__radd__", "__rsub__", "__rmul__", "__rfloordiv__", "__rtruediv__", "__rmod__", "__rand__", "__or__", "__xor__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__bool__", "__index__", "__float__"),
    *("__neg__", "__abs__", "__invert__", "__str__", "__repr__", "__format__", "__lshift__", "__rshift__"),
):
    setattr(HiddenNumber, _name, _marking(_name))
