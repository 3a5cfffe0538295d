"""How far the calibration suite is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ..measure.records.records import Record

_LINE_EVERY_S = 20.0


class SuiteProgress:
    """On standard error; nothing at all with `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last_line_s = float("-inf")

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]} left  {task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str, done: int, total: int, left_s: float) -> None:
        left = _duration(left_s)
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("", total=total, left=left)
            self._bar.update(self._task, completed=done, total=total, description=name, left=left)
        elif not self._quiet and time.monotonic() - self._last_line_s > _LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            self.say(f"case {done + 1} of up to {total}, {left} left: {name}")

    def end(self, record: Record) -> None:
        """The bar moves on when the next case begins."""

    def say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
