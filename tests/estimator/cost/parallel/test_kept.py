"""Activations that fused kernels keep, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.kept import kept_bytes, kept_per_block
from joulecast.estimator.cost.parallel.memory import memory_of
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.shard import slowest_stage
from joulecast.estimator.trace.workload import Op

from .decoder import BLOCKS, HEADS, HIDDEN, TOKENS, decoder, matmul

WHOLE = TOKENS * HIDDEN
# Results: attention, its projection, the wide and the narrow product. Inputs: the MLP's two; the projection's is
# attention's result.
ELEMENTS = WHOLE * (1 + 1 + 4 + 1) + WHOLE * (1 + 4)
SCORES = HEADS * TOKENS * TOKENS


def test_results_of_products_and_other_inputs_once() -> None:
    found = dissect(decoder())
    assert kept_bytes(found.blocks[0], found, scores=False) == 2 * ELEMENTS


def test_products_that_read_the_same_keep_it_once() -> None:
    found = dissect(decoder())
    gate = matmul("model.layers.0.mlp.gate", "forward", TOKENS, HIDDEN, 4 * HIDDEN)
    assert kept_bytes((*found.blocks[0], gate), found, scores=False) == 2 * (ELEMENTS + 4 * WHOLE)


def test_written_scores_are_kept_and_after_a_dropout_again_with_its_mask() -> None:
    found = dissect(decoder())
    block = found.blocks[0]
    assert kept_bytes(block, found, scores=True) == 2 * ELEMENTS + 2 * SCORES
    dropped = [replace(op, dims={**op.dims, "dropped": 5}) if op.kind == "attention" else op for op in block]
    assert kept_bytes(dropped, found, scores=True) == 2 * ELEMENTS + 5 * SCORES


def test_a_dropout_keeps_a_byte_for_each_element() -> None:
    found = dissect(decoder())
    dropout = Op("dropout", "dropout", "forward", "model.layers.0.drop", 0, 0, 0, "bfloat16", {"elements_out": 7})
    assert kept_bytes((*found.blocks[0], dropout), found, scores=False) == 2 * ELEMENTS + 7


@pytest.mark.parametrize(
    ("software", "checkpointing", "expected"),
    [
        ("fused", "none", 2 * ELEMENTS),
        ("fused", "selective", 2 * ELEMENTS),
        ("megatron", "none", 2 * ELEMENTS + 2 * SCORES),
        ("megatron", "selective", 2 * ELEMENTS),
        ("eager", "none", None),
        ("", "none", None),
    ],
)
def test_who_keeps_what(software: str, checkpointing: str, expected: float | None) -> None:
    assert kept_per_block(dissect(decoder()), software, checkpointing) == expected


def test_a_network_without_attention_keeps_what_was_traced() -> None:
    assert kept_per_block(replace(dissect(decoder()), heads=0), "fused", "none") is None


def test_memory_of_fused_kernels() -> None:
    work = decoder()
    found = dissect(work)
    stage = slowest_stage(found, Plan())
    kept = kept_per_block(found, "fused", "none")
    assert memory_of(work, found, stage, Plan(), kept).activations == BLOCKS * 2 * ELEMENTS
    assert memory_of(work, found, stage, Plan()).activations == BLOCKS * 10 * WHOLE * 2
