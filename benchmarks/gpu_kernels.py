"""Seconds of single kernels on an NVIDIA GPU, as CSV: products, convolutions, attention, and ops that move bytes.

    python benchmarks/gpu_kernels.py --out FILE.csv [--limit-s 300]

Each is timed by CUDA events back to back ("warm"), and once more after the GPU's cache was overwritten ("cold", the
median of five, which includes about 3 us of the events). "tf32" is float32 with TF32 allowed, "float32" without it.
"""

from __future__ import annotations

import argparse
import csv
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Run = Callable[[], Any]
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
_CACHE_BYTES = 256 * 2**20  # more than the cache of any GPU
_WINDOW_S, _MOST = 0.004, 50


@dataclass(frozen=True, slots=True)
class Kernel:
    """One op on tensors of one size; sizes that an op does not have are 0."""

    op: str
    precision: str
    channels_last: int = 0
    batch: int = 0
    m: int = 0
    k: int = 0
    n: int = 0
    c_in: int = 0
    c_out: int = 0
    window: int = 0  # side of a convolution's
    stride: int = 0
    groups: int = 0
    size: int = 0  # side of an image
    heads: int = 0
    head: int = 0  # channels of one
    causal: int = 0
    rows: int = 0
    length: int = 0
    elements: int = 0


COLUMNS = (*(field.name for field in fields(Kernel)), "warm_s", "cold_s")


def kernels() -> Iterator[Kernel]:
    """The kernels that are measured."""
    for precision in ("bfloat16", "float32", "tf32"):
        grid = itertools.product((64, 512, 4096, 16384), (64, 256, 1024, 4096), (64, 256, 1024, 4096, 32000))
        shapes = [shape for shape in grid if shape[0] * shape[1] * shape[2] <= 5e11]
        for m, k, n in (*shapes, *_PRODUCTS):
            yield Kernel("linear", precision, m=m, k=k, n=n)
        for batch, m, k in itertools.product((8, 64, 512), (64, 128, 512, 1024), (64, 128)):
            yield Kernel("bmm", precision, batch=batch, m=m, k=k, n=m)
    for precision, last in (("tf32", 0), ("bfloat16", 0), ("bfloat16", 1), ("float32", 0), ("tf32", 1)):
        for batch, c_in, c_out, window, stride, size, groups in _CONVOLUTIONS:
            for op in ("conv", "conv_dgrad", "conv_wgrad"):
                sizes = {"window": window, "stride": stride, "size": size, "groups": groups}
                yield Kernel(op, precision, last, batch, c_in=c_in, c_out=c_out, **sizes)
    for precision in ("float32", "bfloat16"):
        for exponent in range(14, 29, 2):
            for op in _ELEMENTWISE:
                yield Kernel(op, precision, elements=2**exponent)
        for rows, length in itertools.product((256, 4096, 65536), (32, 64, 128, 512, 1024, 4096, 16384)):
            if rows * length <= 3e8:
                for op in _OF_ROWS:
                    yield Kernel(op, precision, rows=rows, length=length)
        for batch, channels, size in _IMAGES:
            for op, last in (*itertools.product(_OF_IMAGES, (0, 1)), *((op, 0) for op in _CHANNELS_FIRST)):
                yield Kernel(op, precision, last, batch, c_in=channels, size=size)
        for batch, heads, length, head, causal in _ATTENTION:
            for op in ("attention", "attention_backward"):
                sizes = {"heads": heads, "head": head, "causal": causal, "length": length}
                yield Kernel(op, precision, batch=batch, **sizes)


