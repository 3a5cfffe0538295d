"""The single kernels behind the figures of docs/accuracy.md, on CPU tensors."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ITEM = {"float32": 4, "tf32": 4, "bfloat16": 2}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    yield importlib.import_module("gpu_kernels")
    for backend, allowed in zip(backends, before, strict=True):  # the script sets it
        backend.allow_tf32 = allowed


def measured(script: ModuleType) -> list[tuple]:
    with (BENCHMARKS / "measured" / "h100-sxm-kernels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == script.COLUMNS
    names = [field.name for field in fields(script.Kernel)]
    return [
        (
            script.Kernel(row["op"], row["precision"], *(int(row[name]) for name in names[2:])),
            float(row["warm_s"]),
            float(row["cold_s"]),
        )
        for row in rows
    ]


def test_kernels_are_all_different(script: ModuleType) -> None:
    listed = list(script.kernels())
    assert len(set(listed)) == len(listed)


def test_the_measured_kernels_are_among_those_of_the_script_and_no_faster_than_an_h100(script: ModuleType) -> None:
    rows = measured(script)
    assert len(rows) == 1489
    assert {kernel for kernel, _, _ in rows} <= set(script.kernels())
    peak = {"float32": 67e12, "tf32": 494.5e12, "bfloat16": 989.5e12}  # FLOP/s
    for kernel, warm_s, cold_s in rows:
        assert 1e-6 < warm_s < 0.1
        assert 1e-6 < cold_s < 0.1
        products = 2 * max(kernel.batch, 1) * kernel.m * kernel.k * kernel.n
        assert products / warm_s < peak[kernel.precision], kernel
        if kernel.elements >= 2**26:  # larger than the cache: read or written once at least, at 3.35 TB/s
            assert ITEM[kernel.precision] * kernel.elements / cold_s < 3.35e12, kernel


def test_every_op_runs_on_tensors_of_its_sizes(script: ModuleType) -> None:
    smallest = {}
    for kernel in script.kernels():
        if kernel.precision == "float32":
            smallest.setdefault((kernel.op, kernel.channels_last), replace(kernel, batch=min(kernel.batch, 2)))
    for kernel in smallest.values():
        result = script.prepared(kernel, device="cpu")()
        results = result if isinstance(result, tuple) else (result,)
        assert any(isinstance(one, torch.Tensor) for one in results), kernel
    conv = script.Kernel("conv", "float32", 1, 2, c_in=4, c_out=6, window=3, stride=2, groups=2, size=8)
    assert script.prepared(conv, "cpu")().shape == (2, 6, 4, 4)
    assert script.prepared(conv, "cpu")().is_contiguous(memory_format=torch.channels_last)
    for op, shape in (("conv_dgrad", (2, 4, 8, 8)), ("conv_wgrad", (6, 2, 3, 3))):
        grads = script.prepared(replace(conv, op=op), "cpu")()
        assert [one.shape for one in grads if one is not None] == [shape]
    linear = script.Kernel("linear", "bfloat16", m=3, k=5, n=7)
    assert script.prepared(linear, "cpu")().shape == (3, 7)
    assert script.prepared(linear, "cpu")().dtype == torch.bfloat16
    attention = script.Kernel("attention_backward", "float32", batch=2, heads=3, head=4, causal=1, length=5)
    assert [one.shape for one in script.prepared(attention, "cpu")()] == [(2, 3, 5, 4)] * 3


def test_tf32_is_allowed_for_its_kernels_alone(script: ModuleType) -> None:
    for precision, allowed in (("tf32", True), ("float32", False)):
        script.prepared(script.Kernel("bmm", precision, batch=1, m=1, k=1, n=1), "cpu")
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed


def test_without_a_gpu_it_says_so(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_kernels.py", "--out", str(tmp_path / "kernels.csv")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main() == 2
    assert "no CUDA GPU is visible" in capsys.readouterr().err
