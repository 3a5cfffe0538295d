"""Progress of the calibration suite: one bar on a terminal, and at most a line per quarter in a pipe or file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ..measure.records.records import Record

_LINES = 4  # of a whole suite, where there is no terminal


class SuiteProgress:
    """On standard error; nothing at all with `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._budget_s: float | None = None
        self._lines = 0

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str, done: int, total: int, left_s: float) -> None:
        """The suite ends with its last case or with its time, whichever is first."""
        self._budget_s = self._budget_s or left_s
        share = max(done / total, 1 - left_s / self._budget_s if self._budget_s > 0 else 0.0)
        text = f"{done} of up to {total} cases measured, {_duration(left_s)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=f"{text}: {name}")
        elif share * _LINES >= self._lines + 1:
            self._lines = int(share * _LINES)
            self.say(text)

    def end(self, record: Record) -> None:
        """The bar moves when the next case begins."""

    def say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
