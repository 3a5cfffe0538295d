"""The one function that selects a meter, and why it selected it."""

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

    @property
    def reads_all(self) -> bool:
        """Whether all that counts could be read when it was selected; else its total is missing."""
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
    """Nothing measures here: every window is missing, for the reason given."""

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
    """The meter to use, with `attempts` saying what was tried and `notes` what its user must know.

    "auto": the CPU's counters (powercap, else perf events) and the GPUs' together; a counter set of
    which something fails only where nothing reads whole; "modelled" only where nothing measures; and
    where the CPU is unknown too, a meter whose every window is missing. GPUs that are there and cannot
    be read make the total missing, as unreadable dram does. Never raises for "auto".
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
    if preference.startswith("replay:"):  # plays what was recorded, standing still included
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
    unread: dict[str, Any] = {}  # GPUs that are there, of which nothing reads
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
        alone = f"; --meter {chosen[0].name} measures the CPU alone" if by_cpu and one.meter == "nvml" else ""
        if one.meter in partial or one.meter in unread or (one.meter != "nvml" and not by_cpu):
            notes.append(f"{one.meter}: {one.reason}{alone}")
    return SelectedMeter(JoinedSource(chosen), attempts, interval_s, notes)


def _chosen(whole: Mapping[str, Any], partial: Mapping[str, Any], unread: Mapping[str, Any]) -> list[Any]:
    """The best of the CPU's and the best of the GPUs'; whole before partial, powercap before perf.

    GPUs of which nothing reads take their place only beside a counter, whose total is not all.
    """
    ranked = [group[name] for group in (whole, partial) for name in ("rapl", "perf_event") if name in group]
    beside = (whole, partial, unread) if ranked else (whole, partial)
    gpus = [group["nvml"] for group in beside if "nvml" in group]
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
