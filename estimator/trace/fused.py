"""Attention, recurrent layers, experts and scans as one op each, whatever kernels a device would split them into.

On meta and fake tensors, `scaled_dot_product_attention` is split into matrix products and an LSTM into thousands of
steps, while real devices run them fused; a grouped product accepts only some number formats. Here each call is
recorded as one op and returns an empty tensor of the right shape, so that the listing does not depend on the device
and the length of a sequence does not slow the trace down.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from . import autocast
from .flex import fused_flex_attention
from .formulas import (
    attention_backward_flops,
    attention_dims,
    attention_flops,
    group_count,
    grouped_dims,
    grouped_flops,
    rnn_flops,
)
from .recorder import Recorder, add_call
from .scans import fused_scans
from .triton_launches import recorded_launches
from .workload import Op

_ATTENTION = F.scaled_dot_product_attention
GROUPED = "_grouped_mm"
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled models and functions run as their own code: a compiler would compile stand-ins, for many seconds."""
    compile_it = torch.compile
    with ExitStack() as stack:

        def eager() -> None:
            stack.enter_context(torch.compiler.set_stance("force_eager"))

        def compiled(*args: Any, **kwargs: Any) -> Any:
            if torch.compile is not compile_it:
                torch.compile = compile_it
                eager()
            return compile_it(*args, **kwargs)

        if "torch._dynamo" in sys.modules:
            eager()
        else:  # nothing is compiled yet, and importing it takes seconds
            torch.compile = compiled
        try:
            yield
        finally:
            torch.compile = compile_it


class FusedLayers(TorchFunctionMode):
    """While entered, such calls go to `recorder` as single ops, and autocast acts on the stand-ins."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self._patches = ExitStack()

    def __enter__(self) -> FusedLayers:
        self._patches.enter_context(self._attention_by_name())
        self._patches.enter_context(autocast.any_device())
        self._patches.enter_context(_uncompiled())
        self._patches.enter_context(fused_flex_attention(self.recorder))
        self._patches.enter_context(recorded_launches(self.recorder))
        self._patches.enter_context(fused_scans(self.recorder, self.recorder.module))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATTENTION:
            return self._attention(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == GROUPED:
            return self._grouped(*args, **kwargs)
        if name in ("_pack_padded_sequence", "_pad_packed_sequence") and not kwargs:
            return (_Pack if name == "_pack_padded_sequence" else _Unpack).apply(self.recorder, *args)
        if name in _RECURRENT and len(args) == 9 and isinstance(args[0], torch.Tensor):
            return self._recurrent(name, *args)
        return func(*args, **kwargs)

    @contextmanager
    def _attention_by_name(self) -> Iterator[None]:
        """Catches the calls that torch's own layers make while a mode handles them, which no mode sees."""
        thread = threading.get_ident()

        def called(*args: Any, **kwargs: Any) -> Any:
            here = threading.get_ident() == thread
            return (self._attention if here else _ATTENTION)(*args, **kwargs)

        F.scaled_dot_product_attention = called
        try:
            yield
        finally:
            F.scaled_dot_product_attention = _ATTENTION

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu") and query.device.type == "cpu":
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        if query.is_nested:
            return _of_rows(query, key, value, dropout_p, is_causal)
        learnt = attn_mask if attn_mask is not None and attn_mask.requires_grad else None
        result: torch.Tensor = _Attention.apply(self.recorder, is_causal, dropout_p > 0, query, key, value, learnt)
        return result

    def _grouped(
        self, left: torch.Tensor, right: torch.Tensor, offs: Any = None, bias: Any = None, out_dtype: Any = None
    ) -> torch.Tensor:
        groups = group_count(left, offs)
        result: torch.Tensor = _Grouped.apply(self.recorder, groups, out_dtype or left.dtype, left, right)
        return result if bias is None else result + bias

    def _recurrent(self, cell: str, *args: Any) -> tuple[torch.Tensor, ...]:
        packed = isinstance(args[3], (list, tuple))  # (data, batch_sizes, hx, weights, ...)
        if packed:
            data, batch_sizes, hx, weights, biases, layers, _, _, bidirectional = args
            batch_first, batch = False, int(batch_sizes[0]) if batch_sizes.device.type != "meta" else 0
        else:
            data, hx, weights, biases, layers, _, _, bidirectional, batch_first = args
            batch = data.shape[0 if batch_first else 1]
        states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
        if torch.is_autocast_enabled("cpu") and data.device.type == "cpu":  # autocast runs whole layers in 16 bit
            dtype = torch.get_autocast_dtype("cpu")
            data, states, weights = data.to(dtype), [s.to(dtype) for s in states], [w.to(dtype) for w in weights]
        shape = _RecurrentShape(cell, data, states, list(weights), layers, bidirectional, biases, batch, batch_first)
        outputs: tuple[torch.Tensor, ...] = _Recurrent.apply(self.recorder, shape, data, *states, *weights)
        return outputs


