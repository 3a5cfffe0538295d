"""Ticks at a steady rate while a command runs or until a signal arrives.

Signals are blocked and waited for instead of handled, so Ctrl-C only ends the wait and the summary is always printed.
Start it before any other thread, so that other threads inherit the signal mask.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from ..estimator.base.errors import MeterError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WAITED = {*_ENDING, signal.SIGCHLD}
_SENT_BY_KERNEL = 0x80  # si_code SI_KERNEL: Ctrl-C on the terminal, which the command receives too
COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE = 127, 126  # as in a shell


class Ticker:
    """Blocks the ending signals on entry; `run` waits for them, the ticks and the command."""

    def __enter__(self) -> Self:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def spawn(self, command: Sequence[str]) -> int:
        """Starts the command with the original signal mask. Raises CommandError with a shell's exit status."""
        try:
            return os.posix_spawnp(
                command[0],
                list(command),
                os.environ,
                setsigmask=self._before,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
            )
        except OSError as error:
            raise CommandError(command[0], error) from error

    def run(self, tick: Callable[[], None], *, interval_s: float, duration_s: float | None, child: int | None) -> int:
        """Ticks until the command ends, the duration is over or a signal arrives. Returns the exit status.

        With a command: its own status, or 128 + n if signal n ended it. Without one: 0, also after Ctrl-C, which is
        how an endless watch ends; 128 + n after another signal.
        """
        start_s = time.monotonic()
        end_s = float("inf") if duration_s is None else start_s + duration_s
        next_s = start_s + interval_s
        while True:
            caught = signal.sigtimedwait(_WAITED, max(0.0, min(next_s, end_s) - time.monotonic()))
            if caught is None:
                tick()
                # After a late tick the following ones keep their distance.
                now_s = time.monotonic()
                next_s += interval_s * max(1, -(-(now_s - next_s) // interval_s))
                if now_s >= end_s:
                    return 0
            elif child is not None:
                if caught.si_signo in _ENDING:
                    _pass_on(caught, child)
                status = _ended(child)
                if status is not None:
                    return status
            elif caught.si_signo in _ENDING:
                return 0 if caught.si_signo == signal.SIGINT else 128 + caught.si_signo


class CommandError(MeterError):
    """A command that cannot be started; `status` is what a shell would exit with."""

    def __init__(self, command: str, error: OSError) -> None:
        super().__init__(f"cannot run {command!r}: {error.strerror}; give a command on the PATH")
        self.status = COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else COMMAND_NOT_EXECUTABLE


def _pass_on(caught: signal.struct_siginfo, child: int) -> None:
    if caught.si_signo == signal.SIGINT and caught.si_code == _SENT_BY_KERNEL:
        return
    with suppress(ProcessLookupError):
        os.kill(child, caught.si_signo)


def _ended(child: int) -> int | None:
    reaped, status = os.waitpid(child, os.WNOHANG)
    if reaped == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
