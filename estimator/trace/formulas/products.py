"""Multiply-adds of products: matrices, convolutions, attention, recurrent layers, experts, transforms, decompositions.

Every formula takes the arguments and the outputs of one ATen call and returns (multiply-adds, dims).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2, prod
from typing import Any

Shape = Sequence[int]
Counted = tuple[int, dict[str, int]]
Formula = Callable[[Sequence[Any], Sequence[Any]], Counted]


def numel(value: Any) -> int:
    """Elements of a tensor; those stored where it is sparse; 0 for anything else."""
    if getattr(value, "shape", None) is None:
        return 0
    return stored(value) if _is_sparse(value) else prod(value.shape)


def is_tensor(value: Any) -> bool:
    return getattr(value, "shape", None) is not None


def _is_sparse(value: Any) -> bool:
    return "strided" not in str(getattr(value, "layout", "strided")) and hasattr(value, "_nnz")


def stored(tensor: Any) -> int:
    """Values that a sparse tensor holds."""
    values = tensor._values() if "coo" in str(tensor.layout) else tensor.values()
    return int(prod(values.shape))


def skip_first(formula: Formula) -> Formula:
    """For addmm and the like, whose first argument is the matrix that is added."""
    return lambda args, outputs: formula(args[1:], outputs)


# -- matrix products -----------------------------------------------------------------------------


def mm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """(m, k) x (k, n). A sparse operand multiplies only the values that it holds."""
    left, right = args[:2]
    (m, k), (_, n) = left.shape, right.shape
    dims = {"b": 1, "m": m, "k": k, "n": n}
    if _is_sparse(left):
        return stored(left) * n, dims
    if _is_sparse(right):
        return stored(right) * m, dims
    return m * k * n, dims


def bmm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    left, right = args[:2]
    (b, m, k), (*_, n) = left.shape, right.shape
    return stored(left) * n if _is_sparse(left) else b * m * k * n, {"b": b, "m": m, "k": k, "n": n}


def vector_product(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    *rows, k = args[0].shape
    m = prod(rows)
    return m * k, {"b": 1, "m": m, "k": k, "n": 1}


def linear(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # linear(input, weight (n, k), ...)
    *columns, k = args[1].shape
    m, n = prod(args[0].shape[:-1]), prod(columns)
    return m * k * n, {"b": 1, "m": m, "k": k, "n": n}


def packed_linear(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # bitsandbytes' gemm_4bit(input, packed weight, (n, k), ...)
    n, k = args[2]
    m = prod(args[0].shape[:-1])
    return m * k * n, {"b": 1, "m": m, "k": k, "n": n}


def mixed_linear(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # bitsandbytes' int8_mixed_scaled_mm(input, its int8 form, int8 weight (n, k), ...)
    return linear((args[0], args[2]), outputs)


def linear_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # linear_backward(input, grad_output, weight, output_mask)
    flops, dims = linear((args[0], args[2]), outputs)
    wanted = sum(bool(flag) for flag in args[3][:2])
    return flops * wanted, dims


def sampled_mm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # sparse_sampled_addmm(self, mat1, mat2): mat1 @ mat2 only where self holds a value
    (*_, m, k), (*_, n) = args[1].shape, args[2].shape
    return stored(args[0]) * k, {"b": 1, "m": m, "k": k, "n": n}


def sparse_sparse_mm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """Each value on the left meets the values of one row on the right, of average length."""
    left, right = args[:2]
    (m, k), (_, n) = left.shape, right.shape
    return stored(left) * stored(right) // max(k, 1), {"b": 1, "m": m, "k": k, "n": n}


def foreach_mm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    return sum(mm(pair, ())[0] for pair in zip(args[0], args[1], strict=True)), {}


def grouped_dims(left: Any, right: Any, groups: int) -> dict[str, int]:
    """A product in `groups` parts: experts with the tokens that are sent to each.

    (tokens, k) x (groups, k, n); (groups, m, k) x (k, columns), columns split; (m, k) x (k, n) with k split;
    (groups, m, k) x (groups, k, n). Sizes that are split are given as their average.
    """
    (*_, m, k), (*_, n) = left.shape, right.shape
    ranks = len(left.shape), len(right.shape)
    if ranks == (2, 3):
        m = max(m // groups, 1)
    elif ranks == (3, 2):
        n = max(n // groups, 1)
    elif ranks == (2, 2):
        k = max(k // groups, 1)
    return {"b": groups, "m": m, "k": k, "n": n}


def grouped_flops(left: Any, right: Any) -> int:
    """Multiply-adds of all parts: each row (or column) is multiplied once, with its own group's matrix."""
    (*_, m, k), (*_, n) = left.shape, right.shape
    groups = left.shape[0] if (len(left.shape), len(right.shape)) == (3, 3) else 1
    return int(groups * m * k * n)


