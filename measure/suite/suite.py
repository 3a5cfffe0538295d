"""The calibration suite: cases in order of usefulness, within a time budget, with a record for each."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ...estimator.sandbox.user_code import model_error, one_line
from ..records.records import Record, same_machine
from ..records.store import Store
from ..signals import StopSignals
from .cases import Case
from .rounds import Bench, build, measure_case, measure_idle, warm

# A case needs at least this many steps, including the warm-up, and may use this share of the whole budget.
_LEAST_STEPS = 6
_MOST_SHARE = 0.2
IDLE_S = 5.0


class SuiteListener(Protocol):
    """Gets the progress of the suite."""

    def begin(self, name: str, done: int, total: int, left_s: float) -> None:
        """A case begins; `left_s` is the estimated time that the suite still needs."""
        ...

    def end(self, record: Record) -> None: ...
    def say(self, line: str) -> None: ...


@dataclass(slots=True)
class Summary:
    """The outcome of a run of the suite: names of cases, and why cases failed."""

    idle: Record | None = None
    measured: list[Record] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # measured by an earlier run
    skipped: list[str] = field(default_factory=list)  # for lack of time
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: str | None = None

    @property
    def records(self) -> list[Record]:
        """Everything that this run measured, for a fit."""
        return [*([] if self.idle is None else [self.idle]), *self.measured]


def usable(record: Record, bench: Bench) -> bool:
    """Whether a record is from this machine, meter and torch version, so that its case need not be repeated."""
    mine, theirs = bench.host["libraries"], record.host.get("libraries", {})
    return (
        record.kind in ("case", "idle")
        and record.status == "complete"
        and same_machine(record.host, bench.host)
        and record.meter.get("name") == bench.meter.name
        and theirs.get("torch") == mine.get("torch")
    )


def run_suite(
    cases: Sequence[Case],
    store: Store,
    bench: Bench,
    *,
    budget_s: float,
    earlier: Sequence[Record] = (),
    progress: SuiteListener,
    must: Sequence[Case] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Measures all of `must`, then `cases` until the budget is spent; each record is written at once.

    Cases with a clean record in `earlier` are not measured again; those with a disturbed one come last. SIGINT and
    SIGTERM end the suite after the case in progress. Raises what a case of `must` raises, and JoulecastError if the
    store cannot be written.
    """
    summary = Summary()
    clean = {record.name for record in earlier if not record.disturbed}
    disturbed = {record.name for record in earlier} - clean
    summary.kept = [case.name for case in cases if case.name in clean]
    waiting = [case for case in cases if case.name not in clean and case.name not in disturbed]
    waiting = [*must, *waiting, *(case for case in cases if case.name in disturbed)]
    ends = clock() + budget_s
    with StopSignals() as stop:
        summary.idle = _idle(store, bench, progress)
        for index, case in enumerate(waiting):
            left_s = ends - clock()
            required = index < len(must)
            if stop.received is not None or (left_s <= 0 and not required):
                summary.skipped += [other.name for other in waiting[index:]]
                break
            progress.begin(case.name, index, len(waiting), _eta(ends, clock(), budget_s, index, len(waiting)))
            most_s = float("inf") if required else min(ends - clock(), _MOST_SHARE * budget_s)
            record = _one(case, store, bench, most_s, summary)
            if record is not None:
                summary.measured.append(record)
                progress.end(record)
        summary.interrupted = stop.received
    return summary


def _eta(ends: float, now: float, budget_s: float, done: int, total: int) -> float:
    """Seconds left: from the time per case so far, and at most the rest of the budget."""
    left_s = max(ends - now, 0.0)
    return min(left_s, (budget_s - left_s) / done * (total - done)) if done else left_s


def _idle(store: Store, bench: Bench, progress: SuiteListener) -> Record | None:
    if bench.meter.name == "none":
        return None
    progress.say(f"idle power, {IDLE_S:g} s")
    record, trace = measure_idle(bench, IDLE_S, store.new_id("idle"))
    store.write(record, trace)
    return record


def _one(case: Case, store: Store, bench: Bench, most_s: float, summary: Summary) -> Record | None:
    """Measures one case, unless its minimum steps would take longer than `most_s`; infinite: a failure is raised."""
    device = str(bench.host["device"])
    if device == "gpu":
        torch.cuda.empty_cache()  # memory of the case before, in pieces that a larger one cannot use
    try:
        built = build(case, device)
        if built.work.flops * _seconds_per_mac(summary) * _LEAST_STEPS > most_s:
            summary.skipped.append(case.name)
            return None
        record, trace = measure_case(warm(built, device), bench, store.new_id(case.name))
    except Exception as error:  # a network can fail in any way
        if most_s == float("inf"):
            fix = "give a smaller `batch_size`" if "memory" in f"{type(error).__name__} {error}".casefold() else ""
            raise model_error(error, what=case.name, fix=fix) from error
        summary.failed[case.name] = one_line(f"{type(error).__name__}: {error}")
        return None
    finally:
        gc.collect()
    store.write(record, trace)
    return record


def _seconds_per_mac(summary: Summary) -> float:
    """The best rate so far, since cases limited by memory or launches are small. 0 before the first case."""
    rates = [
        record.seconds / record.steps / record.workload.flops
        for record in summary.measured
        if record.workload is not None and record.workload.flops
    ]
    return min(rates, default=0.0)