_PRODUCTS = (
    *((1000, 1000, 1000), (777, 768, 3072), (4096, 768, 3072), (4096, 3072, 768), (8192, 2048, 5632)),
    *((8192, 8192, 8192), (100, 2048, 1000), (3136, 96, 384), (50176, 96, 384), (12608, 384, 1152)),
)
_DENSE = (
    *((64, 3, 64, 7, 2, 224), (64, 64, 64, 1, 1, 56), (64, 64, 64, 3, 1, 56), (64, 64, 256, 1, 1, 56)),
    *((64, 256, 64, 1, 1, 56), (64, 128, 128, 3, 1, 28), (64, 256, 512, 1, 2, 56), (64, 512, 128, 1, 1, 28)),
    *((64, 256, 256, 3, 1, 14), (64, 1024, 256, 1, 1, 14), (64, 256, 1024, 1, 1, 14), (64, 512, 512, 3, 1, 7)),
    *((64, 512, 2048, 1, 1, 7), (64, 128, 128, 3, 2, 56), (256, 64, 64, 3, 1, 32), (256, 128, 128, 3, 1, 16)),
    *((256, 256, 256, 3, 1, 8), (128, 3, 32, 3, 1, 32), (16, 64, 64, 3, 1, 224), (16, 128, 128, 3, 1, 112)),
    *((32, 3, 96, 4, 4, 224), (32, 3, 768, 16, 16, 224), (64, 96, 96, 3, 1, 28), (64, 24, 144, 1, 1, 56)),
    *((64, 144, 24, 1, 1, 56), (64, 320, 1280, 1, 1, 7), (8, 32, 32, 5, 1, 128), (512, 16, 16, 3, 1, 32)),
    *((32, 384, 384, 3, 1, 14), (4, 256, 256, 3, 1, 64)),
)
_DEPTHWISE = (
    *((64, 32, 3, 1, 112), (64, 96, 3, 2, 112), (64, 144, 3, 1, 56), (64, 240, 5, 1, 28), (64, 480, 3, 1, 14)),
    *((64, 672, 5, 1, 14), (64, 960, 5, 1, 7), (64, 96, 7, 1, 56), (64, 192, 7, 1, 28), (64, 384, 7, 1, 14)),
    (32, 768, 9, 1, 32),
)
_GROUPED = (
    *((64, 128, 32, 3, 56), (64, 256, 32, 3, 28), (64, 512, 32, 3, 14), (64, 1024, 32, 3, 7)),
    *((64, 64, 4, 3, 32), (64, 240, 10, 3, 28)),
)
_CONVOLUTIONS = (
    *((*shape, 1) for shape in _DENSE),
    *((batch, c, c, window, stride, size, c) for batch, c, window, stride, size in _DEPTHWISE),
    *((batch, c, c, window, 1, size, groups) for batch, c, groups, window, size in _GROUPED),
)
_IMAGES = (
    *((64, 64, 112), (64, 64, 56), (64, 256, 56), (64, 512, 28), (64, 1024, 14), (64, 2048, 7), (256, 64, 32)),
    *((256, 128, 16), (16, 64, 224)),
)
_HEADS = (
    *((64, 12, 128), (16, 12, 512), (8, 12, 1024), (4, 16, 2048), (2, 32, 4096), (1, 32, 8192), (64, 3, 197)),
    (64, 12, 197),
)
_ATTENTION = tuple((*shape, head, causal) for shape in _HEADS for head in (64, 128) for causal in (0, 1))


# -- What a kernel runs ----------------------------------------------------------------------------------------------


def prepared(kernel: Kernel, device: str = "cuda") -> Run:
    """The op of the kernel on random tensors, to be called again and again."""
    allowed = kernel.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    make = _Maker(device, DTYPES[kernel.precision])
    if kernel.op in ("linear", "bmm"):
        return _product(kernel, make)
    if kernel.op.startswith("conv"):
        return _convolution(kernel, make)
    if kernel.op.startswith("attention"):
        return _attention(kernel, make)
    if kernel.elements:
        return _ELEMENTWISE[kernel.op](make(kernel.elements), make(kernel.elements))
    if kernel.rows:
        return _OF_ROWS[kernel.op](make(kernel.rows, kernel.length), make(kernel.length), make(kernel.length))
    image = make(kernel.batch, kernel.c_in, kernel.size, kernel.size).to(memory_format=_layout(kernel))
    return {**_OF_IMAGES, **_CHANNELS_FIRST}[kernel.op](image)


