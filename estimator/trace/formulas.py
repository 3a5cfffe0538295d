"""One table: ATen op name -> kind, multiply-adds and the sizes that its cost depends on.

A multiply-add counts as one FLOP, and only what fvcore counts is counted (matrix products,
convolutions, attention, recurrent layers, norms, resampling), so that both agree on the forward
pass. A norm's forward counts as fvcore counts it in evaluation mode. Everything else has 0 FLOPs
and is priced by the bytes that it moves. An op that is not in the table is `other`: its bytes
count, and the workload names it as unsupported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = Sequence[int]
Formula = Callable[[Sequence[Any], Sequence[Any]], tuple[int, dict[str, int]]]

KINDS = (
    "conv",
    "matmul",
    "attention",
    "rnn",
    "norm",
    "softmax",
    "activation",
    "elementwise",
    "dropout",
    "pool",
    "embedding",
    "reduce",
    "copy",
    "loss",
    "sort",
    "optimizer",
    "other",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """How one ATen op is counted: `formula(args, outputs) -> (multiply-adds, dims)`."""

    kind: str
    formula: Formula


def _numel(value: Any) -> int:
    shape = getattr(value, "shape", None)
    return prod(shape) if shape is not None else 0


def _sizes(args: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    """Elements of the largest input and of the first output: enough for ops that only move data."""
    return {
        "elements_in": max((_numel(arg) for arg in args), default=0),
        "elements_out": _numel(outputs[0]) if outputs else 0,
    }


def _moved(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    return 0, _sizes(args, outputs)


def _mm(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    m, k = args[0].shape[-2:]
    n = args[1].shape[-1]
    return m * k * n, {"b": 1, "m": m, "k": k, "n": n}


def _bmm(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    b, m, k = args[0].shape
    n = args[1].shape[-1]
    return b * m * k * n, {"b": b, "m": m, "k": k, "n": n}


def _vector(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    m = args[0].shape[0] if len(args[0].shape) == 2 else 1
    k = args[0].shape[-1]
    return m * k, {"b": 1, "m": m, "k": k, "n": 1}


def _skip_first(formula: Formula) -> Formula:
    """For addmm and the like, whose first argument is the matrix that is added."""
    return lambda args, outputs: formula(args[1:], outputs)


def conv_dims(
    input_shape: Shape, weight_shape: Shape, output_shape: Shape, groups: int, transposed: bool
) -> dict[str, int]:
    """n samples, channels, groups, k kernel elements, in/out spatial elements of a convolution."""
    c_in, c_out = input_shape[1], output_shape[1]
    return {
        "n": input_shape[0],
        "c_in": c_in,
        "c_out": c_out,
        "groups": groups,
        "k": prod(weight_shape[2:]),
        "in": prod(input_shape[2:]),
        "out": prod(output_shape[2:]),
        "rank": len(input_shape) - 2,
        "transposed": int(transposed),
    }


def conv_flops(dims: dict[str, int]) -> int:
    """Multiply-adds of a forward convolution, without its bias."""
    positions = dims["in"] if dims["transposed"] else dims["out"]
    return dims["n"] * positions * dims["k"] * dims["c_in"] * dims["c_out"] // dims["groups"]


def _conv(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    # convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    transposed = bool(args[6]) if len(args) > 6 else False
    groups = args[8] if len(args) > 8 else 1
    dims = conv_dims(args[0].shape, args[1].shape, outputs[0].shape, groups, transposed)
    dims["channels_last"] = int(channels_last(args[0]) or channels_last(args[1]))
    return conv_flops(dims), dims


def channels_last(tensor: Any) -> bool:
    """Whether the channels of a pixel lie side by side in memory; a convolution's images or weights decide for it."""
    return bool(tensor.stride()[1] == 1) and prod(tensor.shape[2:]) > 1


