"""What one launch of a Triton kernel does, read off its source: multiply-adds, and which tensors it reads and writes.

The kernel's Python source runs with blocks that have shapes but no values, in place of `triton.language`. Sizes,
strides and program ids are the launch's own, so loops run as often as on a device. Programs of a grid that differ
(those of causal attention, for example) are sampled. Nothing is compiled, and Triton itself is neither imported nor
changed.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import math
import operator
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

# Calls of the language in one launch: above, the kernel is taken as unknown.
_MAX_CALLS = 200_000


class CannotReadError(Exception):
    """The kernel does something that shapes alone do not decide."""


@dataclass(frozen=True, slots=True)
class Launched:
    """`flops` is None where the products could not be counted; the names are those of the kernel's parameters."""

    flops: int | None
    read: frozenset[str]
    written: frozenset[str]


def launched(kernel: Any, grid: Sequence[int], arguments: Mapping[str, Any]) -> Launched:
    """What the kernel (a `JITFunction`) does when it is launched on `grid` with these arguments, by name."""
    run = _Run(grid)
    pointers = frozenset(name for name, value in arguments.items() if _is_tensor(value))
    try:
        function = run.language.device_function(kernel)
        given = {name: run.argument(name, value) for name, value in arguments.items()}
        counted = run.over_the_grid(lambda: function(**given))
    except Exception:  # of the kernel's code, which is not run as it was meant
        flops = None if run.dots or _may_multiply(kernel) else 0
        return Launched(flops, run.read | (pointers - run.written), run.written or pointers)
    return Launched(None if run.dots and run.is_of_data else counted, run.read & pointers, run.written & pointers)


def _may_multiply(kernel: Any) -> bool:
    """Whether the source, or that of a function that it calls, has a product of matrices."""
    seen, waiting = set(), [kernel]
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        try:
            tree = ast.parse(_source(function))
        except (OSError, SyntaxError, TypeError):
            return True
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if any(name.startswith("dot") for name in names | attributes):
            return True
        scope = _scope(function)
        waiting += [scope[name] for name in names if _is_kernel(scope.get(name))]
    return False


# -- blocks and numbers ----------------------------------------------------------------------------


class Number(int):
    """A whole number of the launch, with the methods of Triton's scalars."""

    def to(self, *_: Any, **__: Any) -> Number:
        return self

    cast = to

    @property
    def value(self) -> int:
        return int(self)

    @property
    def dtype(self) -> _Name:
        return _Name(None, "int32")


def _number_method(name: str) -> Any:
    plain = getattr(int, name)

    def method(self: Number, *others: Any) -> Any:
        result = plain(self, *others)
        return Number(result) if type(result) is int else result

    return method


_ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "and", "or", "xor", "lshift", "rshift", "pow")
for _name in _ARITHMETIC:
    for _method in (f"__{_name}__", f"__r{_name}__"):
        setattr(Number, _method, _number_method(_method))
setattr(Number, "__neg__", _number_method("__neg__"))  # noqa: B010


class Real(float):
    """A real number of the launch, with the methods of Triton's scalars."""

    def to(self, *_: Any, **__: Any) -> Real:
        return self

    cast = to

    @property
    def dtype(self) -> _Name:
        return _Name(None, "float32")


def _scalar(value: Any) -> Any:
    if type(value) is int:
        return Number(value)
    return Real(value) if type(value) is float else value


