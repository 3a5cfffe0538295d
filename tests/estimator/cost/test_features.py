"""What a fitted time model prices: pieces of ops and their features, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from joulecast.estimator.base.errors import ProfileError
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.features import FEATURES, Pieces, covers, pieces
from joulecast.estimator.trace.workload import Op

MIB = 2**20


def op(kind: str, phase: str = "forward", flops: int = 0, moved: int = 0, *, name: str = "op", **dims: int) -> Op:
    return Op(name, kind, phase, "", flops, moved, 0, dims=dims)


# 2 images of 6 channels to 10 in 2 groups, 12 positions to 3, a window of 9
SIZES = {"n": 2, "c_in": 6, "c_out": 10, "k": 9, "groups": 2, "in": 12, "out": 3, "transposed": 0}
LARGE = {**SIZES, "groups": 1, "in": 2**22, "out": 2**21}


def values(parts: Pieces, index: int = 0) -> dict[str, float]:
    """The features of one piece that are not 0."""
    found = {name: float(parts.values(name)[index]) for name in FEATURES}
    return {name: value for name, value in found.items() if value}


def columns(parts: Pieces) -> list[list[float]]:
    """m, k and n of each piece."""
    return parts.columns[:, 3:6].tolist()


def test_a_matrix_product() -> None:
    parts = pieces([op("matmul", "backward", 60, 1000, b=1, m=4, k=3, n=5)])
    assert (parts.kind, parts.role) == (("matmul",), ("backward",))
    tiles = {"macs_n8": 60 / 5 * 8, "macs_n16": 60 / 5 * 16, "macs_n32": 60 / 5 * 32}
    assert values(parts) == pytest.approx(
        {
            **tiles, "macs_n64": 60 / 5 * 64, "macs_n128": 60 / 5 * 128, "launch": 1, "macs": 60, "bytes": 1000,
            "left": 12, "right": 15, "result": 20,
        }
    )  # fmt: skip
    assert pieces([op("matmul", "optimizer", b=1, m=4, k=3, n=5)]).role == ("forward",)


@pytest.mark.parametrize(("n", "whole"), [(1, 32), (32, 32), (33, 64), (64, 64), (65, 96)])
def test_whole_tiles(n: int, whole: int) -> None:
    parts = pieces([op("matmul", flops=2 * 3 * n, m=2, k=3, n=n)])
    assert parts.values("macs_n32")[0] == pytest.approx(2 * 3 * whole)


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ({"groups": 1}, "conv"),
        ({"groups": 1, "k": 1}, "conv1"),
        ({"groups": 2}, "conv_grouped"),
        ({"groups": 2, "k": 1}, "conv_grouped"),
        ({"groups": 6, "c_out": 12}, "conv_depthwise"),
    ],
)
def test_kinds_of_convolutions(sizes: dict[str, int], kind: str) -> None:
    assert pieces([op("conv", **{**SIZES, **sizes})]).kind == (kind,)


def test_a_convolution_is_a_product_of_positions_and_windows() -> None:
    parts = pieces([op("conv", flops=90, moved=40, **SIZES)])
    assert parts.role == ("forward",)
    assert columns(parts) == [[2 * 3, 3 * 9, 5]]
    found = values(parts)
    weights = 6 * 5 * 9
    assert (found["launch"], found["macs"], found["bytes"]) == (1, 90, 40)
    assert (found["rereads"], found["planes"]) == (2 * weights, 2 * 2)
    assert not {"wide", "fresh", "dropped", "spilled", "copied"} & found.keys()
    assert columns(pieces([op("conv", **{**SIZES, "transposed": 1})])) == [[2 * 12, 3 * 9, 5]]


def test_a_convolutions_gradients_share_its_cost() -> None:
    parts = pieces([op("conv", "backward", 90, 40, **SIZES)])
    assert parts.role == ("grad_input", "grad_weight")
    assert columns(parts) == [[2 * 3, 5 * 9, 3], [3 * 9, 2 * 3, 5]]
    for index in (0, 1):
        found = values(parts, index)
        assert (found["launch"], found["macs"], found["bytes"]) == (0.5, 45, 20)
    one = pieces([op("conv", "backward", 90, 40, **SIZES, grad_input=0, grad_weight=1)])
    assert (one.role, one.values("macs").tolist(), one.values("launch").tolist()) == (("grad_weight",), [90], [1])


@pytest.mark.parametrize(
    ("sizes", "wide"), [({"k": 9}, 0), ({"k": 10}, 90), ({"k": 25}, 90), ({"k": 25, "channels_last": 1}, 0)]
)
def test_windows_over_3_x_3_are_wide_unless_the_channels_come_last(sizes: dict[str, int], wide: int) -> None:
    assert pieces([op("conv", flops=90, **{**SIZES, **sizes})]).values("wide")[0] == wide


@pytest.mark.parametrize(
    ("one", "fresh"),
    [
        (Op("add", "elementwise", "forward", "", 0, 5, 32 * MIB), 32 * MIB),
        (Op("add", "elementwise", "forward", "", 0, 5, 32 * MIB - 1), 0),
        (Op("add_", "elementwise", "forward", "", 0, 5, 32 * MIB), 0),  # written where something was before
        (Op("bernoulli_", "dropout", "forward", "", 0, 0, 32 * MIB), 32 * MIB),
        (Op("adam", "optimizer", "optimizer", "", 0, 5, 64 * MIB, dims={"elements": 8 * MIB}), 32 * MIB),
        (Op("adamw", "optimizer", "optimizer", "", 0, 5, 64 * MIB, dims={"elements": 8 * MIB}), 32 * MIB),
        (Op("adam", "optimizer", "optimizer", "", 0, 5, 64 * MIB, dims={"elements": 8 * MIB - 1}), 0),
        (Op("adam", "optimizer", "optimizer", "", 0, 5, 64 * MIB), 0),
        (Op("sgd", "optimizer", "optimizer", "", 0, 5, 64 * MIB, dims={"elements": 8 * MIB}), 0),
        (Op("mm", "matmul", "forward", "", 0, 5, 32 * MIB, dims={"b": 1, "m": 2, "k": 2, "n": 2}), 32 * MIB),
        (Op("lstm", "rnn", "forward", "", 0, 5, 32 * MIB, dims={"steps": 2}), 32 * MIB),
        (Op("pool", "pool", "forward", "", 0, 5, 32 * MIB, dims={"k": 4, "elements_out": 2}), 32 * MIB),
        (Op("fft", "fft", "forward", "", 0, 5, 32 * MIB), 32 * MIB),
        (Op("sdpa", "attention", "forward", "", 0, 5, 32 * MIB), 32 * MIB),
    ],
)
def test_large_results_come_from_the_system(one: Op, fresh: int) -> None:
    assert pieces([one]).values("fresh").tolist() == [fresh]


@pytest.mark.parametrize(
    ("phase", "dtype", "fresh"),
    [
        ("forward", "float32", [4 * 2 * 2**21 * 10]),
        ("forward", "float16", [2 * 2 * 2**21 * 10]),
        ("forward", "float64", [8 * 2 * 2**21 * 10]),
        ("forward", "int8", [2 * 2**21 * 10]),
        ("backward", "float32", [4 * 2 * 2**22 * 6, 0]),  # the gradient of the input; that of the weight is small
    ],
)
def test_results_of_convolutions(phase: str, dtype: str, fresh: list[int]) -> None:
    one = Op("conv", "conv", phase, "", 90, 1, 1, dtype, LARGE)
    assert pieces([one]).values("fresh").tolist() == fresh


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (op("rnn", flops=7, moved=5, steps=10, layers=3), {"launch": 30, "macs": 7, "bytes": 5}),
        (op("rnn", flops=7, moved=5, steps=10), {"launch": 10, "macs": 7, "bytes": 5}),
        (op("rnn", flops=7, moved=5), {"launch": 1, "macs": 7, "bytes": 5}),
        (op("attention", flops=7, moved=5, dropped=3), {"launch": 1, "macs": 7, "bytes": 5, "dropped": 3}),
        (op("scan", flops=7, moved=5), {"launch": 1, "macs": 7, "bytes": 5}),
        (op("norm", flops=7, moved=5), {"launch": 1, "bytes": 5}),  # a norm's arithmetic is free
        # A pool looks at every element of every window.
        (op("pool", flops=7, moved=5, k=4, elements_out=6), {"launch": 1, "macs": 24, "bytes": 5}),
        (op("pool", flops=7, moved=5, k=2, elements_out=6), {"launch": 1, "macs": 12, "bytes": 5}),
        (op("pool", flops=7, moved=5, k=1, elements_out=6), {"launch": 1, "bytes": 5}),
        (op("pool", flops=7, moved=5, k=4), {"launch": 1, "bytes": 5}),
    ],
)
def test_other_ops(one: Op, expected: dict[str, float]) -> None:
    found = {name: value for name, value in values(pieces([one])).items() if not name.startswith("macs_n")}
    assert found == expected


@pytest.mark.parametrize(
    ("one", "pair"),
    [
        (op("scan", "backward"), ("attention", "backward")),
        (op("fft"), ("attention", "forward")),
        (op("linalg"), ("attention", "forward")),
        (op("norm", "backward", name="batch_norm"), ("norm", "batch_norm")),
        (op("pool", name="max_pool", k=4, elements_out=6), ("pool", "max_pool")),
        (op("matmul"), ("matmul", "forward")),  # sizes unknown
        (op("conv", "backward"), ("conv", "backward")),
    ],
)
def test_kinds_and_roles(one: Op, pair: tuple[str, str]) -> None:
    parts = pieces([one])
    assert (parts.kind[0], parts.role[0]) == pair


def test_operands_beyond_8_mib_leave_the_cache_by_their_share() -> None:
    sizes: dict[str, Any] = {"m": 2, "k": 2, "n": 2}
    ops = [op("matmul", flops=100, moved=moved, **sizes) for moved in (0, 8 * MIB, 16 * MIB, 32 * MIB)]
    assert pieces(ops).values("spilled") == pytest.approx([0, 0, 50, 75])


def test_counts_multiply_every_feature() -> None:
    once, thrice = op("norm", moved=5), Op("op", "norm", "forward", "", 0, 5, 0, count=3)
    parts = pieces([once, thrice])
    assert parts.values("bytes").tolist() == [5, 15]
    assert parts.values("launch").tolist() == [1, 3]
    assert list(parts.traffic()) == [("norm", "op", 5.0), ("norm", "op", 5.0)]


def test_sums_are_by_kind_and_role_over_the_ops_asked_for() -> None:
    ops = [op("norm", moved=5), op("matmul", flops=8, m=2, k=2, n=2), op("norm", moved=7)]
    whole = pieces(ops).sums()
    assert list(whole) == [("norm", "op"), ("matmul", "forward")]
    assert whole["norm", "op"]["bytes"] == 12
    assert whole["matmul", "forward"]["macs"] == 8
    some = pieces(ops).sums(np.array([1, 2]))
    assert (some["norm", "op"]["bytes"], some["norm", "op"]["launch"], some["matmul", "forward"]["macs"]) == (7, 1, 8)


@pytest.mark.parametrize(
    ("kind", "role", "covered"),
    [
        ("*", "*", True),
        ("norm", "*", True),
        ("norm", "batch", True),
        ("norm", "layer", False),
        ("moving", "*", True),
        ("dense", "*", False),
        ("pool", "*", False),
        ("*", "layer", False),
    ],
)
def test_which_terms_price_a_piece(kind: str, role: str, covered: bool) -> None:
    assert covers(kind, role, "norm", "batch") is covered
    assert covers("dense", "*", "conv1", "forward")


def test_seconds_of_a_law_by_component() -> None:
    law = Curves(
        (
            Term("matmul", "*", "macs", 2.0),
            Term("moving", "*", "bytes", 3.0),
            Term("norm", "others", "launch", 5.0),
            Term("norm", "batch", "launch", 7.0),
            Term("norm", "*", "launch", 0.5),
            Term("pool", "max", "launch", 11.0),
        )
    )
    ops = [
        op("matmul", flops=8, m=2, k=2, n=2),
        op("norm", moved=1, name="batch"),
        op("norm", moved=1, name="layer"),
        op("pool", moved=1, name="max"),
    ]
    assert law.seconds(ops).tolist() == [[16, 0, 0], [0, 3, 7.5], [0, 3, 5.5], [0, 3, 11]]
    assert Curves.from_json(law.to_json()) == law


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("*", "*", "nonsense", 1.0), "feature 'nonsense', which is not known"),
        (Term("norm", "*", "bytes", -1e-9), "prices norm bytes at -1e-09 s; fit it again"),
        (Term("norm", "*", "bytes", float("inf")), "at inf s"),
        (Term("norm", "*", "bytes", float("nan")), "at nan s"),
    ],
)
def test_terms_that_cannot_be(term: Term, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Curves((term,))
    assert Curves((Term("norm", "*", "bytes", 0.0),)).seconds([op("norm", moved=5)]).sum() == 0


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("float64", 8), ("int64", 8), ("float32", 4), ("bfloat16", 2), ("float16", 2)),
        *(("bool", 1), ("uint8", 1), ("int8", 1), ("int32", 4)),
    ],
)
def test_bytes_of_a_large_result_of_a_convolution(dtype: str, size: int) -> None:
    """2^25 results: 32 MiB and more in every format."""
    dims = {**SIZES, "n": 1, "c_out": 2**5, "groups": 1, "out": 2**20}
    parts = pieces([Op("op", "conv", "forward", "", 1, 1, 0, dtype, dims)])
    assert values(parts)["fresh"] == size * 2**25
