"""Kernels that run on a GPU only: Triton launches, and functions of packages of compiled kernels. Counts by hand.

The packages are not installed here. Small modules stand in their place, with the same names, that fail off a GPU.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import joulecast as jc
from joulecast.estimator.base.errors import ModelError
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.triton_programs import launched
from joulecast.estimator.trace.workload import Op, Workload

TRITON = {
    "triton/__init__.py": """
        from triton.runtime.jit import JITFunction, autotune, heuristics
        def jit(function):
            return JITFunction(function)
        def cdiv(a, b):
            return -(-a // b)
        class Config:
            def __init__(self, kwargs, num_warps=4):
                self.kwargs = kwargs
    """,
    "triton/language.py": """
        class constexpr:
            def __init__(self, value):
                self.value = value
        float32 = "float32"
    """,
    "triton/runtime/__init__.py": "",
    "triton/runtime/jit.py": """
        import inspect
        launches = []
        class KernelInterface:
            def __getitem__(self, grid):
                return lambda *args, **kwargs: self.run(*args, grid=grid, warmup=False, **kwargs)
        class JITFunction(KernelInterface):
            def __init__(self, fn):
                self.fn, self.__name__ = fn, fn.__name__
                self.arg_names = list(inspect.signature(fn).parameters)
            def run(self, *args, grid, warmup, **kwargs):
                launches.append(self.__name__)
                raise RuntimeError("0 active drivers ([]). There should only be one.")
        class Autotuner(KernelInterface):
            def __init__(self, fn, configs):
                self.fn, self.configs, self.arg_names = fn, configs, fn.arg_names
            def run(self, *args, **kwargs):
                raise RuntimeError("0 active drivers ([]). There should only be one.")
        class Heuristics(KernelInterface):
            def __init__(self, fn, values):
                self.fn, self.values, self.arg_names = fn, values, fn.arg_names
            def run(self, *args, **kwargs):
                return self.fn.run(*args, **kwargs)
        def autotune(configs, key):
            return lambda fn: Autotuner(fn, configs)
        def heuristics(values):
            return lambda fn: Heuristics(fn, values)
    """,
    "gpu_only.py": """
        import torch

        def asserts(x):
            assert x.is_cuda
            return made_there(x)

        def looks_at_the_type(x):
            assert x.device.type in ("cuda", "xpu"), "Only support CUDA/XPU tensors"
            return made_there(x)

        def refuses(x):
            if x.is_cpu or not x.is_cuda or x.is_meta:
                raise ValueError("this kernel needs tensors on a GPU")
            return made_there(x)

        def says_nothing(x):
            if "cuda" in x.device.type:
                return made_there(x)
            raise NotImplementedError

        def made_there(x):
            with torch.cuda.device(x.device.index):
                return x + torch.ones(x.shape, device=x.device, dtype=x.dtype)
    """,
    "own_kernels.py": """
        import triton
        import triton.language as tl
        from triton.language import constexpr

        SCALE = constexpr(2)

        @triton.jit
        def add(x, y, out, n, BLOCK: tl.constexpr):
            offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
            mask = offsets < n
            tl.store(out + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask), mask=mask)

        @triton.jit
        def square(block):
            return tl.dot(block, tl.trans(block)) * SCALE

        @triton.autotune(configs=[triton.Config({"BM": 64, "BK": 64}), triton.Config({"BM": 16, "BK": 16})], key=["K"])
        @triton.heuristics({"EVEN": lambda args: args["K"] % args["BK"] == 0})
        @triton.jit
        def product(a, b, c, M, N, K, stride, BM: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr):
            row, column = tl.program_id(0), tl.program_id(1)
            rows = row * BM + tl.arange(0, BM)
            columns = column * BM + tl.arange(0, BM)
            total = tl.zeros((BM, BM), dtype=tl.float32)
            for start in range(0, tl.cdiv(K, BK)):
                inner = start * BK + tl.arange(0, BK)
                if EVEN:
                    left = tl.load(a + rows[:, None] * stride + inner[None, :])
                else:
                    left = tl.load(a + rows[:, None] * stride + inner[None, :], mask=inner[None, :] < K)
                right = tl.load(b + inner[:, None] * N + columns[None, :])
                total += tl.dot(left, right)
            tl.store(c + rows[:, None] * N + columns[None, :], total)

        @triton.jit
        def causal(q, k, out, T, D: tl.constexpr, B: tl.constexpr):
            block, head = tl.program_id(0), tl.program_id(1)
            queries = tl.make_block_ptr(q + head * T * D, (T, D), (D, 1), (block * B, 0), (B, D), (1, 0))
            mine = tl.load(queries, boundary_check=(0, 1))
            highest = tl.full((B,), float("-inf"), dtype=tl.float32)
            for other in tl.range(0, (block + 1) * B, B):
                keys = tl.make_block_ptr(k + head * T * D, (D, T), (1, D), (0, other), (D, B), (0, 1))
                scores = tl.dot(mine, tl.load(keys))
                highest = tl.maximum(highest, tl.max(scores, axis=1))
            tl.store(out + head * T + block * B + tl.arange(0, B), highest)

        @triton.jit
        def gram(x, out, N: tl.constexpr):
            block = tl.load(x + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :])
            tl.atomic_add(out + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :], square(block))

        @triton.jit
        def in_place(x, target, ignored, n, BLOCK: tl.constexpr):
            row = tl.program_id(0)
            if tl.load(target + row) == ignored:
                return
            for start in range(0, n, BLOCK):
                at = x + row * n + start + tl.arange(0, BLOCK)
                tl.store(at, tl.exp(tl.load(at)))

        @triton.jit
        def scalars(x, out, scale, N: tl.constexpr, CAP: tl.constexpr):
            first = tl.maximum(tl.program_id(0) - 1, 0).to(tl.int32)
            factor = tl.exp(scale.to(tl.float32)).to(tl.float32)
            block = tl.load(x + first + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :])
            if CAP > 0.5:
                block = tl.cast(block * factor, dtype=tl.float32)
            tl.store(out + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :], tl.dot(block, block))

        @triton.jit
        def of_lengths(x, lengths, out, BLOCK: tl.constexpr):
            total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
            for _ in range(0, tl.load(lengths)):
                block = tl.load(x + tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :])
                total += tl.dot(block, block)
            tl.store(out + tl.arange(0, BLOCK)[:, None], total)
    """,
}
PACKAGES = {
    "flash_attn/__init__.py": "from flash_attn.flash_attn_interface import *",
    "flash_attn/flash_attn_interface.py": """
        def fails(*tensors):
            raise RuntimeError("FlashAttention only supports CUDA tensors")
        def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, return_attn_probs=False):
            fails(q, k, v)
        def flash_attn_qkvpacked_func(qkv, dropout_p=0.0, softmax_scale=None, causal=False, return_attn_probs=False):
            fails(qkv)
        def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                                   softmax_scale=None, causal=False, return_attn_probs=False):
            fails(q, k, v)
    """,
    "xformers/__init__.py": "",
    "xformers/ops.py": """
        class LowerTriangularMask:
            pass
        def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, op=None):
            raise NotImplementedError("No operator found for `memory_efficient_attention_forward` with inputs")
    """,
    "causal_conv1d/__init__.py": """
        def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
                             final_states_out=None, activation=None):
            assert x.is_cuda
    """,
    "mamba_ssm/__init__.py": "",
    "mamba_ssm/ops/__init__.py": "",
    "mamba_ssm/ops/triton/__init__.py": "",
    "mamba_ssm/ops/selective_scan_interface.py": """
        def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                              return_last_state=False):
            raise RuntimeError("Expected u.is_cuda() to be true, but got false.")
        def mamba_inner_fn(xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight,
                           out_proj_bias, A, B=None, C=None, D=None, delta_bias=None, delta_softplus=True):
            raise RuntimeError("Expected u.is_cuda() to be true, but got false.")
    """,
    "mamba_ssm/ops/triton/ssd_combined.py": """
        def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False,
                                      return_final_states=False):
            raise RuntimeError("Expected x.is_cuda() to be true, but got false.")
        def mamba_split_conv1d_scan_combined(zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size,
                                             activation="silu", rmsnorm_weight=None, outproj_weight=None,
                                             outproj_bias=None, headdim=None, ngroups=1, return_final_states=False):
            raise RuntimeError("Expected x.is_cuda() to be true, but got false.")
    """,
}


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module with kernels of the user's own, beside a Triton that has no GPU."""
    importlib.import_module(
        "torch.utils._triton"
    ).has_triton_package()  # which torch remembers: it must not look for parts of the stand-in
    yield from _installed(TRITON, "own_kernels", tmp_path, monkeypatch)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from _installed(PACKAGES, "flash_attn", tmp_path, monkeypatch)


