"""Selects a meter, and records why."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...estimator.base.errors import MeterError
from .meter import DEFAULT_INTERVAL_S, SampledMeter, Source
from .modelled import ModelledSource
from .nvml import NoGpuError, NvmlSource
from .perf_event import PerfSource
from .procstat import read_cpu_info
from .rapl import RaplSource, SystemClock, system_clock
from .replay import ReplaySource
from .tally import Domain, Failure, Mirror, Sample

# The counter of a part that is powered moves within this time.
ZERO_WAIT_S = 0.05

PREFERENCES = ("auto", "rapl", "perf_event", "nvml", "modelled", "none", "replay:FILE")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One meter that was tried: whether it reads all its domains, or why not."""

    meter: str
    works: bool
    reason: str = ""


class SelectedMeter(SampledMeter):
    """The selected meter, with all that was tried."""

    def __init__(
        self, source: Source, attempts: Sequence[Attempt], interval_s: float | None, notes: Sequence[str]
    ) -> None:
        super().__init__(source, interval_s=interval_s, notes=notes)
        self.attempts = tuple(attempts)

    @property
    def reads_all(self) -> bool:
        """Whether all counted domains could be read when it was selected; otherwise its total is missing."""
        return all(one.works for one in self.attempts if one.meter in self.name.split("+"))


