"""Ends a process whose user code takes too long or crashes, and says where the code was."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import re
import signal
import traceback
from collections.abc import Iterator
from typing import IO

from ..base.errors import JoulecastError, ModelError
from .user_code import located

MAX_TIME_LIMIT_S = 1e6  # what timers of every platform take
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_OVER_TIME = re.compile(r"^(.* the time limit)\n(?:Timeout \(|Stack |Current thread )", re.MULTILINE)
_ALARM = getattr(signal, "SIGALRM", None)
_AFTER_ALARM_S = 0.5
_report: IO[bytes] | None = None


def report_to(file: IO[bytes]) -> None:
    """From now on, time limits apply in this process, and `file` gets the stack of the code that ends it.

    Python's faulthandler writes it in the thread that runs the code, whose stack stands still meanwhile. Code that
    handles the alarm is ended by faulthandler's own thread, which needs no interpreter lock.
    """
    global _report
    _report = file
    faulthandler.enable(file, all_threads=False)
    if _ALARM:
        signal.signal(_ALARM, signal.SIG_DFL)  # ends the process once the stack is written
        faulthandler.register(_ALARM, file, all_threads=False, chain=True)


def check_time_limit(seconds: float) -> None:
    """Raises JoulecastError for a limit that cannot be used."""
    if not seconds > 0:
        raise JoulecastError(f"time limit is {seconds:g} s; give `time_limit_s` more than 0 seconds")
    if MAX_TIME_LIMIT_S < seconds < math.inf:
        raise JoulecastError(f"time limit is {seconds:g} s; give `time_limit_s` {MAX_TIME_LIMIT_S:g} at most, or inf")


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Ends this process if the code within runs longer than `seconds` (infinity: no limit), C code included.

    Only in a process that reads user code (`report_to`); elsewhere there is no limit.
    """
    check_time_limit(seconds)
    if _report is None or math.isinf(seconds):
        yield
        return
    _report.write(f"{what} still ran after {seconds:g} s, the time limit\n".encode())
    _report.flush()
    if _ALARM:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + (_AFTER_ALARM_S if _ALARM else 0.0), exit=True, file=_report)
    try:
        yield
    finally:
        if _ALARM:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.cancel_dump_traceback_later()


def why_it_ended(report: str, status: int, what: str) -> ModelError:
    """The error of a process that ended without an answer: from its report and its exit status."""
    stack = report.rpartition("most recent call first")[2]  # of the main thread, which comes last
    frames = [traceback.FrameSummary(file, int(line), name) for file, line, name in _FRAME.findall(stack)]
    if over := _OVER_TIME.search(report):
        message = f"{over[1]}; raise it with `time_limit_s`"
    else:
        names = {-known: known.name for known in signal.Signals}
        how = f"signal {names.get(status, -status)}" if status < 0 else f"status {status}"
        message = f'{what} ended its process with {how}; put what is not the model under `if __name__ == "__main__":`'
    return located(message, reversed(frames))
