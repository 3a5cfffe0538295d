"""Activations that fused kernels keep, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.experts import Experts
from joulecast.estimator.cost.parallel.kept import kept_by_selection, kept_bytes, kept_per_block
from joulecast.estimator.cost.parallel.memory import memory_of
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.shard import slowest_stage
from joulecast.estimator.trace.workload import Op

from .decoder import BLOCKS, HEADS, HIDDEN, TOKENS, decoder, matmul

WHOLE = TOKENS * HIDDEN
# Results: attention, its projection, the wide and the narrow product. Inputs: the MLP's two; the projection's is
# attention's result.
RESULTS = WHOLE * (1 + 1 + 4 + 1)
ELEMENTS = RESULTS + WHOLE * (1 + 4)
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
        ("fused", "selective", 2 * RESULTS),
        ("megatron-core", "selective", 2 * RESULTS),
        ("megatron-core", "full", 2 * ELEMENTS),
        ("megatron", "none", 2 * ELEMENTS + 2 * SCORES),
        ("megatron", "selective", 2 * ELEMENTS),
        ("megatron", "full", 2 * ELEMENTS),
        ("eager", "none", None),
        ("", "none", None),
    ],
)
def test_who_keeps_what(software: str, checkpointing: str, expected: float | None) -> None:
    assert kept_per_block(dissect(decoder()), software, checkpointing) == expected


def test_inputs_of_fp8_products_are_kept_in_fp8() -> None:
    found = dissect(decoder())
    op = replace(product("mlp.up", 2, 3, 5), dtype="float8_e4m3fn")
    assert kept_bytes([op], found, scores=False) == 2 * 2 * 5 + 2 * 3


def test_selection_computes_products_that_widen_eight_times_again() -> None:
    found = dissect(decoder())
    assert kept_by_selection([product("attn.up", 2, 3, 24)], found) == 0
    assert kept_by_selection([product("attn.up", 2, 3, 23)], found) == 2 * 2 * 23
    assert kept_by_selection([attention(b=2, q=3, s=11, dv=5)], found) == 2 * 30
    assert kept_by_selection([replace(product("mlp.up", 2, 3, 5), phase="backward")], found) == 0


def test_selection_keeps_the_tokens_sent_to_experts_once_and_not_what_these_send_back() -> None:
    found = dissect(decoder())
    experts = Experts(4, 2, 4 * 2 * HIDDEN, frozenset())
    at = "model.layers.0.mlp.experts"
    found = replace(found, experts={at: experts, f"{at}.up": experts, f"{at}.gate": experts, f"{at}.down": experts})
    up, gate = (product(f"mlp.experts.{name}", 2, HIDDEN, 5, b=4) for name in ("up", "gate"))
    down = product("mlp.experts.down", 2, 5, HIDDEN, b=4)
    assert kept_by_selection([up, gate, down], found) == 2 * 4 * (2 * HIDDEN + 2 * 5 + 2 * 5)
    narrow = replace(up, dtype="float8_e4m3fn")
    assert kept_by_selection([narrow, down], found) == 4 * 2 * HIDDEN + 2 * 4 * 2 * 5


def test_a_network_without_attention_keeps_what_was_traced() -> None:
    assert kept_per_block(replace(dissect(decoder()), heads=0), "fused", "none") is None


def test_memory_of_fused_kernels() -> None:
    work = decoder()
    found = dissect(work)
    stage = slowest_stage(found, Plan())
    kept = kept_per_block(found, "fused", "none")
    assert memory_of(work, found, stage, Plan(), kept).activations == BLOCKS * 2 * ELEMENTS
    assert memory_of(work, found, stage, Plan()).activations == BLOCKS * 10 * WHOLE * 2


def product(name: str, m: int, k: int, n: int, *, b: int = 1, count: int = 1) -> Op:
    one = matmul(f"model.layers.0.{name}", "forward", m, k, n)
    return replace(one, dims={**one.dims, "b": b}, count=count)


def attention(*, count: int = 1, **dims: int) -> Op:
    return Op("attention", "attention", "forward", "model.layers.0.attn", 0, 0, 0, "bfloat16", dims, count)


@pytest.mark.parametrize(
    ("ops", "elements"),
    [
        ([product("mlp.up", 2, 3, 5)], 2 * 5 + 2 * 3),
        ([product("mlp.up", 2, 3, 5, b=7)], 7 * (2 * 5 + 2 * 3)),
        ([product("mlp.up", 2, 3, 5, count=4)], 4 * (2 * 5 + 2 * 3)),
        ([product("mlp.up", 2, 3, 5, b=7), product("mlp.gate", 14, 3, 5)], 7 * (10 + 6) + 14 * 5),  # reads the same
        ([product("mlp.up", 2, 3, 5), product("mlp.gate", 3, 2, 5)], 2 * 5 + 2 * 3 + 3 * 5 + 3 * 2),
        ([product("mlp.up", 2, 3, 5), product("other.up", 2, 3, 5)], 2 * (10 + 6)),  # of another child
        ([attention(b=2, q=3, s=11, dv=5)], 2 * 3 * 5),
        ([attention(b=2, q=3, s=11, dv=5, count=4)], 4 * 2 * 3 * 5),
        ([attention(b=2, q=3, s=11, dv=5), product("attn.proj", 6, 5, 1)], 30 + 6),  # reads attention's result
        ([attention(b=2, q=3, s=11, dv=5), product("attn.proj", 5, 6, 1)], 30 + 5),
        ([attention(b=2, q=3, s=11, dv=5), product("attn.proj", 6, 4, 1)], 30 + 6 + 24),
        ([attention(b=2, q=3, s=11, dv=5), product("mlp.up", 6, 5, 1)], 30 + 6 + 30),
        ([replace(product("mlp.up", 2, 3, 5), dims={"m": 2, "k": 3, "n": 5})], 2 * 5 + 2 * 3),
        ([replace(product("mlp.up", 2, 3, 5), kind="norm")], 0),
        ([replace(attention(b=2, q=3, s=11, dv=5), kind="activation")], 0),
        ([attention(b=2)], 0),  # not traced as one op
        ([replace(product("mlp.up", 2, 3, 5), dims={"m": 2})], 0),
        ([replace(product("mlp.up", 2, 3, 5), phase="backward")], 0),
        ([product("mlp.up", 2, 3, 5), replace(product("mlp.up", 9, 9, 9), phase="backward")], 16),
        ([replace(product("mlp.up", 9, 9, 9), phase="backward"), product("mlp.up", 2, 3, 5)], 16),
    ],
)
def test_elements_that_are_kept(ops: list[Op], elements: int) -> None:
    found = dissect(decoder())
    assert kept_bytes(ops, found, scores=False) == 2 * elements
    assert kept_bytes(ops, replace(found, element_bytes=4), scores=False) == 4 * elements


@pytest.mark.parametrize(
    ("dims", "size", "bytes_kept"),
    [
        ({}, 2, 2 * 30 + 2 * 66),
        ({}, 4, 4 * 30 + 4 * 66),
        ({"dropped": 9}, 2, 2 * 30 + (2 + 2 + 1) * 66),
        ({"dropped": 9}, 4, 4 * 30 + (4 + 4 + 1) * 66),
        ({"dropped": 0}, 2, 2 * 30 + 2 * 66),
    ],
)
def test_probabilities_that_are_kept(dims: dict[str, int], size: int, bytes_kept: int) -> None:
    found = replace(dissect(decoder()), element_bytes=size)
    for count in (1, 3):
        op = attention(b=2, q=3, s=11, dv=5, count=count, **dims)
        assert kept_bytes([op], found, scores=True) == count * bytes_kept


def test_masks_of_dropouts_in_the_forward_pass() -> None:
    found = dissect(decoder())
    mask = Op("dropout", "dropout", "forward", "model.layers.0.drop", 0, 0, 0, "bfloat16", {"elements_out": 7}, 3)
    assert kept_bytes([mask], found, scores=False) == 21
    assert kept_bytes([replace(mask, dims={})], found, scores=False) == 0
    for phase in ("backward", "optimizer"):
        assert kept_bytes([replace(mask, phase=phase)], found, scores=False) == 0
    assert kept_bytes([replace(mask, kind="activation")], found, scores=False) == 0


def test_the_mean_of_blocks_that_differ() -> None:
    small, large = (product("mlp.up", 2, 3, 5),), (product("mlp.up", 2, 3, 5, count=3),)
    found = replace(dissect(decoder()), blocks=(small, small, large))
    assert kept_per_block(found, "fused", "none") == (32 + 32 + 96) / 3
