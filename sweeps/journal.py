"""The results of a sweep as they come, so that a stopped sweep resumes where it was.

A journal is a file of JSON lines: a head that says which sweep it belongs to, and a line for each candidate. Lines are
in the order in which candidates were done. A line that was cut, by a kill or a full disk, is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from .. import __version__
from ..estimator.answer.request import Request
from ..estimator.base.errors import JoulecastError
from .candidates import Candidates
from .jobs import Result

SCHEMA = "joulecast.sweep-journal/1"
_MISSING = -1


class Journal:
    """The results in the file `path`, by the index of their candidate. Use it as a context manager.

    Raises JoulecastError where the file belongs to another sweep, or another process writes it.
    """

    def __init__(self, path: Path, candidates: Candidates, base: Request) -> None:
        self.path = path
        self._head = {"schema": SCHEMA, "version": __version__, "from": candidates.name, "base": base_digest(base)}
        self._offsets = array("q")  # of each candidate's line, by index
        self._lock = FileLock(f"{path}.lock")

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._stream = self.path.open("a+b")
        except Timeout:
            raise JoulecastError(f"{self.path} belongs to a sweep that runs: wait for it") from None
        except OSError as error:
            raise JoulecastError(f"{self.path} cannot be written ({error.strerror}): choose another output") from None
        try:
            self._recover()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._stream.close()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def __len__(self) -> int:
        return sum(offset != _MISSING for offset in self._offsets)

    def __contains__(self, index: int) -> bool:
        return index < len(self._offsets) and self._offsets[index] != _MISSING

    def __getitem__(self, index: int) -> Result:
        if index not in self:
            raise KeyError(index)
        self._stream.seek(self._offsets[index])
        found: Result = json.loads(self._stream.readline())
        return found

    def __iter__(self) -> Iterator[Result]:
        """The results in the order of the candidates."""
        return (self[index] for index in range(len(self._offsets)) if index in self)

    def lacks(self, index: int, asked: Mapping[str, Any]) -> bool:
        """Whether the candidate is still to be done. Raises JoulecastError where another one was done in its place."""
        if index not in self:
            return True
        if self[index]["asked"] != json.loads(_line(dict(asked))):
            raise JoulecastError(
                f"candidate {index} is not the one in {self.path}: repeat its command, or delete it to start again"
            )
        return False

    def write(self, results: Iterable[Result]) -> None:
        """Adds results; they are on the disk when this returns."""
        end = self._stream.seek(0, os.SEEK_END)
        lines = bytearray()
        for result in results:
            self._note(result["index"], end + len(lines))
            lines += _line(result)
        try:
            self._stream.write(lines)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise JoulecastError(
                f"{self.path} cannot be written ({error.strerror}); the same command resumes it"
            ) from None

    def _note(self, index: int, offset: int) -> None:
        if index >= len(self._offsets):
            self._offsets.extend([_MISSING] * (index + 1 - len(self._offsets)))
        self._offsets[index] = offset

    def _recover(self) -> None:
        """Reads where each result is, and cuts off a line that was not written to its end."""
        self._stream.seek(0)
        whole = 0
        for number, line in enumerate(self._stream):
            if not line.endswith(b"\n"):
                break
            if number == 0:
                self._check(line)
            else:
                self._note(self._index(line, number), whole)
            whole += len(line)
        self._stream.truncate(whole)
        if not whole:
            self._stream.write(_line(self._head))
            self._stream.flush()

    def _check(self, line: bytes) -> None:
        try:
            head = json.loads(line)
        except ValueError:
            head = None
        if not isinstance(head, dict) or head.get("schema") != SCHEMA:
            raise JoulecastError(f"{self.path} is not the journal of a sweep: choose another output")
        for name, what in (("version", "joulecast"), ("from", "candidates"), ("base", "options")):
            if head.get(name) != self._head[name]:
                raise JoulecastError(
                    f"{self.path} is a stopped sweep with other {what}: repeat its command, or delete it to start again"
                )

    def _index(self, line: bytes, number: int) -> int:
        try:
            return int(json.loads(line)["index"])
        except (ValueError, TypeError, LookupError):
            raise JoulecastError(f"{self.path}:{number + 1} is not a result: delete the file to start again") from None


def _line(document: Any) -> bytes:
    try:
        text = json.dumps(document, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(document), allow_nan=False, default=str)
    return text.encode() + b"\n"


def _finite(value: Any) -> Any:
    """The value with a text for each number that JSON lacks: a candidate may ask for nan or inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def base_digest(base: Request) -> str:
    """A digest of everything that the candidates have in common."""
    fields = {name: getattr(base, name) for name in type(base).__dataclass_fields__}
    profile = fields["hardware"]
    if hasattr(profile, "to_json"):
        fields["hardware"] = profile.to_json()
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:32]
