"""Seconds and watts of the large kernels of language models on an NVIDIA GPU, as CSV.

    python benchmarks/gpu_large_kernels.py --out FILE.csv [--limit-s 200]

Products in BF16 and FP8 (one scale a tensor, or one a row), products of experts, attention, optimizers,
losses, and copies between the host and the GPU. Each kernel runs alone for about 0.7 s, so that clocks and watts are
those of a long training; watts are the slope of NVML's energy counter.
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from gpu_steps import energy_counter, measured
from torch import Tensor
from torch.nn import functional

Run = Callable[[], Any]
_WINDOW_S = 0.7


@dataclass(frozen=True, slots=True)
class Large:
    """One op; sizes that it does not have are 0. `m` counts rows (tokens) of all experts together."""

    op: str
    precision: str
    m: int = 0
    k: int = 0
    n: int = 0
    experts: int = 0
    batch: int = 0
    heads: int = 0
    length: int = 0
    head: int = 0  # channels of one
    elements: int = 0


COLUMNS = (*(field.name for field in fields(Large)), "seconds", "watts")
_PRODUCTS = (
    *((8192, 4096, 4096), (8192, 4096, 14_336), (8192, 14_336, 4096), (8192, 8192, 8192), (8192, 8192, 28_672)),
    *((8192, 28_672, 8192), (8192, 4096, 128_256), (8192, 12_288, 12_288), (2048, 4096, 14_336), (2048, 8192, 8192)),
    *((4096, 2048, 6144), (16_384, 4096, 4096), (8192, 1024, 4096)),
)
_EXPERTS = (  # tokens of all experts, channels in and out, experts
    *((16_384, 4096, 28_672, 8), (16_384, 14_336, 4096, 8), (65_536, 2048, 1536, 128), (65_536, 768, 2048, 128)),
    *((32_768, 2880, 5760, 32), (49_152, 2048, 2816, 64), (65_536, 7168, 4096, 32), (8192, 2048, 1536, 128)),
)
_ATTENTION = (
    *((1, 32, 8192, 128), (4, 32, 2048, 128), (1, 64, 8192, 128), (1, 32, 32_768, 128), (4, 96, 2048, 128)),
    (8, 32, 2048, 64),
)


def kernels() -> Iterator[Large]:
    for precision in ("bfloat16", "float8", "float8-rows"):
        for m, k, n in _PRODUCTS:
            yield Large("linear", precision, m=m, k=k, n=n)
    for precision in ("bfloat16", "float8-rows"):
        for m, k, n, experts in _EXPERTS:
            yield Large("grouped", precision, m=m, k=k, n=n, experts=experts)
    for batch, heads, length, head in _ATTENTION:
        for op in ("attention", "attention_backward", "attention_cudnn", "attention_cudnn_backward"):
            yield Large(op, "bfloat16", batch=batch, heads=heads, length=length, head=head)
    for op in ("adamw_fused", "adamw_foreach"):
        for precision in ("float32", "bfloat16"):
            yield Large(op, precision, elements=10**9)
    yield Large("quantize", "float8", m=8192, k=8192)
    yield Large("quantize", "float8-rows", m=8192, k=8192)
    for op in ("take_rows", "add_rows"):
        yield Large(op, "bfloat16", m=65_536, k=2048)
        yield Large(op, "bfloat16", m=65_536, k=7168)
    for op in ("cross_entropy", "cross_entropy_backward"):
        yield Large(op, "float32", m=8192, n=128_256)
    yield Large("embedding_backward", "bfloat16", m=8192, n=128_256, k=4096)
    yield Large("copy", "bfloat16", elements=10**9)
    for op in ("to_host", "from_host"):
        yield Large(op, "pinned", elements=10**9)
        yield Large(op, "pageable", elements=10**9)


def prepared(kernel: Large, device: str = "cuda") -> Run:
    """The op of the kernel on random tensors, to be called again and again."""
    make = lambda *shape: torch.randn(*shape, device=device, dtype=torch.bfloat16)  # noqa: E731
    return next(_PREPARED[name] for name in _PREPARED if kernel.op.startswith(name))(kernel, make)


def _linear(kernel: Large, make: Any) -> Run:
    inputs, weight = make(kernel.m, kernel.k), make(kernel.n, kernel.k)
    if kernel.precision == "bfloat16":
        return lambda: functional.linear(inputs, weight)
    (a, scale_a), (b, scale_b) = (_quantized(one, kernel.precision) for one in (inputs, weight))
    return lambda: torch._scaled_mm(
        a,
        b.t(),
        scale_a=scale_a,
        scale_b=scale_b.t() if scale_b.ndim else scale_b,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _quantized(x: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """In FP8 (E4M3), and the scale with which a product gives it back: of the tensor, or of each row."""
    largest = x.abs().amax(-1, keepdim=True) if precision.endswith("rows") else x.abs().amax()
    scale = (largest.float() / 448).clamp(min=1e-12)
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def _grouped(kernel: Large, make: Any) -> Run:
    inputs, weight = make(kernel.m, kernel.k), make(kernel.experts, kernel.n, kernel.k)
    each = kernel.m // kernel.experts
    ends = torch.arange(each, kernel.m + 1, each, device=inputs.device, dtype=torch.int32)
    if kernel.precision == "bfloat16":
        return lambda: torch._grouped_mm(inputs, weight.transpose(-2, -1), offs=ends)
    a, scale_a = _quantized(inputs, kernel.precision)
    b, scale_b = _quantized(weight, kernel.precision)
    scales = scale_a.flatten().contiguous(), scale_b.squeeze(-1).contiguous()
    return lambda: torch._scaled_grouped_mm(
        a, b.transpose(-2, -1), *scales, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _attention(kernel: Large, make: Any) -> Run:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shape = (kernel.batch, kernel.heads, kernel.length, kernel.head)
    q, k, v = (make(*shape).requires_grad_() for _ in range(3))
    backend = SDPBackend.CUDNN_ATTENTION if "cudnn" in kernel.op else SDPBackend.FLASH_ATTENTION

    def forward() -> Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    if not kernel.op.endswith("backward"):
        return forward
    output = forward()
    grad = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, (q, k, v), grad, retain_graph=True)


def _adamw(kernel: Large, make: Any) -> Run:
    dtype = torch.float32 if kernel.precision == "float32" else torch.bfloat16
    weights = [torch.nn.Parameter(make(kernel.elements // 40).to(dtype)) for _ in range(40)]
    for one in weights:
        one.grad = torch.randn_like(one)
    fused = kernel.op == "adamw_fused"
    return torch.optim.AdamW(weights, lr=1e-5, fused=fused, foreach=not fused).step


def _quantize(kernel: Large, make: Any) -> Run:
    inputs = make(kernel.m, kernel.k)
    compiled = torch.compile(lambda x: _quantized(x, kernel.precision))
    return lambda: compiled(inputs)


def _rows(kernel: Large, make: Any) -> Run:
    inputs = make(kernel.m, kernel.k)
    order = torch.randperm(kernel.m, device=inputs.device)
    if kernel.op == "take_rows":
        return lambda: inputs[order]
    total, of = torch.zeros_like(inputs[: kernel.m // 8]), order // 8
    return lambda: total.index_add_(0, of, inputs)


def _cross_entropy(kernel: Large, make: Any) -> Run:
    scores = make(kernel.m, kernel.n).float().requires_grad_()
    classes = torch.randint(kernel.n, (kernel.m,), device=scores.device)
    if kernel.op == "cross_entropy":
        return lambda: functional.cross_entropy(scores, classes)
    loss = functional.cross_entropy(scores, classes)
    return lambda: torch.autograd.grad(loss, scores, retain_graph=True)


def _embedding(kernel: Large, make: Any) -> Run:
    tokens = torch.randint(kernel.n, (kernel.m,), device=make(1).device)
    table = make(kernel.n, kernel.k).requires_grad_()
    output = functional.embedding(tokens, table)
    grad = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, table, grad, retain_graph=True)


def _copy(kernel: Large, make: Any) -> Run:
    source = make(kernel.elements // 2)  # bytes of the two-byte numbers that are copied
    if kernel.op == "copy":
        target = torch.empty_like(source)
    else:
        target = torch.empty(source.shape, dtype=source.dtype, pin_memory=kernel.precision == "pinned")
    ends = (source, target) if kernel.op == "from_host" else (target, source)
    return lambda: ends[0].copy_(ends[1], non_blocking=True)


_PREPARED: dict[str, Callable[[Large, Any], Run]] = {
    "linear": _linear,
    "grouped": _grouped,
    "attention": _attention,
    "adamw": _adamw,
    "quantize": _quantize,
    "take_rows": _rows,
    "add_rows": _rows,
    "cross_entropy": _cross_entropy,
    "embedding": _embedding,
    "copy": _copy,
    "to_host": _copy,
    "from_host": _copy,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--limit-s", type=float, default=200.0, help="start no kernel after so many seconds")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is visible to torch; run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 2
    joules, ends = energy_counter(), time.monotonic() + options.limit_s
    with options.out.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for kernel in kernels():
            if time.monotonic() > ends:
                break
            try:
                _, seconds, watts = measured(prepared(kernel), joules, _WINDOW_S)
            except Exception as error:  # memory, or an op that the GPU lacks, must not end the others
                print(f"failed: {kernel}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
                continue
            finally:
                gc.collect()
                torch.cuda.empty_cache()
            table.writerow((*asdict(kernel).values(), f"{seconds:.5g}", f"{watts:.1f}"))
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