class JoinedSource:
    """Several sources as one, each read in turn: CPU counters and GPUs."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self.name = "+".join(source.name for source in sources)
        self.domains = tuple(domain for source in sources for domain in source.domains)
        self.notes = tuple(note for source in sources for note in source.notes)

    def sample(self) -> Sample:
        samples = [source.sample() for source in self._sources]
        values = tuple(value for sample in samples for value in sample.values)
        return Sample(samples[0].began_ns, samples[-1].ended_ns, samples[-1].slept_ns, values)

    def mirrors(self) -> Mapping[int, Mirror]:
        found: dict[int, Mirror] = {}
        offset = 0
        for source in self._sources:
            for index, mirror in source.mirrors().items():
                found[offset + index] = Mirror(offset + mirror.original, mirror.certain)
            offset += len(source.domains)
        return found

    def close(self) -> None:
        for source in self._sources:
            source.close()


class NullSource:
    """A source without a counter: every window is missing, for the given reason."""

    def __init__(
        self, reason: str, *, name: str = "none", kind: str = "machine", clock: SystemClock = system_clock
    ) -> None:
        self.name = name
        self.domains = (Domain(kind, kind, True, 1),)
        self.notes: tuple[str, ...] = ()
        self._failure = Failure(reason, fatal=True)
        self._clock = clock

    def sample(self) -> Sample:
        now_ns, slept_ns = self._clock()
        return Sample(now_ns, now_ns, slept_ns, (self._failure,))

    def mirrors(self) -> Mapping[int, Mirror]:
        return {}

    def close(self) -> None:
        """Nothing is open."""


def select_meter(
    preference: str = "auto",
    *,
    sysfs: Path = Path("/sys"),
    procfs: Path = Path("/proc"),
    hardware: str | None = None,
    interval_s: float | None = DEFAULT_INTERVAL_S,
    environ: Mapping[str, str] = os.environ,
    pynvml: Any = None,
) -> SelectedMeter:
    """The meter to use: `attempts` lists what was tried, `notes` what the user must know.

    "auto" takes the CPU's counters (powercap, or perf events) and those of the GPUs together. It takes a set of
    counters with failures only if no set is complete, and "modelled" only if nothing measures. If the CPU is unknown
    too, all windows of the meter are missing. GPUs that exist and cannot be read make the total missing, as unreadable
    dram does. "auto" never raises; any other preference is used or raises MeterError. Each failure is one line with its
    fix.
    """
    makers: dict[str, Callable[[], Any]] = {
        "rapl": lambda: RaplSource(sysfs / "class/powercap", vendor=read_cpu_info(procfs).vendor),
        "perf_event": lambda: PerfSource(sysfs),
        "nvml": lambda: NvmlSource(pynvml, environ=environ),
        "modelled": lambda: ModelledSource(hardware, procfs=procfs),
        "none": lambda: NullSource("the meter is none"),
    }
    if preference == "auto":
        return _automatic(makers, interval_s)
    if preference.startswith("replay:"):  # replayed as recorded, even if the counter stands still
        replayed = ReplaySource(Path(preference.removeprefix("replay:")))
        return SelectedMeter(replayed, [Attempt(preference, True)], interval_s, ())
    if preference not in makers:
        raise MeterError(f"meter is {preference!r}; choose one of {', '.join(PREFERENCES)}")
    source = makers[preference]()
    failures = _failures(source)
    if failures and len(failures) >= sum(domain.counted for domain in source.domains):
        source.close()
        raise MeterError(f"{preference}: {failures[0]}")
    attempt = Attempt(preference, not failures, "; ".join(failures))
    return SelectedMeter(source, [attempt], interval_s, failures)


def _automatic(makers: Mapping[str, Callable[[], Any]], interval_s: float | None) -> SelectedMeter:
    attempts: list[Attempt] = []
    whole: dict[str, Any] = {}
    partial: dict[str, Any] = {}
    unread: dict[str, Any] = {}  # GPUs that exist and cannot be read
    for name in ("rapl", "perf_event", "nvml"):
        if name == "perf_event" and "rapl" in whole:
            continue
        try:
            source = makers[name]()
        except MeterError as error:
            attempts.append(Attempt(name, False, str(error)))
            if name == "nvml" and not isinstance(error, NoGpuError):
                unread[name] = NullSource(str(error), name=name, kind="gpu")
            continue
        failures = _failures(source)
        attempts.append(Attempt(name, not failures, "; ".join(failures)))
        counted = sum(domain.counted for domain in source.domains)
        if not failures:
            whole[name] = source
        elif len(failures) < counted:
            partial[name] = source
        elif name == "nvml":
            unread[name] = source
        else:
            source.close()
    chosen = _chosen(whole, partial, unread)
    for source in (*whole.values(), *partial.values(), *unread.values()):
        if source not in chosen:
            source.close()
    if not chosen:
        return _without_counter(makers, attempts, interval_s)
    by_cpu = chosen[0].name != "nvml"
    notes = []
    for one in attempts:
        alone = f"; `meter` {chosen[0].name} measures the CPU alone" if by_cpu and one.meter == "nvml" else ""
        if one.meter in partial or one.meter in unread or (one.meter != "nvml" and not by_cpu):
            notes.append(f"{one.meter}: {one.reason}{alone}")
    return SelectedMeter(JoinedSource(chosen), attempts, interval_s, notes)


def _chosen(whole: Mapping[str, Any], partial: Mapping[str, Any], unread: Mapping[str, Any]) -> list[Any]:
    """The best CPU source and the best GPU source; complete before partial, powercap before perf events.

    GPUs that cannot be read are included only together with a CPU counter, so that its total is marked incomplete.
    """
    ranked = [group[name] for group in (whole, partial) for name in ("rapl", "perf_event") if name in group]
    groups = (whole, partial, unread) if ranked else (whole, partial)
    gpus = [group["nvml"] for group in groups if "nvml" in group]
    return ranked[:1] + gpus[:1]


def _failures(source: Any) -> tuple[str, ...]:
    """The counted domains that cannot be read or stay at zero, as in many virtual machines."""
    failures = tuple(getattr(source, "failures", ()))
    zero = _at_zero(source)
    if zero:
        time.sleep(ZERO_WAIT_S)
        zero = [name for name in _at_zero(source) if name in zero]
    return (*failures, *(f"{name}: the counter stays at 0 (a virtual machine?)" for name in zero))


def _at_zero(source: Any) -> list[str]:
    pairs = zip(source.domains, source.sample().values, strict=True)
    return [domain.name for domain, value in pairs if domain.counted and domain.label == "measured" and value == 0]


def _without_counter(
    makers: Mapping[str, Callable[[], Any]], attempts: list[Attempt], interval_s: float | None
) -> SelectedMeter:
    try:
        source = makers["modelled"]()
        attempts.append(Attempt("modelled", True))
    except MeterError as error:
        attempts.append(Attempt("modelled", False, str(error)))
        source = NullSource("no energy counter, and no power to model with")
    notes = [f"{one.meter}: {one.reason}" for one in attempts if not one.works]
    return SelectedMeter(source, attempts, interval_s, notes)
