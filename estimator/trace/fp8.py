"""Training in FP8: the products of linear layers in 8 bits, everything else in 16 (Micikevicius et al. 2022).

As Transformer Engine runs it (https://docs.nvidia.com/deeplearning/transformer-engine): weights, gradients,
activations and attention stay in BF16, and inputs of products are converted on the way. Its kernels need sizes that are
multiples of 16. The last layer, which gives the logits, stays in BF16.
"""

from __future__ import annotations

from dataclasses import replace

from .workload import Op, Workload

FP8 = "float8"
"""The precision of a workload; its products have the dtype `FP8_DTYPE`."""
FP8_DTYPE = "float8_e4m3fn"
_MULTIPLE = 16
_HALF = ("bfloat16", "float16")


def as_fp8(work: Workload) -> Workload:
    """`work`, read in 16 bits, with the products of its linear layers in FP8."""
    products = [op for op in work.ops if op.phase == "forward" and _of_a_layer(op)]
    last = products[-1].layer if products else ""
    ops = tuple(replace(op, dtype=FP8_DTYPE) if _of_a_layer(op) and op.layer != last else op for op in work.ops)
    return replace(work, precision=FP8, ops=ops)


def _of_a_layer(op: Op) -> bool:
    """A product in 16 bits with sizes that FP8 kernels take, of a layer or of experts; attention's are batched."""
    whole = [op.dims.get(name, 1) % _MULTIPLE == 0 for name in ("m", "k", "n")]
    if op.kind != "matmul" or op.dtype not in _HALF:
        return False
    if "grouped_mm" in op.name:  # its kernels fill up the tokens of each expert
        return sum(whole) >= 2
    return op.dims.get("b", 1) == 1 and all(whole)
