"""What an optimizer does to one parameter tensor, by the bytes that it must move.

Frameworks run the same update as a loop of small ops, as `foreach` groups or as one fused kernel, by
device and version; the traffic that the update cannot avoid is the same, and the cost model learns
what each device makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import JoulecastError
from .workload import Op


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Passes over a tensor the size of the parameter: read, written; and state tensors kept."""

    reads: int
    writes: int
    state: int


OPTIMIZERS = {
    "sgd": Optimizer(reads=2, writes=1, state=0),  # p -= lr * g
    "momentum": Optimizer(reads=3, writes=2, state=1),  # + velocity
    "adam": Optimizer(reads=4, writes=3, state=2),  # + two moments (Kingma and Ba, 2015)
    "adamw": Optimizer(reads=4, writes=3, state=2),  # decay folded into the same pass
}


def optimizer_named(name: str) -> Optimizer:
    try:
        return OPTIMIZERS[name]
    except KeyError:
        raise JoulecastError(f"optimizer {name!r} is not known; choose one of {', '.join(OPTIMIZERS)}") from None


def update_op(name: str, layer: str, elements: int, element_bytes: int, dtype: str) -> Op:
    """The update of one parameter tensor. FLOPs are 0 by fvcore's convention (element-wise)."""
    optimizer = optimizer_named(name)
    tensor_bytes = elements * element_bytes
    return Op(
        name=name,
        kind="optimizer",
        phase="optimizer",
        layer=layer,
        flops=0,
        bytes_read=optimizer.reads * tensor_bytes,
        bytes_written=optimizer.writes * tensor_bytes,
        dtype=dtype,
        dims={"elements": elements},
    )
