"""What the seconds of an op may depend on: named, non-negative features that never fall with size.

Every op becomes one or more pieces of work. Convolutions, matrix products, attention and recurrent
layers are matrix products underneath, m x k times k x n (a convolution's backward is two of them: the
gradient of its input and that of its weight); all other ops only move bytes, and their role is their
name. A fitted time model is a sum of features times non-negative seconds, so it is additive over ops, and
monotone because every feature is: none falls when an op gets larger, or when there are more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..trace.workload import Op

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
ANY, EVERY_DENSE, EVERY_MOVING = "*", "dense", "moving"
OTHERS = "others"
"""The role of a term that prices what no term of its kind names."""
DENSE = ("conv1", "conv", "conv_grouped", "conv_depthwise", "matmul", "attention", "rnn")
PRICED_AS = {"scan": "attention", "fft": "attention", "linalg": "attention"}
"""Kinds that no profile has been fitted on: a fused kernel of products, like attention, prices them."""
COMPUTE, MEMORY, LAUNCH = "compute", "memory", "launch"


@dataclass(frozen=True, slots=True)
class _Piece:
    """A matrix product (m, k, n), `macs` counting all of a batch or group of them; or traffic alone.

    `role` tells pieces of a kind apart: the phase or the gradient for products, the op's name for traffic.
    """

    kind: str
    role: str
    macs: float
    bytes_moved: float
    launches: float = 1.0
    m: float = 0.0
    k: float = 0.0
    n: float = 0.0
    fresh: float = 0.0
    rereads: float = 0.0
    planes: float = 0.0
    dropped: float = 0.0
    wide: float = 0.0
    copied: float = 0.0


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of a list of ops as columns; `op` is the position of the op that each is part of."""

    op: np.ndarray[Any, np.dtype[np.int64]]
    kind: tuple[str, ...]
    role: tuple[str, ...]
    columns: Array  # shape (pieces, 13): `_FIGURES` of each piece, then its count

    def mask(self, kind: str, role: str) -> Mask:
        """The pieces that a term for `kind` and `role` prices (see `covers`)."""
        known: dict[tuple[str, str], bool] = {}
        pairs = list(zip(self.kind, self.role, strict=True))
        for own, part in set(pairs):
            known[own, part] = covers(kind, role, own, part)
        return np.array([known[pair] for pair in pairs], dtype=bool)

    def sums(self, members: Array | None = None) -> dict[tuple[str, str], dict[str, float]]:
        """Every feature summed by (kind, role), over the ops in `members` or all of them."""
        pairs = list(zip(self.kind, self.role, strict=True))
        distinct = list(dict.fromkeys(pairs))
        index = np.array([distinct.index(pair) for pair in pairs], dtype=np.int64)
        inside = np.ones(len(pairs), dtype=bool) if members is None else np.isin(self.op, members)
        table = {
            name: np.bincount(index[inside], weights=self.values(name)[inside], minlength=len(distinct))
            for name in FEATURES
        }
        return {pair: {name: float(column[row]) for name, column in table.items()} for row, pair in enumerate(distinct)}

    def traffic(self) -> Iterator[tuple[str, str, float]]:
        """Kind, role and bytes moved of every piece."""
        return zip(self.kind, self.role, self.columns[:, _BYTES].tolist(), strict=True)

    def values(self, feature: str) -> Array:
        """The feature of every piece, count included."""
        return FEATURES[feature].value(self.columns) * self.columns[:, _COUNT]


_FIGURES = (
    *("macs", "bytes_moved", "launches", "m", "k", "n"),
    *("fresh", "rereads", "planes", "dropped", "wide", "copied"),
)
_MACS, _BYTES, _LAUNCHES, _M, _K, _N, _FRESH, _REREADS, _PLANES, _DROPPED, _WIDE, _COPIED, _COUNT = range(
    len(_FIGURES) + 1
)


@dataclass(frozen=True, slots=True)
class Feature:
    """`component` is the part of the hardware that is busy (eq. 2.2.1's i); `value` maps columns to it."""

    component: str
    value: Callable[[Array], Array]
    meaning: str


def _padded(tile: int) -> Callable[[Array], Array]:
    """Multiply-adds with n rounded up to whole tiles, as kernels compute them."""

    def value(columns: Array) -> Array:
        n = columns[:, _N]
        whole = np.ceil(n / tile) * tile
        return np.asarray(np.divide(columns[:, _MACS] * whole, n, out=columns[:, _MACS].copy(), where=n > 0))

    return value


