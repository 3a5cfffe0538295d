"""One case of the suite measured: rounds of plain steps under the meter and of steps timed op by op."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median_low
from typing import Any

import torch
from torch.utils._pytree import tree_map

from ...estimator.trace.trace import trace
from ...estimator.trace.workload import Workload
from ..meters.contamination import SystemCounters, disturbances
from ..meters.meter import Meter
from ..meters.reading import PowerTrace
from ..records.records import MODELLED_FLAG, MeasuredWindow, Record, describe_meter, now_utc
from .cases import Case
from .drift import REFERENCE_S, Reference
from .op_timing import Stopwatch, TimedOp, TrainingStep, op_times

# A clean round this much slower than the median was disturbed by something that no counter shows.
_OUTLIER = 1.25


@dataclass(frozen=True, slots=True)
class CasePlan:
    """How long a case is measured: for `rounds` clean rounds, or until `case_s` is over.

    `window_s` is the minimum length of a round's windows, long enough for counters that are updated every 10 ms. A case
    without a clean round is measured for `patience` times as long.
    """

    window_s: float = 0.3
    case_s: float = 2.0
    rounds: int = 2
    patience: float = 2.5

    def times(self, factor: int) -> CasePlan:
        """The plan of a case that is measured `factor` times as long."""
        return replace(self, case_s=self.case_s * factor, rounds=self.rounds * factor)


# A longer first step has warmed the caches; on a GPU the first step also loads libraries.
_FIRST_STEP_S = {"cpu": 1.0, "gpu": 30.0}

# The host waits for a GPU this often.
_UNWATCHED_S = 0.1

# The shortest window in which a counter with this update rate is accurate to about a percent.
_COUNTER_WINDOW_S = {"nvml": 2.0, "rapl": 0.6, "perf_event": 0.6}

QUICK = CasePlan()
FULL = CasePlan(window_s=0.5, case_s=5.0, rounds=4)


def metered(plan: CasePlan, meter: str) -> CasePlan:
    """The plan with windows long enough for the counters of that meter ("rapl+nvml", ...)."""
    window_s = max((_COUNTER_WINDOW_S.get(part, 0.0) for part in meter.split("+")), default=0.0)
    return replace(plan, window_s=max(plan.window_s, window_s))


@dataclass(frozen=True, slots=True)
class _Round:
    window: MeasuredWindow
    timed: list[list[TimedOp]]
    timed_flags: tuple[str, ...]

    @property
    def step_s(self) -> float:
        return self.window.seconds / self.window.steps


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cases of a run have in common."""

    meter: Meter
    counters: SystemCounters
    host: Mapping[str, Any]
    plan: CasePlan
    overhead_s: float  # of the stopwatch, per op
    run: str  # id of this `measure`
    flags: tuple[str, ...] = ()  # problems that affect the whole run
    reference: Reference | None = None  # timed next to every window, to notice a machine that is slower than it can be


@dataclass(frozen=True, slots=True)
class BuiltCase:
    """A case built and traced."""

    case: Case
    work: Workload
    step: TrainingStep


