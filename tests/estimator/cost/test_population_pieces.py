"""What an op makes the device do, in pieces; products in FP8. By hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.pieces import CLASSES, FIELDS, TRAFFIC, Columns, columns, merged
from joulecast.estimator.trace.workload import Op

from .neutral import conv, matmul, mover, parts


def test_products_in_8_bits_take_their_share_of_the_higher_rate_and_conversions_of_their_inputs() -> None:
    """8 T multiply-adds per second in 16 bits, 16 T in 8 bits: 2 x 0.9 times as fast."""
    device = {"fp8": 16e12, "power": 1e9}
    half = matmul(256, 256, 128, half=True)
    eight = replace(half, dtype="float8_e4m3fn")
    before, after = parts(half, device=device), parts(eight, device=device)
    # 2 bytes of each element of both inputs, 256 x 256 + 256 x 128 of them, at 1 TB/s.
    converted_s = 2 * 256 * (256 + 128) / 1e12
    assert after["compute"] == pytest.approx(before["compute"] / 1.8)
    assert after["memory"] == pytest.approx(before["memory"] + converted_s)


def test_a_device_without_such_units_runs_them_in_16_bits() -> None:
    half = matmul(256, 256, 128, half=True)
    eight = replace(half, dtype="float8_e4m3fn")
    assert parts(eight)["compute"] == parts(half)["compute"]


def row(parts: Columns, index: int = 0) -> dict[str, float]:
    """The fields of one piece that are not 0."""
    fields = FIELDS
    return {name: value for name, value in zip(fields, parts.table[index].tolist(), strict=True) if value}


def test_pieces_of_products_and_of_traffic() -> None:
    ops = [
        Op("mm", "matmul", "backward", "", 60, 7, 3, "bfloat16", {"b": 2, "m": 2, "k": 3, "n": 5}, 4),
        Op("sdpa", "attention", "forward", "", 99, 1, 1, dims={"b": 6, "q": 5, "s": 7, "d": 8}),
        Op("mm", "matmul", "forward", "", 1000, 1, 0),  # sizes unknown: a cube of as many multiply-adds
        Op("sort", "sort", "forward", "", 0, 1, 0),
        Op("sgd", "optimizer", "optimizer", "", 0, 0, 2),
        Op("mm", "matmul", "forward", "", 0, 5, 0),
        Op("norm", "norm", "backward", "", 50, 1, 1),
    ]
    found = columns(ops)
    plain = {"issued": 1.0, "kernels": 1.0, "count": 1.0}
    assert row(found, 0) == {
        **plain, "cls": 5, "phase": 1, "macs": 60, "moved": 10, "b": 2, "m": 2, "k": 3, "n": 5, "count": 4, "half": 1,
    }  # fmt: skip
    assert row(found, 1) == {**plain, "op": 1, "cls": 6, "macs": 99, "moved": 2, "b": 6, "m": 5, "k": 8, "n": 7}
    assert row(found, 2) == pytest.approx(
        {**plain, "op": 2, "cls": 4, "macs": 1000, "moved": 1, "b": 1, "m": 10, "k": 10, "n": 10}
    )
    assert row(found, 3) == {**plain, "op": 3, "cls": 8, "traffic": 6, "moved": 1}
    assert row(found, 4) == {**plain, "op": 4, "cls": 8, "traffic": 5, "phase": 2, "moved": 2, "passes": 1.0}
    assert row(found, 5) == {**plain, "op": 5, "cls": 8, "traffic": 2, "moved": 5}
    assert row(found, 6) == {**plain, "op": 6, "cls": 8, "traffic": 1, "phase": 1, "moved": 2, "per_row": 1}


@pytest.mark.parametrize(
    ("kind", "traffic"),
    [
        *(("norm", "norm"), ("softmax", "reduce"), ("loss", "reduce"), ("reduce", "reduce"), ("pool", "pool")),
        *(("optimizer", "optimizer"), ("embedding", "gather"), ("sort", "gather"), ("activation", "pointwise")),
    ],
)
def test_kinds_of_traffic(kind: str, traffic: str) -> None:
    assert TRAFFIC[int(columns([mover(kind)]).traffic[0])] == traffic


@pytest.mark.parametrize(
    ("op", "cls"),
    [
        (conv(1), "conv1"),
        (conv(9), "conv"),
        (conv(9, groups=128), "depthwise"),
        (conv(9, groups=64), "grouped"),
        (conv(1, groups=2), "grouped"),
        (matmul(2, 2, 2), "matmul"),
        (matmul(2, 2, 2, b=2), "batched"),
    ],
)
def test_classes_of_products(op: Op, cls: str) -> None:
    assert CLASSES[int(columns([op]).cls[0])] == cls


def test_a_convolutions_gradients_are_two_products_of_which_the_first_is_issued() -> None:
    # 2 images of 6 channels to 10 in 2 groups, 12 positions to 3, window 9
    dims = {"n": 2, "c_in": 6, "c_out": 10, "k": 9, "groups": 2, "in": 12, "out": 3, "transposed": 0}
    both = columns([Op("cb", "conv", "backward", "", 1000, 80, 20, dims={**dims, "channels_last": 1})])
    shared = {
        "cls": 2, "phase": 1, "macs": 500, "moved": 50, "b": 2, "count": 1, "kernels": 1,
        "layout": 4 * (24 * 6 + 6 * 10), "last": 1, "window": 9, "stride": 4,
    }  # fmt: skip
    assert row(both, 0) == {**shared, "m": 6, "k": 5 * 9, "n": 3, "issued": 1}
    assert row(both, 1) == {**shared, "m": 3 * 9, "k": 6, "n": 5, "weight_grad": 1}
    weight = columns([Op("cb", "conv", "backward", "", 1000, 80, 20, dims={**dims, "grad_input": 0})])
    assert (len(weight.count), weight.macs[0], weight.issued[0], weight.weight_grad[0]) == (1, 1000, 1, 1)
    turned = columns([Op("c", "conv", "forward", "", 1, 1, 1, "float16", {**dims, "transposed": 1})])
    assert (turned.m[0], turned.k[0], turned.n[0], turned.last[0]) == (24, 3 * 9, 5, 0)
    assert turned.layout[0] == 2 * (24 * 6 + 6 * 10)


def test_a_recurrent_layers_two_products() -> None:
    # 10 positions of 4 samples, 6 inputs and 2 states, 3 layers in both directions, 8 gates' rows
    dims = {"steps": 10, "n": 4, "input": 6, "hidden": 2, "layers": 3, "directions": 2}
    macs = 10 * 4 * (6 + 2) * 8 * 6
    forward = columns([Op("lstm", "rnn", "forward", "", macs, 5, 5, dims=dims, count=2)])
    assert row(forward, 0) == {
        "cls": 4, "macs": macs * 6 / 8, "moved": 10, "b": 1, "m": 40, "k": 6 * 6, "n": 8, "count": 2, "issued": 1,
        "kernels": 1,
    }  # fmt: skip
    assert row(forward, 1) == {
        "cls": 7, "macs": macs * 2 / 8 / 60, "b": 1, "m": 4, "k": 2, "n": 8, "count": 2, "kernels": 60,
    }  # fmt: skip
    back = columns([Op("lstm_backward", "rnn", "backward", "", 2 * macs, 5, 5, dims=dims)])
    assert (back.k.tolist(), back.n.tolist()) == ([72, 4], [8, 8])
    lone = columns([Op("rnn", "rnn", "forward", "", 10 * 4 * 8 * 2, 0, 0, dims={**dims, "layers": 1, "directions": 1})])
    assert (lone.kernels.tolist(), lone.n.tolist()) == ([1, 10], [2, 2])


def test_pieces_that_differ_in_one_field_stay_apart() -> None:
    ops = [matmul(2, 2, 2), matmul(2, 2, 2, half=True), replace(matmul(2, 2, 2), count=5), mover(), mover(moved=1)]
    both = merged(columns(ops))
    assert sorted(both.count.tolist()) == [1, 1, 1, 6]
    assert set(both.op.tolist()) == {0}


def test_a_window_that_is_a_tensor_is_computed_whole_by_pytorch_and_in_part_by_stacks() -> None:
    dims = {"b": 2, "q": 8, "d": 4, "s": 8, "causal": 1, "window": 2}
    banded = Op("attention", "attention", "forward", "", 1024, 0, 0, "bfloat16", dims)
    whole = replace(banded, dims={**dims, "whole": 1})
    band = (2 * 3 / 2 + 6 * 2) / 64  # of 8 x 8 scores, two rows of the triangle and six of two
    assert columns([banded]).macs.tolist() == [1024 * band]
    assert columns([whole]).macs.tolist() == [1024]
    assert columns([whole], "fused").macs.tolist() == [1024 * band]


def test_an_update_counts_the_tensors_that_pytorch_reads_and_writes() -> None:
    ops = [Op(name, "optimizer", "optimizer", "", 0, 4, 3) for name in ("sgd", "momentum", "adam", "adamw", "lion")]
    assert columns(ops).passes.tolist() == [1.0, 8 / 5, 18 / 7, 20 / 7, 2.2]
    assert columns([Op("add", "elementwise", "forward", "", 0, 4, 3)]).passes.tolist() == [0.0]
