"""One record as lines of text, for `measure show`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..estimator.answer import figures
from ..estimator.base.digits import counted
from ..estimator.base.interval import Interval

if TYPE_CHECKING:
    from ..measure.records.records import Record

_OPS = 10


def record_lines(record: Record, trace: Path | None) -> Iterator[str]:
    """The record as lines to print; `trace` is the file of its power trace."""
    from ..measure.records.records import hardware_name

    host = record.host
    libraries = ", ".join(f"{name} {version}" for name, version in host.get("libraries", {}).items())
    yield f"{record.kind} {record.name}  ({record.id}, {record.status}, {record.created})"
    yield f"on      {hardware_name(host)}; {host.get('os', '')}; governor {host.get('governor') or 'unknown'}"
    yield f"with    Python {host.get('python', '')}, {libraries}"
    yield f"meter   {record.meter.get('name', 'none')}"
    for note in record.meter.get("notes", ()):
        yield f"        {note}"
    if (work := record.workload) is not None:
        yield (
            f"work    {figures.count(work.parameters)} parameters, batch {work.batch_size}, {work.optimizer}, "
            f"{figures.count(work.flops)} multiply-adds and {figures.size(work.bytes_moved)} per step"
        )
    for flag in record.flags:
        yield f"flag    {flag}"
    for name, value in record.figures.items():
        yield f"figure  {name} = {figures.number(value) if abs(value) < 1e-3 else f'{value:.4g}'}"
    yield from _windows(record)
    yield from _slowest(record)
    if trace is not None:
        yield f"trace   {trace}"


def _windows(record: Record) -> Iterator[str]:
    for window in record.windows:
        reading = window.reading
        energy = "energy missing"
        if reading is not None and reading.energy_j is not None:
            energy = f"{figures.number(reading.energy_j)} J {reading.label}"
        per_step = f", {_time(window.seconds / window.steps)} per step" if window.steps else ""
        flags = f"  [{'; '.join(window.flags)}]" if window.flags else ""
        steps = f"{counted(window.steps, 'step')} in {_time(window.seconds)}{per_step}"
        yield f"window  {window.name}: {steps}, {energy}{flags}"


def _time(seconds: float) -> str:
    return figures.seconds(Interval.exact(seconds))[0]


def _slowest(record: Record) -> Iterator[str]:
    """Seconds by kind of op, the largest first."""
    if record.workload is None or record.op_seconds is None:
        return
    totals: dict[str, float] = {}
    for op, seconds in zip(record.workload.ops, record.op_seconds, strict=True):
        totals[f"{op.kind} {op.phase}"] = totals.get(f"{op.kind} {op.phase}", 0.0) + (seconds or 0.0)
    whole = sum(totals.values())
    for name, seconds in sorted(totals.items(), key=lambda item: -item[1])[:_OPS]:
        yield f"ops     {name}: {_time(seconds)} per step ({figures.share(seconds / whole)})"