@dataclass(frozen=True, slots=True)
class _Maker:
    device: str
    dtype: torch.dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)


def _layout(kernel: Kernel) -> torch.memory_format:
    return torch.channels_last if kernel.channels_last else torch.contiguous_format


def _product(kernel: Kernel, make: _Maker) -> Run:
    if kernel.op == "linear":
        inputs, weight = make(kernel.m, kernel.k), make(kernel.n, kernel.k)
        return lambda: functional.linear(inputs, weight)
    left, right = make(kernel.batch, kernel.m, kernel.k), make(kernel.batch, kernel.k, kernel.n)
    return lambda: torch.bmm(left, right)


def _convolution(kernel: Kernel, make: _Maker) -> Run:
    layout, window = _layout(kernel), kernel.window
    inputs = make(kernel.batch, kernel.c_in, kernel.size, kernel.size).to(memory_format=layout)
    weight = make(kernel.c_out, kernel.c_in // kernel.groups, window, window).to(memory_format=layout)
    padding = 0 if window == kernel.stride else window // 2
    how = ([kernel.stride] * 2, [padding] * 2, [1, 1], False, [0, 0], kernel.groups)
    if kernel.op == "conv":
        return lambda: torch.ops.aten.convolution(inputs, weight, None, *how)
    grad = torch.randn_like(torch.ops.aten.convolution(inputs, weight, None, *how))
    wanted = [kernel.op == "conv_dgrad", kernel.op == "conv_wgrad", False]
    return lambda: torch.ops.aten.convolution_backward(grad, inputs, weight, None, *how, wanted)


def _attention(kernel: Kernel, make: _Maker) -> Run:
    shape = (kernel.batch, kernel.heads, kernel.length, kernel.head)
    q, k, v = (make(*shape).requires_grad_() for _ in range(3))
    causal = bool(kernel.causal)
    if kernel.op == "attention":
        return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return _backward(functional.scaled_dot_product_attention(q, k, v, is_causal=causal), (q, k, v))


def _backward(output: Tensor, of: tuple[Tensor, ...]) -> Run:
    grad = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, of, grad, retain_graph=True)


_ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Run]] = {
    "add": lambda x, y: lambda: x + y,
    "relu": lambda x, _: lambda: functional.relu(x),
    "gelu": lambda x, _: lambda: functional.gelu(x),
    "tanh": lambda x, _: lambda: x.tanh(),
    "mul_scalar": lambda x, _: lambda: x * 2.0,
    "copy": lambda x, _: lambda: x.clone(),
    "add_": lambda x, y: lambda: x.add_(y),
    "dropout": lambda x, _: lambda: functional.dropout(x, 0.1, True),
    "sum": lambda x, _: lambda: x.sum(),
    "cast": lambda x, _: lambda: x.to(torch.bfloat16 if x.dtype == torch.float32 else torch.float32),
    "fill": lambda x, _: lambda: x.zero_(),
}


def _layer_norm_backward(x: Tensor, weight: Tensor, bias: Tensor) -> Run:
    shape = [x.shape[-1]]
    _, mean, deviation = torch.native_layer_norm(x, shape, weight, bias, 1e-5)
    grad, backward = torch.randn_like(x), torch.ops.aten.native_layer_norm_backward
    return lambda: backward(grad, x, shape, mean, deviation, weight, bias, [True, True, True])


def _softmax_backward(x: Tensor, _weight: Tensor, _bias: Tensor) -> Run:
    scores, grad = x.softmax(-1), torch.randn_like(x)
    return lambda: torch.ops.aten._softmax_backward_data(grad, scores, -1, x.dtype)