def group_count(left: Any, offsets: Any) -> int:
    """The number of `offsets`, where each part ends; without them the batch of the matrices."""
    *batch, _, _ = left.shape
    return prod(batch) if offsets is None else numel(offsets)


def grouped_mm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # _grouped_mm(self, mat2, offs, ...)
    left, right = args[:2]
    # Scales are one-dimensional too, but not integers.
    offsets = next((arg for arg in args[2:] if is_tensor(arg) and not arg.is_floating_point()), None)
    groups = group_count(left, offsets)
    return grouped_flops(left, right), grouped_dims(left, right, groups)


def grouped_fallback_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # transformers::grouped_mm_fallback_backward(input, weight, offs, grad): gradients of both
    flops, dims = grouped_mm(args, outputs)
    return 2 * flops, dims


def trilinear(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """_trilinear(i1, i2, i3, expand1, expand2, expand3, sumdim): the sum of i1 * i2 * i3 over `sumdim`.

    Two products, as ATen computes it: of i1 and i2, summed over what i3 does not have, then with i3.
    """
    sizes: dict[int, int] = {}
    spaces = []
    for tensor, expanded in zip(args[:3], args[3:6], strict=True):
        own = [dim for dim in range(len(tensor.shape) + len(expanded)) if dim not in expanded]
        sizes.update({dim: max(size, sizes.get(dim, size)) for dim, size in zip(own, tensor.shape, strict=True)})
        spaces.append(set(own))
    left, right, last = spaces
    both = left | right
    rest = {dim for dim in both if dim in last or dim not in args[6]} | last
    return sum(prod(sizes[dim] for dim in space) for space in (both, rest)), {"b": 1}


def distances(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """_cdist_forward(x1, x2, p): one multiply-add for every pair of points and coordinate."""
    (left, right, *_), (output, *_) = args, outputs
    (*_, m, k), (*_, n, _), b = left.shape, right.shape, prod(output.shape[:-2])
    return b * m * k * n, {"b": b, "m": m, "k": k, "n": n}


def distances_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # _cdist_backward(grad, x1, x2, p, cdist)
    grad, left, right, *_ = args
    (*_, m, k), (*_, n, _), b = left.shape, right.shape, prod(grad.shape[:-2])
    return b * m * k * n, {"b": b, "m": m, "k": k, "n": n}


def own_distances(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # _pdist_forward(self, p); _pdist_backward(grad, self, p, pdist)
    m, k = max((arg.shape for arg in args if is_tensor(arg)), key=len)
    return m * (m - 1) // 2 * k, {"b": 1, "m": m, "k": k, "n": m}


# -- convolutions --------------------------------------------------------------------------------


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


def conv(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    (data, weight, *_), (output, *_) = args, outputs
    dims = conv_dims(data.shape, weight.shape, output.shape, args[8], bool(args[6]))
    dims["channels_last"] = int(channels_last(data) or channels_last(weight))
    return conv_flops(dims), dims | _dilated(args[5])


def channels_last(tensor: Any) -> bool:
    """Whether the channels of a pixel lie side by side in memory; a convolution's images or weights decide for it."""
    return bool(tensor.stride()[1] == 1) and prod(tensor.shape[2:]) > 1


def conv_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # convolution_backward(grad_output, input, weight, bias_sizes, stride, padding, dilation,
    #                      transposed, output_padding, groups, output_mask)
    # Each of the two gradients is a convolution of as many multiply-adds as the forward one,
    # grouped ones too (torch.utils.flop_counter forgets the groups there).
    grad, data, weight, *_, (of_input, of_weight, _) = args
    dims = conv_dims(data.shape, weight.shape, grad.shape, args[9], bool(args[7]))
    forward = conv_flops(dims)
    dims["grad_input"], dims["grad_weight"] = int(of_input), int(of_weight)
    dims["channels_last"] = int(channels_last(data) or channels_last(weight))
    return forward * (dims["grad_input"] + dims["grad_weight"]), dims | _dilated(args[6])


def _dilated(dilation: Sequence[int]) -> dict[str, int]:
    """`dilated`: 1 where the window skips positions; no entry in all other convolutions."""
    return {"dilated": 1} if max(dilation, default=1) > 1 else {}


def plain_conv(transposed: bool) -> Formula:
    """For kernels of one device, whose arguments differ: (input, weight, ...) and the output decide."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        data, weight = args[:2]
        output, *_ = outputs
        channels = output.shape[1] if transposed else data.shape[1]
        groups = max(channels // max(weight.shape[1], 1), 1)
        dims = conv_dims(data.shape, weight.shape, output.shape, groups, transposed)
        return conv_flops(dims), dims

    return formula


def plain_conv_backward(grad: int) -> Formula:
    """For kernels of one device, which take the weight third and the output's gradient as argument `grad`."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        lists = (arg for arg in args[3:] if isinstance(arg, (list, tuple)))
        mask = next((flags for flags in lists if all(isinstance(flag, bool) for flag in flags)), (True, True))
        return sum(mask[:2]) * numel(args[grad]) * prod(args[2].shape[1:]), {}

    return formula


def conv_tbc(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # conv_tbc(input (time, batch, in), weight (kernel, in, out), ...)
    (_, weight, *_), (output, *_) = args, outputs
    kernel, c_in, _ = weight.shape
    return numel(output) * kernel * c_in, {}


# -- attention -----------------------------------------------------------------------------------


def attention_dims(query: Any, key: Any, value: Any, causal: bool, dropout: bool = False) -> dict[str, int]:
    """b = all leading dimensions (batch x heads), q and s positions, d and dv widths.

    `dropped` counts the scores that a dropout draws a number for.
    """
    (*outer, q, d), (*_, s, _), (*_, dv) = query.shape, key.shape, value.shape
    b = prod(outer)
    return {"b": b, "q": q, "s": s, "d": d, "dv": dv, "causal": int(causal), "dropped": b * q * s if dropout else 0}


def attention_flops(dims: dict[str, int]) -> int:
    """Multiply-adds of Q K^T and of P V. A causal mask is not subtracted: the convention of papers."""
    return dims["b"] * dims["q"] * dims["s"] * (dims["d"] + dims["dv"])


def attention(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    query, key, value, *options = args
    dims = attention_dims(query, key, value, _is_causal(options))
    return attention_flops(dims), dims


def _is_causal(options: Sequence[Any]) -> bool:
    """The flag after the dropout's probability; flags before it say what else to compute."""
    rate = next((index for index, option in enumerate(options) if isinstance(option, float)), -1)
    return next((option for option in options[rate + 1 :] if isinstance(option, bool)), False)


def attention_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    _, query, key, value, *options = args
    dims = attention_dims(query, key, value, _is_causal(options))
    return attention_backward_flops(dims), dims


def attention_backward_flops(dims: dict[str, int]) -> int:
    """Five products instead of the forward's two: the scores are computed again (FlashAttention)."""
    return attention_flops(dims) * 5 // 2


def packed_attention(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """_flash_attention_forward(query, key, value, ...), each (batch, positions, heads, width).

    Sequences of several lengths are packed into one; the first vector is where each begins. They count with their
    average length.
    """
    query, key, value = args[:3]
    begins = next((arg for arg in args[3:] if is_tensor(arg) and len(arg.shape) == 1), None)
    sequences = max(begins.shape[0] - 1, 1) if begins is not None else 1
    (*outer, q, heads, d), (*_, s, _, _), (*_, dv) = query.shape, key.shape, value.shape
    b = prod(outer) * heads * sequences
    dims = {"b": b, "q": q // sequences, "s": s // sequences, "d": d, "dv": dv, "causal": 0, "dropped": 0}
    return attention_flops(dims), dims


def packed_attention_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # (grad_out, query, key, value, ...)
    _, dims = packed_attention(args[1:], outputs)
    return attention_backward_flops(dims), dims


def encoder_layer(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """_transformer_encoder_layer_fwd: the fused inference path of nn.TransformerEncoderLayer, norms included.

    (src, embed_dim, heads, qkv w, b, proj w, b, gelu, norm_first, eps, norm1 w, b, norm2 w, b, ffn1 w, b, ffn2 w, ...)
    """
    (*outer, positions, _), width = args[0].shape, args[1]
    tokens = prod(outer) * positions
    hidden = args[14].shape[0]
    products = tokens * width * (4 * width + 2 * hidden + 2 * positions)
    return products + 2 * 5 * tokens * width, {"m": tokens, "k": width, "n": 4 * width + 2 * hidden}


def multi_head_attention(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # _native_multi_head_attention(query, key, value, embed_dim, heads, qkv weight, ...)
    (*outer, queries, _), (*_, keys, _), width = args[0].shape, args[1].shape, args[3]
    batch = prod(outer)
    projections = 2 * width * width * (queries + keys)
    return batch * (projections + 2 * queries * keys * width), {"m": batch * queries, "k": width, "n": 4 * width}


# -- recurrent layers ----------------------------------------------------------------------------

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def rnn_flops(
    cell: str, *, tokens: int, input_size: int, hidden: int, layers: int, directions: int, projection: int = 0
) -> int:
    """Multiply-adds of a stacked recurrent layer over `tokens` = batch x steps positions.

    Each layer and direction multiplies by W_ih (gates*hidden x width) and W_hh (gates*hidden x state).
    """
    state = projection or hidden
    gates = GATES[cell] * hidden
    widths = [input_size] + [state * directions] * (layers - 1)
    return tokens * directions * sum(gates * (width + state) + projection * hidden for width in widths)


def mkldnn_rnn(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # mkldnn_rnn_layer(input (steps, batch, width), w_ih, w_hh, ...): one layer, one direction
    steps, batch, width = args[0].shape
    gates_hidden, hidden = args[2].shape
    dims = {"steps": steps, "n": batch, "input": width, "hidden": hidden, "layers": 1, "directions": 1}
    return steps * batch * gates_hidden * (width + hidden), dims


def mkldnn_rnn_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    flops, dims = mkldnn_rnn(args, outputs)
    return 2 * flops, dims


def weights_rnn(passes: int, *, data: int = 0) -> Formula:
    """Kernels that take lists of tensors (_cudnn_rnn and the like): each weight matrix multiplies each position.

    `data` is the argument with the positions, (..., width). States in a list have three dimensions.
    """

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        listed = [tensor for arg in args if isinstance(arg, (list, tuple)) for tensor in arg if is_tensor(tensor)]
        weights = sum(numel(tensor) for tensor in listed if len(tensor.shape) == 2)
        return passes * prod(args[data].shape[:-1]) * weights, {}

    return formula


# -- transforms and decompositions ---------------------------------------------------------------


def fft(per_point: float) -> Formula:
    """A complex transform of N points takes 5 N log2 N operations (Cooley and Tukey, 1965), half for real data."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        # _fft_r2c(self, dim, ...), _fft_c2r(self, dim, normalization, last_dim_size), _fft_c2c(self, dim, ...)
        (data, dims, *_), (output, *_) = args, outputs
        full = max(data.shape, output.shape, key=prod)
        points, elements = prod(full[dim] for dim in dims), prod(full)
        return int(per_point * elements * log2(max(points, 1))), {"elements": elements, "points": points}

    return formula


def _matrices(tensor: Any) -> tuple[int, int, int]:
    """How many matrices, and their rows and columns."""
    *outer, rows, columns = tensor.shape
    return prod(outer), rows, columns


def factor(numerator: int, denominator: int) -> Formula:
    """`numerator / denominator` n^3 multiply-adds for each square matrix (Golub and Van Loan, Matrix Computations)."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        count, rows, columns = _matrices(args[0])
        n = min(rows, columns)
        return count * n**3 * numerator // denominator, {"b": count, "m": rows, "n": columns}

    return formula


def tall_factor(per_column_square: int) -> Formula:
    """`per_column_square` m n^2 multiply-adds for each m x n matrix, m the longer side."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        count, rows, columns = _matrices(args[0])
        long, short = max(rows, columns), min(rows, columns)
        return per_column_square * count * long * short**2, {"b": count, "m": rows, "n": columns}

    return formula


def solve(passes: int, *, matrix: int, right: int, factored: bool) -> Formula:
    """`passes` triangular solves of n^2 / 2 multiply-adds a column, after n^3 / 3 for the factors if not `factored`."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        count, n, _ = _matrices(args[matrix])
        columns = numel(args[right]) // max(count * n, 1)
        return count * (passes * n * n * columns // 2 + (0 if factored else n**3 // 3)), {"b": count, "m": n}

    return formula
