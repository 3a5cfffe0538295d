"""How published steps of language models are read, on made-up rows."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
COLUMNS = ("gpu_key", "n_gpus", "network", "seq_len", "micro_batch", "precision", "framework", "year")
COLUMNS += ("tokens_per_s_per_gpu", "notes")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("distributed_runs")


def test_which_rows_of_jax_toolbox_have_flash_attention(module: ModuleType, tmp_path: Path) -> None:
    """All since release 24.04 except GPT 126M, none before; the newest of equal rows is read."""
    rows = [
        ("h100-sxm", 64, "GPT 126M", 2048, 4, "te bf16", "JAX-Toolbox pax", 2025, 1e5, "H100 Results"),
        ("h100-sxm", 256, "GPT 5B", 2048, 8, "te bf16", "JAX-Toolbox pax", 2025, 1e4, "H100 Results"),
        ("h100-sxm", 256, "GPT 5B", 2048, 8, "te bf16", "JAX-Toolbox pax", 2024, 9e3, "H100 Results"),
        ("h100-sxm", 256, "GPT 5B", 2048, 8, "te bf16", "JAX-Toolbox pax", 2023, 8e3, "H100 Results"),
        ("h100-sxm", 16, "LLaMA2 7B", 4096, 2, "bf16", "JAX-Toolbox pax", 2025, 1e4, "SFT Results"),
        ("h100-sxm", 16, "LLaMA2 7B", 4096, 2, "te bf16", "JAX-Toolbox pax", 2025, 1e4, "LoRA Results"),
        ("h100-sxm", 8, "LLaMA2 7B", 4096, 2, "bf16", "JAX-Toolbox maxtext", 2025, 1e4, "LLaMA"),
    ]
    (tmp_path / "jax-toolbox").mkdir()
    with (tmp_path / "jax-toolbox" / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    found = [
        (run.group, run.software, run.plan.checkpointing, round(run.samples * run.sequence / run.seconds / run.devices))
        for run in module.jax_toolbox(tmp_path)
    ]
    assert found == [
        ("GPT 126M", "megatron", "none", 100_000),
        ("GPT 5B", "fused", "selective", 10_000),
        ("GPT 5B", "megatron", "selective", 9_000),
        ("LLaMA2 7B", "fused", "none", 10_000),
        ("LLaMA2 7B", "fused", "selective", 10_000),
    ]
    assert [run.label for run in module.jax_toolbox(tmp_path)] == ["", "", "", module.PADDED, ""]
