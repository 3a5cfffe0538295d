"""From one ATen call to its figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .table import OTHER, Called, Entry, lookup, op_name
from .traffic import tensors, whole

_REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
_COMPLEX_MACS = 4  # (a + bi)(c + di) is four real products
_COUNTED_AS_REAL = ("fft", "norm", "pool")  # their formulas count real operations


@dataclass(frozen=True, slots=True)
class OpCount:
    """What one call costs. `known` is False where no formula counts its arithmetic."""

    name: str
    kind: str
    flops: int
    bytes_read: int
    bytes_written: int
    dtype: str
    dims: Mapping[str, int]
    known: bool


def dtype_name(dtype: torch.dtype) -> str:
    """The number format of the arithmetic: complex numbers are pairs of real ones."""
    return str(_REAL.get(dtype, dtype)).removeprefix("torch.")


def count_op(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> OpCount:
    """The figures of the ATen (or custom) op `func`, called with these arguments, that returned `output`."""
    name = op_name(func)
    entry = lookup(name)
    if entry is OTHER:
        entry = _registered_with_torch(func) or OTHER
    outputs = list(tensors((output,)))
    flat = (*args, *kwargs.values())
    main = _main(flat, outputs)
    if isinstance(entry.formula, Called):
        flops, dims = entry.formula(args, kwargs, output), dict[str, int]()
    else:
        flops, dims = entry.formula(flat, outputs)
    if main is not None and main.dtype in _REAL and entry.kind not in _COUNTED_AS_REAL:
        flops *= _COMPLEX_MACS
    bytes_read, bytes_written = entry.traffic(flat, outputs)
    dtype = dtype_name(main.dtype) if main is not None else "int64"
    return OpCount(name, entry.kind, flops, bytes_read, bytes_written, dtype, dims, entry is not OTHER)


def _main(values: Sequence[Any], outputs: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor whose number format the arithmetic has: the first with real or complex numbers."""
    found = [*tensors(values), *outputs]
    return next((t for t in found if t.is_floating_point() or t.is_complex()), None)


def _registered_with_torch(func: Any) -> Entry | None:
    """The formula that someone registered with `torch.utils.flop_counter.register_flop_formula`."""
    counter = sys.modules.get("torch.utils.flop_counter")  # formulas can be registered only after its import
    formula = counter.flop_registry.get(getattr(func, "_overloadpacket", func)) if counter else None
    return Entry("matmul", Called(formula, "out_val", operations_per_mac=2), whole) if formula else None
