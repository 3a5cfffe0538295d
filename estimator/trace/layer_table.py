"""The layer table: every module that ran, with fvcore's forward FLOPs where they agree with the trace."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from .batch import leads_with_batch
from .fvcore_flops import fvcore_forward_flops, zeros_for
from .step import Listing, StandIns, Step
from .untouched import Reached
from .workload import Layer

LOGGER = logging.getLogger("joulecast.trace")

# fvcore runs the model for real on one sample: beyond these it would cost more than it tells.
FVCORE_MAX_PARAMETERS = 200_000_000
_FVCORE_MAX_FLOPS = 20_000_000_000


def fvcore_counts(
    step: Step, batch_size: int, forward_flops: int, reached: Reached, *, batch_first: bool
) -> tuple[dict[str, float] | None, list[str]]:
    """fvcore's count per module of one sample, or None where it cannot or should not run.

    It runs the model for real, with zeros for its parameters: what `reached` recorded is put back.
    """
    samples = 1 if batch_first or leads_with_batch((step.args, step.kwargs), batch_size) else batch_size
    if forward_flops * samples / batch_size > _FVCORE_MAX_FLOPS:
        return None, []
    args, kwargs = zeros_for((step.args, dict(step.kwargs)), cut_from=batch_size if samples == 1 else None)
    name = type(step.model).__name__
    try:
        with reached.attempt(), torch.no_grad():
            StandIns("zeros").swapped_in(step.model, reached)
            counts = fvcore_forward_flops(step.model, args, kwargs)
    except Exception as error:  # TorchScript cannot trace everything; the trace's own count stands
        LOGGER.debug("%s: fvcore cannot count it: %s: %s", name, type(error).__name__, error)
        return None, []
    each = {path: count / samples for path, count in counts.items()}
    ours, theirs = forward_flops / batch_size, each[""]
    if theirs and abs(ours / theirs - 1) > 0.01:
        note = f"fvcore counts {theirs:,.0f} forward multiply-adds a sample in eval mode, the trace {ours:,.0f}"
        return each, [note]
    return each, []


def layer_table(
    model: nn.Module, listing: Listing, counts: Mapping[str, float] | None, batch_size: int
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
                flops, source = round(theirs), "fvcore"
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
