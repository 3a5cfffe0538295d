"""The large kernels of language models behind the population's parameters, on CPU tensors."""

from __future__ import annotations

import csv
import importlib
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch

from joulecast.estimator.cost.pieces import Columns

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MEASURED = BENCHMARKS / "measured" / "h100-sxm-large-kernels.csv"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_large_kernels")


def test_the_measured_kernels_are_those_of_the_script_and_no_faster_than_an_h100(script: ModuleType) -> None:
    with MEASURED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == script.COLUMNS
    names = [field.name for field in fields(script.Large)]
    kernels = [script.Large(row["op"], row["precision"], *(int(row[name]) for name in names[2:])) for row in rows]
    assert kernels == list(script.kernels())
    for kernel, row in zip(kernels, rows, strict=True):
        peak = 1979e12 if kernel.precision.startswith("float8") else 989.5e12
        products = kernel.m * kernel.k * kernel.n if kernel.op in ("linear", "grouped") else 0
        scores = kernel.batch * kernel.heads * kernel.length**2 * kernel.head
        work = 2 * products + (5 if kernel.op.endswith("backward") else 2) * scores  # half of them below the diagonal
        assert work / float(row["seconds"]) < peak
        assert 70 < float(row["watts"]) < 900  # a reading of 0.7 s may be 25 % off


def test_every_op_runs_on_tensors_of_its_sizes(script: ModuleType) -> None:
    make = script.Large
    shapes = {
        make("linear", "bfloat16", m=3, k=5, n=7): (3, 7),
        make("grouped", "bfloat16", m=32, k=16, n=8, experts=4): (32, 8),
        make("attention", "bfloat16", batch=2, heads=3, length=5, head=4): (2, 3, 5, 4),
        make("take_rows", "bfloat16", m=16, k=5): (16, 5),
        make("add_rows", "bfloat16", m=16, k=5): (2, 5),
        make("cross_entropy", "float32", m=4, n=6): (),
        make("copy", "bfloat16", elements=8): (4,),
    }
    for kernel, shape in shapes.items():
        assert script.prepared(kernel, "cpu")().shape == shape, kernel
    for op, of in (
        ("attention_backward", (2, 3, 5, 4)),
        ("embedding_backward", (6, 5)),
        ("cross_entropy_backward", (4, 6)),
    ):
        kernel = make(op, "bfloat16", m=4, n=6, k=5, batch=2, heads=3, length=5, head=4)
        assert script.prepared(kernel, "cpu")()[0].shape == of
    for op in ("adamw_fused", "adamw_foreach"):
        script.prepared(make(op, "float32", elements=400), "cpu")()


@pytest.mark.parametrize("precision", ["float8", "float8-rows"])
def test_a_quantized_tensor_times_its_scale_is_the_tensor(script: ModuleType, precision: str) -> None:
    values = torch.tensor([[1.0, -2.0, 4.0], [100.0, 50.0, -200.0]], dtype=torch.bfloat16)
    small, scale = script._quantized(values, precision)
    assert small.dtype == torch.float8_e4m3fn
    assert scale.numel() == (2 if precision == "float8-rows" else 1)
    assert (small.float() * scale).tolist() == [pytest.approx(row, rel=1 / 16) for row in values.tolist()]


def test_sustained_kernels_enter_the_fit_with_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    kernels = list(importlib.import_module("population_kernels").sustained())
    first = next(one for one in kernels if one.step.label == "linear")
    assert Columns(first.table).macs.item() == 8192 * 4096 * 4096
    assert Columns(first.table).moved.item() == 2 * (2 * 8192 * 4096 + 4096 * 4096)
    experts = next(one for one in kernels if one.step.label == "grouped")
    assert (Columns(experts.table).b.item(), Columns(experts.table).m.item()) == (8, 2048)
    backward = next(one for one in kernels if one.step.label == "attention_backward")
    assert Columns(backward.table).macs.item() == 5 * 32 * 8192**2 * 128 / 2
    optimizers = [one for one in kernels if one.step.label == "adamw_foreach"]
    assert [Columns(one.table).moved.item() for one in optimizers] == [28e9, 14e9]


def test_without_a_gpu_it_says_so(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_large_kernels.py", "--out", str(tmp_path / "kernels.csv")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main() == 2
    assert "no CUDA GPU is visible" in capsys.readouterr().err


def test_layers_of_large_models_have_their_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    networks = importlib.import_module("gpu_networks")
    with torch.device("meta"):
        sizes = {one.name: sum(p.numel() for p in one.build().parameters()) for one in networks.LANGUAGE}
    hidden, heads, inner = 4096, 1024, 14_336  # Llama 3 8B: projections, MLP and two norms a block
    block = 2 * hidden**2 + 2 * hidden * heads + 3 * hidden * inner + 2 * hidden
    assert sizes["llama3-8b-4of32-8192"] == 4 * block + 2 * 128_256 * hidden + hidden
    experts = 8 * 3 * hidden * inner + 8 * hidden  # Mixtral: experts and their router
    attention = 2 * hidden**2 + 2 * hidden * heads + 2 * hidden
    assert sizes["mixtral-8x7b-2of32-4096"] == 2 * (experts + attention) + 2 * 32_000 * hidden + hidden
    assert len({(s.model, s.precision) for s in networks.language_settings()}) == 18
