"""Sizes that the cost of an op depends on, by hand, and multiply-adds at the edges of each formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from joulecast.estimator.trace.formulas.counting import OpCount, count_op, dtype_name
from joulecast.estimator.trace.formulas.moving import sizes
from joulecast.estimator.trace.formulas.products import attention_dims, channels_last, numel, rnn_flops
from joulecast.estimator.trace.formulas.table import TABLE, Called, op_name, plain_name
from joulecast.estimator.trace.formulas.traffic import tensors

aten = torch.ops.aten


def m(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def c(*shape: int) -> torch.Tensor:
    return m(*shape, dtype=torch.complex64)


def ids(*shape: int) -> torch.Tensor:
    return m(*shape, dtype=torch.int64)


def counted(op: Any, args: Sequence[Any], output: Any) -> OpCount:
    found = count_op(op, args, {}, output)
    assert {type(figure) for figure in (found.flops, *found.dims.values())} == {int}  # never 2.0
    return found


# -- products ------------------------------------------------------------------------------------

ALL = [True, True, True]
IMAGES, KERNELS, FEATURES = m(2, 6, 9, 7), m(4, 3, 3, 2), m(2, 4, 7, 6)
CONV = {
    "n": 2,
    "c_in": 6,
    "c_out": 4,
    "groups": 2,
    "k": 6,
    "in": 63,
    "out": 42,
    "rank": 2,
    "transposed": 0,
    "channels_last": 0,
}
STRIDES = ([1, 1], [0, 0], [1, 1], False, [0, 0])


def last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("images", "kernels", "channels_come_last"),
    [(IMAGES, KERNELS, 0), (last(IMAGES), KERNELS, 1), (IMAGES, last(KERNELS), 1), (last(IMAGES), last(KERNELS), 1)],
)
def test_sizes_of_a_convolution(images: torch.Tensor, kernels: torch.Tensor, channels_come_last: int) -> None:
    macs = 2 * 42 * 6 * 6 * 4 // 2
    found = counted(aten.convolution.default, [images, kernels, None, *STRIDES, 2], FEATURES)
    assert (found.flops, found.dims) == (macs, {**CONV, "channels_last": channels_come_last})
    for wanted in ([True, True, True], [True, False, False], [False, True, False], [False, False, True]):
        args = [FEATURES, images, kernels, [4], *STRIDES, 2, wanted]
        back = counted(aten.convolution_backward.default, args, [images, kernels, m(4)])
        both = {"grad_input": int(wanted[0]), "grad_weight": int(wanted[1])}
        assert back.dims == {**CONV, **both, "channels_last": channels_come_last}
        assert back.flops == macs * (wanted[0] + wanted[1])


def test_sizes_of_convolutions_of_one_and_three_dimensions() -> None:
    found = counted(aten.convolution.default, [m(2, 6, 9), m(4, 6, 3), None, [1], [0], [1], False, [0], 1], m(2, 4, 7))
    assert found.dims == {**CONV, "groups": 1, "k": 3, "in": 9, "out": 7, "rank": 1}
    args = [m(2, 6, 5, 5, 5), m(4, 6, 2, 2, 2), None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1]
    found = counted(aten.convolution.default, args, m(2, 4, 4, 4, 4))
    assert found.dims == {**CONV, "groups": 1, "k": 8, "in": 125, "out": 64, "rank": 3}


def test_a_convolution_whose_window_skips_positions_says_so() -> None:
    # a window of 3 that skips every other position covers 5: 9 - 5 + 1 = 5 outputs
    args = [m(2, 6, 9), m(4, 6, 3), None, [1], [0], [2], False, [0], 1]
    found = counted(aten.convolution.default, args, m(2, 4, 5))
    assert found.dims == {**CONV, "groups": 1, "k": 3, "in": 9, "out": 5, "rank": 1, "dilated": 1}
    assert found.flops == 2 * 5 * 3 * 6 * 4
    back = counted(
        aten.convolution_backward.default, [m(2, 4, 5), *args[:2], [4], *args[3:], [True, True, False]], [m(1)] * 2
    )
    assert back.dims["dilated"] == 1


def test_a_transposed_convolution_multiplies_at_each_input_position() -> None:
    args = [m(2, 6, 5, 5), m(6, 2, 3, 3), None, [2, 2], [0, 0], [1, 1], True, [0, 0], 2]
    found = counted(aten.convolution.default, args, m(2, 4, 11, 11))
    assert found.dims == {**CONV, "k": 9, "in": 25, "out": 121, "transposed": 1}
    assert found.flops == 2 * 25 * 9 * 6 * 4 // 2
    back = counted(
        aten.convolution_backward.default, [m(2, 4, 11, 11), *args[:2], [4], *args[3:], [True, True, False]], [m(1)] * 2
    )
    assert back.flops == 2 * found.flops
    assert back.dims["transposed"] == 1


def test_one_pixel_and_rows_are_not_channels_last() -> None:
    assert not channels_last(last(m(2, 6, 1, 1)))
    assert not channels_last(m(2, 6, 3, 3))
    assert channels_last(last(m(2, 6, 3, 1)))
    assert not channels_last(m(2, 1, 3, 3).expand(2, 6, 3, 3))
    assert not channels_last(torch.empty_strided((2, 6, 0, 3), (18, 1, 18, 6), device="meta"))


SQUARE, TALL = m(2, 3, 6, 6), m(2, 3, 8, 4)


@pytest.mark.parametrize(
    ("op", "args", "output", "macs", "dims"),
    [
        (aten.mv, [m(2, 3), m(3)], m(2), 6, {"b": 1, "m": 2, "k": 3, "n": 1}),
        (aten.dot, [m(3), m(3)], m(), 3, {"b": 1, "m": 1, "k": 3, "n": 1}),
        (aten.mm, [m(2, 3), m(3, 5)], m(2, 5), 30, {"b": 1, "m": 2, "k": 3, "n": 5}),
        (aten.addmm, [m(5), m(2, 3), m(3, 5)], m(2, 5), 30, {"b": 1, "m": 2, "k": 3, "n": 5}),
        (aten.linear, [m(2, 7, 3), m(5, 3)], m(2, 7, 5), 210, {"b": 1, "m": 14, "k": 3, "n": 5}),
        (
            aten._trilinear,
            [m(2, 3), m(5, 3, 4), m(2, 4), [1, 3], [0], [1, 2], [2, 3]],
            *(m(2, 5), 2 * (60 + 20), {"b": 1}),
        ),
        (  # of the outer product of rows with one vector, summed over its elements
            aten._trilinear,
            [m(7, 3), m(5, 3), m(3), [1], [0], [0, 1], [2]],
            *(m(7, 5), 2 * 7 * 5 * 3, {"b": 1}),
        ),
        (aten._trilinear, [m(7, 1), m(7, 3), m(7, 3), [], [], [], [1]], m(7), 2 * 21, {"b": 1}),
        (aten._trilinear, [m(0, 3), m(0, 3), m(0, 3), [], [], [], [1]], m(0), 0, {"b": 1}),
        (
            aten._cdist_forward,
            [m(2, 7, 5, 3), m(2, 7, 4, 3), 2.0, None],
            *(m(2, 7, 5, 4), 14 * 60, {"b": 14, "m": 5, "k": 3, "n": 4}),
        ),
        (  # one set of points for all 7
            aten._cdist_forward,
            [m(5, 3), m(7, 4, 3), 2.0, None],
            *(m(7, 5, 4), 7 * 60, {"b": 7, "m": 5, "k": 3, "n": 4}),
        ),
        (
            aten._cdist_backward,
            [m(2, 7, 5, 4), m(2, 7, 5, 3), m(2, 7, 4, 3), 2.0, m(2, 7, 5, 4)],
            *(m(2, 7, 5, 3), 14 * 60, {"b": 14, "m": 5, "k": 3, "n": 4}),
        ),
        (aten._pdist_forward, [m(5, 3), 2.0], m(10), 10 * 3, {"b": 1, "m": 5, "k": 3, "n": 5}),
        (aten.conv_tbc, [m(7, 2, 3), m(3, 3, 4), m(4)], m(5, 2, 4), 5 * 2 * 3 * 3 * 4, {}),
        (aten._fft_c2c, [c(3, 4, 8), [1, 2], 0, True], c(3, 4, 8), 96 * 5 * 5 // 2, {"elements": 96, "points": 32}),
        (aten._fft_c2c, [c(3, 4, 8), [2], 0, True], c(3, 4, 8), 96 * 5 * 3 // 2, {"elements": 96, "points": 8}),
        (aten._fft_c2c, [c(3, 2), [1], 0, True], c(3, 2), 6 * 5 // 2, {"elements": 6, "points": 2}),
        (aten._fft_r2c, [m(3, 16), [1], 0, True], c(3, 9), 48 * 4 * 5 // 4, {"elements": 48, "points": 16}),
        (aten._fft_c2r, [c(3, 9), [1], 0, 16], m(3, 16), 48 * 4 * 5 // 4, {"elements": 48, "points": 16}),
        (aten.linalg_cholesky_ex, [SQUARE], SQUARE, 6 * 36, {"b": 6, "m": 6, "n": 6}),
        (aten.linalg_lu_factor_ex, [TALL], TALL, 6 * 64 // 3, {"b": 6, "m": 8, "n": 4}),
        (aten.linalg_ldl_factor_ex, [SQUARE], SQUARE, 6 * 36, {"b": 6, "m": 6, "n": 6}),
        (aten.linalg_inv_ex, [SQUARE], SQUARE, 6 * 216, {"b": 6, "m": 6, "n": 6}),
        (aten.cholesky_inverse, [SQUARE], SQUARE, 6 * 72, {"b": 6, "m": 6, "n": 6}),
        (aten.linalg_eigvals, [SQUARE], SQUARE, 6 * 5 * 216, {"b": 6, "m": 6, "n": 6}),
        (aten.linalg_qr, [TALL], TALL, 6 * 8 * 16, {"b": 6, "m": 8, "n": 4}),
        (aten.linalg_householder_product, [TALL, m(2, 3, 4)], TALL, 6 * 8 * 16, {"b": 6, "m": 8, "n": 4}),
        (aten._linalg_svd, [TALL], TALL, 7 * 6 * 8 * 16, {"b": 6, "m": 8, "n": 4}),
        (aten.linalg_solve_triangular, [SQUARE, m(2, 3, 6, 5)], m(1), 6 * 36 * 5 // 2, {"b": 6, "m": 6}),
        (aten.triangular_solve, [m(2, 3, 6, 5), SQUARE], m(1), 6 * 36 * 5 // 2, {"b": 6, "m": 6}),
        (aten.cholesky_solve, [m(2, 3, 6, 5), SQUARE], m(1), 6 * 36 * 5, {"b": 6, "m": 6}),
        (aten.linalg_lu_solve, [SQUARE, m(2, 3, 6), m(2, 3, 6, 5)], m(1), 6 * 36 * 5, {"b": 6, "m": 6}),
        (aten.linalg_ldl_solve, [SQUARE, m(2, 3, 6), m(2, 3, 6, 5)], m(1), 6 * 36 * 5, {"b": 6, "m": 6}),
        (aten._linalg_solve_ex, [SQUARE, m(2, 3, 6, 5)], m(1), 6 * (36 * 5 + 72), {"b": 6, "m": 6}),
        # one matrix for all right sides; and right sides that are rows
        (aten.linalg_solve_triangular, [m(6, 6), m(2, 3, 6, 5)], m(1), 36 * 30 // 2, {"b": 1, "m": 6}),
        (aten.triangular_solve, [m(2, 3, 6, 5), m(6, 6)], m(1), 36 * 30 // 2, {"b": 1, "m": 6}),
        (aten.cholesky_solve, [m(2, 3, 6, 5), m(6, 6)], m(1), 36 * 30, {"b": 1, "m": 6}),
        (aten._linalg_solve_ex, [m(6, 6), m(2, 3, 6, 5)], m(1), 36 * 30 + 72, {"b": 1, "m": 6}),
        (aten.linalg_solve_triangular, [m(6, 6), m(5, 6)], m(1), 36 * 5 // 2, {"b": 1, "m": 6}),
        (aten._linalg_solve_ex, [m(6, 6), m(5, 6)], m(1), 36 * 5 + 72, {"b": 1, "m": 6}),
        (aten.linalg_lu_solve, [m(6, 6), m(6), m(5, 6)], m(1), 36 * 5, {"b": 1, "m": 6}),
        (aten.linalg_ldl_solve, [m(6, 6), m(6), m(2, 3, 6, 5)], m(1), 36 * 30, {"b": 1, "m": 6}),
        (aten.linalg_solve_triangular, [m(2, 0, 0), m(2, 0, 5)], m(1), 0, {"b": 2, "m": 0}),
    ],
)
def test_sizes_of_products(op: Any, args: list[Any], output: Any, macs: int, dims: dict[str, int]) -> None:
    found = counted(getattr(op, op.overloads()[0]), args, output)
    assert (found.flops, found.dims) == (macs, dims)


@pytest.mark.parametrize(
    ("left", "right", "sizes"),
    [
        (m(3, 8), m(4, 8, 6), (4, 1, 8, 6)),  # fewer tokens than experts: one each
        (m(4, 6, 8), m(8, 3), (4, 6, 8, 1)),
        (m(6, 3), m(3, 8), (4, 6, 1, 8)),
        (m(9, 8), m(4, 8, 6), (4, 2, 8, 6)),
    ],
)
def test_a_part_of_a_grouped_product_is_never_empty(left: Any, right: Any, sizes: tuple[int, ...]) -> None:
    found = counted(aten._grouped_mm.default, [left, right, m(4, dtype=torch.int32)], m(1))
    assert found.dims == dict(zip("bmkn", sizes, strict=True))


def test_scores_that_a_dropout_draws_for() -> None:
    query, key, value = m(2, 3, 5, 8), m(2, 3, 7, 8), m(2, 3, 7, 16)
    expected = {"b": 6, "q": 5, "s": 7, "d": 8, "dv": 16, "causal": 1, "dropped": 6 * 5 * 7}
    assert attention_dims(query, key, value, True, True) == expected
    assert attention_dims(query, key, value, False) == {**expected, "causal": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("cell", "options", "each"),
    [  # multiply-adds of one token: gates x hidden x (width + state) of each layer and direction
        ("rnn_tanh", {"layers": 1, "directions": 1}, 5 * (3 + 5)),
        ("rnn_relu", {"layers": 1, "directions": 1}, 5 * (3 + 5)),
        ("gru", {"layers": 1, "directions": 1}, 3 * 5 * (3 + 5)),
        ("lstm", {"layers": 1, "directions": 1}, 4 * 5 * (3 + 5)),
        ("lstm", {"layers": 2, "directions": 1}, 4 * 5 * (3 + 5) + 4 * 5 * (5 + 5)),
        ("lstm", {"layers": 1, "directions": 2}, 2 * 4 * 5 * (3 + 5)),
        ("lstm", {"layers": 3, "directions": 2}, 2 * 4 * 5 * (3 + 5) + 2 * 2 * 4 * 5 * (10 + 5)),
        ("lstm", {"layers": 1, "directions": 1, "projection": 2}, 4 * 5 * (3 + 2) + 2 * 5),
        ("lstm", {"layers": 2, "directions": 2, "projection": 2}, 2 * (4 * 5 * (3 + 2) + 10 + 4 * 5 * (4 + 2) + 10)),
    ],
)
def test_recurrent_layers(cell: str, options: dict[str, int], each: int) -> None:
    assert rnn_flops(cell, tokens=7, input_size=3, hidden=5, **options) == 7 * each


# -- ops that move data ------------------------------------------------------------------------------


def test_elements_in_are_those_of_the_largest_input_and_out_those_of_the_first_output() -> None:
    assert sizes([m(2, 3), [m(4, 5), (m(7, 8), 3)], None, 2.0], [m(6), m(9)]) == {"elements_in": 56, "elements_out": 6}
    assert sizes([], []) == {"elements_in": 0, "elements_out": 0}
    assert counted(aten.add.Tensor, [m(2, 5), m(5)], m(2, 5)).dims == {"elements_in": 10, "elements_out": 10}
    assert counted(aten.zeros.default, [[2, 5]], m(2, 5)).dims == {"elements_in": 0, "elements_out": 10}


def test_elements_of_what_is_no_tensor() -> None:
    assert (numel(3.0), numel(None), numel([1, 2]), numel(m()), numel(m(0, 3))) == (0, 0, 0, 1, 0)
    assert [tuple(t.shape) for t in tensors([m(1), None, (m(2), [m(3), 4])])] == [(1,), (2,), (3,)]


KEPT = {"running": 1}
"""The statistics that were kept in training are used."""


@pytest.mark.parametrize(
    ("op", "args", "macs", "dims"),
    [
        (aten.native_batch_norm, [m(2, 8, 3), m(8), None, m(8), m(8), True, 0.1, 1e-5], 2 * 48, (48, 8, {})),
        (aten.native_batch_norm, [m(2, 8, 3), None, m(8), m(8), m(8), True, 0.1, 1e-5], 2 * 48, (48, 8, {})),
        (aten.native_batch_norm, [m(2, 8, 3), None, None, m(8), m(8), True, 0.1, 1e-5], 48, (48, 8, {})),
        (aten.native_batch_norm, [m(2, 8, 3), None, None, None, None, True, 0.1, 1e-5], 4 * 48, (48, 8, {})),
        (aten.native_batch_norm, [m(2, 8, 3), m(8), m(8), m(8), m(8), False, 0.1, 1e-5], 2 * 48, (48, 8, KEPT)),
        (aten.native_batch_norm, [m(2, 8, 3), m(8), m(8), None, None, False, 0.1, 1e-5], 2 * 48, (48, 8, KEPT)),
        (
            aten._native_batch_norm_legit_no_training,
            [m(2, 8), m(8), m(8), m(8), m(8), 0.1, 1e-5],
            2 * 16,
            (16, 8, KEPT),
        ),
        (
            aten.native_batch_norm,
            [m(2, 8, 3, 3).to(memory_format=torch.channels_last), None, None, None, None, True, 0.1, 1e-5],
            4 * 144,
            (144, 8, {"channels_last": 1}),
        ),
        (aten.native_layer_norm, [m(2, 5, 8), [8], m(8), None, 1e-5], 5 * 80, (80, 5, {"rows": 10})),
        (aten.native_layer_norm, [m(2, 5, 8), [5, 8], None, None, 1e-5], 4 * 80, (80, 5, {"rows": 2})),
        (aten.native_layer_norm, [m(8), [8], None, None, 1e-5], 4 * 8, (8, 1, {"rows": 1})),
    ],
)
def test_norms_count_one_less_without_a_scale(
    op: Any, args: list[Any], macs: int, dims: tuple[int, int, dict[str, int]]
) -> None:
    found = counted(op.default, args, [args[0], m(1), m(1)])
    assert (found.kind, found.flops) == ("norm", macs)
    assert found.dims == {"elements": dims[0], "channels": dims[1], **dims[2]}


@pytest.mark.parametrize(("data", "channels"), [(m(2, 8, 3, 3), 8), (m(2, 8), 8), (m(144), 1)])
def test_gradients_of_a_norm(data: torch.Tensor, channels: int) -> None:
    rest = [m(8), m(8), m(8), m(8), m(8), True, 1e-5, ALL]
    back = counted(aten.native_batch_norm_backward.default, [data, data, *rest], [data, m(8), m(8)])
    assert (back.flops, back.dims) == (2 * 2 * data.numel(), {"elements": data.numel(), "channels": channels})
    rest[5] = False
    kept = counted(aten.native_batch_norm_backward.default, [data, data, *rest], [data, m(8), m(8)])
    assert kept.dims == {**back.dims, **KEPT}
    rest = [[8], m(2), m(2), m(8), m(8), ALL]
    back = counted(aten.native_layer_norm_backward.default, [data, data, *rest], [data, m(8), m(8)])
    assert back.flops == 2 * 5 * data.numel()


def test_the_gradient_of_an_rms_norm_by_its_data() -> None:
    args = [m(2, 8, 3), m(2, 8, 3), [3], m(2, 8, 1), m(3), [True, True]]
    back = counted(aten._fused_rms_norm_backward.default, args, [args[0], m(3)])
    assert (back.flops, back.dims) == (2 * 5 * 48, {"elements": 48, "channels": 8, "rows": 16})


def test_sizes_of_look_ups() -> None:
    looked_up = {"tokens": 6, "rows": 1000, "width": 8}
    assert counted(aten.embedding.default, [m(1000, 8), ids(2, 3)], m(2, 3, 8)).dims == looked_up
    bag = [m(1000, 8), ids(6), ids(2)]
    assert counted(aten._embedding_bag.default, bag, [m(2, 8)]).dims == looked_up
    back = [m(2, 3, 8), ids(2, 3), 1000, -1, False]
    assert counted(aten.embedding_dense_backward.default, back, m(1000, 8)).dims == looked_up


@pytest.mark.parametrize(
    ("op", "args", "output", "window"),
    [
        (aten.max_pool3d_with_indices, [m(2, 3, 8, 8, 8), [2, 3, 4]], m(2, 3, 4, 2, 2), 24),
        (aten.avg_pool1d, [m(2, 3, 8), [4]], m(2, 3, 2), 4),
        (aten.avg_pool2d, [m(2, 3, 8, 8), (4, 2)], m(2, 3, 2, 4), 8),
        (aten.adaptive_avg_pool1d, [m(2, 3, 9), [4]], m(2, 3, 4), 3),
        (aten._adaptive_avg_pool3d, [m(2, 3, 9, 8, 7), [3, 8, 2]], m(2, 3, 3, 8, 2), 3 * 1 * 4),
        (aten.adaptive_max_pool2d, [m(2, 3, 9, 7), (4, 7)], [m(2, 3, 4, 7), ids(2, 3, 4, 7)], 3),
        (aten._adaptive_avg_pool2d, [m(2, 3, 9, 7), [0, 7]], m(2, 3, 0, 7), 9),
    ],
)
def test_windows(op: Any, args: list[Any], output: Any, window: int) -> None:
    first = output if isinstance(output, torch.Tensor) else output[0]
    found = counted(getattr(op, op.overloads()[0]), args, output)
    expected = {"elements_in": args[0].numel(), "elements_out": first.numel(), "k": window}
    assert (found.kind, found.flops, found.dims) == ("pool", 0, expected)


# -- figures of every op -----------------------------------------------------------------------------


def test_an_op_that_writes_no_numbers_has_the_format_of_its_first_with_some() -> None:
    assert counted(aten.eq.Tensor, [ids(2), m(2, dtype=torch.bfloat16)], m(2, dtype=torch.bool)).dtype == "bfloat16"
    assert counted(aten.eq.Tensor, [ids(2), ids(2)], m(2, dtype=torch.bool)).dtype == "int64"
    assert counted(aten._to_copy.default, [ids(2)], m(2, dtype=torch.float16)).dtype == "float16"
    assert dtype_name(torch.complex32) == "float16"
    assert dtype_name(torch.complex128) == "float64"


def test_complex_products_are_four_real_ones_where_the_formula_counts_complex_ones() -> None:
    assert counted(aten.bmm.default, [c(7, 2, 3), c(7, 3, 5)], c(7, 2, 5)).flops == 4 * 210
    assert counted(aten.linalg_inv_ex.default, [c(6, 6)], c(6, 6)).flops == 4 * 216
    assert counted(aten._fft_c2c.default, [c(3, 2), [1], 0, True], c(3, 2)).flops == 15


def test_what_counts_figures_of_an_unknown_op() -> None:
    assert counted(aten.mm.default, [m(2, 3), m(3, 5)], m(2, 5)).known
    unknown = count_op("made_up::op", [m(2, 3)], {"other": m(4)}, [m(5), m(6)])
    assert (unknown.name, unknown.kind, unknown.flops, unknown.known) == ("made_up::op", "other", 0, False)
    assert (unknown.bytes_read, unknown.bytes_written) == (4 * 10, 4 * 11)
    assert unknown.dims == {"elements_in": 6, "elements_out": 5}


def test_a_formula_of_a_user_is_rounded_down_to_whole_multiply_adds() -> None:
    halves = Called(lambda x, *, scale, out_val: scale * x * out_val, "out_val", operations_per_mac=2)
    assert halves([3], {"scale": 1}, 5) == 7
    assert Called(lambda x, out: x * out)([3], {}, 5) == 15


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("relu_", "relu"),
        ("_foreach_add", "add"),
        ("_foreach_add_", "add"),
        ("_foreach_mm", "_foreach_mm"),
        ("normal_", "normal_"),  # has an entry of its own
        ("resize_", "resize"),  # free
        ("empty", "empty"),
        ("made_up_copy", "view_copy"),
        ("made_up_", "made_up_"),
        ("made_up", "made_up"),
    ],
)
def test_plain_names(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_names_of_ops() -> None:
    assert op_name("aten::mm") == op_name("mm") == op_name(aten.mm) == op_name(aten.mm.default) == "mm"
    assert op_name("other::mm") == "other::mm"


# -- the whole table -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kind", "an_element"),
    [
        # multiply-adds of an output element
        ("upsample_nearest1d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d", "pool", 1),
        ("upsample_linear1d upsample_trilinear3d upsample_bicubic2d grid_sampler_3d cudnn_grid_sampler", "pool", 4),
        ("upsample_nearest2d_backward upsample_bilinear2d_backward grid_sampler_2d_backward", "pool", 0),
        ("max_pool2d_with_indices_backward avg_pool2d_backward max_unpool2d affine_grid_generator", "pool", 0),
        ("_softmax _log_softmax_backward_data logsumexp _safe_softmax", "softmax", 0),
        ("linalg_vector_norm _weight_norm_interface renorm", "norm", 0),
        ("gelu threshold_backward mish _prelu_kernel glu softshrink rrelu_with_noise", "activation", 0),
        ("mul where exp tril cumsum polar fake_quantize_per_tensor_affine_cachemask", "elementwise", 0),
        ("native_dropout rand bernoulli multinomial normal_ uniform", "dropout", 0),
        ("nll_loss_forward mse_loss_backward _ctc_loss kl_div", "loss", 0),
        ("_thnn_fused_lstm_cell _thnn_fused_gru_cell_backward", "rnn", 0),
        ("sum mean amax var_mean nansum trace native_norm", "reduce", 0),
        ("cat clone index gather copy_ zeros arange _to_copy im2col bincount view_copy", "copy", 0),
        ("index_put index_put_ index_add_ scatter_add scatter_reduce_ _unsafe_index_put put_", "copy", 0),
        ("sort topk argsort _unique2 msort", "sort", 0),
        ("_embedding_bag_backward embedding_renorm", "embedding", 0),
    ],
)
def test_kinds_of_ops(names: str, kind: str, an_element: int) -> None:
    data, grid = m(2, 3, 4, 4), m(2, 3, 8, 8)
    for name in names.split():
        entry = TABLE[name]
        assert not isinstance(entry.formula, Called)
        macs, _ = entry.formula([data, data, data], [grid])
        assert (name, entry.kind, macs) == (name, kind, an_element * grid.numel())
    assert "_unsafe_index_put_" not in TABLE


@pytest.mark.parametrize(
    ("names", "read", "written"),
    [  # of a first argument of 4 and a second of 8 elements, to an output of 16: elements of float32
        ("relu mul cat sort embedding_dense_backward repeat", 12, 16),
        ("copy_ fill zero normal_ uniform bernoulli_ exponential", 8, 16),
        ("embedding index _unsafe_index index_select gather take", 16 + 8, 16),
        ("_embedding_bag _embedding_bag_forward_only", 8 * 2 + 8, 16),
    ],
)
def test_bytes_of_ops(names: str, read: int, written: int) -> None:
    for name in names.split():
        found = TABLE[name].traffic([m(2, 2), m(8)], [m(16)])
        assert (name, found) == (name, (4 * read, 4 * written))