class Block:
    """A block of values, or of pointers into the arguments `pointers`; only its shape is known."""

    def __init__(self, run: _Run, shape: Sequence[int], pointers: frozenset[str] = frozenset(), dtype: Any = None):
        self.run, self.shape, self.pointers = run, tuple(shape), pointers
        self.dtype = dtype if dtype is not None else run.dtype

    @property
    def type(self) -> Any:
        return self.dtype

    @property
    def T(self) -> Block:  # noqa: N802
        return self.run.language.trans(self)

    def to(self, *_: Any, **__: Any) -> Block:
        return self

    cast = to

    def load(self, *_: Any, **__: Any) -> Block:  # of a tensor descriptor
        return self.run.language.load(self)

    def store(self, _: Any, *__: Any) -> None:
        self.run.language.store(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        function = getattr(self.run.language, name)
        return lambda *args, **kwargs: function(self, *args, **kwargs)

    def __getitem__(self, index: Any) -> Block:
        sizes: list[int] = []
        own = iter(self.shape)
        for part in index if isinstance(index, tuple) else (index,):
            if getattr(part, "value", part) is None:
                sizes.append(1)
            elif isinstance(part, slice):
                sizes.append(next(own))
            else:
                raise CannotReadError("an index into a block")
        return Block(self.run, (*sizes, *own), self.pointers, self.dtype)

    def __bool__(self) -> bool:
        """A condition on data that are not known: both ways are tried."""
        self.run.called()
        self.run.guessed = True
        return self.run.guess

    __hash__ = object.__hash__


def _block_method(self: Block, *others: Any) -> Block:
    block: Block = self.run.broadcast(self, *others)
    return block


for _name in (*_ARITHMETIC, "truediv", "matmul"):
    for _method in (f"__{_name}__", f"__r{_name}__"):
        setattr(Block, _method, _block_method)
for _method in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__neg__", "__pos__", "__invert__"):
    setattr(Block, _method, _block_method)


# -- the language ----------------------------------------------------------------------------------


class _Name:
    """A name of `triton.language` that needs no rule: a number format, or a function of each element."""

    def __init__(self, run: _Run | None, name: str):
        self._run, self._name = run, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("primitive_bitwidth", "itemsize"):
            return Number(16 if name == "primitive_bitwidth" else 2)
        if name.startswith("is_"):
            return lambda *_: True
        return _Name(self._run, name)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Name) and other._name == self._name

    def __hash__(self) -> int:
        return hash(self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._run is None:
            raise CannotReadError(self._name)
        return self._run.broadcast(*args, *kwargs.values())


class _Language:
    """`triton.language`, with shapes in place of values."""

    def __init__(self, run: _Run):
        self._run = run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _REDUCTIONS:
            return self._reduced
        if name.startswith("atomic_"):
            return self._atomic
        return _Name(self._run, name)

    # programs
    def program_id(self, axis: int) -> Number:
        return Number(self._run.program[int(axis)])

    def num_programs(self, axis: int) -> Number:
        return Number(self._run.grid[int(axis)])

    # numbers
    def constexpr(self, value: Any) -> Any:
        return Number(value) if type(value) is int else value

    def cdiv(self, a: Any, b: Any) -> Any:
        return Number(-(-a // b)) if isinstance(a, int) and isinstance(b, int) else self._run.broadcast(a, b)

    def minimum(self, a: Any, b: Any, **_: Any) -> Any:
        return _scalar(min(a, b)) if _are_numbers(a, b) else self._run.broadcast(a, b)

    def maximum(self, a: Any, b: Any, **_: Any) -> Any:
        return _scalar(max(a, b)) if _are_numbers(a, b) else self._run.broadcast(a, b)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if _are_numbers(condition, a, b):
            return _scalar(a if condition else b)
        return self._run.broadcast(condition, a, b)

    def next_power_of_2(self, n: int) -> Number:
        return Number(1 << max(n - 1, 0).bit_length())

    def range(self, *bounds: Any, **options: Any) -> Iterator[Number]:
        if options.get("step") is not None:
            bounds = (*((0,) if len(bounds) == 1 else ()), *bounds, options["step"])
        if any(isinstance(bound, Block) for bound in bounds):  # as often as data say: once here, and not counted
            self._run.is_of_data = True
            return iter((Number(0),))
        return map(Number, range(*(operator.index(bound) for bound in bounds)))

    static_range = range

    # blocks
    def arange(self, start: int, end: int) -> Block:
        return Block(self._run, (end - start,))

    def full(self, shape: Any, value: Any = 0, dtype: Any = None, **_: Any) -> Block:
        return Block(self._run, _sizes(shape), dtype=dtype)

    zeros = full

    def make_block_ptr(
        self, base: Block, shape: Any, strides: Any, offsets: Any, block_shape: Any, order: Any = None
    ) -> Block:
        return Block(self._run, _sizes(block_shape), base.pointers, base.dtype)

    def make_tensor_descriptor(
        self, base: Block, shape: Any, strides: Any, block_shape: Any, padding_option: Any = None
    ) -> Block:
        return Block(self._run, _sizes(block_shape), base.pointers, base.dtype)

    def advance(self, base: Block, offsets: Any) -> Block:
        return base

    def load(self, pointer: Block, *_: Any, **__: Any) -> Block:
        self._run.called()
        self._run.read |= pointer.pointers
        return Block(self._run, pointer.shape, dtype=pointer.dtype)

    def store(self, pointer: Block, *_: Any, **__: Any) -> None:
        self._run.called()
        self._run.written |= pointer.pointers

    def _atomic(self, pointer: Block, *_: Any, **__: Any) -> Block:
        self.store(pointer)
        return self.load(pointer)

    def dot(self, left: Block, right: Block, acc: Any = None, *_: Any, **__: Any) -> Block:
        self._run.called()
        self._run.dots = True
        self._run.flops += math.prod(left.shape) * right.shape[-1]
        return Block(self._run, (*left.shape[:-1], right.shape[-1]))

    def dot_scaled(self, left: Block, _: Any, __: Any, right: Block, *___: Any, **____: Any) -> Block:
        return self.dot(left, right)

    def trans(self, block: Block, *dims: Any) -> Block:
        order = _sizes(dims[0] if len(dims) == 1 else dims) or (*range(len(block.shape) - 2), -1, -2)
        return Block(self._run, [block.shape[dim] for dim in order], block.pointers, block.dtype)

    permute = trans

    def reshape(self, block: Block, *shape: Any, **_: Any) -> Block:
        return Block(self._run, _sizes(shape[0] if len(shape) == 1 else shape), block.pointers, block.dtype)

    view = reshape

    def broadcast_to(self, block: Any, *shape: Any) -> Block:
        pointers: frozenset[str] = getattr(block, "pointers", frozenset())
        return Block(self._run, _sizes(shape[0] if len(shape) == 1 else shape), pointers)

    def expand_dims(self, block: Block, axis: Any) -> Block:
        sizes = list(block.shape)
        for at in sorted(_sizes(axis)):
            sizes.insert(at if at >= 0 else len(sizes) + 1 + at, 1)
        return Block(self._run, sizes, block.pointers, block.dtype)

    def ravel(self, block: Block, *_: Any) -> Block:
        return Block(self._run, (math.prod(block.shape),), block.pointers)

    def cat(self, left: Block, right: Block, *_: Any, **__: Any) -> Block:
        return Block(self._run, (left.shape[0] + right.shape[0], *left.shape[1:]))

    def join(self, left: Block, right: Block) -> Block:
        return Block(self._run, (*self._run.broadcast(left, right).shape, 2))

    def split(self, block: Block) -> tuple[Block, Block]:
        return Block(self._run, block.shape[:-1]), Block(self._run, block.shape[:-1])

    def interleave(self, left: Block, right: Block) -> Block:
        shape = self._run.broadcast(left, right).shape
        return Block(self._run, (*shape[:-1], 2 * shape[-1]))

    def histogram(self, block: Block, bins: int, *_: Any) -> Block:
        return Block(self._run, (bins,))

    def _reduced(self, block: Any, axis: Any = None, *_: Any, **options: Any) -> Any:
        if isinstance(block, tuple):
            return tuple(self._reduced(one, axis, **options) for one in block)
        if _are_numbers(block):
            return block
        keep = bool(options.get("keep_dims"))
        rank = len(block.shape)
        gone = set(range(rank)) if axis is None else {at % rank for at in _sizes(axis)}
        sizes = [1 if at in gone else size for at, size in enumerate(block.shape) if keep or at not in gone]
        result = Block(self._run, sizes)
        return (result, result) if options.get("return_indices") else result

    def associative_scan(self, block: Any, *_: Any, **__: Any) -> Any:
        return block

    def inline_asm_elementwise(self, asm: Any, constraints: Any, args: Any, *_: Any, **__: Any) -> Block:
        block: Block = self._run.broadcast(*args)
        return block

    # hints
    def multiple_of(self, value: Any, *_: Any, **__: Any) -> Any:
        return value

    max_contiguous = max_constancy = cast = multiple_of

    def static_assert(self, *_: Any, **__: Any) -> None:
        """Nothing: the launch is taken as valid."""

    static_print = device_assert = device_print = debug_barrier = assume = static_assert

    # functions that kernels call
    def device_function(self, kernel: Any) -> Callable[..., Any]:
        """The function of a kernel, with its names bound to this language."""
        if id(kernel) in self._run.functions:
            return self._run.functions[id(kernel)]
        tree = ast.parse(_source(kernel))
        function = tree.body[0]
        if not isinstance(function, ast.FunctionDef):
            raise CannotReadError("no function")
        function.decorator_list, function.returns = [], None
        for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
            argument.annotation = None
        scope = _scope(kernel)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        namespace = {name: self._bound(scope[name]) for name in names if name in scope}
        namespace["range"] = self.range
        exec(compile(tree, "<triton kernel>", "exec"), namespace)
        made: Callable[..., Any] = namespace[function.name]
        self._run.functions[id(kernel)] = made
        return made

    def _bound(self, value: Any) -> Any:
        """What a global name of a kernel stands for here."""
        if isinstance(value, ModuleType):
            return self if _is_tritons(value.__name__) else value
        if _is_kernel(value):
            own = getattr(value, "__name__", "")
            if _is_tritons(getattr(_function(value), "__module__", "")):  # of Triton's own library: sum, cdiv, zeros
                return getattr(self, own)
            return lambda *args, **kwargs: self.device_function(value)(*args, **kwargs)
        if type(value).__name__ == "constexpr":
            return self.constexpr(value.value)
        if callable(value) and _is_tritons(getattr(value, "__module__", "") or ""):
            return getattr(self, getattr(value, "__name__", "dtype"))
        return Number(value) if type(value) is int else value


_REDUCTIONS = frozenset(("sum", "max", "min", "argmax", "argmin", "xor_sum", "reduce", "reduce_or"))


class _Run:
    """One launch, program by program."""

    def __init__(self, grid: Sequence[int]):
        self.grid = (*(int(size) for size in grid), 1, 1)[:3]
        self.program = (0, 0, 0)
        self.language = _Language(self)
        self.functions: dict[int, Callable[..., Any]] = {}
        self.dtype = _Name(self, "dtype")  # of a block whose number format is not known
        self.read: frozenset[str] = frozenset()
        self.written: frozenset[str] = frozenset()
        self.flops, self.dots, self.calls = 0, False, 0
        self.guess = self.guessed = self.is_of_data = False

    def called(self) -> None:
        self.calls += 1
        if self.calls > _MAX_CALLS:
            raise CannotReadError("too long")

    def broadcast(self, *values: Any) -> Any:
        self.called()
        blocks = [value for value in values if isinstance(value, Block)]
        if not blocks:  # a function of numbers, such as the exponential of a scale
            return Block(self, ())
        first = blocks[0]
        if all(block.shape == first.shape for block in blocks):
            shape = first.shape
        else:
            shape = _broadcast(tuple(block.shape for block in blocks))
        pointers = first.pointers
        for block in blocks[1:]:
            pointers |= block.pointers
        return Block(self, shape, pointers, first.dtype)

    def argument(self, name: str, value: Any) -> Any:
        if _is_tensor(value):
            shape = getattr(value, "block_shape", ())  # of a descriptor that the host made
            return Block(self, _sizes(shape), frozenset((name,)))
        if isinstance(value, (tuple, list)):
            return tuple(self.argument(name, one) for one in value)
        if type(value).__name__ == "constexpr":
            value = value.value
        return _scalar(value)

    def over_the_grid(self, function: Callable[[], Any]) -> int:
        """Multiply-adds of all programs: of those that were sampled, times how many programs there are."""

        def of(program: tuple[int, ...]) -> int:
            found = 0
            for guess in (False, True):
                self.program, self.flops = (program[0], program[1], program[2]), 0
                self.guess, self.guessed = guess, False
                function()
                found = max(found, self.flops)
                if not self.guessed:
                    break
            return found

        middle = tuple(size // 2 for size in self.grid)
        first = of(middle)
        ends = [{0, size - 1} - {middle[axis]} for axis, size in enumerate(self.grid)]
        differs = [
            any(of((*middle[:axis], end, *middle[axis + 1 :])) != first for end in ends[axis]) for axis in range(3)
        ]
        if not any(differs):
            return first * math.prod(self.grid)
        axes = [_sampled(size) if differs[axis] else [middle[axis]] for axis, size in enumerate(self.grid)]
        counted = [of(program) for program in itertools.product(*axes)]
        return round(sum(counted) / len(counted) * math.prod(self.grid))


def _sampled(size: int) -> list[int]:
    """Up to 8 programs of one axis, evenly spaced and mirrored, so that what is linear in the program is exact."""
    if size <= 8:
        return list(range(size))
    half = [(2 * index + 1) * size // 16 for index in range(4)]
    return [*half, *(size - 1 - one for one in half)]


@functools.cache
def _broadcast(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*shapes))


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, (bool, int, float)) for value in values)


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in shape) if isinstance(shape, (tuple, list)) else (int(shape),)


def _is_tensor(value: Any) -> bool:
    """A tensor, or a descriptor of one."""
    return isinstance(value, torch.Tensor) or hasattr(value, "block_shape") or hasattr(value, "data_ptr")


def _is_kernel(value: Any) -> bool:
    return type(value).__name__ in ("JITFunction", "InterpretedFunction") or hasattr(value, "arg_names")


def _is_tritons(module: str) -> bool:
    return module.partition(".")[0] == "triton"


def _source(kernel: Any) -> str:
    source = getattr(kernel, "src", None)
    if isinstance(source, str):
        return textwrap.dedent(source)
    lines = textwrap.dedent(inspect.getsource(_function(kernel)))
    return lines[lines.index("def ") :] if not lines.startswith("def ") else lines


def _function(kernel: Any) -> Any:
    while hasattr(kernel, "arg_names") and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return kernel


def _scope(kernel: Any) -> Mapping[str, Any]:
    """The names that the kernel's code can use: those of its module, and of the functions around it."""
    function = _function(kernel)
    closure = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    return {**getattr(function, "__globals__", {}), **closure}
