"""What an op makes the device do: products of matrices and bytes that move, one row of figures each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..trace.workload import Op
from .features import Array
from .fusion import as_fused, needed_share, with_written_scores
from .software import TRAINING_STACKS, WRITTEN_SCORES

CLASSES = ("conv", "conv1", "grouped", "depthwise", "matmul", "batched", "attention", "rnn", "moving")
CONV, CONV1, GROUPED, DEPTHWISE, MATMUL, BATCHED, ATTENTION, RNN, MOVING = range(len(CLASSES))
TRAFFIC = ("dense", "norm", "pointwise", "reduce", "pool", "optimizer", "gather")
_TRAFFIC_OF = {
    "norm": "norm",
    "softmax": "reduce",
    "loss": "reduce",
    "reduce": "reduce",
    "pool": "pool",
    "optimizer": "optimizer",
    "embedding": "gather",
    "sort": "gather",
}
SCALAR = ("", "norm", "pool", "permute", "rows")
"""Kernels of PyTorch that take their values, or their rows, one at a time, so that they may be slower than memory."""
_PASSES = {"sgd": 1.0, "momentum": 8 / 5, "adam": 18 / 7, "adamw": 20 / 7, "rmsprop": 13 / 5, "adagrad": 11 / 5}
"""Tensors that torch.optim's update of a list of parameters ("foreach") reads and writes, over the fewest possible."""
_USUAL_PASSES = 2.2  # of optimizers that are not in the list
FORWARD, BACKWARD, UPDATE = range(3)
_PHASES = {"forward": FORWARD, "backward": BACKWARD, "optimizer": UPDATE}
HALF_TYPES = frozenset({"float16", "bfloat16"})
_CONVERTED_BYTES = 2.0  # of an input of an 8-bit product; each is read in 16 bits and written twice, for two products

FIELDS = (
    "op",  # position of the op
    "cls",  # of CLASSES
    "traffic",  # of TRAFFIC
    "phase",
    "macs",
    "moved",  # bytes
    "b",  # products in one kernel
    "m",
    "k",
    "n",
    "count",
    "half",  # 1 for 16-bit arithmetic
    "issued",  # ops that the host issues
    "kernels",  # kernels in a row that the device runs, of which the figures above are one
    "layout",  # bytes of activations that a convolution reorders where channels come first
    "last",  # 1 for channels last
    "weight_grad",
    "window",  # elements of a convolution's window
    "stride",  # input positions for each output position
    "fp8",  # 1 for 8-bit products, which have 16-bit inputs and outputs (`half` is 1 too)
    "dilated",  # 1 where a convolution's window skips positions
    "scalar",  # of SCALAR
    "values",  # or rows that a kernel of SCALAR takes one at a time
    "lanes",  # multiprocessors at most that such a kernel uses at once; 0: all
    "per_row",  # 1 for norms of each row: layer norms and their kind
    "passes",  # times the bytes of an update in one kernel that PyTorch's own optimizer moves; 0 for other ops
)


@dataclass(frozen=True, slots=True)
class Columns:
    """The pieces of a workload, one array a field of `FIELDS`; equal pieces are one row with their count."""

    table: Array  # shape (pieces, fields)

    def __getattr__(self, name: str) -> Array:
        column: Array = self.table[:, FIELDS.index(name)]
        return column


def columns(ops: Sequence[Op], software: str = "eager") -> Columns:
    rows = [
        row for index, op in enumerate(ops) for part in _as_run(op, software) for row in _rows(index, part, software)
    ]
    return Columns(np.array(rows, dtype=float).reshape(len(rows), len(FIELDS)))


def pieces(ops: Sequence[Op], software: str) -> Columns:
    """The pieces of `ops` as `software` runs them: training stacks fuse ops, and have no pieces of what is gone."""
    if software not in TRAINING_STACKS:
        return columns(ops)
    kept = [(index, op) for index, op in enumerate(as_fused(ops)) if op is not None]
    found = columns([op for _, op in kept], software)
    found.table[:, FIELDS.index("op")] = np.array([index for index, _ in kept])[found.op.astype(int)]
    return found


def _as_run(op: Op, software: str) -> Iterable[Op]:
    """Attention as `software` runs it: in one kernel, or with its scores in memory (Megatron-LM before 2023)."""
    if op.kind != "attention" or software != WRITTEN_SCORES or "q" not in op.dims:
        return (op,)
    dropped = bool(op.dims.get("dropped"))
    passes = (2.0 + 2.5 * dropped) if op.phase == "forward" else (3.0 + 2.5 * dropped)
    return with_written_scores(op, passes)


def merged(parts: Columns) -> Columns:
    """Equal pieces of different ops as one, their counts added up; the op is forgotten."""
    keys = parts.table.copy()
    keys[:, FIELDS.index("op")] = 0.0
    keys[:, FIELDS.index("count")] = 0.0
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    unique[:, FIELDS.index("count")] = np.bincount(inverse.ravel(), weights=parts.count)
    return Columns(unique)


