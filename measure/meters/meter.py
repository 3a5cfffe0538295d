"""Meters: windows of time that share one background reader.

>>> from joulecast.measure.meters.selection import select_meter
>>> with select_meter("none") as meter, meter.window() as window:
...     pass  # train here
>>> window.reading.label, window.reading.energy_j
('missing', None)
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from ...estimator.base.errors import MeterError
from .reading import PowerTrace, Reading, TracePoint
from .tally import Domain, Failure, Ledger, Mirror, Sample

DEFAULT_INTERVAL_S = 0.1
# Far below half of the shortest wrap time, so that some late samples and failed reads do no harm.
WRAP_FRACTION = 1 / 8
_BOUNDARY_TRIES = 3


class Source(Protocol):
    """Reads the hardware. `sample` never raises: a read that fails is a `Failure` in place of a value."""

    @property
    def name(self) -> str: ...
    @property
    def domains(self) -> tuple[Domain, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def sample(self) -> Sample: ...
    def mirrors(self) -> Mapping[int, Mirror]: ...
    def close(self) -> None: ...


class Window(Protocol):
    """An open stretch of time. `reading` is None until it is closed."""

    reading: Reading | None

    def so_far(self) -> Reading:
        """The reading up to now; the window stays open."""
        ...

    def lap(self) -> Reading:
        """Closes the window and opens the next at the same sample, so that laps add up to the whole."""
        ...

    def close(self) -> Reading: ...
    def trace(self) -> PowerTrace: ...


@runtime_checkable
class Meter(Protocol):
    """Meters a training. Windows may overlap and nest; `start` and `stop` are idempotent."""

    @property
    def name(self) -> str: ...
    @property
    def domains(self) -> tuple[Domain, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the figures, one line each."""
        ...

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def open(self, *, trace: bool = False) -> Window: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None: ...


class SampledMeter:
    """A meter for any source: a daemon thread samples it, and opening or closing a window takes a sample too.

    `interval_s` is shortened if counters wrap faster; None starts no thread (call `poll`).
    """

    def __init__(
        self,
        source: Source,
        *,
        interval_s: float | None = DEFAULT_INTERVAL_S,
        notes: Sequence[str] = (),
    ) -> None:
        shortest_wrap_s = min((domain.wrap_s for domain in source.domains), default=float("inf"))
        self.interval_s = None if interval_s is None else min(interval_s, shortest_wrap_s * WRAP_FRACTION)
        self._source = source
        self._notes = (*notes, *source.notes)
        self._lock = threading.Lock()
        self._windows: list[SampledWindow] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def domains(self) -> tuple[Domain, ...]:
        return self._source.domains

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def start(self) -> None:
        if self._thread is None and self.interval_s is not None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="joulecast-meter", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the background reader. Open windows can still be closed but may be ambiguous."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        self._source.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()

    def poll(self) -> None:
        """Takes one sample for all open windows, as the background reader does."""
        with self._lock:
            if self._windows:
                self._spread(self._source.sample())

    def open(self, *, trace: bool = False) -> SampledWindow:
        """Opens a window now. `trace` keeps every sample, for `Window.trace()`."""
        self.start()
        window = SampledWindow(self, trace)
        with self._lock:
            self._windows.append(window)
            self._spread(self._boundary())
        return window

    @contextmanager
    def window(self, *, trace: bool = False) -> Iterator[SampledWindow]:
        """A window that closes at the end of the block, also if the block raises."""
        window = self.open(trace=trace)
        try:
            yield window
        finally:
            window.close()

    def _run(self) -> None:
        while not self._stopping.wait(self.interval_s):
            self.poll()

    def _boundary(self) -> Sample:
        """A sample for the start or end of a window, where a failed read would lose the window: it is repeated."""
        sample = self._source.sample()
        for _ in range(_BOUNDARY_TRIES - 1):
            if any(isinstance(value, Failure) and not value.fatal for value in sample.values):
                sample = self._source.sample()
        return sample

    def _spread(self, sample: Sample) -> None:
        for window in self._windows:
            window.add(sample)

    def _close(self, window: SampledWindow, *, reopen: bool, keep: bool) -> Reading:
        with self._lock:
            if window not in self._windows:
                raise MeterError("window is closed already; open another")
            sample = self._boundary()
            self._spread(sample)
            reading = window.read(self.name, self._source.mirrors())
            if reopen:
                window.restart(sample)
            elif not keep:
                self._windows.remove(window)
        return reading

    def _mirrors(self) -> Mapping[int, Mirror]:
        with self._lock:
            return dict(self._source.mirrors())


class SampledWindow:
    """A window of a SampledMeter; made by its `open` and `window`."""

    def __init__(self, meter: SampledMeter, trace: bool) -> None:
        self.reading: Reading | None = None
        self._meter = meter
        self._points: list[TracePoint] | None = [] if trace else None
        self._ledger = Ledger(meter.domains)

    def so_far(self) -> Reading:
        return self._meter._close(self, reopen=False, keep=True)

    def lap(self) -> Reading:
        return self._meter._close(self, reopen=True, keep=False)

    def close(self) -> Reading:
        """Closes the window. Raises MeterError when it is closed already."""
        self.reading = self._meter._close(self, reopen=False, keep=False)
        return self.reading

    def trace(self) -> PowerTrace:
        """Every sample since the window opened. Raises MeterError unless it was opened with `trace`.

        A domain that may be a mirror has no energy, as in the reading, and so there are no watts.
        """
        if self._points is None:
            raise MeterError("window keeps no trace; open it with trace=True")
        mirrors = self._meter._mirrors()
        domains = self._meter.domains
        repeated = {index for index, mirror in mirrors.items() if mirror.certain}
        doubtful = mirrors.keys() - repeated
        counted = tuple(one.name for index, one in enumerate(domains) if one.counted and index not in repeated)
        points = tuple(_without(doubtful, point) for point in self._points)
        return PowerTrace(tuple(one.name for one in domains), counted, points)

    # The meter calls the next three under its lock.

    def add(self, sample: Sample) -> None:
        self._ledger.add(sample)
        if self._points is not None:
            point = self._ledger.point()
            if self._points and self._points[-1].seconds == point.seconds:
                self._points.pop()
            self._points.append(point)

    def read(self, meter: str, mirrors: Mapping[int, Mirror]) -> Reading:
        return Reading(meter, self._ledger.elapsed_ns / 1e9, self._ledger.readings(mirrors))

    def restart(self, sample: Sample) -> None:
        self._ledger = Ledger(self._meter.domains)
        if self._points is not None:
            self._points.clear()
        self.add(sample)


def _without(indices: Collection[int], point: TracePoint) -> TracePoint:
    energies = (None if index in indices else energy_uj for index, energy_uj in enumerate(point.energy_uj))
    return TracePoint(point.seconds, tuple(energies))