def _of_rows(query: Any, key: Any, value: Any, dropout: float, causal: bool) -> torch.Tensor:
    """Attention of nested tensors (batch, heads, positions of each row, width): of sequences packed into one."""
    from torch.nested._internal.nested_tensor import nested_view_from_values_offsets

    rows, keys, values = (tensor.transpose(1, 2) for tensor in (query, key, value))
    begins, key_begins = rows.offsets(), keys.offsets()
    longest = rows.values().shape[0], keys.values().shape[0]
    flash = torch.ops.aten._flash_attention_forward
    packed = (rows.values(), keys.values(), values.values())
    out = flash(*packed, begins, key_begins, *longest, dropout, causal, False)[0]
    nested: torch.Tensor = nested_view_from_values_offsets(out, begins).transpose(1, 2)
    return nested


class _Attention(torch.autograd.Function):
    """`bias` is a mask that is learnt, such as the relative positions of T5; other masks are not listed here."""

    @staticmethod
    def forward(
        ctx: Any, recorder: Recorder, causal: bool, dropout: bool, q: Any, k: Any, v: Any, bias: Any
    ) -> torch.Tensor:
        ctx.recorder, ctx.causal, ctx.dropout, ctx.layer = recorder, causal, dropout, recorder.layer
        output = _heads_inside(q, v.shape[-1])
        ctx.save_for_backward(q, k, v, output, bias)
        dims = attention_dims(q, k, v, causal, dropout)
        add_call(recorder, "attention", "attention", ctx.layer, attention_flops(dims), (q, k, v), (output,), dims)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, output, bias = ctx.saved_tensors
        results = [_heads_inside(tensor, tensor.shape[-1]) for tensor in (q, k, v)]
        if bias is not None:
            results.append(torch.empty_like(bias))
        dims = attention_dims(q, k, v, ctx.causal, ctx.dropout)
        flops = attention_backward_flops(dims)
        reads = (q, k, v, output, grad)
        add_call(ctx.recorder, "attention_backward", "attention", ctx.layer, flops, reads, results, dims)
        return None, None, None, *results, *([None] * (bias is None))


