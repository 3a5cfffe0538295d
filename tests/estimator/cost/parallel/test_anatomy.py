"""The blocks of a network and what passes between them, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.trace.workload import Layer

from .parts import op, product, work


def test_a_network_without_repeated_blocks_is_one_block() -> None:
    ops = (product("stem"), product("model.0.mlp"), product("head"))
    found = dissect(work(*ops))
    assert (found.blocks, found.before, found.after, found.stack) == ((ops,), (), (), "")
    assert (found.tokens, found.heads, found.boundary_elements) == (10, 0, 0)


def test_blocks_are_the_children_of_the_container_with_the_most_work() -> None:
    small = [product(f"small.{index}.up", n=1) for index in range(3)]
    large = [product(f"body.large.{index}", k=index) for index in (10, 2)]
    ops = (product("stem"), *small, *large, product("head"), product("stem"))
    found = dissect(work(*ops))
    assert found.stack == "body.large."
    assert found.blocks == ((large[1],), (large[0],))  # in the order of their numbers
    assert found.before == (ops[0], *small, ops[-1])
    assert found.after == (ops[-2],)


def test_what_a_block_passes_on() -> None:
    ops = [replace(product(f"model.{index}.mlp"), dims={"elements_out": 7 + index}) for index in range(2)]
    assert dissect(work(*ops)).boundary_elements == 8  # from the blocks' last ops
    last = replace(product("model.0.mlp"), dims={"elements_out": 3})
    back = replace(product("model.1.mlp"), phase="backward", dims={"elements_out": 99})
    assert dissect(work(*ops, last, back)).boundary_elements == 8
    assert dissect(work(*ops, last, replace(last, layer="model.1.mlp"))).boundary_elements == 3
    rows = (Layer("model.0", "Block", (2, 5, 6), 0, 0, 1, "trace"), Layer("model.0.mlp", "M", (900,), 0, 0, 2, "trace"))
    assert dissect(work(*ops, layers=rows)).boundary_elements == 60  # better: from the layer table


@pytest.mark.parametrize(
    ("precision", "size"),
    [("float64", 8), ("float32", 4), ("tf32", 4), ("float16", 2), ("bfloat16", 2), ("float8_e4m3fn", 1)],
)
def test_bytes_of_what_a_block_passes_on(precision: str, size: int) -> None:
    ops = [replace(product(f"model.{index}.mlp"), dims={"elements_out": 7}) for index in range(2)]
    assert dissect(work(*ops, precision=precision)).boundary_bytes == 7 * size


def test_heads_are_the_attentions_batch_over_the_samples() -> None:
    found = dissect(work(op("attention", "a", b=16, q=5), op("attention", "b", b=8, q=5), op("attention", "c", b=0)))
    assert found.heads == 8
