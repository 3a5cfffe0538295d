"""Tracing models in parallel, each in its own process, so that one crash does not affect the others."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..estimator.base.errors import JoulecastError
from ..estimator.model.read_model import TraceOptions, read_model
from ..estimator.sandbox.opened_files import recording
from ..estimator.sandbox.user_code import one_line
from ..estimator.trace.workload import Workload
from .origin import check_origin, packages_of

_START_S = 240.0  # for Python and the framework to start, even on a busy machine
_ATTEMPTS = 4  # a model may be built and traced on the meta device, then built and traced again with real tensors
_GRACE_S = 5.0  # the delay of the time limit's own watchdog, with a margin
_LAST_WORDS = re.compile(r"^(?:Error|Fatal Python error): (.*)$", re.MULTILINE)
_EXIT_CODE = re.compile(r"exit codes of the workers are \{(.*)\}")


@dataclass(frozen=True, slots=True)
class Task:
    """A model to read as `estimate` does when it runs in the folder `root` of the project in `top`.

    If `top` is another commit, `checkout` is the project that its packages may be installed from.
    """

    model: str
    options: TraceOptions
    root: Path
    top: Path
    checkout: Path | None = None

    @property
    def patience_s(self) -> float:
        """The time after which its process is assumed to hang in code that cannot be interrupted."""
        return _START_S + _ATTEMPTS * (self.options.time_limit_s + _GRACE_S)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the model's own files: the project, or the folder of the file that it names."""
        named = self.root / re.sub(r"\.py:.*", ".py", self.model)
        beside = named if named.is_dir() else named.parent if named.exists() else self.root
        return self.top, self.root, beside

    @property
    def watched(self) -> tuple[Path, ...]:
        return (*self.folders, self.checkout) if self.checkout else self.folders


@dataclass(frozen=True, slots=True)
class Traced:
    """A model's workload, the project files that it was read from, and how long that took."""

    work: Workload
    sources: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer: one line, the kind of error, and the frames of the user's own code."""

    message: str
    kind: str = "ModelError"
    frames: str = ""

    @classmethod
    def of(cls, error: JoulecastError) -> Failure:
        return cls(" ".join(str(error).split()), type(error).__name__, getattr(error, "frames", ""))


def trace_model(task: Task) -> Traced | Failure:
    """Reads one model in this process. Any error becomes a Failure."""
    start = time.perf_counter()
    try:
        with contextlib.chdir(task.root), packages_of(task.top, task.checkout), recording(task.watched) as read:
            work = read_model(task.model, task.options)
        check_origin(task.model, read.files(), task.checkout)
    except JoulecastError as error:
        return Failure.of(error)
    except Exception as error:  # a bug of joulecast: the other models are still checked
        frames = "".join(traceback.format_tb(error.__traceback__))
        return Failure(f"joulecast failed: {type(error).__name__}: {one_line(str(error))}", "InternalError", frames)
    return Traced(work, read.files(), time.perf_counter() - start)


class Tracers:
    """At most `jobs` processes (None: one per core), each for one model after the other; with 0, this process.

    A pool breaks as a whole when one of its processes dies. Each process is therefore its own pool (loky's, with one
    worker), driven by one of joblib's threads: the model that ended it is known, and a new process replaces it.
    """

    def __init__(self, jobs: int | None) -> None:
        self._jobs = jobs
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: list[_Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        for process in self._all:
            process.close()

    def trace(self, tasks: Sequence[Task]) -> list[Traced | Failure]:
        """The tasks' results, in order."""
        if not tasks or self._jobs == 0:
            return [trace_model(task) for task in tasks]
        from joblib import Parallel, cpu_count, delayed

        wanted = min(self._jobs or cpu_count(), len(tasks))
        while len(self._all) < wanted:
            self._all.append(_Process(threads=max(1, cpu_count() // wanted)))
            self._free.put(self._all[-1])
        found: list[Traced | Failure] = Parallel(len(self._all), backend="threading")(
            delayed(self._trace)(task) for task in tasks
        )
        return found

    def _trace(self, task: Task) -> Traced | Failure:
        process = self._free.get()
        try:
            return process.trace(task)
        finally:
            self._free.put(process)


class _Process:
    """A process that traces one model at a time; it is started when needed, and again after it has died."""

    def __init__(self, threads: int) -> None:
        self._environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        handle, self._output = tempfile.mkstemp(prefix="joulecast-check-", suffix=".log")
        os.close(handle)
        self._executor: Any = None
        self._closed = False

    def trace(self, task: Task) -> Traced | Failure:
        from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

        if self._closed:  # by Ctrl-C, while tasks were waiting
            return Failure("interrupted", "Interrupted")
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                max_workers=1, env=self._environment, initializer=_write_to, initargs=(self._output,)
            )
        os.truncate(self._output, 0)
        try:
            found: Traced | Failure = self._executor.submit(trace_model, task).result(timeout=task.patience_s)
            return found
        except TimeoutError:
            self._end()
            return Failure(
                f"{task.model} blocked its process for {task.patience_s:g} s and was ended; raise `time_limit_s`"
            )
        except BrokenProcessPool as error:
            self._end()
            return Failure(self._last_words(task, str(error)))

    def _last_words(self, task: Task, said: str) -> str:
        words = _LAST_WORDS.findall(Path(self._output).read_text(errors="replace"))[-1:]
        codes = _EXIT_CODE.findall(said)
        if words and codes in ([], ["EXIT(1)"]):  # the time limit's watchdog
            return str(words[0])
        why = ", ".join([*codes, *words]) or "reason unknown"
        return f"{task.model} ended its process: {why}; `estimate --model {task.model}` runs it alone"

    def close(self) -> None:
        self._closed = True
        self._end()
        Path(self._output).unlink(missing_ok=True)

    def _end(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(kill_workers=True)


def _write_to(path: str) -> None:
    """Sends what models and their libraries print to a file: it is needed only when a process crashes."""
    output = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