class _Grouped(torch.autograd.Function):
    """The products of each expert's tokens with its weights; a token is multiplied only with its own expert's."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, groups: int, dtype: torch.dtype, left: Any, right: Any) -> torch.Tensor:
        ctx.recorder, ctx.groups, ctx.layer = recorder, groups, recorder.layer
        ctx.save_for_backward(left, right)
        flops, dims = grouped_flops(left, right), grouped_dims(left, right, groups)
        stacked = left.dim() == right.dim()
        shape = (*([groups] if stacked else []), left.shape[-2], right.shape[-1])
        output: torch.Tensor = left.new_empty(shape, dtype=dtype)
        add_call(recorder, GROUPED, "matmul", ctx.layer, flops, (left, right), (output,), dims)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        left, right = ctx.saved_tensors
        flops, dims = grouped_flops(left, right), grouped_dims(left, right, ctx.groups)
        # As many multiply-adds for each gradient: grad x right^T, and left^T x grad.
        turned = (
            {**dims, "k": dims["n"], "n": dims["k"]},
            {**dims, "m": dims["k"], "k": dims["m"]},
        )
        results: list[torch.Tensor | None] = [None, None]
        for index, (tensor, other) in enumerate(((left, right), (right, left))):
            if ctx.needs_input_grad[3 + index]:
                results[index] = result = torch.empty_like(tensor)
                reads = (grad, other)
                add_call(ctx.recorder, GROUPED, "matmul", ctx.layer, flops, reads, (result,), turned[index])
        return None, None, None, *results


def with_imbalance(ops: Sequence[Op], imbalance: float) -> list[Op]:
    """The ops with the busiest expert at `imbalance` times its equal share, and the others waiting for it."""
    return [
        replace(op, flops=int(op.flops * imbalance), dims={**op.dims, "m": int(op.dims["m"] * imbalance)})
        if op.name == GROUPED
        else op
        for op in ops
    ]


def _heads_inside(like: torch.Tensor, width: int) -> torch.Tensor:
    """Laid out as the fused kernels do, positions before heads: joining the heads again is a view."""
    shape = (*like.shape[:-1], width)
    if like.dim() != 4:
        return like.new_empty(shape)
    batch, heads, positions, _ = shape
    strides = (positions * heads * width, width, heads * width, 1)
    return like.new_empty_strided((batch, heads, positions, width), strides)


class _RecurrentShape:
    """Sizes of one call of a stacked recurrent layer, as the FLOP formula needs them."""

    def __init__(
        self,
        cell: str,
        data: torch.Tensor,
        states: list[torch.Tensor],
        weights: list[torch.Tensor],
        layers: int,
        bidirectional: bool,
        biases: bool,
        batch: int,
        batch_first: bool,
    ) -> None:
        self.cell, self.layers, self.directions = cell, layers, 2 if bidirectional else 1
        self.state_count = len(states)
        self.input_size = data.shape[-1]
        self.tokens = data.numel() // max(data.shape[-1], 1)
        self.batch = batch or self.tokens
        self.batch_first = batch_first and data.dim() == 3
        state = states[0].shape[-1]
        self.hidden = states[-1].shape[-1]
        self.projection = state if state != self.hidden else 0
        self.width_out = state * self.directions

    def output(self, data: torch.Tensor) -> torch.Tensor:
        """Time comes first in memory, whatever comes first in the shape: the kernels work step by step."""
        if not self.batch_first:
            return data.new_empty((*data.shape[:-1], self.width_out))
        batch, steps, width = *data.shape[:2], self.width_out
        return data.new_empty_strided((batch, steps, width), (width, batch * width, 1))

    @property
    def flops(self) -> int:
        return rnn_flops(
            self.cell,
            tokens=self.tokens,
            input_size=self.input_size,
            hidden=self.hidden,
            layers=self.layers,
            directions=self.directions,
            projection=self.projection,
        )

    @property
    def dims(self) -> dict[str, int]:
        return {
            "steps": max(self.tokens // max(self.batch, 1), 1),
            "n": self.batch,
            "input": self.input_size,
            "hidden": self.hidden,
            "layers": self.layers,
            "directions": self.directions,
        }


class _Recurrent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorder: Recorder, shape: _RecurrentShape, data: Any, *rest: Any) -> Any:
        ctx.recorder, ctx.shape, ctx.layer = recorder, shape, recorder.layer
        ctx.save_for_backward(data, *rest)
        ctx.set_materialize_grads(False)
        output = shape.output(data)
        states = [state.new_empty(state.shape) for state in rest[: shape.state_count]]
        reads = (data, *rest)
        add_call(recorder, shape.cell, "rnn", ctx.layer, shape.flops, reads, (output, *states), shape.dims)
        return output, *states

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        saved, shape = ctx.saved_tensors, ctx.shape
        results = [
            tensor.new_empty(tensor.shape) if needed else None
            for tensor, needed in zip(saved, ctx.needs_input_grad[2:], strict=True)
        ]
        writes = [result for result in results if result is not None]
        name, flops = f"{shape.cell}_backward", 2 * shape.flops
        add_call(ctx.recorder, name, "rnn", ctx.layer, flops, (*saved, *grads), writes, shape.dims)
        return None, None, *results


class _Pack(torch.autograd.Function):
    """`_pack_padded_sequence`, whose backward is a copy for each time step in PyTorch's own code."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, data: Any, lengths: Any, batch_first: bool) -> Any:
        ctx.recorder, ctx.layer, ctx.shape = recorder, recorder.layer, data.shape
        packed, batch_sizes = torch._VF._pack_padded_sequence(data, lengths, batch_first)
        ctx.mark_non_differentiable(batch_sizes)
        return packed, batch_sizes

    @staticmethod
    def backward(ctx: Any, grad: Any, _: Any) -> Any:
        return None, _moved(ctx.recorder, "_pack_padded_sequence_backward", ctx.layer, grad, ctx.shape), None, None


class _Unpack(torch.autograd.Function):
    """`_pad_packed_sequence`, in PyTorch's own code a copy for each group of sequences that end together."""

    @staticmethod
    def forward(
        ctx: Any, recorder: Recorder, data: Any, batch_sizes: Any, batch_first: bool, value: float, total: int
    ) -> Any:
        ctx.recorder, ctx.layer, ctx.shape = recorder, recorder.layer, data.shape
        sizes = batch_sizes.tolist()
        lengths = [sum(size > index for size in sizes) for index in range(sizes[0])]
        shape = (max(len(sizes), total), sizes[0], *data.shape[1:])
        padded = _moved(recorder, "_pad_packed_sequence", ctx.layer, data, shape)
        ends = torch.tensor(lengths, device="cpu")
        ctx.mark_non_differentiable(ends)
        return padded.transpose(0, 1) if batch_first else padded, ends

    @staticmethod
    def backward(ctx: Any, grad: Any, _: Any) -> Any:
        moved = _moved(ctx.recorder, "_pad_packed_sequence_backward", ctx.layer, grad, ctx.shape)
        return None, moved, None, None, None, None


def _moved(recorder: Recorder, name: str, layer: str, tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A copy of `tensor` in another shape, as one op."""
    result = tensor.new_empty(tuple(shape))
    dims = {"elements_in": tensor.numel(), "elements_out": result.numel()}
    add_call(recorder, name, "copy", layer, 0, (tensor,), (result,), dims)
    return result
