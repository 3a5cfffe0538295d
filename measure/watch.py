"""CPU load and watts per domain at regular intervals, then their statistics.

The columns are those of `powerstat -RDH` (thesis, Listing 3.4) and the stolen time. Everything but `Watch` and `CsvLog`
is pure.
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..estimator.base.errors import MeterError
from .meters.meter import Meter, Window
from .meters.procstat import PROC, ProcStat, read_proc_stat
from .meters.reading import DomainReading, PowerTrace, Reading

CPU_COLUMNS = ("User", "Nice", "Sys", "Idle", "IO", "Steal", "Run", "Ctxt/s", "IRQ/s")
CPU_FIELDS = ("user", "nice", "sys", "idle", "io", "steal", "run", "ctxt_per_s", "irq_per_s")
STATISTICS = ("Average", "GeoMean", "StdDev", "Minimum", "Maximum")
HISTOGRAM_BINS = 10
HISTOGRAM_WIDTH = 40


@dataclass(frozen=True, slots=True)
class WatchRow:
    """One interval: the CPU columns in the order of `CPU_COLUMNS` (percent, processes, per second),
    the total's watts and each domain's; None where the energy is unknown.
    """

    seconds: float
    cpu: tuple[float, ...]
    watts: float | None
    domain_watts: tuple[float | None, ...]
    label: str


def row_of(before: ProcStat, after: ProcStat, reading: Reading) -> WatchRow:
    """The interval between two reads of /proc/stat, with the meter's reading of it."""
    old, new = before.times, after.times
    ticks = max(1, new.total - old.total)
    spent = (
        new.user - old.user,
        new.nice - old.nice,
        new.system + new.irq + new.softirq - old.system - old.irq - old.softirq,
        new.idle - old.idle,
        new.iowait - old.iowait,
        new.steal - old.steal,
    )
    seconds = max(reading.seconds, 1e-9)
    rates = (
        float(after.running),
        (after.context_switches - before.context_switches) / seconds,
        (after.interrupts - before.interrupts) / seconds,
    )
    cpu = (*(100 * share / ticks for share in spent), *rates)
    watts = tuple(_watts(domain, reading.seconds) for domain in reading.domains)
    return WatchRow(reading.seconds, cpu, reading.power_w, watts, reading.label)


def _watts(domain: DomainReading, seconds: float) -> float | None:
    return None if domain.energy_uj is None or seconds <= 0 else domain.energy_uj / 1e6 / seconds


def statistics_of(values: Sequence[float]) -> dict[str, float]:
    """`STATISTICS` of one column, for values >= 0. The deviation is the population's, as in powerstat."""
    geometric = 0.0
    if min(values) > 0:
        geometric = math.exp(statistics.fmean(math.log(value) for value in values))
    figures = (statistics.fmean(values), geometric, statistics.pstdev(values), min(values), max(values))
    return dict(zip(STATISTICS, figures, strict=True))


def short_name(domain: str, domains: Sequence[str]) -> str:
    """A heading as in powerstat: "pkg-0", "dram"; with the package's number where several have the same part."""
    package, _, part = domain.rpartition("/")
    short = f"{part}-{package.removeprefix('package-')}" if package else part.replace("package", "pkg")
    alone = sum(other.rpartition("/")[2] == part for other in domains) == 1
    return part if package and alone else short


class WatchTable:
    """Plain text in fixed columns, the same on a terminal and in a pipe."""

    def __init__(self, domains: Sequence[str]) -> None:
        names = [short_name(domain, domains) for domain in domains]
        self._headings = ("Time", *CPU_COLUMNS, "Watts", *names)
        self._widths = [8, 5, 5, 5, 5, 5, 5, 5, 8, 8, *(max(8, len(name)) for name in ("Watts", *names))]

    def header(self) -> str:
        return self._line(self._headings) + "  Label"

    def rule(self) -> str:
        return self._line(["-" * width for width in self._widths])

    def row(self, clock: str, row: WatchRow) -> str:
        return f"{self._line([clock, *_cells(row.cpu, row.watts, row.domain_watts)])}  {row.label}"

    def statistics(self, rows: Sequence[WatchRow]) -> list[str]:
        """The five lines of statistics; watts cover only the intervals in which they are known."""
        columns = [_known(column) for column in zip(*map(_figures, rows), strict=True)]
        found = [statistics_of(column) if column else None for column in columns]
        lines = []
        for name in STATISTICS:
            figures = [None if one is None else one[name] for one in found]
            cpu = [0.0 if figure is None else figure for figure in figures[: len(CPU_COLUMNS)]]
            watts = figures[len(CPU_COLUMNS) :]
            lines.append(self._line([name, *_cells(cpu, watts[0], watts[1:], run_digits=1)]))
        return [*lines[:3], self.rule(), *lines[3:]]

    def _line(self, cells: Sequence[str]) -> str:
        return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True))


def _figures(row: WatchRow) -> tuple[float | None, ...]:
    return (*row.cpu, row.watts, *row.domain_watts)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _cells(
    cpu: Sequence[float], watts: float | None, domains: Sequence[float | None], run_digits: int = 0
) -> list[str]:
    shares = [f"{share:.1f}" for share in cpu[:6]]
    rates = [f"{cpu[6]:.{run_digits}f}", f"{cpu[7]:.1f}", f"{cpu[8]:.1f}"]
    return [*shares, *rates, *("-" if value is None else f"{value:.2f}" for value in (watts, *domains))]