_OF_ROWS: dict[str, Callable[[Tensor, Tensor, Tensor], Run]] = {
    "layer_norm": lambda x, w, b: lambda: functional.layer_norm(x, (x.shape[-1],), w, b),
    "layer_norm_backward": _layer_norm_backward,
    "softmax": lambda x, _w, _b: lambda: x.softmax(-1),
    "softmax_backward": _softmax_backward,
    "sum_rows": lambda x, _w, _b: lambda: x.sum(-1),
    "sum_columns": lambda x, _w, _b: lambda: x.sum(0),
    "mean_square": lambda x, _w, _b: lambda: x.pow(2).mean(-1, keepdim=True),
    "rms_norm": lambda x, w, _b: lambda: functional.rms_norm(x, (x.shape[-1],), w),
}


def _scales(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Running mean and variance, weight and bias of a batch norm, in float32."""
    zeros, ones = (fill(x.shape[1], device=x.device) for fill in (torch.zeros, torch.ones))
    return zeros, ones, ones.clone(), zeros.clone()


def _batch_norm(x: Tensor) -> Run:
    mean, variance, weight, bias = _scales(x)
    if x.is_contiguous():
        return lambda: functional.batch_norm(x, mean, variance, weight, bias, True)
    return lambda: torch.native_batch_norm(x, weight, bias, mean, variance, True, 0.1, 1e-5)


def _batch_norm_backward(x: Tensor) -> Run:
    mean, variance, weight, bias = _scales(x)
    of = tuple(one.requires_grad_() for one in (x, weight, bias))
    return _backward(functional.batch_norm(x, mean, variance, weight, bias, True), of)


def _group_norm(x: Tensor) -> Run:
    weight, bias = (fill(x.shape[1], device=x.device, dtype=x.dtype) for fill in (torch.ones, torch.zeros))
    return lambda: functional.group_norm(x, 8, weight, bias)


_OF_IMAGES: dict[str, Callable[[Tensor], Run]] = {
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "relu4": lambda x: lambda: functional.relu(x),
    "max_pool": lambda x: lambda: functional.max_pool2d(x, 3, 2, 1),
    "avg_pool": lambda x: lambda: functional.adaptive_avg_pool2d(x, 1),
}
_CHANNELS_FIRST: dict[str, Callable[[Tensor], Run]] = {
    "group_norm": _group_norm,
    "permute_copy": lambda x: lambda: x.permute(0, 2, 3, 1).contiguous(),
    "cat": lambda x: lambda: torch.cat([x, x], 1),
}


# -- Measuring -------------------------------------------------------------------------------------------------------


def timed(run: Run, flush: Tensor) -> tuple[float, float]:
    """Seconds back to back, and after `flush`, which is larger than the GPU's cache, was written."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(times: int) -> float:
        start.record()
        for _ in range(times):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / times

    run()
    times = max(5, min(_MOST, int(_WINDOW_S / max(seconds(1), 1e-6))))
    torch.cuda._sleep(int(2e6))  # so that launches queue before the first kernel starts
    warm, cold = seconds(times), []
    for _ in range(5):
        flush.zero_()
        cold.append(seconds(1))
    return warm, sorted(cold)[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--limit-s", type=float, default=300.0, help="start no kernel after so many seconds")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is visible to torch; run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 2
    flush, ends = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device="cuda"), time.monotonic() + options.limit_s
    with options.out.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for kernel in kernels():
            if time.monotonic() > ends:
                break
            try:
                warm, cold = timed(prepared(kernel), flush)
            except RuntimeError as error:  # memory, or an op that the GPU lacks, must not end the others
                print(f"failed: {kernel}: {error}".splitlines()[0], flush=True)
                gc.collect()
                torch.cuda.empty_cache()
                continue
            values = (getattr(kernel, field.name) for field in fields(Kernel))
            table.writerow((*values, f"{warm:.4g}", f"{cold:.4g}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
