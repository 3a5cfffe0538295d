"""The arithmetic of energy counters: samples in, energy and label out. No file, clock or thread.

A counter shows energy modulo its range. Between two good reads the energy is the difference, plus one range if the
counter wrapped. That is unique unless the domain could have drawn another whole range in that time at its ceiling
power; then the window is ambiguous. A failed read is a gap: it only lengthens the time between two good reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from .reading import DomainReading, Label, TracePoint

# RAPL counters are refreshed about every millisecond, at most every ten.
REFRESH_NS = 10_000_000
# A sleep shorter than this is clock noise; real suspends take seconds.
SLEEP_NS = 500_000_000
# A package, its dram and a GPU always draw power, so a counter that does not move for this long does not work. The time
# is longer than any refresh, so that a slow counter is not mistaken for one that stands still.
STUCK_NS = 500_000_000
# A counter that has moved gets longer, because a delayed reader or driver must not cost hours of measurement.
PAUSED_NS = 2_000_000_000
# Power sampled further apart than this is not integrated.
POWER_GAP_NS = 2_000_000_000
_COUNTS = 1 << 32  # RAPL counters have 32 bits

Finding = tuple[Label, str]


@dataclass(frozen=True, slots=True)
class Domain:
    """A part whose energy is metered: a name unique in its meter, and what its numbers mean.

    `range_uj` is the highest value that the counter shows before it restarts, None if it never does. `ceiling_w` is a
    power that the domain cannot exceed. `refresh_ns` is the longest time between updates of the counter: a difference
    can include energy drawn that long before.
    """

    name: str
    kind: str
    counted: bool
    ceiling_w: int
    range_uj: int | None = None
    label: Label = "measured"
    method: str = "counter"
    note: str = ""  # goes into the reason of every reading
    refresh_ns: int = REFRESH_NS

    @property
    def wrap_s(self) -> float:
        """The shortest time in which the counter can wrap; infinite if it never does."""
        return float("inf") if self.range_uj is None else self.range_uj / 1e6 / self.ceiling_w


@dataclass(frozen=True, slots=True)
class Failure:
    """A read without a value. `fatal`: the counter is gone or useless for this window."""

    reason: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """A domain that repeats the counter of another, by index; if not `certain`, it only may."""

    original: int
    certain: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """All domains read once, between `began_ns` and `ended_ns` on the monotonic clock.

    `slept_ns` is how long the machine has been suspended since boot. Values are microjoules
    (counters) or microwatts (integrated power).
    """

    began_ns: int
    ended_ns: int
    slept_ns: int
    values: tuple[int | Failure, ...]


def kernel_unit_uj(range_uj: int) -> Fraction | None:
    """The microjoules per count of a kernel RAPL counter, None for a range of another kind of counter.

    The kernel shows `count * unit` rounded down, for a 32-bit count, and the value of the highest count as the range.
    Its unit is a whole number of nanojoules (a power of two of joules before Linux 3.14). So the counter wraps at
    `range + unit`, and the unit follows from the range: 262143328850 is 2^32 - 1 counts of 61.035 uJ.
    (drivers/powercap/intel_rapl_common.c: rapl_unit_xlate, get_max_energy_counter)
    """
    whole_nj = Fraction(-(-range_uj * 1000 // (_COUNTS - 1)), 1000)
    halvings = (Fraction(1_000_000, 1 << shift) for shift in range(20))
    for unit in (whole_nj, *halvings):
        if unit >= 1 and int((_COUNTS - 1) * unit) == range_uj:
            return unit
    return None


def _count(value_uj: int, unit: Fraction) -> int:
    return -(-value_uj * unit.denominator // unit.numerator)


def _on_grid(value_uj: int, unit: Fraction) -> bool:
    return _count(value_uj, unit) * unit.numerator // unit.denominator == value_uj


class Tally:
    """The energy of one counter over one window, sample by sample."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._unit = None if domain.range_uj is None else kernel_unit_uj(domain.range_uj)
        self._ends: tuple[int, int] | None = None  # the first and the latest good value; the next two are set with it
        self._last_began_ns: int
        self._moved_ns: int  # when the counter got its latest value
        self._longest_still_ns = 0
        self._wraps = 0
        self._has_shown_range = False
        self._failure: str | None = None  # of the latest sample
        self._finding: Finding | None = None

    def add(self, sample: Sample, value: int | Failure, first: bool) -> None:
        if isinstance(value, Failure):
            self._failure = value.reason
            if value.fatal:
                self._condemn("missing", value.reason)
            elif first:
                self._condemn("missing", f"not read at the start of the window: {value.reason}")
            return
        self._failure = None
        if self._unit is not None and not _on_grid(value, self._unit):
            self._unit = None  # off the kernel's grid: a counter of plain microjoules
        self._has_shown_range = self._has_shown_range or value == self._domain.range_uj
        start, last = self._ends or (value, None)
        if last is not None:
            self._step(last, value, sample.ended_ns - self._last_began_ns)
        if value == last:
            self._longest_still_ns = max(self._longest_still_ns, sample.began_ns - self._moved_ns)
        else:
            self._moved_ns = sample.ended_ns
        self._ends, self._last_began_ns = (start, value), sample.began_ns

    def condemn(self, reason: str) -> None:
        """Marks the window as missing, because its reads cannot be trusted."""
        self._condemn("missing", reason)

    def _condemn(self, label: Label, reason: str) -> None:
        if self._finding is None or (label == "missing" and self._finding[0] != "missing"):
            self._finding = (label, reason)

    def _step(self, before: int, now: int, elapsed_ns: int) -> None:
        domain = self._domain
        most_uj = domain.ceiling_w * (elapsed_ns + domain.refresh_ns) // 1000
        drawn = now - before
        if drawn < 0:
            if domain.range_uj is None:
                self._condemn("missing", f"the counter went back from {before} to {now} uJ: it was reset")
                return
            drawn += domain.range_uj
            self._wraps += 1
        if drawn > most_uj:
            self._condemn(
                "missing",
                f"the counter went from {before} to {now} uJ in {elapsed_ns / 1e9:.3f} s, which"
                f" {domain.ceiling_w} W cannot explain: it was reset",
            )
        elif domain.range_uj is not None and drawn + domain.range_uj <= most_uj:
            self._condemn(
                "ambiguous",
                f"no good read for {elapsed_ns / 1e9:.3f} s, in which the counter"
                f" (range {domain.range_uj} uJ) can have wrapped more than once",
            )

    def energy_uj(self) -> int:
        """Energy from the first to the latest good read, with the wraps that were seen."""
        if self._ends is None:
            return 0
        start, last = self._ends
        range_uj = self._domain.range_uj or 0
        if self._unit is not None:
            counts = _count(last, self._unit) - _count(start, self._unit)
            return int((counts + self._wraps * _COUNTS) * self._unit)
        # A plain counter that has shown its range wraps one microjoule later.
        comes_round_uj = range_uj + 1 if self._has_shown_range else range_uj
        return last - start + self._wraps * comes_round_uj

    def latest_uj(self) -> int | None:
        """The energy so far, for the trace: None if the latest read failed or the window is not certain."""
        return None if self._failure is not None or self._condemned() is not None else self.energy_uj()

    def reading(self) -> DomainReading:
        """The window as if it ended with the latest sample; more samples may follow."""
        finding = self._condemned() or _unread_end(self._failure)
        if finding is None and self._must_move and self.energy_uj() == 0:
            finding = ("ambiguous", "window too short for this counter: it did not move")
        return _reading(self._domain, finding, self.energy_uj())

    @property
    def _must_move(self) -> bool:
        return self._domain.counted and self._domain.method == "counter"

    def _condemned(self) -> Finding | None:
        """A finding that no further sample can change. A counter that stood still may have lost energy."""
        lost = self._finding is not None and self._finding[0] == "missing"
        most_ns = STUCK_NS if self.energy_uj() == 0 else PAUSED_NS
        if lost or not self._must_move or self._longest_still_ns < most_ns:
            return self._finding
        return ("missing", f"the counter stood still for {self._longest_still_ns / 1e9:.1f} s")


