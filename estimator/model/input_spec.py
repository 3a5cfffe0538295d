"""The inputs of one sample as text, `ids:int64:128`, and as tensors of a batch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base.digits import short
from ..base.errors import JoulecastError
from ..base.suggest import clipped, near

if TYPE_CHECKING:
    import torch


def how_to_give_inputs(*examples: str) -> str:
    """The fix of an error about inputs, with examples of one sample's shape."""
    return f"give `inputs` (as in {' or '.join(examples)}) or `dataset`, or define example_inputs"


HOW_TO_GIVE_INPUTS = how_to_give_inputs("3,224,224", "ids:int64:128")
MAX_SIZE = 2**40
# Elements of one input of a whole batch: beyond, sizes and strides no longer fit into 64 bits.
_MAX_ELEMENTS = 2**48
# Where the model needs real values, its inputs take real memory.
_MAX_REAL_BYTES = 2**32
_DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of one sample: `shape` is without the batch dimension.

    With a `name` it is passed by keyword, otherwise by position. Without a `dtype` it is the floating
    point type of the model's parameters, or token ids where a language model asks for them. `values` are
    those of one sample, row by row. With a `packed_axis`, `shape` has no batch dimension: the samples
    follow one another along that axis, as the patches of several images do; they have no `values`.
    """

    shape: tuple[int, ...]
    dtype: str | None = None
    name: str = ""
    values: tuple[int, ...] | None = field(default=None, repr=False)
    packed_axis: int | None = None

    def batch_shape(self, batch_size: int) -> tuple[int, ...]:
        if self.packed_axis is None:
            return (batch_size, *self.shape)
        return tuple(batch_size * size if axis == self.packed_axis else size for axis, size in enumerate(self.shape))


def parse_input(text: str) -> InputSpec:
    """`3,224,224`, `int64:128`, `ids:128` or `ids:int64:128` (NAME:DTYPE:SHAPE) of one sample.

    An empty shape after a colon (`t:int64:`) is one number per sample. Raises JoulecastError.
    """
    *head, sizes = text.strip().split(":")
    dtype = head.pop() if head and (head[-1] in _DTYPES or len(head) > 1) else None
    name = head.pop() if head else ""
    if head or (name and not _NAME.fullmatch(name)):
        raise JoulecastError(
            f"`inputs` {clipped(text)!r} is not SHAPE or NAME:DTYPE:SHAPE, as in 3,224,224 or ids:int64:128"
        )
    if dtype is not None and dtype not in _DTYPES:
        raise JoulecastError(
            f"`inputs` {clipped(text)!r}: dtype {clipped(dtype)!r} is not one of {', '.join(_DTYPES)}"
            f"{near(dtype, _DTYPES)}"
        )
    shape = tuple(_size(size, text) for size in re.split(r"[,x]", sizes)) if sizes.strip() else ()
    if not shape and not (name or dtype):
        raise JoulecastError(f"`inputs` {clipped(text)!r} has no shape; give one sample's, as in 3,224,224")
    return InputSpec(shape, dtype, name)


def _size(text: str, whole: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18 or not 0 < int(digits) <= MAX_SIZE:
        raise JoulecastError(
            f"`inputs` {clipped(whole)!r}: {clipped(text)!r} is not a size; "
            f"give whole numbers from 1 to {MAX_SIZE:,}, as in 3,224,224"
        )
    return int(digits)


def make_inputs(
    specs: Sequence[InputSpec], batch_size: int, *, vocab_size: int | None = None, device: str = "meta"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword tensors of shape (batch_size, *spec.shape).

    Floats are normal noise, integers are below `vocab_size` if it is given, otherwise zero. Raises
    JoulecastError for a batch size below 1 or a name given twice.
    """
    if batch_size < 1:
        raise JoulecastError(f"batch size is {batch_size}; give 1 or more")
    _check_sizes(specs, batch_size, device)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for spec in specs:
        tensor = _tensor(spec, batch_size, vocab_size, device)
        if spec.name in kwargs:
            raise JoulecastError(f"`inputs` {spec.name} is given twice; give each name once")
        if spec.name:
            kwargs[spec.name] = tensor
        else:
            args.append(tensor)
    return tuple(args), kwargs


def _tensor(spec: InputSpec, batch_size: int, vocab_size: int | None, device: str) -> torch.Tensor:
    import torch

    dtype = getattr(torch, spec.dtype or "float32")
    shape = spec.batch_shape(batch_size)
    if spec.values is not None:  # real ones: the model reads them
        return torch.tensor(spec.values, dtype=dtype, device="cpu").reshape(spec.shape).expand(shape)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=torch.complex64 if dtype.is_complex else torch.float32, device=device).to(dtype)
    if vocab_size and dtype in (torch.int64, torch.int32):
        return torch.randint(vocab_size, shape, dtype=dtype, device=device)
    return torch.zeros(shape, dtype=dtype, device=device)


def _check_sizes(specs: Sequence[InputSpec], batch_size: int, device: str) -> None:
    elements = sum(batch_size * math.prod(spec.shape) for spec in specs)
    if elements > _MAX_ELEMENTS:
        raise JoulecastError(
            f"the inputs of a batch of {batch_size} have {short(elements)} elements; give fewer samples "
            "or smaller shapes"
        )
    if device != "meta" and 4 * elements > _MAX_REAL_BYTES:
        raise JoulecastError(
            f"the model needs real values, and the inputs of a batch of {batch_size} take {short(4 * elements / 1e9)} "
            f"GB; give `batch_size` {max(1, batch_size * _MAX_REAL_BYTES // (8 * elements))} or less"
        )
