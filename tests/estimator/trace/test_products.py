"""Multiply-adds by hand of ops that never run on stand-in tensors: kernels of one device, inference paths, solvers.

Each formula gets the arguments of the op's schema and the tensors that the op returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from joulecast.estimator.trace.formulas.counting import OpCount, count_op
from joulecast.estimator.trace.formulas.products import _is_causal

aten = torch.ops.aten
F4, I8 = 4, 8
BF16 = torch.bfloat16


def m(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def counted(op: Any, args: Sequence[Any], output: Any, **kwargs: Any) -> OpCount:
    found = count_op(op.default, args, kwargs, output)
    assert {type(figure) for figure in (found.flops, *found.dims.values())} == {int}  # never 2.0
    return found


# -- matrices ------------------------------------------------------------------------------------

MATRICES = {  # op: (arguments, output, multiply-adds, m, k, n)
    "linear": ([m(2, 7, 3), m(5, 3), m(5)], m(2, 7, 5), 14 * 3 * 5, (14, 3, 5)),
    "linear of one weight vector": ([m(7, 3), m(3)], m(7), 7 * 3, (7, 3, 1)),
    "mkldnn_linear": ([m(7, 3), m(5, 3)], m(7, 5), 7 * 3 * 5, (7, 3, 5)),
    "_weight_int8pack_mm": (
        [m(7, 3, dtype=BF16), m(5, 3, dtype=torch.int8), m(5, dtype=BF16)],
        *(m(7, 5, dtype=BF16), 7 * 3 * 5, (7, 3, 5)),
    ),
    "linear_backward": ([m(7, 3), m(7, 5), m(5, 3), [True, True, True]], [m(7, 3), m(5, 3)], 2 * 105, (7, 3, 5)),
    "linear_backward of the weight": ([m(7, 3), m(7, 5), m(5, 3), [False, True, True]], [m(5, 3)], 105, (7, 3, 5)),
    "linear_backward of the bias": ([m(7, 3), m(7, 5), m(5, 3), [False, False, True]], [m(5)], 0, (7, 3, 5)),
    "vdot": ([m(6), m(6)], m(), 6, (1, 6, 1)),
    "_addmm_activation": ([m(5), m(2, 3), m(3, 5)], m(2, 5), 30, (2, 3, 5)),
    "_euclidean_dist": ([m(5, 3), m(4, 3)], m(5, 4), 5 * 4 * 3, (5, 3, 4)),
    "_pdist_backward": ([m(10), m(5, 3), 2.0, m(10)], m(5, 3), 10 * 3, (5, 3, 5)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrix_products(name: str) -> None:
    args, output, macs, (rows, inner, columns) = MATRICES[name]
    found = counted(getattr(aten, name.partition(" ")[0]), args, output)
    assert (found.kind, found.flops) == ("matmul", macs)
    assert found.dims == {"b": 1, "m": rows, "k": inner, "n": columns}


def test_lists_of_products_are_added() -> None:
    found = counted(aten._foreach_mm, [[m(2, 3), m(4, 5)], [m(3, 7), m(5, 6)]], [m(2, 7), m(4, 6)])
    assert found.flops == 2 * 3 * 7 + 4 * 5 * 6
    assert found.bytes_read == F4 * (6 + 20 + 21 + 30)


def offsets(groups: int) -> torch.Tensor:
    return m(groups, dtype=torch.int32)


GROUPED = {  # arguments, multiply-adds, (groups, m, k, n) with averages for the size that is split
    "tokens by expert": ([m(64, 8), m(4, 8, 6), offsets(4)], 64 * 8 * 6, (4, 16, 8, 6)),
    "columns by expert": ([m(4, 6, 8), m(8, 64), offsets(4)], 6 * 8 * 64, (4, 6, 8, 16)),
    "inner size by expert": ([m(6, 64), m(64, 8), offsets(4)], 6 * 64 * 8, (4, 6, 16, 8)),
    "one size each": ([m(4, 6, 8), m(4, 8, 5)], 4 * 6 * 8 * 5, (4, 6, 8, 5)),
    "no groups named": ([m(6, 64), m(64, 8)], 6 * 64 * 8, (1, 6, 64, 8)),
    "one group": ([m(1, 8), m(1, 8, 6), offsets(1)], 8 * 6, (1, 1, 8, 6)),
}


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_products(name: str) -> None:
    args, macs, dims = GROUPED[name]
    found = counted(aten._grouped_mm, args, m(1))
    assert found.flops == macs
    assert found.dims == dict(zip("bmkn", dims, strict=True))


def test_scales_of_a_grouped_product_are_not_its_groups() -> None:
    eight = torch.float8_e4m3fn
    args = [m(6, 64, dtype=eight), m(64, 8, dtype=eight), m(24), m(32), offsets(4)]
    found = counted(aten._scaled_grouped_mm, args, m(4, 6, 8, dtype=BF16))
    assert (found.flops, found.dims["b"], found.dims["k"]) == (6 * 64 * 8, 4, 16)


# -- sparse matrices -----------------------------------------------------------------------------


def sparse(rows: int, columns: int, positions: Sequence[tuple[int, int]]) -> torch.Tensor:
    dense = torch.zeros(rows, columns)
    for position in positions:
        dense[position] = 1.0
    return dense.to_sparse()


THREE = sparse(10, 8, [(0, 1), (5, 7), (9, 2)])


def test_products_with_sparse_matrices_multiply_stored_values_only() -> None:
    assert counted(aten.mm, [THREE, torch.zeros(8, 4)], torch.zeros(10, 4)).flops == 3 * 4
    assert counted(aten.mm, [torch.zeros(6, 10), THREE], torch.zeros(6, 8)).flops == 6 * 3
    batch = torch.stack([THREE, THREE])
    both = counted(aten.bmm, [batch, torch.zeros(2, 8, 4)], torch.zeros(2, 10, 4))
    assert (both.flops, both.dims) == (6 * 4, {"b": 2, "m": 10, "k": 8, "n": 4})
    # Only the 3 positions of the first argument are computed, each a sum over 5 terms.
    sampled = counted(aten.sparse_sampled_addmm, [THREE, torch.zeros(10, 5), torch.zeros(5, 8)], THREE)
    assert (sampled.flops, sampled.dims) == (3 * 5, {"b": 1, "m": 10, "k": 5, "n": 8})


def test_two_sparse_matrices_meet_in_a_row_of_average_length() -> None:
    right = sparse(8, 6, [(row, column) for row in range(8) for column in range(2)])
    # Each of the 3 values on the left meets one of the 8 rows on the right, which have 16 / 8 values each.
    found = counted(aten._sparse_sparse_matmul, [THREE, right], sparse(10, 6, [(0, 0)]))
    assert found.flops == 3 * 2
    assert found.dims == {"b": 1, "m": 10, "k": 8, "n": 6}


def test_a_sparse_matrix_with_one_row_or_none_on_the_right() -> None:
    row = sparse(1, 6, [(0, column) for column in range(3)])
    left = sparse(10, 1, [(0, 0), (5, 0)])
    assert counted(aten._sparse_sparse_matmul, [left, row], left).flops == 2 * 3
    empty = sparse(0, 6, [])
    assert counted(aten._sparse_sparse_matmul, [sparse(10, 0, []), empty], left).flops == 0


# -- convolutions --------------------------------------------------------------------------------

PAIR = [1, 1]


@pytest.mark.parametrize(
    ("op", "weight", "options", "groups"),
    [
        (aten.cudnn_convolution, m(16, 8, 3, 3), ([0, 0], PAIR, PAIR, 1, False, False, True), 1),
        (aten.cudnn_convolution, m(16, 2, 3, 3), ([0, 0], PAIR, PAIR, 4, False, False, True), 4),
        (aten.mkldnn_convolution, m(16, 4, 3, 3), (None, [0, 0], PAIR, PAIR, 2), 2),
        (aten._slow_conv2d_forward, m(16, 8, 3, 3), ([3, 3], None, PAIR, [0, 0]), 1),
        (aten._conv_depthwise2d, m(16, 1, 3, 3), ([3, 3], None, PAIR, [0, 0], PAIR), 8),
    ],
)
def test_convolutions_of_one_device(op: Any, weight: torch.Tensor, options: tuple[Any, ...], groups: int) -> None:
    # 2 images, 8 channels of 6 x 6 -> 16 channels of 4 x 4
    found = counted(op, [m(2, 8, 6, 6), weight, *options], m(2, 16, 4, 4))
    assert (found.kind, found.flops) == ("conv", 2 * 16 * 9 * 8 * 16 // groups)
    expected = {"n": 2, "c_in": 8, "c_out": 16, "groups": groups, "k": 9, "in": 36, "out": 16}
    assert found.dims == {**expected, "rank": 2, "transposed": 0}


@pytest.mark.parametrize(("per_group", "groups"), [(6, 1), (3, 2)])
def test_transposed_convolutions_of_one_device_multiply_at_each_input_position(per_group: int, groups: int) -> None:
    args = [m(2, 4, 3, 3), m(4, per_group, 2, 2), [0, 0], [0, 0], [2, 2], PAIR, groups, False, False, True]
    found = counted(aten.cudnn_convolution_transpose, args, m(2, 6, 6, 6))
    assert found.flops == 2 * 9 * 4 * 4 * 6 // groups
    assert (found.dims["groups"], found.dims["transposed"]) == (groups, 1)


def test_a_convolution_without_channels_has_one_group() -> None:
    found = counted(
        aten._slow_conv2d_forward, [m(2, 0, 3, 3), m(4, 0, 1, 1), [1, 1], None, PAIR, [0, 0]], m(2, 4, 3, 3)
    )
    assert (found.flops, found.dims["groups"]) == (0, 1)
    args = [m(2, 3, 3, 3), m(3, 0, 1, 1), [0, 0], [0, 0], PAIR, PAIR, 1, False, False, True]
    found = counted(aten.cudnn_convolution_transpose, args, m(2, 0, 3, 3))
    assert (found.flops, found.dims["groups"]) == (0, 1)


def test_both_gradients_of_a_convolution_without_a_mask() -> None:
    data, gradient, weight = m(2, 4, 8, 8), m(2, 4, 4, 4), m(4, 4, 2, 2)
    found = counted(aten.mps_convolution_backward, [data, gradient, weight, [0, 0], [2, 2], PAIR, 1], [data, weight])
    assert found.flops == 2 * (2 * 16 * 4 * 4 * 4)


def test_gradients_of_convolutions_of_one_device() -> None:
    # 4 channels of 8 x 8 -> 4 of 4 x 4 with stride 2: data and gradient have the same channels and other sizes
    data, gradient, weight, forward = m(2, 4, 8, 8), m(2, 4, 4, 4), m(4, 4, 2, 2), 2 * 16 * 4 * 4 * 4
    backward = aten._slow_conv2d_backward.output_mask
    for mask, wanted in (([True, True, True], 2), ([False, True, True], 1), ([False, False, True], 0)):
        args = [gradient, data, weight, [2, 2], [2, 2], [0, 0], mask]
        assert count_op(backward, args, {}, [data, weight, m(4)]).flops == wanted * forward
    args = [data, gradient, weight, [0, 0], [2, 2], PAIR, 1, [True, True, False]]
    assert counted(aten.mps_convolution_backward, args, [data, weight]).flops == 2 * forward


# -- attention -----------------------------------------------------------------------------------

Q, K, V, OUT = m(2, 3, 5, 8), m(2, 3, 7, 8), m(2, 3, 7, 16), m(2, 3, 5, 16)
FORWARD = 2 * 3 * 5 * 7 * (8 + 16)
LOGSUM = m(2, 3, 5)
SEED = m(1, dtype=torch.int64)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("op", "options"),
    [
        (aten._scaled_dot_product_flash_attention_for_cpu, [0.0]),
        (aten._scaled_dot_product_flash_attention, [0.1]),
        (aten._scaled_dot_product_efficient_attention, [None, True, 0.0]),  # True: compute_log_sumexp
        (aten._scaled_dot_product_cudnn_attention, [None, True, 0.0]),
    ],
)
def test_attention_knows_its_causal_flag_from_others(op: Any, options: list[Any], causal: bool) -> None:
    found = counted(op, [Q, K, V, *options, causal], [OUT, LOGSUM], scale=0.5)
    assert (found.kind, found.flops) == ("attention", FORWARD)
    assert found.dims == {"b": 6, "q": 5, "s": 7, "d": 8, "dv": 16, "causal": int(causal), "dropped": 0}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("op", "options"),
    [
        (aten._scaled_dot_product_flash_attention_for_cpu_backward, [OUT, LOGSUM, 0.0]),
        (aten._scaled_dot_product_flash_attention_backward, [OUT, LOGSUM, None, None, 5, 7, 0.0]),
        (
            aten._scaled_dot_product_efficient_attention_backward,
            [None, OUT, LOGSUM, SEED, SEED, 0.0, [True, True, True, False]],
        ),
    ],
)
def test_attention_backward_computes_the_scores_again(op: Any, options: list[Any], causal: bool) -> None:
    found = counted(op, [OUT, Q, K, V, *options, causal], [Q, K, V])
    assert (found.flops, found.dims["causal"]) == (FORWARD * 5 // 2, int(causal))
    assert (found.dims["q"], found.dims["s"]) == (5, 7)


def test_attention_whose_heads_come_after_the_positions() -> None:
    args = [m(2, 5, 3, 8), m(2, 7, 3, 8), m(2, 7, 3, 16), None, None, 5, 7, 0.0, False, False]
    found = counted(aten._flash_attention_forward, args, [m(2, 5, 3, 16)])
    assert found.flops == FORWARD
    assert (found.dims["b"], found.dims["q"], found.dims["s"]) == (6, 5, 7)
    back = counted(
        aten._flash_attention_backward,
        [m(2, 5, 3, 16), *args[:3], m(2, 5, 3, 16), LOGSUM, None, None, 5, 7, 0.0, False, SEED, SEED],
        args[:3],
    )
    assert back.flops == FORWARD * 5 // 2


def test_packed_sequences_attend_to_themselves_only() -> None:
    # 4 sequences in 64 tokens, 3 heads: 4 x 3 x 16 x 16 scores, not 3 x 64 x 64
    packed, starts = m(64, 3, 8), m(5, dtype=torch.int32)
    args = [packed, packed, packed, starts, starts, 32, 32, 0.0, True, False]
    found = counted(aten._flash_attention_forward, args, [packed])
    assert found.flops == 4 * 3 * 16 * 16 * (8 + 8)
    assert found.dims == {"b": 12, "q": 16, "s": 16, "d": 8, "dv": 8, "causal": 0, "dropped": 0}
    one = m(1, 64, 3, 8)
    args = [one, one, one, None, starts, starts, 32, 32, 0.0, 0, True]
    assert counted(aten._efficient_attention_forward, args, [one]).flops == found.flops


def test_packed_sequences_backward_and_one_or_no_sequence() -> None:
    packed, starts = m(64, 3, 8), m(5, dtype=torch.int32)
    args = [packed, packed, packed, packed, packed, m(3, 64), starts, starts, 32, 32, 0.0, True, SEED, SEED]
    back = counted(aten._flash_attention_backward, args, [packed] * 3)
    assert back.flops == 4 * 3 * 16 * 16 * (8 + 8) * 5 // 2
    one = m(1, 64, 3, 8)
    for starts, sequences in ((m(2, dtype=torch.int32), 1), (m(1, dtype=torch.int32), 1), (m(3, dtype=torch.int32), 2)):
        args = [one, one, one, m(1, 3, 64, 64), starts, starts, 64, 64, 0.0, 0, True]  # the fourth is a bias
        found = counted(aten._efficient_attention_forward, args, [one])
        size = 64 // sequences
        assert found.dims == {"b": 3 * sequences, "q": size, "s": size, "d": 8, "dv": 8, "causal": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("options", "causal"),
    [
        ([0.0, True], True),
        ([0.0, False, True], False),
        ([True, 0.0, False], False),
        ([None, True, 0.0, True], True),
        ([True, None], True),  # no probability of a dropout
        ([False, True], False),
        ([0.0], False),
        ([], False),
    ],
)
def test_the_causal_flag(options: list[Any], causal: bool) -> None:
    assert _is_causal(options) is causal


def test_gradients_of_an_odd_number_of_scores_are_rounded_down() -> None:
    query, value = m(1, 1, 1, 1), m(1, 1, 1, 2)
    args = [value, query, query, value, value, m(1, 1, 1), 0.0, False]
    found = counted(aten._scaled_dot_product_flash_attention_for_cpu_backward, args, [query, query, value])
    assert found.flops == 3 * 5 // 2


def test_fused_encoder_layer() -> None:
    # 2 samples of 7 positions, width 8, hidden 32: four width x width products, two of width x hidden, two of attention
    width, hidden, tokens = 8, 32, 2 * 7
    args = [
        *(m(2, 7, 8), width, 2, m(24, 8), m(24), m(8, 8), m(8), True, False, 1e-5, m(8), m(8), m(8), m(8)),
        *(m(hidden, 8), m(hidden), m(8, hidden), m(8)),
    ]
    found = counted(aten._transformer_encoder_layer_fwd, args, m(2, 7, 8))
    attention = 2 * tokens * 7 * width
    norms = 2 * 5 * tokens * width  # fvcore's 5 an element, of two norms
    assert found.flops == tokens * (4 * width * width + 2 * width * hidden) + attention + norms
    assert found.dims == {"m": tokens, "k": width, "n": 4 * width + 2 * hidden}


def test_fused_multi_head_attention() -> None:
    # 2 samples, 5 queries of 7 keys, width 8: query and output projections of 5, key and value projections of 7
    args = [m(2, 5, 8), m(2, 7, 8), m(2, 7, 8), 8, 2, m(24, 8), m(24), m(8, 8), m(8)]
    found = counted(aten._native_multi_head_attention, args, [m(2, 5, 8)])
    assert found.flops == 2 * (2 * 5 * 64 + 2 * 7 * 64 + 2 * 5 * 7 * 8)
    assert found.dims == {"m": 2 * 5, "k": 8, "n": 4 * 8}


# -- recurrent layers ----------------------------------------------------------------------------

STEPS, BATCH, WIDTH, HIDDEN = 6, 2, 3, 5
LSTM = [m(4 * HIDDEN, WIDTH), m(4 * HIDDEN, HIDDEN), m(4 * HIDDEN), m(4 * HIDDEN)]
LSTM_MACS = STEPS * BATCH * 4 * HIDDEN * (WIDTH + HIDDEN)
DATA, RESULT, STATE = m(STEPS, BATCH, WIDTH), m(STEPS, BATCH, HIDDEN), m(1, BATCH, HIDDEN)


def test_one_layer_of_mkldnn() -> None:
    rest = [STATE, STATE, False, [], 2, HIDDEN, 1, True, False, False, True]
    found = counted(aten.mkldnn_rnn_layer, [DATA, *LSTM, *rest], [RESULT, STATE, STATE, m(9)])
    assert (found.kind, found.flops) == ("rnn", LSTM_MACS)
    sizes = {"steps": STEPS, "n": BATCH, "input": WIDTH, "hidden": HIDDEN, "layers": 1, "directions": 1}
    assert found.dims == sizes
    back = counted(aten.mkldnn_rnn_layer_backward, [DATA, *LSTM, STATE, STATE], [DATA])
    assert back.flops == 2 * LSTM_MACS


def test_recurrent_kernels_that_take_a_list_of_weights() -> None:
    rest = [4, None, STATE, STATE, 2, HIDDEN, 0, 1, False, 0.0, True, False, [], None]
    assert counted(aten._cudnn_rnn, [DATA, LSTM, *rest], [RESULT]).flops == LSTM_MACS
    rest = [4, m(9), STATE, STATE, RESULT, RESULT, None, None, 2, HIDDEN, 0, 1, False, 0.0, True, False, [], None]
    assert counted(aten._cudnn_rnn_backward, [DATA, LSTM, *rest], [DATA]).flops == 2 * LSTM_MACS


def test_apple_s_kernel_lists_its_states_before_its_weights() -> None:
    args = [DATA, [STATE, STATE], LSTM, True, 1, 0.0, True, False, False]
    assert counted(aten._lstm_mps, args, [RESULT]).flops == LSTM_MACS
    args = [None, STATE, STATE, m(9), m(9), DATA, RESULT, [STATE, STATE], LSTM, True, 1, 0.0, True, False, False]
    assert counted(aten.lstm_mps_backward, args, [DATA]).flops == 2 * LSTM_MACS


# -- decompositions ------------------------------------------------------------------------------

N3 = 6**3
SQUARE, TALL = m(2, 6, 6), m(2, 8, 4)


@pytest.mark.parametrize(
    ("op", "args", "macs"),
    [
        (aten.linalg_lu_factor_ex, [SQUARE], 2 * N3 // 3),
        (aten._linalg_det, [SQUARE], 2 * N3 // 3),
        (aten._linalg_eigh, [SQUARE], 2 * N3 * 9 // 2),
        (aten.linalg_eig, [SQUARE], 2 * N3 * 25 // 2),
        (aten.linalg_matrix_exp, [SQUARE], 2 * N3 * 8),
        (aten._linalg_svd, [TALL], 7 * 2 * 8 * 4**2),
        (aten._linalg_svd, [m(4, 8)], 7 * 8 * 4**2),  # the longer side first, whichever it is
        (aten.triangular_solve, [m(6, 5), m(6, 6)], 6 * 6 * 5 // 2),
        (aten.cholesky_solve, [m(6, 5), m(6, 6)], 6 * 6 * 5),
        (aten.linalg_lu_solve, [m(6, 6), m(6), m(6, 5)], 6 * 6 * 5),
        (aten._linalg_solve_ex, [SQUARE, m(2, 6)], 2 * (N3 // 3 + 6 * 6)),  # one column each
        (aten.cholesky_solve, [m(1, 5), m(1, 1)], 5),
        (aten.cholesky_solve, [m(6, 0), m(6, 6)], 0),
        (aten.linalg_inv_ex, [m(3, 5, 5), False], 3 * 125),
        (aten.linalg_qr, [TALL, "reduced"], 2 * 8 * 4**2),
        (aten.linalg_cholesky_ex, [m(5, 5)], 125 // 6),
        (aten.triangular_solve, [m(3, 1), m(3, 3)], 9 // 2),
        (aten._linalg_solve_ex, [m(5, 5), m(5, 1)], 25 + 125 // 3),
    ],
)
def test_decompositions_and_solves(op: Any, args: list[Any], macs: int) -> None:
    found = counted(op, args, [m(6, 6)])
    assert (found.kind, found.flops) == ("linalg", macs)


def test_a_transform_of_one_point_computes_nothing() -> None:
    one = m(3, 1, dtype=torch.complex64)
    assert counted(aten._fft_c2c, [one, [1], 0, True], one).flops == 0
    none = m(3, 0, dtype=torch.complex64)
    assert counted(aten._fft_c2c, [none, [1], 0, True], none).flops == 0


def test_products_with_quantised_weights_of_bitsandbytes():
    """(4, 8, 64) x (64, 96): the packed weight of 4 bits is a vector of bytes, and its shape an argument."""
    from joulecast.estimator.trace.formulas import lookup

    data, packed = torch.empty(4, 8, 64, device="meta"), torch.empty(96 * 64 // 2, 1, device="meta", dtype=torch.uint8)
    whole = torch.empty(96, 64, device="meta", dtype=torch.int8)
    for name, args in {
        "gemm_4bit": (data, packed, [96, 64], None, 64, "nf4"),
        "gemv_4bit": (data, packed, [96, 64], None, None, 64),
        "int8_linear_matmul": (data.to(torch.int8), whole),
        "int8_mixed_scaled_mm": (data, data.to(torch.int8), whole, None, None),
    }.items():
        entry = lookup(f"bitsandbytes::{name}")
        flops, dims = entry.formula(args, ())  # type: ignore[call-arg,arg-type]
        assert (entry.kind, flops) == ("matmul", 4 * 8 * 64 * 96), name
        assert dims == {"b": 1, "m": 32, "k": 64, "n": 96}