def _over(dimension: int) -> Callable[[Array], Array]:
    """Multiply-adds over one dimension: the elements of the matrix that does not have it."""

    def value(columns: Array) -> Array:
        size = columns[:, dimension]
        return np.asarray(np.divide(columns[:, _MACS], size, out=np.zeros(len(columns)), where=size > 0))

    return value


_CACHED_BYTES = 2.0**23
"""From here on a product's operands are taken not to stay in the cache. Chosen by trial on this project's
machine, whose last-level cache holds 32 MiB (docs/method-regression.md); the price is fitted on each machine."""


def _spilled(columns: Array) -> Array:
    """Multiply-adds times the share of the operands beyond the cache; grows with either."""
    beyond = np.maximum(columns[:, _BYTES] - _CACHED_BYTES, 0.0)
    return np.asarray(columns[:, _MACS] * beyond / np.maximum(columns[:, _BYTES], 1.0))


FEATURES: dict[str, Feature] = {
    "launch": Feature(LAUNCH, lambda columns: columns[:, _LAUNCHES], "one start"),
    "macs": Feature(COMPUTE, lambda columns: columns[:, _MACS], "multiply-adds"),
    "macs_n32": Feature(COMPUTE, _padded(32), "multiply-adds, n in whole tiles of 32"),
    "macs_n64": Feature(COMPUTE, _padded(64), "multiply-adds, n in whole tiles of 64"),
    "macs_n128": Feature(COMPUTE, _padded(128), "multiply-adds, n in whole tiles of 128"),
    "macs_n8": Feature(COMPUTE, _padded(8), "multiply-adds, n in whole vectors of 8"),
    "macs_n16": Feature(COMPUTE, _padded(16), "multiply-adds, n in whole vectors of 16"),
    "wide": Feature(COMPUTE, lambda columns: columns[:, _WIDE], "multiply-adds of windows over 3 x 3, channels first"),
    "left": Feature(MEMORY, _over(_N), "elements of the left matrix, m x k"),
    "right": Feature(MEMORY, _over(_M), "elements of the right matrix, k x n"),
    "result": Feature(MEMORY, _over(_K), "elements of the product, m x n"),
    "spilled": Feature(MEMORY, _spilled, "multiply-adds on operands that left the cache"),
    "rereads": Feature(MEMORY, lambda columns: columns[:, _REREADS], "weights of a convolution, once for every image"),
    "planes": Feature(LAUNCH, lambda columns: columns[:, _PLANES], "groups of a convolution, once for every image"),
    "dropped": Feature(MEMORY, lambda columns: columns[:, _DROPPED], "attention scores that a dropout draws for"),
    "bytes": Feature(MEMORY, lambda columns: columns[:, _BYTES], "bytes read and written"),
    "copied": Feature(MEMORY, lambda columns: columns[:, _COPIED], "bytes of a convolution's large operands"),
    "fresh": Feature(MEMORY, lambda columns: columns[:, _FRESH], "bytes of results of 32 MiB or more"),
}


def covers(kind: str, role: str, own: str, part: str) -> bool:
    """Whether a term for `kind` and `role` prices a piece of kind `own` and role `part`.

    `*` is any; "dense" and "moving" are the two classes of kinds.
    """
    cls = EVERY_DENSE if own in DENSE else EVERY_MOVING
    return kind in (ANY, own, cls) and role in (ANY, part)


def pieces(ops: Sequence[Op]) -> Pieces:
    rows = [(index, op.count, piece) for index, op in enumerate(ops) for piece in _pieces(op)]
    return Pieces(
        op=np.array([index for index, _, _ in rows], dtype=np.int64),
        kind=tuple(piece.kind for _, _, piece in rows),
        role=tuple(piece.role for _, _, piece in rows),
        columns=np.array(
            [(*(getattr(piece, name) for name in _FIGURES), count) for _, count, piece in rows], dtype=float
        ).reshape(len(rows), len(_FIGURES) + 1),
    )


_FRESH_BYTES = 2**25
"""From this size on the C library requests new memory for every result (glibc's largest mmap threshold),
page by page, and gives it back at once."""
_COPIED_BYTES = 2**24
"""With the channels first, a convolution copies its operands to a layout of its own, in memory that is new at every
step where the copy is large. Chosen among 2, 8, 16 and 32 MiB (docs/method-regression.md)."""
_SMALL_WINDOW = 9
"""Up to 3 x 3, and with the channels last at any size, a depthwise convolution's gradients wait for memory; beyond,
they cost several times as much for every multiply-add (docs/method-regression.md)."""
_ITEM_BYTES = {"float64": 8, "int64": 8, "bfloat16": 2, "float16": 2, "bool": 1, "uint8": 1, "int8": 1}
_WITH_A_TEMPORARY = ("adam", "adamw")  # the root of the second moment


