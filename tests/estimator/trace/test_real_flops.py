"""Forward multiply-adds of shrunk transformers models, against a real run counted by PyTorch's FLOP counter.

The table has one model per family here; `benchmarks/real_flops.py` runs all of its table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", minversion="5")

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
SAMPLE = (
    *("DebertaV2", "Llama", "T5", "Mixtral", "Qwen3Moe", "DeepseekV3", "Mamba", "Mamba2", "FalconH1", "Qwen3Next"),
    *("Rwkv", "Swin", "WavLM", "Yolos", "Llava", "Qwen2VL"),
)


@pytest.mark.parametrize("name", SAMPLE)
def test_forward_multiply_adds_are_those_of_a_real_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("real_flops", None)
    import real_flops

    ours, counted, tracer = real_flops.compare(name)
    assert counted > 0
    assert ours == pytest.approx(counted, rel=0.01)
    assert tracer == "meta"
