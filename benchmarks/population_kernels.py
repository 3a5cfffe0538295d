"""Single kernels that NeuSight, DeepBench and joulecast's developers timed, as pieces of the population model."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from population_networks import WorkKey
from population_runs import GPU_KEYS, Step

from joulecast.estimator.cost.pieces import (
    ATTENTION,
    BACKWARD,
    BATCHED,
    CONV,
    CONV1,
    DEPTHWISE,
    FIELDS,
    FORWARD,
    GROUPED,
    MATMUL,
    MOVING,
    SCALAR,
    TRAFFIC,
    UPDATE,
)

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Kernel:
    """`table` is its one piece, shape (1, fields)."""

    step: Step
    table: Array


def _piece(cls: int, traffic: str, macs: float, moved: float, **fields: float) -> Array:
    values = {"cls": cls, "traffic": TRAFFIC.index(traffic), "macs": macs, "moved": moved, "count": 1, "kernels": 1}
    values |= fields
    return np.array([[float(values.get(name, 0.0)) for name in FIELDS]])


def _step(source: str, gpu: str, seconds: float, label: str, year: int, tf32: str = "off") -> Step:
    return Step(source, gpu, WorkKey(label, 1, train=False), "kernel", seconds, year, tf32=tf32, label=label)


def neusight(measured: Path) -> Iterator[Kernel]:
    """Forward kernels in true float32."""
    with (measured / "neusight" / "kernels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            b, m, n, k, size, pad = (float(row[name] or 0) for name in ("b", "m", "n", "k", "size", "pad"))
            stride, op = float(row["stride"] or 1), row["op"]
            if op == "linear":
                moved = 4 * (b * m * k + k * n + b * m * n)
                table = _piece(MATMUL, "dense", b * m * n * k, moved, b=1, m=b * m, k=k, n=n)
            elif op == "bmm":
                table = _piece(BATCHED, "dense", b * m * n * k, 4 * b * (m * k + k * n + m * n), b=b, m=m, k=k, n=n)
            elif op == "conv":
                out = math.floor((size + 2 * pad - k) / stride) + 1
                moved = 4 * (b * m * size**2 + b * n * out**2 + m * n * k**2)
                shape = {"b": 1.0, "m": b * out**2, "k": m * k**2, "n": n, "window": k**2, "stride": stride**2}
                table = _piece(CONV1 if k == 1 else CONV, "dense", b * out**2 * m * n * k**2, moved, **shape)
            else:
                kind = {"ln": "norm", "softmax": "reduce"}.get(op, "pointwise")
                moved = 4 * b * m * (3 if op in ("add", "mul", "div") else 2)
                rows = {"scalar": SCALAR.index("rows"), "values": b, "per_row": 1.0} if op == "ln" else {}
                table = _piece(MOVING, kind, 0.0, moved, **rows)
            gpu = GPU_KEYS.get(row["gpu"], row["gpu"].lower())
            yield Kernel(_step(f"neusight kernel {op}", gpu, float(row["ms"]) / 1e3, op, 2023), table)


def deepbench(measured: Path) -> Iterator[Kernel]:
    """Matrix products and convolutions, forward and both gradients."""
    with (measured / "deepbench" / "kernels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            gpu = GPU_KEYS.get(row["gpu"])
            if gpu is None or row["op"] not in ("gemm", "conv2d"):
                continue
            half = float("fp16" in row["precision"])
            item = 2.0 if half else 4.0

            def number(name: str, row: dict[str, str] = row) -> float:
                return float(row[name] or 0)

            if row["op"] == "gemm":
                m, n, k = number("m"), number("n"), number("k")
                table = _piece(
                    MATMUL, "dense", m * n * k, item * (m * k + k * n + m * n), b=1, m=m, k=k, n=n, half=half
                )
            else:
                found = _convolution(number, row["pass_"], item, half)
                if found is None:
                    continue
                table = found
            yield Kernel(_step(f"deepbench kernel {row['op']}", gpu, number("time_ms") / 1e3, row["op"], 2018), table)


def _convolution(number: Any, direction: str, item: float, half: float) -> Array | None:
    b, c_in, c_out, h, w = (number(name) for name in ("batch", "in_ch", "out_ch", "h", "w"))
    tall = math.floor((h + 2 * number("pad_h") - number("kh")) / number("stride_h")) + 1
    wide = math.floor((w + 2 * number("pad_w") - number("kw")) / number("stride_w")) + 1
    window, places = number("kh") * number("kw"), b * tall * wide
    shapes = {
        "fwd": (places, c_in * window, c_out),
        "bwd_input": (places, c_out * window, c_in),
        "bwd_weight": (c_in * window, places, c_out),
    }
    if direction not in shapes:
        return None
    m, k, n = shapes[direction]
    layout = item * (b * c_in * h * w + c_out * places)
    return _piece(
        CONV1 if window == 1 else CONV,
        "dense",
        places * c_in * c_out * window,
        layout + item * c_in * c_out * window,
        b=1,
        m=m,
        k=k,
        n=n,
        half=half,
        phase=float(direction != "fwd"),
        weight_grad=float(direction == "bwd_weight"),
        layout=layout,
        window=window,
        stride=number("stride_h") * number("stride_w"),
    )


_MAMF = {"NVIDIA A100 SXM": "a100-sxm4-80gb", "NVIDIA A100 PCIe": "a100-pcie-80gb", "NVIDIA H100 SXM": "h100-sxm"}


def mamf(measured: Path) -> Iterator[Kernel]:
    """The fastest 16-bit products that a search over shapes found."""
    with (measured / "stas-mamf" / "mamf.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if (gpu := _MAMF.get(row["accelerator"])) is None or float(row["theory_tflops"]) > 1000:
                continue
            m, n, k = (float(size) for size in row["best_shape_mnk"].split("x"))
            moved = 2 * (m * k + k * n + m * n)
            table = _piece(MATMUL, "dense", m * n * k, moved, b=1, m=m, k=k, n=n, half=1.0)
            seconds = 2 * m * n * k / (float(row["mamf_tflops"]) * 1e12)
            yield Kernel(_step("mamf kernel", gpu, seconds, "mamf", 2025), table)


_OWN = Path(__file__).parent / "measured" / "h100-sxm-kernels.csv"
_SHORTEST_S = 25e-6  # shorter ones are mostly what starting a kernel takes
_LEFT = ("mean_square", "rms_norm", "avg_pool", "sum_columns")
# Bytes of an op for each element of its input: read and written once.
_PASSES = {
    "add": 3,
    "add_": 3,
    "dropout": 2.25,
    "sum": 1,
    "fill": 1,
    "cat": 3,
    "batch_norm_backward": 3,
    "layer_norm_backward": 3,
    "softmax_backward": 3,
    "sum_rows": 1,
    "max_pool": 1.25,
}
_TRAFFIC = {"softmax": "reduce", "softmax_backward": "reduce", "sum": "reduce", "sum_rows": "reduce"}
_TRAFFIC |= {"max_pool": "pool", "layer_norm": "norm", "layer_norm_backward": "norm"}
_TRAFFIC |= {"group_norm": "norm", "batch_norm": "norm", "batch_norm_backward": "norm"}


def own() -> Iterator[Kernel]:
    """What `gpu_kernels.py` measured on an H100, without ops of several kernels and pools of whole images."""
    with _OWN.open(newline="") as file:
        for row in csv.DictReader(file):
            seconds, op, precision = float(row["warm_s"]), row["op"], row["precision"]
            if seconds < _SHORTEST_S or op in _LEFT:
                continue
            size = {name: float(value or 0) for name, value in row.items() if name not in ("op", "precision")}
            half = float(precision == "bfloat16")
            if op in ("linear", "bmm"):
                kind, table = op, _product(size, half)
            elif op.startswith("conv"):
                kind, table = "conv", _image_convolution(op, size, half)
            elif op.startswith("attention"):
                kind, table = "attention", _attention(op, size, half)
            else:
                kind, table = "vector", _moving(op, size, half)
            tf32 = "all" if precision == "tf32" else "off"
            yield Kernel(_step(f"h100 kernel {kind}", "h100-sxm", seconds, op, 2025, tf32), table)


_SUSTAINED = Path(__file__).parent / "measured" / "h100-sxm-large-kernels.csv"


def sustained() -> Iterator[Kernel]:
    """What `gpu_large_kernels.py` measured on an H100: products, attention and optimizers that ran for 0.7 s."""
    with _SUSTAINED.open(newline="") as file:
        for row in csv.DictReader(file):
            op, half, fp8 = row["op"], float(row["precision"] != "float32"), float(row["precision"] == "float8")
            size = {name: float(value) for name, value in row.items() if name not in ("op", "precision")}
            if op in ("linear", "grouped") and row["precision"] in ("bfloat16", "float8"):
                b = max(size["experts"], 1.0)
                m, k, n = size["m"] / b, size["k"], size["n"]
                moved = b * ((2.0 - fp8) * (m * k + k * n) + 2.0 * m * n)
                table = _piece(MATMUL, "dense", b * m * k * n, moved, b=b, m=m, k=k, n=n, half=half, fp8=fp8)
            elif op in ("attention", "attention_backward"):
                table = _attention(op, {**size, "causal": 1.0}, half)
            elif op == "adamw_foreach":
                moved = size["elements"] * 7 * (4.0 - 2.0 * half)  # as the optimizer in one kernel reads and writes
                table = _piece(MOVING, "optimizer", 0.0, moved, half=half, phase=float(UPDATE), passes=20 / 7)
            else:
                continue
            kind = "optimizer" if op == "adamw_foreach" else op.removesuffix("_backward")
            yield Kernel(_step(f"h100 sustained kernel {kind}", "h100-sxm", size["seconds"], op, 2025), table)


def _product(size: Mapping[str, float], half: float) -> Array:
    b, m, k, n = max(size["batch"], 1.0), size["m"], size["k"], size["n"]
    moved = (4.0 - 2.0 * half) * b * (m * k + k * n + m * n)
    cls = BATCHED if size["batch"] else MATMUL
    return _piece(cls, "dense", b * m * k * n, moved, b=b, m=m, k=k, n=n, half=half)


def _image_convolution(op: str, size: Mapping[str, float], half: float) -> Array:
    b, groups, side, stride = size["batch"], size["groups"], size["window"], size["stride"]
    c_in, c_out, window = size["c_in"] / groups, size["c_out"] / groups, side**2
    padding = 0.0 if side == stride else side // 2
    out = math.floor((size["size"] + 2 * padding - side) / stride) + 1
    places = b * out**2
    m, k, n = {
        "conv": (places, c_in * window, c_out),
        "conv_dgrad": (places, c_out * window, c_in),
        "conv_wgrad": (c_in * window, places, c_out),
    }[op]
    cls = (CONV1 if window == 1 else CONV) if groups == 1 else DEPTHWISE if c_in == 1 else GROUPED
    item = 4.0 - 2.0 * half
    layout = item * (b * size["c_in"] * size["size"] ** 2 + size["c_out"] * places)
    return _piece(
        cls,
        "dense",
        places * size["c_in"] * c_out * window,
        layout + item * size["c_in"] * c_out * window,
        b=groups,
        m=m,
        k=k,
        n=n,
        half=half,
        phase=float(FORWARD if op == "conv" else BACKWARD),
        weight_grad=float(op == "conv_wgrad"),
        layout=layout,
        last=size["channels_last"],
        window=window,
        stride=(size["size"] / out) ** 2,
    )


def _attention(op: str, size: Mapping[str, float], half: float) -> Array:
    b, length, head = size["batch"] * size["heads"], size["length"], size["head"]
    backward = op == "attention_backward"
    share = 0.5 if size["causal"] else 1.0
    macs = b * length**2 * head * (5.0 if backward else 2.0) * share
    moved = (4.0 - 2.0 * half) * b * length * head * (8.0 if backward else 4.0)
    shape = {"b": b, "m": length, "k": head, "n": length}
    return _piece(ATTENTION, "dense", macs, moved, half=half, phase=float(backward), **shape)


def _moving(op: str, size: Mapping[str, float], half: float) -> Array:
    channels, item = size["c_in"], 4.0 - 2.0 * half
    values = size["elements"] or size["rows"] * size["length"] or size["batch"] * channels * size["size"] ** 2
    moved = values * (6.0 if op == "cast" else item * _PASSES.get(op, 2.0))
    last, backward = size["channels_last"], float(op.endswith("_backward"))
    scalar, lanes = 0, 0.0
    if op.startswith(("batch_norm", "group_norm")):
        scalar, lanes = SCALAR.index("norm"), 0.0 if last or op == "group_norm" else channels
    elif op == "max_pool":
        moved += 8.0 * values / 4  # the places of the maxima
        scalar, values = SCALAR.index("pool"), values * 9 / 4  # windows of 3 x 3, two apart
    elif op.startswith("layer_norm"):
        scalar, values = SCALAR.index("rows"), size["rows"]
    elif op == "permute_copy":
        scalar = SCALAR.index("permute")
    fields = {"half": half, "phase": backward, "last": last, "scalar": scalar, "lanes": lanes}
    fields["per_row"] = float(op.startswith(("layer_norm", "group_norm")))
    return _piece(MOVING, _TRAFFIC.get(op, "pointwise"), 0.0, moved, values=values if scalar else 0.0, **fields)


def sample(measured: Path, first: int = 1200, second: int = 600) -> list[Kernel]:
    """The same sample every time: `first` of NeuSight's and `second` of DeepBench's."""
    random = np.random.default_rng(0)
    kept = [*mamf(measured), *own(), *sustained()]
    for kernels, size in ((list(neusight(measured)), first), (list(deepbench(measured)), second)):
        kept += [kernels[index] for index in random.permutation(len(kernels))[:size].tolist()]
    return kept
