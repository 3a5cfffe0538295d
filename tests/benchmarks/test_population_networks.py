"""The stand-ins for the networks of published steps compute what their originals do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import population_networks as networks  # noqa: E402
from torch.nn import functional as F  # noqa: E402

LENGTH, WIDTH = 5, 8
CAUSAL = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("attention", "causal", "scaled"),
    [
        (networks._divided_scores, False, True),
        (networks._chosen_scores, True, True),
        (networks._limited_scores, True, False),  # OPT scales its queries before
    ],
)
def test_attention_of_transformers_4_38(attention, causal: bool, scaled: bool) -> None:  # type: ignore[no-untyped-def]
    q, k, v = torch.randn(3, 2, 3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~CAUSAL, torch.finfo(torch.float32).min)
    module = SimpleNamespace(causal=CAUSAL, training=False)
    mixed, _ = attention(module, q, k, v, mask, dropout=0.0)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=None if scaled else 1.0)
    torch.testing.assert_close(mixed, expected.transpose(1, 2))


def test_neusights_bert_has_logits_of_every_token_in_training_alone() -> None:
    """Of 512 tokens a sample, 30,522 logits of 1,024 values each: three products; in inference 2 of the first token."""
    steps = {
        train: networks.build_work(networks.WorkKey(f"neusight-bert-{name}", 1, train=train, optimizer=None))
        for train, name in ((True, "train"), (False, "infer"))
    }
    logits = [op for op in steps[True].ops if op.flops == 512 * 1024 * 30522]
    assert sum(op.count for op in logits) == 3
    assert not any(op.flops == 512 * 1024 * 30522 for op in steps[False].ops)
    assert any(op.flops == 1024 * 2 for op in steps[False].ops)


def test_gradients_that_are_not_cleared_are_added_to() -> None:
    """BERT-large with its heads has 336,226,108 parameters: 12 bytes of each are moved."""
    work = networks.build_work(networks.WorkKey("neusight-bert-train", 1, optimizer=None))
    added = [op for op in work.ops if op.name == "add_" and op.phase == "backward" and not op.layer]
    assert sum(op.bytes_moved * op.count for op in added) == 12 * 336_226_108
    assert not any(op.phase == "optimizer" for op in work.ops)
