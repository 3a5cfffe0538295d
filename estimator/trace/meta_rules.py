"""Shapes of common ops on meta tensors, without PyTorch's own rules for them.

PyTorch's rules are Python code that imports the compiler and sympy on first use, which takes as long as importing
torch itself, and they run for milliseconds an op. The rules here cover plain cases only and leave the rest to PyTorch;
tests compare each with PyTorch's result in shape, dtype and strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .formulas import channels_last

Rule = Callable[[Sequence[Any]], Any]


def meta_output(name: str, args: Sequence[Any], kwargs: Any) -> Any:
    """The output of ATen op `name` on these meta tensors, or None where no rule applies."""
    rule = _RULES.get(name)
    if kwargs or not args:
        return None
    if name == "clone" and args[0].layout is torch.sparse_coo:
        return _sparse_clone(args[0])
    return rule(args) if rule is not None and _plain(args) else None


def _plain(args: Sequence[Any]) -> bool:
    """A floating-point tensor comes first, and every tensor is strided and on the meta device."""
    first = args[0]
    floating = isinstance(first, torch.Tensor) and first.is_floating_point()
    return floating and all(
        arg.is_meta and arg.layout is torch.strided for arg in args if isinstance(arg, torch.Tensor)
    )


def _sparse_clone(tensor: torch.Tensor) -> torch.Tensor | None:
    """PyTorch's own clone of a sparse meta tensor stores no values."""
    if not tensor.is_meta:
        return None
    parts = tensor._indices().clone(), tensor._values().clone()
    return torch.sparse_coo_tensor(*parts, tensor.shape, check_invariants=False)


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _vector(size: int, like: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided((size,), (1,), dtype=like.dtype, device="meta")


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _elementwise(args: Sequence[Any]) -> Any:
    """Operands of one dtype and layout, or numbers, give a result of the same dtype and layout."""
    first = args[0]
    return _like(first) if _is_dense(first) and all(_joins(first, other) for other in args[1:]) else None


def _joins(first: torch.Tensor, other: Any) -> bool:
    """A real number, a tensor with the layout of the first, or one that is broadcast over it."""
    if not isinstance(other, torch.Tensor):
        return not isinstance(other, complex)
    if other.dtype != first.dtype:
        return False
    if other.shape == first.shape:
        return other.stride() == first.stride()
    spread = other.dim() <= first.dim() and all(
        size in (1, whole) for size, whole in zip(reversed(other.shape), reversed(first.shape), strict=False)
    )
    return spread and first.is_contiguous() and other.is_contiguous()


def _in_place(args: Sequence[Any]) -> Any:
    return args[0] if all(_joins(args[0], other) for other in args[1:]) else None


def _batch_norm(args: Sequence[Any]) -> Any:
    # native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
    data, training = args[0], args[5]
    if data.dtype != torch.float32 or not training or data.dim() < 2 or not _is_dense(data):
        return None
    if any(tensor is not None and tensor.shape != data.shape[1:2] for tensor in args[1:5]):
        return None
    return _like(data), _vector(data.shape[1], data), _vector(data.shape[1], data)


def _batch_norm_backward(args: Sequence[Any]) -> Any:
    # (grad_out, input, weight, running_mean, running_var, save_mean, save_invstd, train, eps, output_mask)
    grad, data, weight, mask = args[0], args[1], args[2], args[9]
    same = grad.stride() == data.stride() and grad.dtype == data.dtype == torch.float32
    if not same or weight is None or not all(mask) or not _is_dense(data):
        return None
    return _like(data), _vector(data.shape[1], data), _vector(data.shape[1], data)


def _convolution(args: Sequence[Any]) -> Any:
    # convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    images, weight = args[:2]
    if images.dim() != 4 or not (channels_last(images) or channels_last(weight)):
        return None
    shape = torch.ops.aten.convolution.default(*args).shape
    return torch.empty(shape, dtype=images.dtype, device="meta", memory_format=torch.channels_last)


def _group_norm(args: Sequence[Any]) -> Any:
    # native_group_norm(input, weight, bias, N, C, HxW, group, eps)
    data, samples, groups = args[0], args[3], args[6]
    if data.dtype != torch.float32 or data.is_contiguous() or not _is_dense(data):
        return None
    return _like(data), torch.empty((samples, groups), device="meta"), torch.empty((samples, groups), device="meta")


def _layer_norm(args: Sequence[Any]) -> Any:
    # native_layer_norm(input, normalized_shape, weight, bias, eps)
    data, shape = args[0], list(args[1])
    if data.dtype != torch.float32 or not data.is_contiguous() or list(data.shape[-len(shape) :]) != shape:
        return None
    if any(tensor is not None and list(tensor.shape) != shape for tensor in args[2:4]):
        return None
    kept = (*data.shape[: -len(shape)], *[1] * len(shape))
    return _like(data), torch.empty(kept, device="meta"), torch.empty(kept, device="meta")


def _layer_norm_backward(args: Sequence[Any]) -> Any:
    # (grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask)
    grad, data, weight, bias = args[0], args[1], args[5], args[6]
    plain = grad.dtype == data.dtype == torch.float32 and grad.is_contiguous() and data.is_contiguous()
    if not plain or weight is None or bias is None or not all(args[7]):
        return None
    return _like(data), _like(weight), _like(bias)


def _mm(args: Sequence[Any]) -> Any:
    left, right = args[:2]
    fits = left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0]
    if not fits or left.dtype != right.dtype:
        return None  # PyTorch raises the error
    m, n = left.shape[0], right.shape[1]
    return torch.empty_strided((m, n), (n, 1), dtype=left.dtype, device="meta")


