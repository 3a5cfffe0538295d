"""`measure watch`: power and CPU second by second, or while a command runs."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .fields import with_options
from .finite import FiniteRange

if TYPE_CHECKING:
    from ..measure.watch import Watch


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Exit status: that of COMMAND (128 + n if signal n ended it); without one 0, or 1 when a file"
    " could not be written.",
)
@click.option("--interval", "interval_s", type=FiniteRange(min=0.05), default=1.0, show_default=True,
              metavar="SECONDS", help="Time between rows.")  # fmt: skip
@click.option("--duration", "duration_s", type=FiniteRange(min=0, min_open=True), metavar="SECONDS",
              help="Stop after this time. Default: stop at Ctrl-C.")  # fmt: skip
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Also write the rows to FILE.")  # fmt: skip
@click.option("--trace", "trace_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write every sample of every domain to FILE, which --meter replay:FILE can replay.")  # fmt: skip
@click.option("--histogram", is_flag=True, help="Show a histogram of the power.")
@click.option("--meter", "preference", default="auto", show_default=True, metavar="NAME",
              help="auto, rapl, perf_event, nvml, modelled, none or replay:FILE.")  # fmt: skip
@click.option(
    "--hardware", metavar="NAME", help="The CPU to model if no meter measures. Default: the one in /proc/cpuinfo."
)
@click.option("--sysfs", type=click.Path(file_okay=False, path_type=Path), default="/sys", show_default=True,
              help="Path of sysfs, for a container that has the host's sysfs elsewhere.")  # fmt: skip
@click.option("--procfs", type=click.Path(file_okay=False, path_type=Path), default="/proc", show_default=True,
              help="Path of procfs.")  # fmt: skip
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def watch(
    context: click.Context,
    interval_s: float,
    duration_s: float | None,
    csv_path: Path | None,
    trace_path: Path | None,
    histogram: bool,
    preference: str,
    hardware: str | None,
    sysfs: Path,
    procfs: Path,
    command: tuple[str, ...],
) -> None:
    """Show CPU load and watts per domain every second, then their statistics.

    With COMMAND (`measure watch -- python train.py`) the table goes to standard error, and the exit
    status is the command's.
    """
    from ..measure.command import CommandError, Ticker
    from ..measure.meters.selection import select_meter
    from ..measure.watch import Watch

    if command and duration_s is not None:
        raise click.UsageError("--duration and COMMAND cannot be combined: a command is watched until it ends")
    lines = Lines(context.command, to_stderr=bool(command))
    with Ticker() as ticker, select_meter(preference, sysfs=sysfs, procfs=procfs, hardware=hardware) as meter:
        view = Watch(meter, lines.say, lines.warn, procfs=procfs, trace=trace_path is not None)
        if csv_path is not None:
            view.log_to(csv_path)
        try:
            child = ticker.spawn(command) if command else None
        except CommandError as error:
            lines.warn(str(error))
            context.exit(error.status)
        view.start()
        status = ticker.run(view.tick, interval_s=interval_s, duration_s=duration_s, child=child)
        view.tick(least_s=interval_s / 2)
        view.finish(histogram=histogram)
        written = trace_path is None or _write_trace(view, trace_path, lines)
    failed = view.csv_failed or not written
    context.exit(1 if failed and not command and status == 0 else status)


class Lines:
    """Prints the table to standard output, or to standard error if a command uses the output."""

    def __init__(self, command: click.Command, *, to_stderr: bool) -> None:
        self._command = command
        self._to_stderr = to_stderr

    def say(self, line: str) -> None:
        """Ends the program quietly if the output is closed (`| head`)."""
        if self._to_stderr:
            self.warn(line)
            return
        try:
            print(with_options(line, self._command), flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from None

    def warn(self, line: str) -> None:
        with suppress(OSError):  # a command is metered to its end, even without a terminal
            print(with_options(line, self._command), file=sys.stderr, flush=True)


def _write_trace(view: Watch, path: Path, lines: Lines) -> bool:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            view.trace().write_csv(file)
    except OSError as error:
        lines.warn(f"{path}: {error.strerror}; the trace is incomplete")
        return False
    return True
