"""The time model of a datasheet: each op takes as long as its arithmetic or its traffic, and a start.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ..trace.workload import Op
from .features import PRICED_AS
from .profile import Array

COMPUTE, MEMORY, LAUNCH = "compute", "memory", "launch"
_DENSE = frozenset({"conv", "matmul", "attention", "rnn", *PRICED_AS})
_HALF = ("bfloat16", "float16")
_SLOWER = {"float8": _HALF, "int8": _HALF}  # the next formats to look for where a datasheet has no rate


@dataclass(frozen=True, slots=True)
class Roofline:
    """Peak rates with stated efficiencies.

    `macs_per_s` holds multiply-adds per second (half of the vendors' FLOPS) by dtype, with
    "float32.conv" for convolutions where these run at another rate (TF32). `bytes_per_s` is the
    memory bandwidth. The efficiencies are shares of these peaks that whole networks reach, that of
    arithmetic under the same keys; `launch_s` is the time of an op that does nothing.
    """

    macs_per_s: Mapping[str, float]
    bytes_per_s: float
    compute_efficiency: Mapping[str, float]
    memory_efficiency: float
    launch_s: float

    form: ClassVar[str] = "roofline"
    components: ClassVar[tuple[str, ...]] = (COMPUTE, MEMORY, LAUNCH)

    def seconds(self, ops: Sequence[Op]) -> Array:
        counts = np.array([op.count for op in ops], dtype=float)
        flops = np.array([op.computed_flops if op.kind in _DENSE else 0 for op in ops], dtype=float)
        moved = np.array([op.bytes_moved for op in ops], dtype=float)
        rates = np.array([self._rate(op) for op in ops], dtype=float)
        compute = flops / rates
        memory = moved / (self.bytes_per_s * self.memory_efficiency)
        bound = compute >= memory
        busy = np.where(bound, compute, memory)
        # Work is queued while the device is busy: only what outlasts the work is waited for.
        wait = np.maximum(self.launch_s - busy, 0.0)
        result = np.stack([np.where(bound, compute, 0.0), np.where(bound, 0.0, memory), wait], axis=1)
        return np.asarray(result * counts[:, None], dtype=float)

    def _rate(self, op: Op) -> float:
        """Multiply-adds per second that ops of this kind and dtype reach."""
        dtype = op.dtype.partition("_")[0]  # float8_e4m3fn and the like have one rate
        keys = (*([f"{dtype}.conv"] if op.kind == "conv" else []), dtype, *_SLOWER.get(dtype, ()), "float32")
        key = next(key for key in keys if key in self.macs_per_s)
        return self.macs_per_s[key] * self.compute_efficiency[key]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Roofline:
        return cls(**document)
