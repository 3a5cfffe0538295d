"""A process for the user's code: the caller's side (`Sandbox`) and its own (`serve`).

The process imports the framework once and answers requests one after the other. On Linux it answers each in a fork,
so a request starts in milliseconds and leaves nothing behind. Elsewhere, where forks are not safe once libraries are
loaded, it answers one and ends. It leads a session of its own, without a terminal, and has no stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..base.errors import ModelError
from .time_limit import report_to, why_it_ended

_FORKS = sys.platform == "linux"
_POLL_S = 1.0  # how often a process looks whether its caller still runs
_END_S = 5.0  # for a process to end when it is asked to

Answer = Callable[[dict[str, Any]], dict[str, Any]]

# A script that prepares its data would draw progress bars above the answer.
_NO_PROGRESS = dict.fromkeys(("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")


# -- the caller's side -----------------------------------------------------------------------------


class Sandbox:
    """A process that calls `main` of the module `entry`, which is to call `serve`. One request at a time."""

    def __init__(self, entry: str) -> None:
        self._entry, self._forks = entry, _FORKS
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the process, if it does not run. `ask` does so too; earlier, both processes work meanwhile."""
        if self._process is None or self._owner != os.getpid():  # a fork of the caller starts its own
            code = f"import sys; sys.path[:] = {_path()!r}; from {self._entry} import main; main()"
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches the caller alone
            )
        return self._process

    def ask(
        self, request: dict[str, Any], what: str, *, patience_s: float, quiet: bool = False, threads: int = 0
    ) -> dict[str, Any]:
        """The answer to `request`, in the folder and with the environment and import path of the caller.

        Progress bars are off where the environment does not say otherwise.

        `quiet` drops what the code prints; `threads` are those of torch (0: its default). Raises ModelError, about
        `what`, for code that ends its process or still runs after `patience_s`, beyond its own time limits.
        """
        with self._lock, tempfile.TemporaryDirectory(prefix="joulecast-") as name:
            folder = Path(name)
            task: dict[str, Any] = {"request": request, "place": name, "folder": os.getcwd(), "path": _path()}
            task |= {"environment": {**_NO_PROGRESS, **os.environ}, "quiet": quiet, "threads": threads}
            status = self._done({**task, "forks": self._forks, "patience_s": patience_s})
            with contextlib.suppress(OSError, ValueError):  # none, or half of one
                answer: dict[str, Any] = json.loads((folder / "answer").read_bytes())
                return answer
            if status is None:
                raise ModelError(f"{what} blocked its process for {patience_s:g} s and was ended; raise `time_limit_s`")
            report = folder / "report"
            raise why_it_ended(report.read_text(errors="replace") if report.exists() else "", status, what)

    def _done(self, task: dict[str, Any]) -> int | None:
        """The exit status of the process that did the task; None for one that was ended."""
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(task).encode() + b"\n")
                process.stdin.flush()
            line = process.stdout.readline()
            status = json.loads(line) if line else process.wait()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if not (line and self._forks):
            self.close()
        return status

    def close(self) -> None:
        """Ends the process, and what user code has started in it."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        _kill_group(process.pid)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _path() -> list[str]:
    return [str(entry) for entry in sys.path]


def _kill_group(group: int) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


# -- the process's own side ------------------------------------------------------------------------


def serve(answer: Answer, prepare: Callable[[dict[str, Any]], None]) -> None:
    """Answers the requests on stdin until there are no more. What is printed goes to stderr.

    `prepare` runs before a request is answered, and also for those that follow.
    """
    requests, out = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    for line in requests:
        task = json.loads(line)
        with contextlib.suppress(Exception):  # the answer says what is wrong
            prepare(task["request"])
        status = _in_fork(answer, task) if task["forks"] else _do(answer, task)
        os.write(out, json.dumps(status).encode() + b"\n")
        if not task["forks"]:
            break
    os._exit(0)


def _in_fork(answer: Answer, task: dict[str, Any]) -> int | None:
    """The exit status of a fork that does the task; None if it had to be ended. What it leaves running is ended."""
    caller, until = os.getppid(), time.monotonic() + task["patience_s"]
    signals = (signal.SIGCHLD, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os._exit(_do(answer, task))
    with contextlib.suppress(OSError):  # it has done so itself
        os.setpgid(child, child)
    ended = terminated = False
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        seen = signal.sigtimedwait(signals, min(_POLL_S, max(0.0, until - time.monotonic())))
        terminated = seen is not None and seen.si_signo == signal.SIGTERM
        ended = terminated or time.monotonic() >= until or os.getppid() != caller
        if ended:
            break
    _kill_group(child)
    _, status = os.waitpid(child, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if terminated:  # `sigtimedwait` has taken the signal
        signal.raise_signal(signal.SIGTERM)
    return None if ended else os.waitstatus_to_exitcode(status)


def _do(answer: Answer, task: dict[str, Any]) -> int:
    """Writes the answer to the task's place, in this process, which is to end then. 1 for a mistake of joulecast's."""
    own, place = os.getpid(), Path(task["place"])
    if task["quiet"]:
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    try:
        os.environ.clear()
        os.environ.update(task["environment"])
        os.chdir(task["folder"])
        sys.path[:] = task["path"]
        if task["threads"]:
            sys.modules["torch"].set_num_threads(task["threads"])
        report_to((place / "report").open("wb"))
        text = json.dumps(answer(task["request"]))
        if os.getpid() == own:  # and not a copy that the user's code has forked
            (place / "answer").write_text(text, encoding="utf-8")
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, OSError):  # closed by the user's code
                stream.flush()