def histogram_lines(watts: Sequence[float]) -> list[str]:
    """A histogram of watts in bins of equal width, one line for each bin."""
    low, high = min(watts), max(watts)
    width = (high - low) / HISTOGRAM_BINS or 1.0
    counts = [0] * HISTOGRAM_BINS
    for value in watts:
        counts[min(HISTOGRAM_BINS - 1, int((value - low) / width))] += 1
    lines = [f"{'Watts':^17} {'Count':>6}"]
    for number, count in enumerate(counts):
        bar = "#" * math.ceil(HISTOGRAM_WIDTH * count / max(counts))
        lines.append(f"{low + number * width:7.2f} - {low + (number + 1) * width:7.2f} {count:>6} {bar}".rstrip())
    return lines


def closing_lines(rows: Sequence[WatchRow], whole: Reading) -> list[str]:
    """The summary in words: watts with their label, the energy, what is unknown, and why."""
    known = _known([row.watts for row in rows])
    lines = ["Summary:"]
    if known:
        labels = "/".join(sorted({row.label for row in rows if row.watts is not None}))
        mean, deviation = statistics.fmean(known), statistics.pstdev(known)
        lines.append(f"{mean:.2f} Watts on average with standard deviation {deviation:.2f} ({labels})")
    if len(known) < len(rows):
        lines.append(f"Watts are unknown in {len(rows) - len(known)} of {len(rows)} intervals")
    energy = "unknown" if whole.energy_j is None else f"{whole.energy_j:.3f} J"
    boundary = f" = {whole.boundary}" if whole.boundary and whole.energy_j is not None else ""
    lines.append(f"Energy: {energy}{boundary} in {whole.seconds:.3f} s, {whole.label}, read by {whole.meter}")
    return [*lines, *(f"Note: {reason}" for reason in whole.reasons)]


class CsvLog:
    """Writes rows to a CSV file as they come. If the file cannot be written, the log ends and the watch continues."""

    def __init__(self, path: Path, domains: Sequence[str]) -> None:
        """Raises MeterError when the file cannot be created."""
        self.failure: OSError | None = None
        self._path = path
        try:
            self._file = path.open("w", newline="", encoding="utf-8", buffering=1)
        except OSError as error:
            raise MeterError(f"{path}: {error.strerror}; name a file that can be written") from error
        header = ["time", "seconds", *CPU_FIELDS, "watts", *(f"{domain}_w" for domain in domains), "label"]
        self._write(header)

    def add(self, clock: str, since_start_s: float, row: WatchRow) -> None:
        figures = ["" if value is None else f"{value:.3f}" for value in _figures(row)]
        self._write([clock, f"{since_start_s:.6f}", *figures, row.label])

    def close(self) -> None:
        with suppress(OSError):  # a full disk has been reported already
            self._file.close()

    def _write(self, cells: Sequence[str]) -> None:
        if self.failure is not None:
            return
        try:
            csv.writer(self._file, lineterminator="\n").writerow(cells)
        except OSError as error:
            self.failure = error
            self.close()

    @property
    def complaint(self) -> str:
        """One line on why the file is incomplete; "" while it is complete."""
        if self.failure is None:
            return ""
        return f"{self._path}: {self.failure.strerror}; the file ends there and the watch continues"


class Watch:
    """Rows from a running meter, one per `tick`. `say` prints the table's lines, `warn` prints problems."""

    def __init__(
        self,
        meter: Meter,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        procfs: Path = PROC,
        trace: bool = False,
    ) -> None:
        self._meter, self._say, self._warn, self._procfs = meter, say, warn, procfs
        self._names = [domain.name for domain in meter.domains]
        self._table = WatchTable(self._names)
        self._rows: list[WatchRow] = []
        self._log: CsvLog | None = None
        self._complained = False
        self._elapsed_s = 0.0
        self._before = read_proc_stat(procfs)
        self._whole: Window = meter.open(trace=trace)
        self._interval: Window = meter.open()

    def log_to(self, path: Path) -> None:
        """Raises MeterError when the file cannot be created."""
        self._log = CsvLog(path, self._names)

    def start(self) -> None:
        counted = [domain.name for domain in self._meter.domains if domain.counted]
        reported = [domain.name for domain in self._meter.domains if not domain.counted]
        uncounted = f" (also shown: {', '.join(reported)})" if reported else ""
        self._say(f"Meter: {self._meter.name}; Watts = {' + '.join(counted)}{uncounted}")
        for note in self._meter.notes:
            self._say(f"Note: {note}")
        self._say(self._table.header())
        self._complain()

    def tick(self, *, least_s: float = 0.0) -> None:
        """Closes an interval and shows it. One shorter than `least_s` is dropped unless it is the only one."""
        after, reading = read_proc_stat(self._procfs), self._interval.lap()
        self._elapsed_s += reading.seconds
        if self._rows and reading.seconds < least_s:
            return
        row = row_of(self._before, after, reading)
        self._before = after
        self._rows.append(row)
        if self._log is not None:
            self._log.add(time.strftime("%Y-%m-%dT%H:%M:%S%z"), self._elapsed_s, row)
        self._complain()
        self._say(self._table.row(time.strftime("%H:%M:%S"), row))

    def finish(self, *, histogram: bool = False) -> Reading:
        """Shows the summary and returns the whole watch as one reading."""
        self._interval.close()
        whole = self._whole.close()
        if self._log is not None:
            self._log.close()
        lines = [self._table.rule(), *self._table.statistics(self._rows), self._table.rule()]
        watts = _known([row.watts for row in self._rows])
        if histogram and watts:
            lines += [*histogram_lines(watts), self._table.rule()]
        for line in (*lines, *closing_lines(self._rows, whole)):
            self._say(line)
        return whole

    def trace(self) -> PowerTrace:
        return self._whole.trace()

    @property
    def csv_failed(self) -> bool:
        return self._log is not None and self._log.failure is not None

    def _complain(self) -> None:
        if self._log is not None and self._log.failure is not None and not self._complained:
            self._complained = True
            self._warn(self._log.complaint)