def _fresh(size: float) -> float:
    return size if size >= _FRESH_BYTES else 0.0


def _fresh_of(op: Op) -> float:
    """Bytes of the op's result where it is new and large; what is written in place was there before."""
    if op.phase == "optimizer":
        return _fresh(4.0 * op.dims.get("elements", 0)) if op.name in _WITH_A_TEMPORARY else 0.0
    in_place = op.name.endswith("_") and op.name != "bernoulli_"  # a dropout mask is filled where it is made
    return 0.0 if in_place else _fresh(op.bytes_written)


def _pieces(op: Op) -> Iterator[_Piece]:
    if op.kind == "conv" and "c_in" in op.dims:
        yield from _conv(op)
    elif op.kind == "matmul" and "n" in op.dims:
        m, k, n = (float(op.dims[name]) for name in ("m", "k", "n"))
        role = "forward" if op.phase == "optimizer" else op.phase  # products of an optimizer are like any other
        yield _Piece("matmul", role, op.flops, op.bytes_moved, 1.0, m, k, n, _fresh_of(op))
    elif op.kind == "rnn" and "steps" in op.dims:
        starts = op.dims["steps"] * op.dims.get("layers", 1)
        yield _Piece("rnn", op.phase, op.flops, op.bytes_moved, float(starts), fresh=_fresh_of(op))
    elif op.kind == "pool" and op.dims.get("k", 1) > 1 and "elements_out" in op.dims:
        # A pool looks at every element of every window: arithmetic of its own kind.
        looks = op.dims["k"] * op.dims["elements_out"]
        yield _Piece("pool", op.name, looks, op.bytes_moved, fresh=_fresh_of(op))
    elif op.kind in DENSE:
        dropped = float(op.dims.get("dropped", 0))
        yield _Piece(op.kind, op.phase, op.computed_flops, op.bytes_moved, fresh=_fresh_of(op), dropped=dropped)
    elif op.kind in PRICED_AS:
        yield _Piece(PRICED_AS[op.kind], op.phase, op.flops, op.bytes_moved, fresh=_fresh_of(op))
    else:
        yield _Piece(op.kind, op.name, 0.0, op.bytes_moved, fresh=_fresh_of(op))


def _conv(op: Op) -> Iterator[_Piece]:
    """A convolution as n*out x (c_in*k) times (c_in*k) x c_out; its gradients turn that round."""
    dims = op.dims
    groups = dims["groups"]
    c_in, c_out = dims["c_in"] // groups, dims["c_out"] // groups
    inputs, outputs = dims["n"] * dims["in"], dims["n"] * dims["out"]
    positions = float(inputs if dims["transposed"] else outputs)
    dense_kind = "conv1" if dims["k"] == 1 else "conv"
    kind = dense_kind if groups == 1 else "conv_depthwise" if c_in == 1 else "conv_grouped"
    window, item = float(dims["k"]), _ITEM_BYTES.get(op.dtype, 4)
    weights = dims["c_in"] * c_out * window
    before, after = item * inputs * dims["c_in"], item * outputs * dims["c_out"]
    roles = {
        "forward": (positions, c_in * window, float(c_out), after),
        "grad_input": (positions, c_out * window, float(c_in), before),
        "grad_weight": (c_in * window, positions, float(c_out), item * weights),
    }
    copied = 0.0 if dims.get("channels_last") else float(sum(one for one in (before, after) if one >= _COPIED_BYTES))
    wanted = (
        ["forward"] if op.phase == "forward" else [role for role in ("grad_input", "grad_weight") if dims.get(role, 1)]
    )
    for role in wanted:
        m, k, n, size = roles[role]
        share = 1.0 / len(wanted)
        yield _Piece(
            kind,
            role,
            op.flops * share,
            op.bytes_moved * share,
            share,
            m,
            k,
            n,
            fresh=_fresh(size),
            rereads=float(dims["n"] * weights),
            planes=float(dims["n"] * groups),
            copied=copied,
            wide=0.0 if window <= _SMALL_WINDOW or dims.get("channels_last") else op.flops * share,
        )
