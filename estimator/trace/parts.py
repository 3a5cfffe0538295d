"""Values of a tensor that is too large to be computed, where a step reads rows or sums of it.

A loop over experts compares the chosen experts with every number that an expert may have, and reads one expert's row
at a time: of tokens x choices x experts whole numbers, only tokens x choices are needed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

# The largest part, and the largest tensor that is computed part by part, in elements.
_PART, _MOST = 2**23, 2**27
_ELEMENT_WISE = frozenset(("_to_copy", "clone", "detach", "alias", "lift_fresh"))
_REDUCTIONS = frozenset(("sum", "any", "all", "amax", "amin"))

MadeBy = Callable[[torch.Tensor], tuple[Any, tuple[Any, ...], dict[str, Any]] | None]
Real = Callable[[torch.Tensor], torch.Tensor]


class NeedsValuesError(RuntimeError):
    """The step reads values that cannot be computed during the trace."""


def in_parts(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], large: torch.Tensor, made_by: MadeBy, real: Real
) -> torch.Tensor:
    """The result of `func`, of whose arguments `large` is never whole. Raises NeedsValuesError.

    `made_by` returns the op, arguments and keyword arguments that made a tensor, `real` a small tensor's values.
    """
    name = _name(func)
    if args[0] is not large or any(isinstance(one, torch.Tensor) for one in args[1:]):
        raise _too_large(large)
    if name == "select":
        dim, index = args[1] % large.dim(), args[2]
        return _part(large, dim, index % large.shape[dim], 1, made_by, real).select(dim, 0)
    if name == "index" and len(args[1]) == 1:
        rows = real(args[1][0])
        found = [_part(large, 0, row % large.shape[0], 1, made_by, real) for row in rows.flatten().tolist()]
        return torch.cat(found).reshape(*rows.shape, *large.shape[1:]) if found else torch.empty(0)
    if name in _REDUCTIONS and len(args) > 1 and large.numel() <= _MOST:
        return _reduced(func, args, kwargs, large, made_by, real)
    raise _too_large(large)


def _reduced(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], large: torch.Tensor, made_by: MadeBy, real: Real
) -> torch.Tensor:
    """A reduction over some dimensions, one group of rows of a dimension that is kept after another."""
    over = {dim % large.dim() for dim in (args[1] if isinstance(args[1], (list, tuple)) else [args[1]])}
    kept = [dim for dim in range(large.dim()) if dim not in over]
    if not kept or not over:
        raise _too_large(large)
    dim = max(kept, key=lambda one: large.shape[one])
    size = large.shape[dim]
    rows = max(1, _PART * size // large.numel())
    keeps_dims = bool(args[2] if len(args) > 2 else kwargs.get("keepdim"))
    results = [
        func(_part(large, dim, start, min(rows, size - start), made_by, real), *args[1:], **kwargs)
        for start in range(0, size, rows)
    ]
    return torch.cat(results, dim if keeps_dims else kept.index(dim))


def _part(tensor: torch.Tensor, dim: int, start: int, length: int, made_by: MadeBy, real: Real) -> torch.Tensor:
    """`tensor.narrow(dim, start, length)`, computed from the same parts of what the tensor was made of."""
    if tensor.numel() <= _PART:
        return real(tensor).narrow(dim, start, length)
    if tensor.numel() // tensor.shape[dim] * length > _PART or (made := made_by(tensor)) is None:
        raise _too_large(tensor)
    func, args, kwargs = made
    name = _name(func)

    def below(one: torch.Tensor, at: int) -> torch.Tensor:
        return _part(one, at, start, length, made_by, real)

    if torch.Tag.pointwise in func.tags or name in _ELEMENT_WISE:

        def narrowed(one: Any) -> Any:
            if not isinstance(one, torch.Tensor):
                return one
            at = dim - (tensor.dim() - one.dim())  # dimensions are aligned at the last one
            return real(one) if at < 0 or one.shape[at] == 1 else below(one, at)

        kept = {key: value for key, value in kwargs.items() if key not in ("device", "memory_format")}
        return func(*map(narrowed, args), **kept)  # type: ignore[no-any-return]
    if name == "permute":
        return below(args[0], args[1][dim]).permute(args[1])
    if name in ("transpose", "t"):
        one, other = (at % tensor.dim() for at in (args[1:] or (0, 1)))
        at = {one: other, other: one}.get(dim, dim)
        return below(args[0], at).transpose(one, other)
    if name == "unsqueeze" and dim != (new := args[1] % tensor.dim()):
        return below(args[0], dim - (dim > new)).unsqueeze(new)
    if name == "expand":
        at = dim - (tensor.dim() - args[0].dim())
        if at >= 0 and args[0].shape[at] == tensor.shape[dim]:
            size = [length if place == dim else side for place, side in enumerate(tensor.shape)]
            return below(args[0], at).expand(size)
    raise _too_large(tensor)


def _name(func: Any) -> str:
    name: str = func._schema.name.rpartition("::")[2]
    return name


def _too_large(tensor: torch.Tensor) -> NeedsValuesError:
    return NeedsValuesError(f"the values of a tensor of {tensor.numel():,} elements are read")
