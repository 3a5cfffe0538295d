"""The layer table: every module that ran, with fvcore's forward FLOPs where they agree with the trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .fvcore_flops import first_sample, fvcore_forward_flops
from .recorder import Recorder
from .workload import Layer

# fvcore runs the model for real on one sample: beyond these it would cost more than it tells.
_FVCORE_MAX_PARAMETERS = 200_000_000
_FVCORE_MAX_FLOPS = 20_000_000_000


def fvcore_counts(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], batch_size: int, forward_flops: int
) -> tuple[dict[str, int] | None, list[str]]:
    """fvcore's count per module of one sample, or None where it cannot or should not run."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > _FVCORE_MAX_PARAMETERS or forward_flops / batch_size > _FVCORE_MAX_FLOPS:
        return None, []
    on_meta = any(tensor.is_meta for tensor in model.state_dict().values())
    real = _materialised(model) if on_meta else model
    if real is None:
        return None, []
    sample_args, sample_kwargs = first_sample((args, dict(kwargs)), batch_size)
    try:
        counts = fvcore_forward_flops(real, sample_args, sample_kwargs)
    except Exception:  # TorchScript cannot trace everything; the trace's own count stands
        return None, []
    ours, theirs = forward_flops / batch_size, counts[""]
    if theirs and abs(ours / theirs - 1) > 0.01:
        note = f"fvcore counts {theirs:,} forward multiply-adds a sample in eval mode, the trace {ours:,.0f}"
        return counts, [note]
    return counts, []


def _materialised(model: nn.Module) -> nn.Module | None:
    """A copy of a meta model with zeros for weights, or None where it cannot be copied."""
    try:
        real = copy.deepcopy(model).to_empty(device="cpu")
    except Exception:
        return None
    with torch.no_grad():
        for tensor in (*real.parameters(), *real.buffers()):
            tensor.zero_()
    return real


def layer_table(
    model: nn.Module, recorder: Recorder, counts: Mapping[str, int] | None, batch_size: int
) -> tuple[Layer, ...]:
    """Every module that ran, with the FLOPs of itself and all below it."""
    own: dict[str, int] = {}
    for op in recorder.ops:
        if op.phase == "forward":
            own[op.layer] = own.get(op.layer, 0) + op.flops
    total: dict[str, int] = {}
    for path, flops in own.items():
        for ancestor in _ancestors(path):
            total[ancestor] = total.get(ancestor, 0) + flops
    rows = []
    for path, module in model.named_modules():
        if path not in recorder.output_shapes:
            continue
        flops, source = total.get(path, 0), "trace"
        if counts is not None and path in counts:
            theirs = counts[path] * batch_size
            if abs(flops - theirs) <= 0.01 * max(flops, theirs):
                flops, source = theirs, "fvcore"
        rows.append(
            Layer(
                path=path,
                kind=type(module).__name__,
                output_shape=recorder.output_shapes[path],
                flops=flops,
                parameters=sum(parameter.numel() for parameter in module.parameters()),
                depth=path.count(".") + 1 if path else 0,
                source=source,
                leaf=not any(True for _ in module.children()),
            )
        )
    return tuple(rows)


def _ancestors(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