def _installed(files: dict[str, str], name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:

    tops = {path.partition("/")[0].removesuffix(".py") for path in files}
    for path, source in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(textwrap.dedent(source))
    before = {key: value for key, value in sys.modules.items() if key.partition(".")[0] in tops}
    for key in before:
        del sys.modules[key]
    monkeypatch.syspath_prepend(folder)
    try:
        yield importlib.import_module(name)
    finally:
        for key in [key for key in sys.modules if key.partition(".")[0] in tops]:
            del sys.modules[key]
        sys.modules.update(before)


class Calls(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, function: Any, width: int = 64, inside: int = 64) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(width, inside), function, nn.Linear(64, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


def ops_named(work: Workload, start: str, phase: str = "forward") -> list[Op]:
    return [op for op in work.ops if op.name.startswith(start) and op.phase == phase]


# -- Triton ----------------------------------------------------------------------------------------


def test_a_launch_moves_its_tensors_once_and_reaches_no_device(kernels: ModuleType) -> None:
    class Add(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            out = torch.empty_like(x)
            kernels.add[lambda meta: (math.ceil(x.numel() / meta["BLOCK"]),)](x, x, out, x.numel(), BLOCK=256)
            return out

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            out = torch.empty_like(grad)
            kernels.add[(1,)](grad, grad, out, grad.numel(), BLOCK=256)
            return out

    run = sys.modules["triton.runtime.jit"].JITFunction.run
    work = jc.trace(Calls(Add.apply), torch.zeros(8, 64), layers=False)
    size = 8 * 64 * 4
    for phase in ("forward", "backward"):
        (op,) = ops_named(work, "triton::add", phase)
        assert (op.flops, op.bytes_read, op.bytes_written, op.kind) == (0, 2 * size, size, "elementwise")
    assert work.tracer == "meta"
    assert not work.unsupported
    assert sys.modules["triton.runtime.jit"].launches == []
    assert sys.modules["triton.runtime.jit"].JITFunction.run is run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_of_a_tuned_kernel_are_those_of_the_blocks_that_waste_least(
    kernels: ModuleType, precision: str
) -> None:
    def multiplied(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        (m, k), n = x.shape, 64
        weight = torch.empty(k, n, device=x.device, dtype=x.dtype)
        kernels.product[lambda meta: (math.ceil(m / meta["BM"]), math.ceil(n / meta["BM"]))](
            x, weight, out, m, n, k, x.stride(0)
        )
        return out

    with torch.no_grad():
        work = trace(Calls(multiplied), torch.zeros(16, 64), train=False, precision=precision, layers=False)
    (op,) = ops_named(work, "triton::product")
    assert op.flops == 16 * 64 * 64  # blocks of 64 rows would have 4 times as much
    width = 4 if precision == "float32" else 2
    assert (op.bytes_read, op.bytes_written) == ((16 * 64 + 64 * 64) * width, 16 * 64 * width)
    assert (op.kind, op.dtype) == ("scan", precision)


def test_programs_that_differ_are_sampled(kernels: ModuleType) -> None:
    positions, width, block, heads = 2048, 64, 32, 6
    tensors = [torch.empty(heads, positions, width, device="meta") for _ in range(2)]
    given = dict(zip(("q", "k", "out", "T"), (*tensors, tensors[0][..., 0], positions), strict=True))
    done = launched(kernels.causal, (positions // block, heads), {**given, "D": width, "B": block})
    blocks = positions // block
    assert done.flops == heads * blocks * (blocks + 1) // 2 * block * block * width
    assert (done.read, done.written) == ({"q", "k"}, {"out"})


def test_functions_that_kernels_call_and_atomics(kernels: ModuleType) -> None:
    data = torch.empty(32, 32, device="meta")
    done = launched(kernels.gram, (3,), {"x": data, "out": data, "N": 32})
    assert done.flops == 3 * 32**3
    assert (done.read, done.written) == ({"x", "out"}, {"out"})


def test_numbers_have_the_methods_of_scalars(kernels: ModuleType) -> None:
    data, out = torch.empty(16, 16, device="meta"), torch.empty(16, 16, device="meta")
    done = launched(kernels.scalars, (5,), {"x": data, "out": out, "scale": 0.5, "N": 16, "CAP": 1.0})
    assert (done.flops, done.read, done.written) == (5 * 16**3, {"x"}, {"out"})


def test_a_condition_on_data_takes_both_ways(kernels: ModuleType) -> None:
    scores, target = torch.empty(4, 4096, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    given = {"x": scores, "target": target, "ignored": -100, "n": 4096, "BLOCK": 1024}
    done = launched(kernels.in_place, (4,), given)
    assert (done.flops, done.read, done.written) == (0, {"x", "target"}, {"x"})


def test_products_that_depend_on_data_are_unknown_and_a_note_says_so(kernels: ModuleType) -> None:
    def of_lengths(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        kernels.of_lengths[(1,)](x, torch.zeros(1, dtype=torch.int64, device=x.device), out, BLOCK=16)
        return out

    work = trace(Calls(of_lengths), torch.zeros(16, 64), train=False, layers=False)
    assert list(work.unsupported) == ["triton::of_lengths"]
    (op,) = ops_named(work, "triton::of_lengths")
    assert (op.flops, op.bytes_read, op.bytes_written) == (0, 16 * 64 * 4 + 8, 16 * 64 * 4)


def test_a_registered_formula_counts_a_triton_kernel(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.estimator.trace.formulas import register_op, table

    monkeypatch.setattr(table, "TABLE", dict(table.TABLE))
    register_op("triton::of_lengths", lambda x, lengths, out_, block, out: x.numel() * block, kind="matmul")

    def of_lengths(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        kernels.of_lengths[(1,)](x, torch.zeros(1, dtype=torch.int64, device=x.device), out, BLOCK=16)
        return out

    work = trace(Calls(of_lengths), torch.zeros(16, 64), train=False, layers=False)
    assert work.unsupported == {}
    assert [(op.flops, op.kind) for op in ops_named(work, "triton")] == [(16 * 64 * 16, "matmul")]


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("check", ["asserts", "looks_at_the_type", "refuses", "says_nothing"])
def test_code_that_accepts_gpu_tensors_only(kernels: ModuleType, check: str, precision: str | None) -> None:
    import gpu_only  # type: ignore[import-not-found]

    work = trace(Calls(getattr(gpu_only, check)), torch.zeros(8, 64), precision=precision, layers=False)
    assert sum(op.flops for op in work.ops if op.phase == "forward") == 2 * 8 * 64 * 64


def test_the_error_of_a_compiled_kernel_names_the_cause_and_the_fix() -> None:
    def compiled(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Expected x.is_cuda() to be true, but got false.")

    with pytest.raises(ModelError, match=r"calls a kernel that runs on a GPU only .*is_cuda.*register_fake"):
        trace(Calls(compiled), torch.zeros(8, 64))


# -- packages --------------------------------------------------------------------------------------

HEADS, WIDTH = 4, 16
SCORES = 2 * 8 * HEADS * 32 * 32 * WIDTH  # of 8 samples with 32 positions: Q K^T and P V


def split(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (3, HEADS, WIDTH))


def test_flash_attention_is_one_op_under_any_name(packages: ModuleType) -> None:
    plain, packed = packages.flash_attn_func, packages.flash_attn_qkvpacked_func
    plainly = Calls(lambda x: plain(*split(x).unbind(2), causal=True).flatten(2), inside=192)
    held = Calls(None, inside=192)
    held.kernel = packed  # type: ignore[assignment]
    held.function = lambda x: held.kernel(split(x), 0.1).flatten(2)  # type: ignore[operator]
    module = ModuleType("a_users_module")
    module.of_qkv = packed  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        named = Calls(lambda x: module.of_qkv(split(x)).flatten(2), inside=192)  # type: ignore[attr-defined]
        models = {"held": held, "named": named}
        del plainly
        for name, model in models.items():
            work = trace(model, torch.zeros(8, 32, 64), layers=False)
            (op,) = [op for op in work.ops if op.kind == "attention" and op.phase == "forward"]
            assert op.flops == SCORES, name
            (back,) = [op for op in work.ops if op.kind == "attention" and op.phase == "backward"]
            assert back.flops == SCORES * 5 // 2
        assert module.of_qkv is packed is held.kernel  # type: ignore[attr-defined]
    finally:
        del sys.modules[module.__name__]


def test_packed_sequences_count_with_their_average_length(packages: ModuleType) -> None:
    def packed(x: torch.Tensor) -> torch.Tensor:
        q, k, v = split(x).flatten(0, 1).unbind(1)
        begins = torch.arange(0, 8 * 32 + 1, 32, dtype=torch.int32)
        module = sys.modules["flash_attn"]
        out = module.flash_attn_varlen_func(q, k, v, begins, begins, 32, 32, causal=True)
        return out.reshape(8, 32, 64)

    work = trace(Calls(packed, inside=192), torch.zeros(8, 32, 64), layers=False)
    assert sum(op.flops for op in work.ops if op.kind == "attention" and op.phase == "forward") == SCORES


@pytest.mark.parametrize("heads", [0, HEADS])
def test_attention_of_xformers(packages: ModuleType, heads: int) -> None:
    import xformers.ops as ops  # type: ignore[import-not-found]

    def attended(x: torch.Tensor) -> torch.Tensor:
        parts = x.unflatten(-1, (3, heads, WIDTH)).unbind(2) if heads else x.chunk(3, -1)
        return ops.memory_efficient_attention(*parts, attn_bias=ops.LowerTriangularMask()).reshape(8, 32, 64)

    work = trace(Calls(attended, inside=192), torch.zeros(8, 32, 64), layers=False)
    (op,) = [op for op in work.ops if op.kind == "attention" and op.phase == "forward"]
    assert (op.flops, op.dims["causal"]) == (SCORES, 1)


class Mamba(nn.Module):
    """A block as mamba-ssm writes it, fused or in its parts."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.inside, self.rank, self.states, self.fused = 128, 4, 16, fused
        self.into = nn.Linear(64, 256, bias=False)
        self.conv = nn.Conv1d(128, 128, 4, groups=128, padding=3)
        self.project, self.delta = nn.Linear(128, 36, bias=False), nn.Linear(4, 128)
        self.out = nn.Linear(128, 64, bias=False)
        self.a, self.d = nn.Parameter(torch.ones(128, 16)), nn.Parameter(torch.ones(128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from causal_conv1d import causal_conv1d_fn  # type: ignore[import-not-found]
        from mamba_ssm.ops.selective_scan_interface import (  # type: ignore[import-not-found]
            mamba_inner_fn,
            selective_scan_fn,
        )

        xz = self.into(x).transpose(1, 2)
        if self.fused:
            weights = (self.conv.weight, self.conv.bias, self.project.weight, self.delta.weight, self.out.weight)
            return mamba_inner_fn(xz, *weights, None, -self.a, D=self.d, delta_bias=self.delta.bias)
        data, gate = xz.chunk(2, 1)
        data = causal_conv1d_fn(data, self.conv.weight.squeeze(1), self.conv.bias, activation="silu")
        steps, b, c = self.project(data.transpose(1, 2)).split([4, 16, 16], -1)
        steps = F.linear(steps, self.delta.weight).transpose(1, 2)
        scanned = selective_scan_fn(data, steps, -self.a, b.mT, c.mT, self.d, z=gate, delta_bias=self.delta.bias)
        return self.out(scanned.transpose(1, 2))


@pytest.mark.parametrize("fused", [True, False])
def test_a_block_of_mamba_ssm(packages: ModuleType, fused: bool) -> None:
    import causal_conv1d  # noqa: F401
    import mamba_ssm.ops.selective_scan_interface  # noqa: F401

    tokens = 4 * 32
    work = trace(Mamba(fused), torch.zeros(4, 32, 64), layers=False)
    (scan,) = [op for op in work.ops if op.kind == "scan" and op.phase == "forward"]
    assert scan.flops == tokens * 128 * 16
    products = tokens * (64 * 256 + 128 * 36 + 4 * 128 + 128 * 64)
    assert sum(op.flops for op in work.ops if op.kind == "matmul" and op.phase == "forward") == products
    assert sum(op.flops for op in work.ops if op.kind == "matmul" and op.phase == "backward") == 2 * products - (
        tokens * 64 * 256  # the data need no gradient
    )


def test_a_block_of_mamba2(packages: ModuleType) -> None:
    import mamba_ssm.ops.triton.ssd_combined as ssd

    heads, width, states = 4, 32, 16
    inside = heads * width

    class Mamba2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(64, 2 * inside + 2 * states + heads, bias=False)
            self.conv = nn.Conv1d(inside + 2 * states, inside + 2 * states, 4, groups=inside + 2 * states)
            self.a, self.d, self.dt = (nn.Parameter(torch.ones(heads)) for _ in range(3))
            self.norm, self.out = nn.Parameter(torch.ones(inside)), nn.Linear(inside, 64, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ssd.mamba_split_conv1d_scan_combined(
                self.into(x),
                self.conv.weight.squeeze(1),
                self.conv.bias,
                self.dt,
                -self.a,
                self.d,
                chunk_size=16,
                rmsnorm_weight=self.norm,
                outproj_weight=self.out.weight,
                headdim=width,
            )

    work = trace(Mamba2(), torch.zeros(4, 64, 64), layers=False)
    tokens = 4 * 64
    (scan,) = [op for op in work.ops if op.kind == "scan" and op.phase == "forward"]
    # C B^T of the one group, then of each head: within a chunk of 16, the states, and what they give.
    assert scan.flops == tokens * (16 * states + heads * (16 * width + 2 * width * states))
    products = tokens * (64 * (2 * inside + 2 * states + heads) + inside * 64)
    assert sum(op.flops for op in work.ops if op.kind == "matmul" and op.phase == "forward") == products


def test_transformers_own_code_is_read_where_a_package_is_installed(packages: ModuleType) -> None:
    """As its decorator does: the wrapper prefers the package, and keeps the PyTorch code."""

    def decorated(torch_function: Any) -> Any:
        implementation = packages.flash_attn_func

        @functools.wraps(torch_function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return (implementation or torch_function)(*args, **kwargs)

        return wrapped

    def chunk_gated_delta_rule(x: torch.Tensor) -> torch.Tensor:
        return x @ x.mT @ x

    name = "chunk_gated_delta_rule"
    module = sys.modules[__name__]
    setattr(module, name, decorated(chunk_gated_delta_rule))
    try:
        calls = Calls(lambda x: getattr(module, name)(x))
        work = trace(calls, torch.zeros(4, 32, 64), layers=False)
    finally:
        delattr(module, name)
    (scan,) = [op for op in work.ops if op.kind == "scan" and op.phase == "forward"]
    assert scan.flops == 2 * 4 * 32 * 32 * 64


class Lazy:
    """As packages make for what is not installed: any attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError("this part is not installed")


def test_objects_beside_a_model_that_raise_on_any_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "missing", Lazy(), raising=False)
    assert trace(Calls(torch.relu), torch.zeros(8, 64), layers=False).tracer == "meta"
