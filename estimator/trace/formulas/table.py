"""One table: ATen op -> kind, multiply-adds, dims and bytes.

An in-place op (`relu_`), a copying view (`view_copy`) and an op on a list of tensors (`_foreach_add`) are looked up
under the plain name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...base.errors import JoulecastError
from . import moving, products
from .products import Formula, skip_first
from .traffic import Traffic, bagged, fetched, filled, placed, whole

KINDS = (
    "conv",
    "matmul",
    "attention",
    "rnn",
    "scan",
    "fft",
    "linalg",
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
"""What ops are grouped by. `scan` is a state-space or linear-attention layer, `linalg` a decomposition or solve."""


@dataclass(frozen=True, slots=True)
class Called:
    """A formula that takes the op's own arguments, as users and PyTorch's FLOP counter write them."""

    function: Callable[..., int]
    out_name: str = "out"
    operations_per_mac: int = 1  # PyTorch counts a multiply-add as two

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> int:
        return int(self.function(*args, **kwargs, **{self.out_name: output})) // self.operations_per_mac


@dataclass(frozen=True, slots=True)
class Entry:
    """How one op is counted: `formula(args, outputs)` gives multiply-adds and dims, `traffic` the bytes."""

    kind: str
    formula: Formula | Called = moving.moved
    traffic: Traffic = whole


def _group(kind: str, names: str, formula: Formula = moving.moved, traffic: Traffic = whole) -> dict[str, Entry]:
    return {name: Entry(kind, formula, traffic) for name in names.split()}


def _placed(names: str, *, adds: bool = False) -> dict[str, Entry]:
    """Writes by index, of a copy and in place."""
    entries: dict[str, Entry] = {}
    for name in names.split():
        plain = name.removeprefix("_unsafe_").lstrip("_")
        entries[name] = Entry("copy", traffic=placed(plain, in_place=False, adds=adds))
        if name != "_unsafe_index_put":
            entries[f"{name}_"] = Entry("copy", traffic=placed(plain, in_place=True, adds=adds))
    return entries


_PRODUCTS: dict[str, Entry] = {
    **_group("matmul", "mm _sparse_mm _sparse_mm_reduce_impl _int_mm _scaled_mm", products.mm),
    **_group("matmul", "addmm _addmm_activation _sparse_addmm", skip_first(products.mm)),
    **_group("matmul", "bitsandbytes::gemm_4bit bitsandbytes::gemv_4bit", products.packed_linear),
    **_group("matmul", "bitsandbytes::int8_linear_matmul bitsandbytes::int8_scaled_mm", products.linear),
    **_group("matmul", "bitsandbytes::int8_mixed_scaled_mm", products.mixed_linear),
    **_group("matmul", "bmm", products.bmm),
    **_group("matmul", "baddbmm addbmm", skip_first(products.bmm)),
    **_group("matmul", "mv dot vdot", products.vector_product),
    **_group("matmul", "addmv", skip_first(products.vector_product)),
    **_group("matmul", "linear mkldnn_linear _weight_int8pack_mm", products.linear),
    **_group("matmul", "linear_backward", products.linear_backward),
    **_group("matmul", "_foreach_mm", products.foreach_mm),
    **_group("matmul", "_grouped_mm _scaled_grouped_mm transformers::grouped_mm_fallback", products.grouped_mm),
    **_group("matmul", "transformers::grouped_mm_fallback_backward", products.grouped_fallback_backward),
    **_group("matmul", "sparse_sampled_addmm", products.sampled_mm),
    **_group("matmul", "_sparse_sparse_matmul", products.sparse_sparse_mm),
    **_group("matmul", "_trilinear", products.trilinear),
    **_group("matmul", "_cdist_forward _euclidean_dist", products.distances),
    **_group("matmul", "_cdist_backward", products.distances_backward),
    **_group("matmul", "_pdist_forward _pdist_backward", products.own_distances),
    **_group("conv", "convolution _convolution convolution_overrideable", products.conv),
    **_group("conv", "convolution_backward convolution_backward_overrideable", products.conv_backward),
    **_group(
        "conv",
        "cudnn_convolution miopen_convolution miopen_depthwise_convolution _nnpack_spatial_convolution "
        "mkldnn_convolution _slow_conv2d_forward _conv_depthwise2d conv_depthwise3d slow_conv3d_forward "
        "slow_conv_dilated2d slow_conv_dilated3d _mps_convolution",
        products.plain_conv(transposed=False),
    ),
    **_group(
        "conv",
        "cudnn_convolution_transpose miopen_convolution_transpose slow_conv_transpose2d slow_conv_transpose3d "
        "_mps_convolution_transpose",
        products.plain_conv(transposed=True),
    ),
    **_group("conv", "_slow_conv2d_backward", products.plain_conv_backward(grad=0)),
    **_group("conv", "mps_convolution_backward", products.plain_conv_backward(grad=1)),
    **_group("conv", "conv_tbc", products.conv_tbc),
    **_group(
        "attention",
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable",
        products.attention,
    ),
    **_group(
        "attention",
        "_scaled_dot_product_flash_attention_for_cpu_backward "
        "_scaled_dot_product_flash_attention_backward "
        "_scaled_dot_product_efficient_attention_backward "
        "_scaled_dot_product_cudnn_attention_backward "
        "_scaled_dot_product_fused_attention_overrideable_backward",
        products.attention_backward,
    ),
    **_group(
        "attention",
        "_flash_attention_forward _efficient_attention_forward _cudnn_attention_forward",
        products.packed_attention,
    ),
    **_group(
        "attention",
        "_flash_attention_backward _efficient_attention_backward _cudnn_attention_backward",
        products.packed_attention_backward,
    ),
    **_group(
        "attention",
        "flash_attn::_flash_attn_forward flash_attn::_flash_attn_varlen_forward flash_attn_3::_flash_attn_forward",
        products.packed_attention,
    ),
    **_group(
        "attention",
        "flash_attn::_flash_attn_backward flash_attn::_flash_attn_varlen_backward flash_attn_3::_flash_attn_backward",
        products.packed_attention_backward,
    ),
    **_group("attention", "_transformer_encoder_layer_fwd", products.encoder_layer),
    **_group("attention", "_native_multi_head_attention", products.multi_head_attention),
    **_group("rnn", "mkldnn_rnn_layer", products.mkldnn_rnn),
    **_group("rnn", "mkldnn_rnn_layer_backward", products.mkldnn_rnn_backward),
    **_group("rnn", "_cudnn_rnn miopen_rnn _lstm_mps", products.weights_rnn(passes=1)),
    **_group("rnn", "_cudnn_rnn_backward miopen_rnn_backward", products.weights_rnn(passes=2)),
    **_group("rnn", "lstm_mps_backward", products.weights_rnn(passes=2, data=5)),
    **_group(
        "rnn",
        "_thnn_fused_lstm_cell _thnn_fused_gru_cell _thnn_fused_lstm_cell_backward_impl "
        "_thnn_fused_gru_cell_backward _thnn_differentiable_lstm_cell_backward",
    ),
    **_group("fft", "_fft_r2c _fft_c2r", products.fft(1.25)),
    **_group("fft", "_fft_c2c", products.fft(2.5)),
    **_group("linalg", "linalg_cholesky_ex cholesky", products.factor(1, 6)),
    **_group("linalg", "linalg_lu_factor_ex linalg_lu _linalg_det _linalg_slogdet", products.factor(1, 3)),
    **_group("linalg", "linalg_ldl_factor_ex", products.factor(1, 6)),
    **_group("linalg", "linalg_inv_ex", products.factor(1, 1)),
    **_group("linalg", "cholesky_inverse", products.factor(1, 3)),
    **_group("linalg", "_linalg_eigh", products.factor(9, 2)),
    **_group("linalg", "linalg_eig", products.factor(25, 2)),
    **_group("linalg", "linalg_eigvals", products.factor(5, 1)),
    **_group("linalg", "linalg_matrix_exp", products.factor(8, 1)),
    **_group("linalg", "linalg_qr geqrf linalg_lstsq linalg_pinv", products.tall_factor(1)),
    **_group("linalg", "linalg_householder_product ormqr", products.tall_factor(1)),
    **_group("linalg", "_linalg_svd", products.tall_factor(7)),
    **_group("linalg", "linalg_solve_triangular", products.solve(passes=1, matrix=0, right=1, factored=True)),
    **_group("linalg", "triangular_solve", products.solve(passes=1, matrix=1, right=0, factored=True)),
    **_group("linalg", "cholesky_solve", products.solve(passes=2, matrix=1, right=0, factored=True)),
    **_group("linalg", "linalg_lu_solve", products.solve(passes=2, matrix=0, right=2, factored=True)),
    **_group("linalg", "linalg_ldl_solve", products.solve(passes=2, matrix=0, right=2, factored=True)),
    **_group("linalg", "_linalg_solve_ex", products.solve(passes=2, matrix=0, right=1, factored=False)),
}

_NORMS: dict[str, Entry] = {
    **_group(
        "norm",
        "_native_batch_norm_legit _native_batch_norm_legit_functional miopen_batch_norm _batch_norm_with_update",
        moving.norm(2),
    ),
    **_group("norm", "_native_batch_norm_legit_no_training _batch_norm_no_update", moving.running_batch_norm),
    **_group("norm", "native_batch_norm cudnn_batch_norm", moving.batch_norm),
    **_group("norm", "native_layer_norm _fused_rms_norm rms_norm", moving.layer_norm),
    **_group("norm", "native_group_norm", moving.norm(5)),
    **_group("norm", "native_batch_norm_backward", moving.batch_norm_backward),
    **_group(
        "norm",
        "cudnn_batch_norm_backward batch_norm_backward miopen_batch_norm_backward",
        moving.norm_backward(2),
    ),
    **_group("norm", "native_layer_norm_backward _fused_rms_norm_backward", moving.layer_norm_backward),
    **_group("norm", "native_group_norm_backward", moving.norm_backward(5)),
    **_group("norm", "_weight_norm_interface _weight_norm_interface_backward linalg_vector_norm renorm norm"),
    **_group(
        "softmax",
        "_softmax _log_softmax _softmax_backward_data _log_softmax_backward_data logsumexp _safe_softmax "
        "_masked_softmax _masked_softmax_backward _sparse_softmax _sparse_log_softmax "
        "_sparse_softmax_backward_data _sparse_log_softmax_backward_data logcumsumexp",
    ),
}

_POINTWISE: dict[str, Entry] = {
    **_group(
        "activation",
        "relu threshold threshold_backward gelu gelu_backward silu silu_backward "
        "sigmoid sigmoid_backward tanh tanh_backward hardtanh "
        "hardtanh_backward hardswish hardswish_backward hardsigmoid "
        "hardsigmoid_backward leaky_relu leaky_relu_backward elu elu_backward "
        "celu selu softplus softplus_backward mish mish_backward _prelu_kernel "
        "_prelu_kernel_backward log_sigmoid_forward log_sigmoid_backward glu glu_backward glu_jvp "
        "softshrink softshrink_backward hardshrink hardshrink_backward rrelu_with_noise "
        "rrelu_with_noise_backward rrelu_with_noise_functional",
    ),
    **_group(
        "elementwise",
        "bitsandbytes::quantize_4bit bitsandbytes::dequantize_4bit bitsandbytes::quantize_blockwise "
        "bitsandbytes::dequantize_blockwise bitsandbytes::int8_vectorwise_quant bitsandbytes::int8_vectorwise_dequant "
        "bitsandbytes::int8_double_quant bitsandbytes::int8_mm_dequant",
    ),
    **_group(
        "elementwise",
        "add sub rsub mul div pow sqrt rsqrt exp expm1 log log1p log2 log10 neg abs sign reciprocal "
        "sin cos tan atan atan2 erf erfinv erfc square clamp clamp_min clamp_max clip minimum maximum fmin fmax "
        "where masked_fill addcmul addcdiv lerp eq ne lt le gt ge logical_and logical_or logical_not logical_xor "
        "bitwise_and bitwise_or bitwise_not bitwise_xor bitwise_left_shift bitwise_right_shift "
        "floor ceil round trunc floor_divide remainder fmod isnan isinf isfinite isposinf isneginf nan_to_num tril "
        "triu sgn signbit hypot sinc xlogy exp2 heaviside copysign nextafter cumsum cumprod cummax cummin "
        "_cummax_helper _cummin_helper polar complex view_as_complex real imag angle _conj_physical conj_physical "
        "frac frexp ldexp asin acos sinh cosh asinh acosh atanh logaddexp logaddexp2 __and__ __or__ __rshift__ "
        "__lshift__ __xor__ logit logit_backward special_expit deg2rad rad2deg special_erfcx lgamma digamma "
        "polygamma mvlgamma i0 igamma igammac addr linalg_cross gcd lcm "
        "special_i0e special_i1 special_i1e special_xlog1py special_zeta special_entr special_ndtri "
        "special_log_ndtr special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 "
        "special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v "
        "special_chebyshev_polynomial_w special_hermite_polynomial_h special_hermite_polynomial_he "
        "special_laguerre_polynomial_l special_legendre_polynomial_p special_modified_bessel_i0 "
        "special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 "
        "special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 "
        "special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u "
        "special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w "
        "special_spherical_bessel_j0 fake_quantize_per_tensor_affine_cachemask "
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fake_quantize_learnable_per_tensor_affine "
        "_fake_quantize_learnable_per_tensor_affine_backward fake_quantize_per_channel_affine_cachemask "
        "_fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_channel_affine_backward "
        "_fused_moving_avg_obs_fq_helper quantize_per_tensor quantize_per_channel dequantize "
        "_test_autograd_multiple_dispatch _test_warn_in_autograd",
    ),
    **_group("dropout", "native_dropout native_dropout_backward _fused_dropout alpha_dropout"),
    **_group(
        "dropout",
        "rand randn randint rand_like randn_like randint_like normal bernoulli randperm multinomial poisson "
        "_standard_gamma _standard_gamma_grad binomial _sample_dirichlet _dirichlet_grad",
    ),
    **_group(
        "dropout",
        "bernoulli_ uniform normal_ random exponential cauchy log_normal geometric",
        traffic=filled,
    ),
    **_group(
        "loss",
        "nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward mse_loss "
        "mse_loss_backward smooth_l1_loss smooth_l1_loss_backward huber_loss huber_loss_backward "
        "binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits "
        "_ctc_loss _ctc_loss_backward _cudnn_ctc_loss miopen_ctc_loss soft_margin_loss soft_margin_loss_backward "
        "multi_margin_loss multi_margin_loss_backward multilabel_margin_loss_forward "
        "multilabel_margin_loss_backward kl_div",
    ),
}

_POOLS: dict[str, Entry] = {
    **_group(
        "pool",
        "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d avg_pool1d "
        "max_pool2d mkldnn_max_pool2d mkldnn_max_pool3d max_pool1d fractional_max_pool2d fractional_max_pool3d",
        moving.pool,
    ),
    **_group(
        "pool",
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "mkldnn_adaptive_avg_pool2d",
        moving.adaptive_pool,
    ),
    **_group(
        "pool",
        "max_pool2d_with_indices_backward max_pool3d_with_indices_backward avg_pool2d_backward "
        "avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward "
        "adaptive_max_pool2d_backward adaptive_max_pool3d_backward fractional_max_pool2d_backward "
        "fractional_max_pool3d_backward max_unpool2d max_unpool3d max_pool2d_backward "
        "mkldnn_max_pool2d_backward mkldnn_max_pool3d_backward mkldnn_adaptive_avg_pool2d_backward",
    ),
    **_group(
        "pool",
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d _upsample_nearest_exact3d",
        moving.resample(1),
    ),
    **_group(
        "pool",
        "upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d upsample_trilinear3d upsample_bicubic2d "
        "_upsample_bicubic2d_aa _upsample_lanczos2d_aa grid_sampler_2d grid_sampler_3d "
        "_grid_sampler_2d_cpu_fallback cudnn_grid_sampler",
        moving.resample(4),
    ),
    **_group(
        "pool",
        "upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward "
        "_upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward "
        "upsample_bilinear2d_backward upsample_linear1d_backward upsample_trilinear3d_backward "
        "_upsample_bilinear2d_aa_backward upsample_bicubic2d_backward _upsample_bicubic2d_aa_backward "
        "_upsample_lanczos2d_aa_backward grid_sampler_2d_backward grid_sampler_3d_backward "
        "_grid_sampler_2d_cpu_fallback_backward cudnn_grid_sampler_backward",
    ),
    **_group("pool", "affine_grid_generator affine_grid_generator_backward cudnn_affine_grid_generator"),
}

_MOVES: dict[str, Entry] = {
    **_group("embedding", "embedding", moving.embedding, fetched),
    **_group("embedding", "_embedding_bag _embedding_bag_forward_only", moving.embedding, bagged),
    **_group("embedding", "embedding_dense_backward", moving.embedding_backward),
    **_group(
        "embedding",
        "_embedding_bag_backward _embedding_bag_dense_backward _embedding_bag_per_sample_weights_backward "
        "embedding_renorm",
    ),
    **_group(
        "reduce",
        "sum mean amax amin aminmax max min argmax argmin prod any all var var_mean std std_mean median nanmedian "
        "count_nonzero native_norm linalg_norm trace nansum dist _sparse_sum _sparse_sum_backward segment_reduce "
        "_segment_reduce_backward _is_all_true _is_any_true hash_tensor",
    ),
    **_placed("index_put _index_put_impl _unsafe_index_put index_copy index_fill scatter put"),
    **_placed("index_add scatter_add index_reduce scatter_reduce", adds=True),
    **_group("copy", "index _unsafe_index index_select gather take", traffic=fetched),
    **_group("copy", "copy_ fill zero", traffic=filled),
    **_group("copy", "clone", moving.clone),
    **_group(
        "copy",
        "cat stack _to_copy contiguous masked_select masked_scatter masked_scatter_backward "
        "_unsafe_masked_index _unsafe_masked_index_put_accumulate repeat repeat_interleave roll "
        "flip constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d reflection_pad1d_backward "
        "reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward "
        "replication_pad2d_backward replication_pad3d_backward slice_backward select_backward slice_scatter "
        "select_scatter im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
        "new_zeros new_full new_ones zeros ones full zeros_like ones_like full_like "
        "scalar_tensor arange linspace eye one_hot diag_embed diagonal_backward "
        "unfold_backward rot90 nonzero split_with_sizes_copy lift_fresh as_strided_scatter "
        "diagonal_scatter _copy_from tril_indices triu_indices logspace block_diag "
        "_pack_padded_sequence _pack_padded_sequence_backward _assert_async "
        "_reshape_copy _fw_primal _local_scalar_dense item equal is_same_size meshgrid bucketize "
        "histc searchsorted isin bincount view_copy unfold_copy lift_fresh_copy _lazy_clone narrow_copy "
        "_nested_tensor_from_mask _nested_tensor_from_tensor_list _nested_from_padded _nested_from_padded_tensor "
        "to_padded_tensor _jagged_to_padded_dense_forward _padded_dense_to_jagged_forward "
        "_to_dense _to_sparse _to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc to_mkldnn "
        "_mkldnn_reshape _mkldnn_transpose sparse_mask _coalesce lu_unpack _pin_memory "
        "_new_zeros_with_same_feature_meta",
    ),
    **_group(
        "sort",
        "sort topk argsort kthvalue mode _unique _unique2 unique_consecutive unique_dim unique_dim_consecutive msort",
    ),
}

TABLE: dict[str, Entry] = {**_PRODUCTS, **_NORMS, **_POINTWISE, **_POOLS, **_MOVES}

_FREE_NAMES = (
    "empty empty_like empty_strided new_empty new_empty_strided empty_permuted _efficientzerotensor "
    "detach alias _unsafe_view resize set view _reshape_alias as_strided squeeze unsqueeze t transpose "
    "slice split unsafe_split unsafe_split_with_sizes sym_size sym_numel sym_stride is_pinned "
    "_has_compatible_shallow_copy_type lift _assert_scalar _assert_tensor_metadata record_stream "
    "_sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_unsafe _sparse_coo_tensor_with_dims "
    "sparse_compressed_tensor _sparse_compressed_tensor_unsafe _indices _values indices values "
    "crow_indices col_indices ccol_indices row_indices _nnz is_coalesced _coalesced sparse_resize "
    "sparse_resize_and_clear matmul promote_types result_type can_cast _linalg_check_errors"
)
FREE = frozenset(_FREE_NAMES.split())
"""Ops that allocate or only look, and those that always run as other ops: no arithmetic, no traffic."""

OTHER = Entry("other")


def plain_name(name: str) -> str:
    """The name that the table knows: `relu` for `relu_`, `add` for `_foreach_add_`, `view` for `view_copy`."""
    if name in TABLE or name in FREE:
        return name
    shorter = name.removeprefix("_foreach_")
    for candidate in (shorter, shorter.removesuffix("_")):
        if candidate in TABLE or candidate in FREE:
            return candidate
    return "view_copy" if name.endswith("_copy") else name


def is_free(name: str) -> bool:
    return plain_name(name) in FREE


def lookup(name: str) -> Entry:
    """The entry of an op: `mm` for ATen's, `namespace::name` for others; unknown ones are `other`."""
    return TABLE.get(plain_name(name), OTHER)