def _conv_backward(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    # convolution_backward(grad_output, input, weight, bias_sizes, stride, padding, dilation,
    #                      transposed, output_padding, groups, output_mask)
    # Each of the two gradients is a convolution of as many multiply-adds as the forward one,
    # grouped ones too (torch.utils.flop_counter forgets the groups there).
    dims = conv_dims(args[1].shape, args[2].shape, args[0].shape, args[9], bool(args[7]))
    forward = conv_flops(dims)
    dims["grad_input"], dims["grad_weight"] = int(args[10][0]), int(args[10][1])
    dims["channels_last"] = int(channels_last(args[1]) or channels_last(args[2]))
    return forward * (dims["grad_input"] + dims["grad_weight"]), dims


def attention_dims(query: Any, key: Any, value: Any, causal: bool, dropout: bool = False) -> dict[str, int]:
    """b = all leading dimensions (batch x heads), q and s positions, d and dv widths.

    `dropped` counts the scores that a dropout draws a number for.
    """
    batch, positions = prod(query.shape[:-2]), (query.shape[-2], key.shape[-2])
    return {
        "b": batch,
        "q": positions[0],
        "s": positions[1],
        "d": query.shape[-1],
        "dv": value.shape[-1],
        "causal": int(causal),
        "dropped": batch * prod(positions) if dropout else 0,
    }


def attention_flops(dims: dict[str, int]) -> int:
    """Multiply-adds of Q K^T and of P V. A causal mask is not taken off: the convention of papers."""
    return dims["b"] * dims["q"] * dims["s"] * (dims["d"] + dims["dv"])


def _attention(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    dims = attention_dims(args[0], args[1], args[2], any(arg is True for arg in args[3:]))
    return attention_flops(dims), dims


def _attention_backward(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    # (grad_out, query, key, value, ...)
    dims = attention_dims(args[1], args[2], args[3], any(arg is True for arg in args[4:]))
    return attention_backward_flops(dims), dims


def attention_backward_flops(dims: dict[str, int]) -> int:
    """Five products instead of the forward's two: the scores are computed again (FlashAttention)."""
    return attention_flops(dims) * 5 // 2


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def rnn_flops(
    cell: str, *, tokens: int, input_size: int, hidden: int, layers: int, directions: int, projection: int = 0
) -> int:
    """Multiply-adds of a stacked recurrent layer over `tokens` = batch x steps positions.

    Each layer and direction multiplies by W_ih (gates*hidden x width) and W_hh (gates*hidden x state).
    """
    state = projection or hidden
    gates = GATES[cell] * hidden
    total = 0
    for layer in range(layers):
        width = input_size if layer == 0 else state * directions
        total += directions * (gates * (width + state) + (projection * hidden if projection else 0))
    return tokens * total


def _mkldnn_rnn(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    # mkldnn_rnn_layer(input (steps, batch, width), w_ih, w_hh, ...): one layer, one direction
    steps, batch, width = args[0].shape
    gates_hidden, hidden = args[2].shape
    dims = {"steps": steps, "n": batch, "input": width, "hidden": hidden, "layers": 1, "directions": 1}
    return steps * batch * gates_hidden * (width + hidden), dims


def _mkldnn_rnn_backward(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    flops, dims = _mkldnn_rnn(args, outputs)
    return 2 * flops, dims


def _norm(per_element: int, channels_axis: int | None = None) -> Formula:
    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
        elements = _numel(args[0])
        affine = any(getattr(arg, "shape", None) is not None for arg in args[1:3])
        dims = {"elements": elements, "channels": args[0].shape[1] if len(args[0].shape) > 1 else 1}
        return elements * (per_element if affine else per_element - 1), dims

    return formula


def _batch_norm(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    # native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
    no_statistics_kept = len(args) > 5 and args[3] is None and args[5] is True
    return _norm(5 if no_statistics_kept else 2)(args, outputs)  # in evaluation mode they are computed too


def _norm_backward(per_element: int) -> Formula:
    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
        elements = _numel(args[0])
        channels = args[1].shape[1] if len(getattr(args[1], "shape", ())) > 1 else 1
        return 2 * per_element * elements, {"elements": elements, "channels": channels}

    return formula


def _resample(per_output: int) -> Formula:
    return lambda args, outputs: (per_output * _numel(outputs[0]), _sizes(args, outputs))


def _embedding(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    rows, width = args[0].shape[0], args[0].shape[-1]
    return 0, {"tokens": _numel(args[1]), "rows": rows, "width": width}


def _embedding_backward(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    # embedding_dense_backward(grad_output, indices, num_weights, ...) writes the whole table
    return 0, {"tokens": _numel(args[1]), "rows": args[2], "width": args[0].shape[-1]}


def _pool(args: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, dict[str, int]]:
    window = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else (1,)
    return 0, {**_sizes(args, outputs), "k": prod(int(side) for side in window)}


def _group(kind: str, names: str, formula: Formula = _moved) -> dict[str, Entry]:
    return {name: Entry(kind, formula) for name in names.split()}


TABLE: dict[str, Entry] = {
    **_group("matmul", "mm", _mm),
    **_group("matmul", "addmm _addmm_activation", _skip_first(_mm)),
    **_group("matmul", "bmm", _bmm),
    **_group("matmul", "baddbmm", _skip_first(_bmm)),
    **_group("matmul", "mv dot vdot", _vector),
    **_group("matmul", "addmv", _skip_first(_vector)),
    **_group("conv", "convolution _convolution mkldnn_convolution cudnn_convolution", _conv),
    **_group("conv", "convolution_backward", _conv_backward),
    **_group(
        "attention",
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable",
        _attention,
    ),
    **_group(
        "attention",
        "_scaled_dot_product_flash_attention_for_cpu_backward "
        "_scaled_dot_product_flash_attention_backward "
        "_scaled_dot_product_efficient_attention_backward "
        "_scaled_dot_product_cudnn_attention_backward "
        "_scaled_dot_product_fused_attention_overrideable_backward",
        _attention_backward,
    ),
    **_group("rnn", "mkldnn_rnn_layer", _mkldnn_rnn),
    **_group("rnn", "mkldnn_rnn_layer_backward", _mkldnn_rnn_backward),
    **_group(
        "rnn",
        "_thnn_fused_lstm_cell _thnn_fused_gru_cell _thnn_fused_lstm_cell_backward_impl "
        "_thnn_fused_gru_cell_backward _thnn_differentiable_lstm_cell_backward",
    ),
    **_group(
        "norm",
        "_native_batch_norm_legit _native_batch_norm_legit_functional "
        "miopen_batch_norm _native_batch_norm_legit_no_training "
        "batch_norm_with_update _batch_norm_with_update _batch_norm_no_update",
        _norm(2),
    ),
    **_group("norm", "native_batch_norm cudnn_batch_norm", _batch_norm),
    **_group("norm", "native_layer_norm native_group_norm _fused_rms_norm rms_norm", _norm(5)),
    **_group("norm", "native_batch_norm_backward cudnn_batch_norm_backward batch_norm_backward", _norm_backward(2)),
    **_group(
        "norm",
        "native_layer_norm_backward native_group_norm_backward _fused_rms_norm_backward",
        _norm_backward(5),
    ),
    **_group("norm", "_weight_norm_interface _weight_norm_interface_backward linalg_vector_norm renorm norm"),
    **_group("softmax", "_softmax _log_softmax _softmax_backward_data _log_softmax_backward_data logsumexp"),
    **_group("softmax", "_safe_softmax"),
    **_group(
        "activation",
        "relu relu_ threshold threshold_backward gelu gelu_backward silu silu_ silu_backward "
        "sigmoid sigmoid_ sigmoid_backward tanh tanh_ tanh_backward hardtanh hardtanh_ "
        "hardtanh_backward hardswish hardswish_ hardswish_backward hardsigmoid hardsigmoid_ "
        "hardsigmoid_backward leaky_relu leaky_relu_ leaky_relu_backward elu elu_ elu_backward "
        "celu selu softplus softplus_backward mish mish_ mish_backward _prelu_kernel "
        "_prelu_kernel_backward log_sigmoid_forward log_sigmoid_backward glu glu_backward "
        "softshrink softshrink_backward hardshrink hardshrink_backward rrelu_with_noise",
    ),
    **_group(
        "elementwise",
        "add add_ sub sub_ rsub mul mul_ div div_ pow pow_ sqrt sqrt_ rsqrt rsqrt_ exp exp_ expm1 "
        "log log1p log2 neg neg_ abs sign reciprocal sin cos tan atan atan2 erf erfinv square "
        "clamp clamp_ clamp_min clamp_max clamp_min_ clamp_max_ clip minimum maximum fmin fmax "
        "where masked_fill masked_fill_ addcmul addcmul_ addcdiv addcdiv_ lerp lerp_ eq ne lt le "
        "gt ge logical_and logical_or logical_not logical_xor logical_and_ bitwise_and bitwise_or "
        "bitwise_not bitwise_xor bitwise_left_shift bitwise_right_shift bitwise_and_ bitwise_or_ "
        "floor ceil round trunc floor_divide remainder fmod isnan isinf isfinite nan_to_num tril "
        "triu tril_ triu_ sgn hypot sinc masked_fill_backward _foreach_add_ xlogy exp2 heaviside "
        "copysign nextafter cumsum cumprod cummax polar view_as_complex real imag frac asin acos "
        "sinh cosh asinh acosh atanh logaddexp __and__ __or__ logit logit_backward special_expit "
        "deg2rad erfc erfcx lgamma digamma __rshift__ __lshift__ __xor__ addr",
    ),
    **_group("dropout", "native_dropout native_dropout_backward bernoulli bernoulli_ _fused_dropout alpha_dropout"),
    **_group(
        "dropout",
        "rand randn randint rand_like randn_like randint_like uniform_ normal_ uniform normal "
        "random_ randperm multinomial exponential_ trunc_normal_",
    ),
    **_group(
        "pool",
        "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d avg_pool1d "
        "max_pool2d mkldnn_max_pool2d max_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d "
        "adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d",
        _pool,
    ),
    **_group(
        "pool",
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward avg_pool2d_backward "
        "avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward "
        "adaptive_max_pool2d_backward adaptive_max_pool3d_backward fractional_max_pool2d_backward "
        "max_unpool2d max_pool2d_backward",
    ),
    **_group(
        "pool",
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d",
        _resample(1),
    ),
    **_group(
        "pool",
        "upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d upsample_trilinear3d",
        _resample(4),
    ),
    **_group("pool", "upsample_bicubic2d _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d", _resample(4)),
    **_group(
        "pool",
        "upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward "
        "upsample_bilinear2d_backward upsample_linear1d_backward upsample_trilinear3d_backward "
        "_upsample_nearest_exact2d_backward _upsample_bilinear2d_aa_backward "
        "upsample_bicubic2d_backward _upsample_bicubic2d_aa_backward grid_sampler_2d_backward "
        "grid_sampler_3d_backward",
    ),
    **_group("embedding", "embedding", _embedding),
    **_group("embedding", "embedding_dense_backward", _embedding_backward),
    **_group(
        "embedding",
        "_embedding_bag _embedding_bag_forward_only _embedding_bag_dense_backward embedding_renorm_",
    ),
    **_group(
        "reduce",
        "sum mean amax amin max min argmax argmin prod any all var var_mean std std_mean "
        "count_nonzero cumsum_backward native_norm _cdist_forward _cdist_backward cdist "
        "linalg_norm trace nansum",
    ),
    **_group(
        "copy",
        "cat stack clone copy_ _to_copy contiguous index index_put index_put_ _index_put_impl_ "
        "index_add index_add_ index_select index_copy index_fill gather scatter scatter_ "
        "scatter_add scatter_add_ masked_select masked_scatter take repeat repeat_interleave roll "
        "flip constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d reflection_pad1d_backward reflection_pad2d_backward "
        "replication_pad2d_backward slice_backward select_backward slice_scatter select_scatter "
        "im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
        "new_zeros new_full new_ones zeros ones full zeros_like ones_like full_like fill fill_ "
        "zero_ scalar_tensor arange linspace eye one_hot diag_embed diagonal_backward "
        "unfold_backward rot90 nonzero split_with_sizes_copy lift_fresh as_strided_scatter "
        "diagonal_scatter _copy_from tril_indices triu_indices logspace block_diag "
        "_pack_padded_sequence _pack_padded_sequence_backward _assert_async masked_fill_scalar "
        "_reshape_copy _fw_primal _local_scalar_dense item equal is_same_size meshgrid bucketize "
        "histc searchsorted bincount select_copy unfold_copy lift_fresh_copy "
        "_nested_tensor_from_mask _trilinear view_copy expand_copy permute_copy",
    ),
    **_group(
        "loss",
        "nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward mse_loss "
        "mse_loss_backward smooth_l1_loss smooth_l1_loss_backward huber_loss huber_loss_backward "
        "binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits "
        "_ctc_loss _ctc_loss_backward soft_margin_loss soft_margin_loss_backward "
        "multi_margin_loss multilabel_margin_loss_forward kl_div",
    ),
    **_group("sort", "sort topk argsort kthvalue mode unique _unique2 unique_consecutive unique_dim msort"),
}

# Ops that allocate or only look: no arithmetic, no traffic.
FREE = frozenset(
    [
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "empty_permuted",
        "detach",
        "detach_",
        "alias",
        "_unsafe_view",
        "resize_",
        "set_",
        "view",
        "_reshape_alias",
        "sym_size",
        "sym_numel",
        "sym_stride",
        "is_pinned",
        "prim_device",
        "_has_compatible_shallow_copy_type",
        "lift",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "record_stream",
    ]
)


def lookup(name: str) -> Entry:
    """The entry of an ATen op's base name; unknown ones are `other`, priced by bytes alone."""
    return TABLE.get(name, _OTHER)


_OTHER = Entry("other", _moved)
