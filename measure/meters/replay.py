"""Replays a recorded power trace in real time."""

from __future__ import annotations

import bisect
import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from ...estimator.base.errors import MeterError
from ...estimator.base.files import read_text
from .rapl import COUNTED, SystemClock, system_clock
from .reading import COUNTED_COLUMN, UNCOUNTED_COLUMN, PowerTrace, TracePoint
from .tally import Domain, Failure, Mirror, Sample

_COUNTED = (*COUNTED, "gpu", "machine")
_CEILING_W = 1_000_000


def kind_of(name: str) -> str:
    """The kind of a domain from its name: "package-0/dram" is "dram", "gpu-1" is "gpu"."""
    kind = re.sub(r"@.*|-\d+.*", "", name.rpartition("/")[2])
    return kind if kind in ("core", "uncore", "psys", *_COUNTED) else "other"


def read_trace(path: Path) -> PowerTrace:
    """A trace that `PowerTrace.write_csv` wrote. Raises MeterError when it is not one."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
        columns = rows[0][2:]
        names = tuple(column.removesuffix(UNCOUNTED_COLUMN).removesuffix(COUNTED_COLUMN) for column in columns)
        points = tuple(
            TracePoint(float(row[0]), tuple(int(cell) if cell else None for cell in row[2:])) for row in rows[1:]
        )
        seconds = [point.seconds for point in points]
        if rows[0][:2] != ["seconds", "watts"] or not names or len(points) < 2 or seconds != sorted(set(seconds)):
            raise ValueError("columns seconds, watts, DOMAIN_uj and two or more rows in order of time")
        if any(len(point.energy_uj) != len(names) for point in points):
            raise ValueError("as many cells in each row as in the first")
    except OSError as error:
        fix = "record a power trace with measure watch --trace"
        raise MeterError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    except (ValueError, IndexError) as error:
        raise MeterError(f"{path}: not a power trace ({error}); record one with measure watch --trace") from error
    # Older traces have no column ending, so the name decides.
    counted = tuple(
        name
        for name, column in zip(names, columns, strict=True)
        if kind_of(name) in _COUNTED and not column.endswith(UNCOUNTED_COLUMN)
    )
    return PowerTrace(names, counted, points)


def _domain(name: str, counted: bool, note: str) -> Domain:
    kind = kind_of(name)
    if kind == "machine":  # only the utilisation model has this domain, so its energy stays "modelled"
        return Domain(name, kind, counted, _CEILING_W, None, "modelled", "utilisation model", note)
    return Domain(name, kind, counted, _CEILING_W, note=note)


class ReplaySource:
    """The counters of a recorded trace, starting when the source is made; linear between its rows.

    Cells that were not read fail again, and so does everything after the last row.
    """

    name = "replay"

    def __init__(self, path: Path, *, clock: SystemClock = system_clock) -> None:
        trace = read_trace(path)
        note = f"replayed from {path.name}"
        self.domains = tuple(_domain(name, name in trace.counted, note) for name in trace.domains)
        self.notes: tuple[str, ...] = (note,)
        self.failures: tuple[str, ...] = ()
        self._points, self._path, self._clock = trace.points, path, clock
        self._times_ns = [round((point.seconds - trace.points[0].seconds) * 1e9) for point in trace.points]
        self._start_ns = clock()[0]

    def sample(self) -> Sample:
        now_ns, slept_ns = self._clock()
        values = tuple(self._value(index, now_ns - self._start_ns) for index in range(len(self.domains)))
        return Sample(now_ns, now_ns, slept_ns, values)

    def mirrors(self) -> Mapping[int, Mirror]:
        return {}

    def close(self) -> None:
        """Nothing is kept open."""

    def _value(self, index: int, at_ns: int) -> int | Failure:
        if at_ns > self._times_ns[-1]:
            return Failure(f"{self._path.name} ends after {self._times_ns[-1] / 1e9:.1f} s", fatal=True)
        row = bisect.bisect_left(self._times_ns, at_ns)
        after = self._points[row].energy_uj[index]
        before = after if self._times_ns[row] == at_ns else self._points[row - 1].energy_uj[index]
        if before is None or after is None:
            return Failure(f"{self._path.name}: not read at {at_ns / 1e9:.1f} s")
        if before == after:
            return after
        from_ns, to_ns = self._times_ns[row - 1], self._times_ns[row]
        return before + (after - before) * (at_ns - from_ns) // (to_ns - from_ns)
