"""The one function that selects a meter, and why it selected it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..estimator.errors import MeterError
from .meter import DEFAULT_INTERVAL_S, SampledMeter, Source
from .modelled import ModelledSource
from .nvml import NvmlSource
from .perf_event import PerfSource
from .procstat import read_cpu_info
from .rapl import Clock, RaplSource, system_clock
from .replay import ReplaySource
from .tally import Domain, Failure, Mirror, Sample

# A counter of anything that runs moves within this time.
ZERO_WAIT_S = 0.05

PREFERENCES = ("auto", "rapl", "perf_event", "nvml", "modelled", "none", "replay:FILE")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One meter that was tried: whether it reads all it counts, and else why not."""

    meter: str
    works: bool
    reason: str = ""


class SelectedMeter(SampledMeter):
    """The meter chosen, with all that was tried for it."""

    def __init__(
        self, source: Source, attempts: Sequence[Attempt], interval_s: float | None, notes: Sequence[str]
    ) -> None:
        super().__init__(source, interval_s=interval_s, notes=notes)
        self.attempts = tuple(attempts)


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
    """Nothing measures here: every window is missing, for the reason given."""

    name = "none"

    def __init__(self, reason: str, *, clock: Clock = system_clock) -> None:
        self.domains = (Domain("machine", "machine", True, 1),)
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
    """The meter to use, with `attempts` saying what was tried and `notes` what its user must know.

    "auto": the CPU's counters (powercap, else perf events) and the GPUs' together; a counter set of
    which something fails only where nothing reads whole; "modelled" only where nothing measures; and
    where the CPU is unknown too, a meter whose every window is missing. Never raises for "auto".
    Any other preference is taken or raises MeterError. Each failure is one line with its fix.
    """
    makers: dict[str, Callable[[], Any]] = {
        "rapl": lambda: RaplSource(sysfs / "class/powercap", vendor=read_cpu_info(procfs).vendor),
        "perf_event": lambda: PerfSource(sysfs),
        "nvml": lambda: NvmlSource(pynvml, environ=environ),
        "modelled": lambda: ModelledSource(hardware, procfs=procfs),
        "none": lambda: NullSource("no meter was wanted"),
    }
    if preference == "auto":
        return _automatic(makers, interval_s)
    if preference.startswith("replay:"):
        source: Any = ReplaySource(Path(preference.removeprefix("replay:")))
    elif preference in makers:
        source = makers[preference]()
    else:
        raise MeterError(f"meter is {preference!r}; choose one of {', '.join(PREFERENCES)}")
    failures = _failures(source)
    if failures and len(failures) == sum(domain.counted for domain in source.domains):
        source.close()
        raise MeterError(f"{preference}: {failures[0]}")
    attempt = Attempt(preference, not failures, "; ".join(failures))
    return SelectedMeter(source, [attempt], interval_s, failures)


def _automatic(makers: Mapping[str, Callable[[], Any]], interval_s: float | None) -> SelectedMeter:
    attempts: list[Attempt] = []
    whole: dict[str, Any] = {}
    partial: dict[str, Any] = {}
    for name in ("rapl", "perf_event", "nvml"):
        if name == "perf_event" and "rapl" in whole:
            continue
        try:
            source = makers[name]()
        except MeterError as error:
            attempts.append(Attempt(name, False, str(error)))
            continue
        failures = _failures(source)
        attempts.append(Attempt(name, not failures, "; ".join(failures)))
        counted = sum(domain.counted for domain in source.domains)
        if not failures:
            whole[name] = source
        elif len(failures) < counted:
            partial[name] = source
        else:
            source.close()
    chosen = _chosen(whole, partial)
    for source in (*whole.values(), *partial.values()):
        if source not in chosen:
            source.close()
    if not any(source.name in ("rapl", "perf_event") for source in chosen):
        notes = [f"{one.meter}: {one.reason}" for one in attempts if one.meter != "nvml"]
    else:
        notes = [f"{one.meter}: {one.reason}" for one in attempts if one.meter in partial and not one.works]
    if chosen:
        return SelectedMeter(JoinedSource(chosen), attempts, interval_s, notes)
    return _without_counter(makers, attempts, interval_s)


def _chosen(whole: Mapping[str, Any], partial: Mapping[str, Any]) -> list[Any]:
    """The best of the CPU's and the best of the GPUs'; whole before partial, powercap before perf."""
    ranked = [group[name] for group in (whole, partial) for name in ("rapl", "perf_event") if name in group]
    gpus = [group["nvml"] for group in (whole, partial) if "nvml" in group]
    return ranked[:1] + gpus[:1]


def _failures(source: Any) -> tuple[str, ...]:
    """What of the counted domains does not read, or stands at zero as in many virtual machines."""
    failures = tuple(getattr(source, "failures", ()))
    zero = _at_zero(source)
    if zero:
        time.sleep(ZERO_WAIT_S)
        zero = [name for name in _at_zero(source) if name in zero]
    return (*failures, *(f"{name}: the counter stands at 0 (a virtual machine?)" for name in zero))


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