def _rows(index: int, op: Op, software: str) -> Iterator[tuple[float, ...]]:
    fp8 = float(op.dtype.startswith("float8"))
    half, phase = max(float(op.dtype in HALF_TYPES), fp8), float(_PHASES[op.phase])

    def row(
        cls: int,
        macs: float,
        moved: float,
        shape: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        *,
        issued: float = 1.0,
        kernels: float = 1.0,
        layout: float = 0.0,
        last: float = 0.0,
        weight_grad: float = 0.0,
        window: float = 0.0,
        stride: float = 0.0,
        dilated: float = 0.0,
        scalar: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> tuple[float, ...]:
        traffic = "dense" if cls != MOVING else _TRAFFIC_OF.get(op.kind, "pointwise")
        head = (float(index), float(cls), float(TRAFFIC.index(traffic)), phase, macs, moved, *shape)
        of_images = (layout, last, weight_grad, window, stride, fp8, dilated)
        per_row = float(op.kind == "norm" and "batch_norm" not in op.name)
        passes = _PASSES.get(op.name, _USUAL_PASSES) if op.kind == "optimizer" else 0.0
        return (*head, float(op.count), half, issued, kernels, *of_images, *scalar, per_row, passes)

    dims = op.dims
    if op.kind == "conv" and "c_in" in dims:
        yield from _convolution(op, row)
    elif op.kind == "matmul" and "n" in dims:
        batch = float(dims["b"])
        shape = (batch, float(dims["m"]), float(dims["k"]), float(dims["n"]))
        # Kernels for groups (experts) work through the tiles of all products as through those of one.
        batched = batch > 1 and "grouped_mm" not in op.name
        yield row(BATCHED if batched else MATMUL, op.flops, op.bytes_moved, shape)
        if fp8:
            yield row(MOVING, 0.0, _CONVERTED_BYTES * batch * dims["k"] * (dims["m"] + dims["n"]))
    elif op.kind == "attention" and "q" in dims:
        # Scores stay on chip: two products of each head, five in the backward pass.
        shape = (float(dims["b"]), float(dims["q"]), float(dims["d"]), float(dims["s"]))
        whole = bool(op.dims.get("whole")) and software not in TRAINING_STACKS
        yield row(ATTENTION, op.flops * (1.0 if whole else needed_share(op)), op.bytes_moved, shape)
    elif op.kind == "rnn" and "steps" in dims:
        yield from _recurrent(op, row)
    elif op.flops and op.kind in ("conv", "matmul", "attention", "rnn"):
        side = max(op.flops, 1.0) ** (1 / 3)
        yield row(CONV if op.kind == "conv" else MATMUL, op.flops, op.bytes_moved, (1.0, side, side, side))
    else:
        yield row(MOVING, 0.0, op.bytes_moved, scalar=_scalar(op))


def _scalar(op: Op) -> tuple[float, float, float]:
    """Kind, values and lanes of an op whose kernel takes its values one at a time."""
    dims = op.dims
    if op.kind == "norm" and "elements" in dims:
        if "batch_norm" in op.name and not dims.get("running"):
            # With channels first, one block of threads works through each channel.
            lanes = 0.0 if dims.get("channels_last") else float(dims.get("channels", 0))
            return float(SCALAR.index("norm")), float(dims["elements"]), lanes
        if "group_norm" in op.name:
            return float(SCALAR.index("norm")), float(dims["elements"]), 0.0
        if "rows" in dims:
            return float(SCALAR.index("rows")), float(dims["rows"]), 0.0
    if op.kind == "pool" and op.phase == "forward" and "k" in dims:
        return float(SCALAR.index("pool")), float(dims["elements_out"] * dims["k"]), 0.0
    if dims.get("permuted"):
        return float(SCALAR.index("permute")), float(dims["elements_out"]), 0.0
    return 0.0, 0.0, 0.0


def _convolution(op: Op, row: Any) -> Iterator[tuple[float, ...]]:
    dims = op.dims
    groups, window = float(dims["groups"]), float(dims["k"])
    c_in, c_out = dims["c_in"] / groups, dims["c_out"] / groups
    inputs, outputs = float(dims["n"] * dims["in"]), float(dims["n"] * dims["out"])
    places = inputs if dims["transposed"] else outputs
    cls = (CONV1 if window == 1 else CONV) if groups == 1 else DEPTHWISE if c_in == 1 else GROUPED
    item = 2.0 if op.dtype in HALF_TYPES else 4.0
    activations = item * (inputs * dims["c_in"] + outputs * dims["c_out"])
    shapes = {
        "forward": (groups, places, c_in * window, c_out),
        "grad_input": (groups, places, c_out * window, c_in),
        "grad_weight": (groups, c_in * window, places, c_out),
    }
    forward = op.phase == "forward"
    wanted = ["forward"] if forward else [role for role in ("grad_input", "grad_weight") if dims.get(role, 1)]
    for position, role in enumerate(wanted):
        yield row(
            cls,
            op.flops / len(wanted),
            op.bytes_moved / len(wanted),
            shapes[role],
            issued=float(position == 0),
            layout=activations,
            last=float(dims.get("channels_last", 0)),
            weight_grad=float(role == "grad_weight"),
            window=window,
            stride=max(dims["in"], 1) / max(dims["out"], 1),
            dilated=float(dims.get("dilated", 0)),
        )


def _recurrent(op: Op, row: Any) -> Iterator[tuple[float, ...]]:
    """All positions' inputs in one product, then one product after another for the states."""
    dims = op.dims
    steps, batch, hidden = float(dims["steps"]), float(dims["n"]), float(dims["hidden"])
    cells = float(dims.get("layers", 1) * dims.get("directions", 1))
    share = dims["input"] / (dims["input"] + hidden)
    passes = 1.0 if op.phase == "forward" else 2.0
    gates = op.flops / passes / max(steps * batch * (dims["input"] + hidden) * cells, 1.0)
    yield row(
        MATMUL, op.flops * share, op.bytes_moved, (1.0, steps * batch, float(dims["input"]) * passes * cells, gates)
    )
    yield row(
        RNN,
        op.flops * (1 - share) / max(steps * cells, 1.0),
        0.0,
        (1.0, batch, hidden * passes, gates),
        issued=0.0,
        kernels=steps * cells,
    )
