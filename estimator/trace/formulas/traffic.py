"""Bytes that an op reads and writes: whole tensors, except where only some rows or stored values are touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any

import torch

Bytes = tuple[int, int]
Traffic = Callable[[Sequence[Any], Sequence[torch.Tensor]], Bytes]


def tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among `values`, lists looked into."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def with_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """`value` with what `function` makes of each tensor. Ten times as fast as torch's `tree_map`."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        parts = [with_tensors(function, one) for one in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {name: with_tensors(function, one) for name, one in value.items()}
    return value


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes that a pass over the tensor touches: an expanded dimension (stride 0) counts once.

    Of a sparse tensor, its values and their indices.
    """
    if tensor.layout is not torch.strided:
        return sum(part.numel() * part.element_size() for part in sparse_parts(tensor))
    elements = prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0
    )
    return elements * tensor.element_size()


def sparse_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The values and indices of a sparse tensor."""
    if tensor.layout is torch.sparse_coo:
        return tensor._values(), tensor._indices()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.values(), tensor.crow_indices(), tensor.col_indices()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.values(), tensor.ccol_indices(), tensor.row_indices()
    return ()


def _size(values: Iterable[Any]) -> int:
    return sum(map(tensor_bytes, tensors(values)))


def whole(args: Sequence[Any], outputs: Sequence[torch.Tensor]) -> Bytes:
    """Every input is read and every output written, once."""
    return _size(args), _size(outputs)


def filled(args: Sequence[Any], outputs: Sequence[torch.Tensor]) -> Bytes:
    """The first input is overwritten without being read."""
    return _size(args[1:]), _size(outputs)


def fetched(args: Sequence[Any], outputs: Sequence[torch.Tensor]) -> Bytes:
    """Look-ups: of the first input, as much is read as is written."""
    written = _size(outputs)
    return written + _size(args[1:]), written


def bagged(args: Sequence[Any], outputs: Sequence[torch.Tensor]) -> Bytes:
    """Sums of looked-up rows: a row is read for each index."""
    table, indices = args[0], args[1]
    rows = indices.numel() * table.shape[-1] * table.element_size()
    return rows + _size(args[1:]), _size(outputs)


def _touched(name: str, args: Sequence[Any]) -> int:
    """Elements of the first argument that a write by index reaches."""
    target = args[0]
    if name.startswith("index_fill"):  # (self, dim, index, value)
        return int(args[2].numel() * target.numel() // max(target.shape[args[1]], 1)) if target.dim() else 1
    if name.startswith(("index_add", "index_copy", "index_reduce")):  # (self, dim, index, source)
        return int(args[3].numel())
    if name.startswith("scatter"):  # (self, dim, index, source or value)
        return int(args[2].numel())
    if name.startswith("put"):  # (self, index, source)
        return int(args[1].numel())
    # index_put(self, indices, values): a None stands for a whole dimension
    given = [index for index in args[1] if index is not None]
    kept = prod(size for position, size in enumerate(target.shape) if position >= len(args[1]))
    kept *= prod(size for size, index in zip(target.shape, args[1], strict=False) if index is None)
    if any(index.dtype is torch.bool for index in given):
        return int(min(args[2].numel(), target.numel()))
    return int(prod(torch.broadcast_shapes(*(index.shape for index in given))) * kept)


def placed(name: str, *, in_place: bool, adds: bool) -> Traffic:
    """Writes by index: the elements that they reach, after a copy of the whole where they are not in place."""

    def traffic(args: Sequence[Any], outputs: Sequence[torch.Tensor]) -> Bytes:
        reached = _touched(name, args) * args[0].element_size()
        copied = 0 if in_place else tensor_bytes(args[0])
        accumulates = adds or any(arg is True for arg in args[3:])
        return _size(args[1:]) + copied + (reached if accumulates else 0), reached + copied

    return traffic
