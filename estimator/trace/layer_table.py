"""The layer table: every module that ran, with fvcore's forward FLOPs where they agree with the trace."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .fvcore_flops import first_sample, fvcore_forward_flops
from .step import Listing, StandIns
from .untouched import Reached
from .workload import Layer

LOGGER = logging.getLogger("joulecast.trace")

# fvcore runs the model for real on one sample: beyond these it would cost more than it tells.
FVCORE_MAX_PARAMETERS = 200_000_000
_FVCORE_MAX_FLOPS = 20_000_000_000


def fvcore_counts(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    batch_size: int,
    forward_flops: int,
    reached: Reached,
) -> tuple[dict[str, int] | None, list[str]]:
    """fvcore's count per module of one sample, or None where it cannot or should not run.

    It runs the model for real, with zeros for its parameters: what `reached` recorded is put back.
    """
    if forward_flops / batch_size > _FVCORE_MAX_FLOPS:
        return None, []
    sample_args, sample_kwargs = first_sample((args, dict(kwargs)), batch_size)
    try:
        with reached.attempt(), torch.no_grad():
            StandIns("zeros").swapped_in(model, reached)
            counts = fvcore_forward_flops(model, sample_args, sample_kwargs)
    except Exception as error:  # TorchScript cannot trace everything; the trace's own count stands
        LOGGER.debug("%s: fvcore cannot count it: %s: %s", type(model).__name__, type(error).__name__, error)
        return None, []
    ours, theirs = forward_flops / batch_size, counts[""]
    if theirs and abs(ours / theirs - 1) > 0.01:
        note = f"fvcore counts {theirs:,} forward multiply-adds a sample in eval mode, the trace {ours:,.0f}"
        return counts, [note]
    return counts, []


def layer_table(
    model: nn.Module, listing: Listing, counts: Mapping[str, int] | None, batch_size: int
) -> tuple[Layer, ...]:
    """Every module that ran, with the FLOPs of itself and all below it."""
    own: dict[str, int] = {}
    recorder = listing.recorder
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
                parameters=sum(listing.elements[id(parameter)] for parameter in module.parameters()),
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