def _addmm(args: Sequence[Any]) -> Any:
    bias, right = args[0], args[2]
    return _mm(args[1:]) if bias.shape == right.shape[1:] and bias.dtype == right.dtype else None


def _dropout(args: Sequence[Any]) -> Any:
    # native_dropout(input, p, train)
    if not args[2] or not _is_dense(args[0]):
        return None
    data = args[0]
    return _like(data), torch.empty_strided(data.shape, data.stride(), dtype=torch.bool, device="meta")


def _softmax(args: Sequence[Any]) -> Any:
    # _softmax(input, dim, half_to_float)
    return _like(args[0]) if not args[2] and args[0].is_contiguous() else None


def _softmax_backward(args: Sequence[Any]) -> Any:
    # _softmax_backward_data(grad_output, output, dim, input_dtype)
    grad, output, dtype = args[0], args[1], args[3]
    same = grad.dtype == output.dtype == dtype and grad.is_contiguous() and output.is_contiguous()
    return _like(output) if same else None


def _reduction(args: Sequence[Any]) -> Any:
    # mean.dim(input, dims, keepdim); sum.dim_IntList takes the same arguments
    data = args[0]
    if len(args) < 2 or not isinstance(args[1], (list, tuple)) or not args[1] or not data.is_contiguous():
        return None
    reduced = {dim % data.dim() for dim in args[1]}
    keep = len(args) > 2 and args[2]
    sizes = [1 if dim in reduced else size for dim, size in enumerate(data.shape) if keep or dim not in reduced]
    return torch.empty(sizes, dtype=data.dtype, device="meta")


def _nll_loss(args: Sequence[Any]) -> Any:
    # nll_loss_forward(scores, target, weight, reduction, ignore_index); reduction 1 is the mean
    if args[0].dim() != 2 or args[3] != 1 or args[1].shape != args[0].shape[:1]:
        return None
    return torch.empty((), dtype=args[0].dtype, device="meta"), torch.empty((), dtype=args[0].dtype, device="meta")


def _nll_loss_backward(args: Sequence[Any]) -> Any:
    # nll_loss_backward(grad_output, scores, target, weight, reduction, ignore_index, total_weight)
    return torch.empty(args[1].shape, dtype=args[1].dtype, device="meta") if args[1].is_contiguous() else None


_ELEMENTWISE = (
    "add sub mul div neg relu gelu silu sigmoid tanh hardtanh hardswish hardsigmoid leaky_relu elu exp log sqrt "
    "rsqrt cos sin abs threshold_backward gelu_backward silu_backward sigmoid_backward tanh_backward "
    "hardtanh_backward hardswish_backward hardsigmoid_backward leaky_relu_backward"
)

_IN_PLACE = (
    "add_ sub_ mul_ div_ relu_ silu_ sigmoid_ tanh_ hardtanh_ hardswish_ hardsigmoid_ leaky_relu_ bernoulli_ "
    "zero_ fill_ uniform_ normal_"
)

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_IN_PLACE.split(), _in_place),
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "convolution": _convolution,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "mm": _mm,
    "addmm": _addmm,
    "mean": _reduction,
    "sum": _reduction,
    "nll_loss_forward": _nll_loss,
    "nll_loss_backward": _nll_loss_backward,
    "native_dropout": _dropout,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
    "_log_softmax_backward_data": _softmax_backward,
}
