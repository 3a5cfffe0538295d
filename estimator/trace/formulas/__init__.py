"""What one ATen op costs: kind, multiply-adds, the sizes that its cost depends on, and bytes.

A multiply-add counts as one FLOP, and only what fvcore counts is counted (matrix products, convolutions, attention,
recurrent layers, norms, resampling, transforms, decompositions), so that both agree on the forward pass. A norm's
forward counts as fvcore counts it in evaluation mode. A complex multiply-add counts as four. Everything else has
0 FLOPs and is priced by the bytes that it moves. An op that has no entry here takes the formula that is registered
with PyTorch's FLOP counter; without one it is `other`: its bytes count, and the workload names it as unsupported.
"""

from .counting import OpCount, count_op, dtype_name
from .products import (
    GATES,
    attention_backward_flops,
    attention_dims,
    attention_flops,
    channels_last,
    conv_dims,
    conv_flops,
    group_count,
    grouped_dims,
    grouped_flops,
    numel,
    rnn_flops,
)
from .table import FREE, KINDS, TABLE, Entry, is_free, lookup, op_name, plain_name, register_op
from .traffic import tensor_bytes, tensors

__all__ = [
    "FREE",
    "GATES",
    "KINDS",
    "TABLE",
    "Entry",
    "OpCount",
    "attention_backward_flops",
    "attention_dims",
    "attention_flops",
    "channels_last",
    "conv_dims",
    "conv_flops",
    "count_op",
    "dtype_name",
    "group_count",
    "grouped_dims",
    "grouped_flops",
    "is_free",
    "lookup",
    "numel",
    "op_name",
    "plain_name",
    "register_op",
    "rnn_flops",
    "tensor_bytes",
    "tensors",
]
