"""Reads models in a process of their own (worker.py): the user's process runs no code of theirs and needs no torch."""

from __future__ import annotations

import atexit
import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base import errors
from ..base.errors import JoulecastError, ModelError
from ..sandbox.process import Sandbox
from ..sandbox.time_limit import check_time_limit
from ..trace.workload import Workload
from .read_model import TraceOptions

_WORKER = f"{__package__}.worker"
_START_S = 240.0  # for Python and the framework to start, even on a busy machine
_LONGEST_S = 1e7  # without a time limit: what timers of every platform take
_LIMITS = 4  # a model may be built and traced on the meta device, then built and traced again with real tensors


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A model to read, as text, and how.

    `folder` is that of relative paths (None: the current one). With a `top`, the folder of the model's project, the
    files that it is read from are noted. If `top` is another commit of it, `checkout` is the folder that the project's
    packages may be installed from.
    """

    model: str
    options: TraceOptions
    folder: Path | None = None
    top: Path | None = None
    checkout: Path | None = None

    @property
    def watched(self) -> tuple[Path, ...]:
        """The folders of the model's own files: the project, or the folder of the file that it names."""
        if self.top is None:
            return ()
        root = self.folder or Path.cwd()
        named = root / re.sub(r"\.py:.*", ".py", self.model)
        beside = named if named.is_dir() else named.parent if named.exists() else root
        return (self.top, root, beside, *([self.checkout] if self.checkout else []))

    def to_json(self) -> dict[str, Any]:
        return asdict(self, dict_factory=lambda fields: {n: str(v) if isinstance(v, Path) else v for n, v in fields})

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ReadRequest:
        folders = (document[name] and Path(document[name]) for name in ("folder", "top", "checkout"))
        return cls(document["model"], TraceOptions.from_json(document["options"]), *folders)


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's workload, the project's files that it was read from, and how long that took."""

    work: Workload
    sources: tuple[str, ...]
    seconds: float


class Reader:
    """A process that reads models, one at a time. It starts with the first of them, or with `start`."""

    def __init__(self) -> None:
        self._sandbox = Sandbox(_WORKER)
        self.start, self.close = self._sandbox.start, self._sandbox.close
        self._libraries: list[str] = []

    def expect(self, *libraries: str) -> None:
        """The process imports these before the next model, once for all that follow."""
        self._libraries = list(dict.fromkeys([*self._libraries, *libraries]))

    def read(self, request: ReadRequest, *, quiet: bool = False, threads: int = 0) -> Reading:
        """Raises what `read_model` raises, and ModelError for code that ends its process or takes too long.

        `quiet` drops what the model prints, which else goes to stderr; `threads` is how many torch may use (0: all).
        """
        limit_s = request.options.time_limit_s
        check_time_limit(limit_s)
        patience_s = min(_START_S + _LIMITS * limit_s, _LONGEST_S)
        document = {**request.to_json(), "libraries": self._libraries}
        answer = self._sandbox.ask(document, request.model, patience_s=patience_s, quiet=quiet, threads=threads)
        if "error" in answer:
            raise _error(**answer)
        self.expect(*answer["libraries"])
        return Reading(Workload.from_json(answer["workload"]), tuple(answer["sources"]), answer["seconds"])


def _error(error: str, kind: str, frames: str) -> BaseException:
    if kind == KeyboardInterrupt.__name__:
        return KeyboardInterrupt()
    found: type[JoulecastError] = getattr(errors, kind)
    return found(error, frames) if issubclass(found, ModelError) else found(error)


_idle: list[Reader] = []  # of this process; they end with it


@contextlib.contextmanager
def free_reader() -> Iterator[Reader]:
    """A reader that no other thread uses. It is kept for further models."""
    try:
        reader = _idle.pop()
    except IndexError:
        reader = Reader()
        atexit.register(reader.close)
    try:
        yield reader
    finally:
        _idle.append(reader)
