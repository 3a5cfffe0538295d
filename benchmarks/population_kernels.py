"""Single kernels that NeuSight and DeepBench timed, as pieces of the population model."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from population_networks import WorkKey
from population_runs import GPU_KEYS, Step

from joulecast.estimator.cost.pieces import BATCHED, CONV, CONV1, FIELDS, MATMUL, MOVING, TRAFFIC

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


def _step(source: str, gpu: str, seconds: float, label: str, year: int) -> Step:
    return Step(source, gpu, WorkKey(label, 1, train=False), "kernel", seconds, year, tf32="off", label=label)


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
                table = _piece(MOVING, kind, 0.0, 4 * b * m * (3 if op in ("add", "mul", "div") else 2))
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


def sample(measured: Path, first: int = 1200, second: int = 600) -> list[Kernel]:
    """The same sample every time: `first` of NeuSight's and `second` of DeepBench's."""
    random = np.random.default_rng(0)
    kept = list(mamf(measured))
    for kernels, size in ((list(neusight(measured)), first), (list(deepbench(measured)), second)):
        kept += [kernels[index] for index in random.permutation(len(kernels))[:size].tolist()]
    return kept