def build(case: Case, device: str = "cpu", seed: int = 0) -> BuiltCase:
    """Builds the case on `device` ("cpu" or "gpu") and traces it. Raises what these raise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, (args, kwargs) = case.build()
    if device == "gpu":
        model = model.cuda()
        args, kwargs = tree_map(lambda leaf: leaf.cuda() if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))
    work = trace(
        model, (args, kwargs), optimizer=case.optimizer, precision=case.precision, name=case.name, layers=False
    )
    return BuiltCase(case, work, TrainingStep(model, args, kwargs, case.optimizer, case.precision))


def warm(built: BuiltCase, device: str = "cpu") -> BuiltCase:
    """Runs the first steps, which allocate memory and tune kernels. Raises what training the network raises."""
    if built.step.run() < _FIRST_STEP_S[device]:
        built.step.run()
    return built


def prepare(case: Case, device: str = "cpu", seed: int = 0) -> BuiltCase:
    """`build` and `warm` in one."""
    return warm(build(case, device, seed), device)


def measure_case(built: BuiltCase, bench: Bench, record_id: str) -> tuple[Record, PowerTrace | None]:
    """The record of one case and its power trace.

    Windows that other work disturbed are measured again while there is time. If none is clean, the fastest is used,
    with its flags.
    """
    meter, work = bench.meter, built.work
    watch = Stopwatch(built.step.model, built.step.clock)
    whole = meter.open(trace=True)
    try:
        rounds = _rounds(built, bench, watch)
    finally:
        whole.close()
    kept = kept_rounds(rounds)
    windows = tuple(one.window for one in kept)
    step_s = sum(window.seconds for window in windows) / sum(window.steps for window in windows)
    ops = op_times(work, _timed_runs(kept) or _timed_runs(rounds), step_s, bench.overhead_s)
    flags = tuple(dict.fromkeys((*bench.flags, *(flag for window in windows for flag in window.flags))))
    if any(window.reading is not None and window.reading.label == "modelled" for window in windows):
        flags = (*flags, MODELLED_FLAG)
    record = Record(
        id=record_id,
        kind="case",
        name=built.case.name,
        created=now_utc(),
        status="complete",
        host=bench.host,
        windows=windows,
        run=bench.run,
        family=built.case.family,
        meter=describe_meter(meter),
        settings={"optimizer": built.case.optimizer, "window_s": bench.plan.window_s},
        workload=work,
        op_seconds=ops.seconds,
        figures={
            "rounds": len(rounds),
            "rounds_kept": len(kept),
            "ops_share_of_step": ops.covered,  # before the op times were corrected to add up to the step
            "ops_unmatched": ops.unmatched,
            "stopwatch_s_per_op": bench.overhead_s,
        },
        flags=flags,
    )
    return record, whole.trace() if meter.name != "none" else None


def _rounds(built: BuiltCase, bench: Bench, watch: Stopwatch) -> list[_Round]:
    plan, began = bench.plan.times(built.case.rounds_factor), time.monotonic()
    rounds: list[_Round] = []
    while True:
        rounds.append(_round(built, bench, watch, len(rounds)))
        spent = time.monotonic() - began
        clean = sum(not one.window.flags for one in rounds)
        if clean >= plan.rounds or spent > plan.case_s * (1 if clean else plan.patience):
            return rounds


def _round(built: BuiltCase, bench: Bench, watch: Stopwatch, number: int) -> _Round:
    steps, spent_s = 0, 0.0
    reference_s = [] if bench.reference is None else [bench.reference.seconds()]
    before = bench.counters.read()
    window = bench.meter.open()
    try:
        while not steps or spent_s < bench.plan.window_s:
            left_s = bench.plan.window_s - spent_s
            count = _unwatched_steps(spent_s / steps, left_s) if steps else 1
            spent_s += built.step.run(count)
            steps += count
    finally:
        reading = window.close()
    between = bench.counters.read()
    if bench.reference is not None:
        reference_s.append(bench.reference.seconds())
    fuse, began, timed = built.work.tracer != "real", time.monotonic(), []
    for _ in range(_timed_steps(steps, number)):
        timed.append(built.step.run_timed(watch, fuse))
        if time.monotonic() - began > bench.plan.window_s:  # a stopwatch slows a GPU's short ops several times
            break
    flags = disturbances(before, between)
    figures = {REFERENCE_S: mean(reference_s)} if reference_s else {}
    measured = MeasuredWindow("training steps", steps, reading.seconds, reading, flags, figures)
    return _Round(measured, timed, disturbances(between, bench.counters.read()))


def _unwatched_steps(step_s: float, left_s: float) -> int:
    """How many steps run before the host waits for the device: a training does not wait after every step."""
    return max(1, int(min(_UNWATCHED_S, left_s) / max(step_s, 1e-9)))


def _timed_steps(steps: int, number: int) -> int:
    """How many steps are timed op by op after the plain steps of a round: half as many, at least in the first."""
    return steps // 2 if steps > 1 else 1 - number % 2


def kept_rounds(rounds: Sequence[_Round]) -> list[_Round]:
    """The clean rounds without outliers; if none is clean, the fastest."""
    clean = [one for one in rounds if not one.window.flags]
    if not clean:
        return [min(rounds, key=lambda one: one.step_s)]
    limit = _OUTLIER * median_low(one.step_s for one in clean)
    return [one for one in clean if one.step_s <= limit]


def _timed_runs(rounds: Sequence[_Round]) -> list[list[TimedOp]]:
    """The undisturbed timed steps; if all were disturbed, the fastest; empty if none was timed."""
    clean = [run for one in rounds if not one.timed_flags for run in one.timed]
    every = [run for one in rounds for run in one.timed]
    return clean or sorted(every, key=lambda run: sum(event.seconds for event in run))[:1]


def measure_idle(
    bench: Bench, seconds: float, record_id: str, sleep: Callable[[float], None] = time.sleep
) -> tuple[Record, PowerTrace]:
    """Measures the idle machine."""
    before = bench.counters.read()
    window = bench.meter.open(trace=True)
    try:
        sleep(seconds)
    finally:
        reading = window.close()
    flags = disturbances(before, bench.counters.read())
    record = Record(
        id=record_id,
        kind="idle",
        name="idle",
        created=now_utc(),
        status="complete",
        host=bench.host,
        windows=(MeasuredWindow("idle", 0, reading.seconds, reading, flags),),
        run=bench.run,
        meter=describe_meter(bench.meter),
        flags=flags,
    )
    return record, window.trace()
