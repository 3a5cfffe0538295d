"""Ops and listings of a step, made by hand."""

from __future__ import annotations

from typing import Any

from torch import nn

from joulecast.estimator.trace.recorder import Recorder
from joulecast.estimator.trace.step import Listing
from joulecast.estimator.trace.workload import Op


def op(name: str = "mm", flops: int = 0, **fields: Any) -> Op:
    given = {"kind": "matmul", "phase": "forward", "layer": "", "bytes_read": 0, "bytes_written": 0, **fields}
    return Op(name=name, flops=flops, **given)


def listing(ops: list[Op], **fields: Any) -> Listing:
    recorder = Recorder(nn.Identity())
    recorder.ops = ops
    given = {"trained": (), "elements": {}, "saved_bytes": 0, "tracer": "meta", "has_output": True, **fields}
    return Listing(recorder, **given)