def register_op(op: Any, formula: Callable[..., int], *, kind: str = "matmul") -> None:
    """Adds one op to the table, for custom kernels.

    Parameters
    ----------
    op:
        "namespace::name", or the op itself (`torch.ops.namespace.name`, or what `torch.library.custom_op` returns).
    formula:
        `formula(*args, out=outputs, **kwargs)` with the op's own arguments gives its multiply-adds; `out` is the
        tensor that it returns, or a list of several. Backward ops need an entry of their own.
    kind:
        What the op is priced like, one of `KINDS`. Bytes are those of the inputs and outputs.

    Raises
    ------
    JoulecastError
        The op has an entry, or the kind does not exist.
    """
    name = op_name(op)
    if kind not in KINDS:
        raise JoulecastError(f"op kind {kind!r} is not known; choose one of {', '.join(KINDS)}")
    if plain_name(name) in TABLE or plain_name(name) in FREE:
        raise JoulecastError(f"op {name} already has a formula; an op is registered once")
    TABLE[name] = Entry(kind, Called(formula))


def op_name(op: Any) -> str:
    """`mm` for ATen ops, `namespace::name` for the rest."""
    text = op if isinstance(op, str) else getattr(op, "_qualname", None) or getattr(op, "_qualified_op_name", None)
    text = text or str(getattr(getattr(op, "_schema", None), "name", op))
    return str(text).removeprefix("aten::")
