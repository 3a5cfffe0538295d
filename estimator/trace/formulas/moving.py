"""Formulas of ops whose cost is the data that they move; norms and resampling count as fvcore counts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from .products import Counted, Formula, channels_last, is_tensor, numel


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def sizes(args: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    """Elements of the largest input and of the first output: enough for ops that only move data."""
    return {
        "elements_in": max((numel(arg) for arg in _flat(args)), default=0),
        "elements_out": numel(outputs[0]) if outputs else 0,
    }


def moved(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    return 0, sizes(args, outputs)


def clone(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """`permuted`: 1 where neighbours in memory are no neighbours in the copy; no entry in all others."""
    before, after = _innermost(args[0]), _innermost(outputs[0])
    permuted = before is not None and after is not None and before != after
    return 0, {**sizes(args, outputs), **({"permuted": 1} if permuted else {})}


def _innermost(data: Any) -> int | None:
    """The dimension of more than one element whose elements lie side by side."""
    return next((at for at, size in enumerate(data.shape) if size > 1 and data.stride()[at] == 1), None)


def _channels(data: Any) -> int:
    return int(data.shape[1]) if len(data.shape) > 1 else 1


def norm(per_element: int) -> Formula:
    """`per_element` for each element of the data, one less without a scale and shift."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        elements = numel(args[0])
        affine = any(is_tensor(arg) for arg in args[1:3])
        dims = {"elements": elements, "channels": _channels(args[0])}
        return elements * (per_element if affine else per_element - 1), dims

    return formula


def layer_norm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # native_layer_norm(input, normalized_shape, ...), and the fused RMS norm
    flops, dims = norm(5)(args, outputs)
    return flops, {**dims, "rows": dims["elements"] // max(prod(args[1]), 1)}


def layer_norm_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # native_layer_norm_backward(grad_out, input, normalized_shape, ...), and of the fused RMS norm
    flops, dims = norm_backward(5)(args, outputs)
    return flops, {**dims, "rows": dims["elements"] // max(prod(args[2]), 1)}


def batch_norm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
    no_statistics_kept = args[3] is None and args[5] is True
    flops, dims = norm(5 if no_statistics_kept else 2)(args, outputs)  # in evaluation mode they are computed too
    return flops, dims | _of_images(args[0], args[5])


def running_batch_norm(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    flops, dims = norm(2)(args, outputs)
    return flops, dims | _of_images(args[0], False)


def batch_norm_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # native_batch_norm_backward(grad_out, input, weight, running_mean, running_var, save_mean, save_invstd, train, ...)
    flops, dims = norm_backward(2)(args, outputs)
    return flops, dims | _of_images(args[1], args[7] if args[7] in (True, False) else True)


def _of_images(data: Any, training: bool) -> dict[str, int]:
    """`channels_last` and `running` (the kept statistics are used): 1 where it is so; no entries in all others."""
    last = {"channels_last": 1} if len(data.shape) > 2 and channels_last(data) else {}
    return last if training else {**last, "running": 1}


def norm_backward(per_element: int) -> Formula:
    """Twice the forward: the gradients of the data, and of the scale and shift."""

    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        elements = numel(args[0])
        return 2 * per_element * elements, {"elements": elements, "channels": _channels(args[1])}

    return formula


def resample(per_output: int) -> Formula:
    def formula(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
        dims = sizes(args, outputs)
        return per_output * dims["elements_out"], dims

    return formula


def embedding(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # embedding(weight, indices, ...); _embedding_bag(weight, indices, offsets, ...)
    rows, width = args[0].shape
    return 0, {"tokens": numel(args[1]), "rows": rows, "width": width}


def embedding_backward(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # embedding_dense_backward(grad_output, indices, num_weights, ...) writes the whole table
    return 0, {"tokens": numel(args[1]), "rows": args[2], "width": args[0].shape[-1]}


def pool(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    # pool(self, kernel_size, ...)
    return 0, {**sizes(args, outputs), "k": prod(args[1])}


def adaptive_pool(args: Sequence[Any], outputs: Sequence[Any]) -> Counted:
    """The window follows from the sizes: each output looks at in / out elements, rounded up, of each dimension."""
    # adaptive_pool(self, output_size)
    rank = len(args[1])
    (data, *_), (output, *_) = args, outputs
    inside, outside = data.shape[-rank:], output.shape[-rank:]
    window = prod(-(-i // max(o, 1)) for i, o in zip(inside, outside, strict=True))
    return 0, {**sizes(args, outputs), "k": window}