class PowerTally:
    """The energy of a domain that reports only power: the trapezoids between good samples."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._twice_fj = 0  # microwatts times nanoseconds, twice: the trapezoids stay integers
        self._last: tuple[int, int] | None = None
        self._failure: str | None = None
        self._finding: Finding | None = None

    def add(self, sample: Sample, value: int | Failure, first: bool) -> None:
        if isinstance(value, Failure):
            self._failure = value.reason
            if first or value.fatal:
                self.condemn(value.reason)
            return
        self._failure = None
        if self._last is not None:
            before_ns, before_uw = self._last
            gap_ns = sample.ended_ns - before_ns
            self._twice_fj += (value + before_uw) * gap_ns
            if gap_ns > POWER_GAP_NS and self._finding is None:
                self._finding = ("ambiguous", f"no power reading for {gap_ns / 1e9:.3f} s")
        self._last = (sample.ended_ns, value)

    def condemn(self, reason: str) -> None:
        if self._finding is None or self._finding[0] != "missing":
            self._finding = ("missing", reason)

    def energy_uj(self) -> int:
        return self._twice_fj // 2_000_000_000

    def latest_uj(self) -> int | None:
        return None if self._failure is not None or self._finding is not None else self.energy_uj()

    def reading(self) -> DomainReading:
        """The window as if it ended with the latest sample; more samples may follow."""
        return _reading(self._domain, self._finding or _unread_end(self._failure), self.energy_uj())


def _unread_end(failure: str | None) -> Finding | None:
    return None if failure is None else ("missing", f"not read at the end of the window: {failure}")


def _reading(domain: Domain, finding: Finding | None, energy_uj: int) -> DomainReading:
    label, reason = finding or (domain.label, domain.note)
    energy = None if finding else energy_uj
    return DomainReading(domain.name, domain.kind, label, energy, domain.counted, domain.method, reason)


class Ledger:
    """All domains of one window. Feed it samples in order; the first opens the window."""

    def __init__(self, domains: tuple[Domain, ...]) -> None:
        self._domains = domains
        self._tallies = [_tally_of(domain) for domain in domains]
        self._ends: tuple[Sample, Sample] | None = None  # the first and the latest

    def add(self, sample: Sample) -> None:
        start, latest = self._ends or (sample, sample)
        slept_ns = sample.slept_ns - latest.slept_ns
        if slept_ns > SLEEP_NS:
            for tally in self._tallies:
                tally.condemn(f"the machine was suspended for {slept_ns / 1e9:.1f} s within the window")
        for tally, value in zip(self._tallies, sample.values, strict=True):
            tally.add(sample, value, first=self._ends is None)
        self._ends = (start, sample)

    @property
    def elapsed_ns(self) -> int:
        if self._ends is None:
            return 0
        start, latest = self._ends
        return latest.ended_ns - start.ended_ns

    def readings(self, mirrors: Mapping[int, Mirror]) -> tuple[DomainReading, ...]:
        """One reading per domain; `mirrors` by the index of the domain that repeats another."""
        readings = [tally.reading() for tally in self._tallies]
        for index, mirror in mirrors.items():
            readings[index] = _mirrored(readings[index], self._domains[mirror.original].name, mirror.certain)
        return tuple(readings)

    def point(self) -> TracePoint:
        return TracePoint(self.elapsed_ns / 1e9, tuple(tally.latest_uj() for tally in self._tallies))


def _tally_of(domain: Domain) -> Tally | PowerTally:
    return PowerTally(domain) if domain.method == "integrated power" else Tally(domain)


def _mirrored(reading: DomainReading, original: str, certain: bool) -> DomainReading:
    if certain:
        reason = f"shows the same counter as {original}, counted once"
        return replace(reading, counted=False, reason="; ".join(filter(None, (reading.reason, reason))))
    if reading.label == "missing":
        return reading
    reason = f"too close to {original} to tell whether both show one counter"
    return replace(reading, label="ambiguous", energy_uj=None, reason=reason)
