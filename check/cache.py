"""Traced workloads, kept for as long as what they were read from stays as it is.

An entry is found by what was asked (the model's spec, the options of its trace, joulecast, Python and the installed
packages) and counts only while every file that the model was read from has the digest it had. Nothing that prices a
workload is part of it: budgets, regions and profiles may change without a new trace.

An entry is two lines of JSON: what it was read from, and the workload. What cannot be read is no entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path

from .. import __version__
from ..estimator.base.errors import JoulecastError
from ..estimator.base.files import write_text
from ..estimator.model.read_model import TraceOptions
from ..estimator.trace import workload
from ..estimator.trace.workload import Workload

SCHEMA = "joulecast.check-cache/1"
_MOST_ENTRIES = 500


class Cache:
    """Workloads in `folder`, which need not exist. `problem` says why the last one could not be kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None

    def find(self, key: str, root: Path) -> Workload | None:
        """The workload of that key, if the files under `root` are those that it was read from."""
        digests: dict[str, str | None] = {}
        for path in (self.folder / key).glob("*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError, LookupError, JoulecastError):
                with path.open(encoding="utf-8") as stream:
                    head = json.loads(stream.readline())
                    if head["schema"] != SCHEMA or not _unchanged(head["sources"], root, digests):
                        continue
                    body = stream.read()
                if _digest(body.encode()) == head["workload"]:
                    work = Workload.from_json(json.loads(body))
                    os.utime(path)  # the least recently used go first
                    return work
        return None

    def store(self, key: str, root: Path, work: Workload, sources: Iterable[str]) -> None:
        """Keeps `work`, read from the files `sources`. A folder that cannot be written is no failure."""
        read = {os.path.relpath(path, os.path.realpath(root)): file_digest(Path(path)) for path in sources}
        body = json.dumps(work.to_json(), allow_nan=False)
        head = {"schema": SCHEMA, "sources": read, "workload": _digest(body.encode())}
        name = _digest(json.dumps(read, sort_keys=True).encode())
        try:
            write_text(self.folder / key / f"{name[:32]}.json", f"{json.dumps(head)}\n{body}")
        except OSError as error:
            self.problem = f"nothing is kept in {self.folder} ({error.strerror}): the next check traces again"

    def prune(self) -> None:
        """Drops the entries used longest ago, beyond the number that is kept."""
        with contextlib.suppress(OSError):  # another check may be at it
            entries = sorted(self.folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in entries[_MOST_ENTRIES:]:
                path.unlink()


def trace_key(model: str, options: TraceOptions) -> str:
    """What was asked, in 32 characters: equal for equal traces, as far as the model's own files do not decide."""
    asked = {name: value for name, value in asdict(options).items() if name != "time_limit_s"}
    return _digest(json.dumps([SCHEMA, model, asked, *_tracer()], sort_keys=True).encode())[:32]


def file_digest(path: Path) -> str | None:
    """SHA-256 of the file, or None where there is none to read."""
    try:
        return _digest(path.read_bytes())
    except OSError:
        return None


def _unchanged(sources: dict[str, str], root: Path, known: dict[str, str | None]) -> bool:
    for name, digest in sources.items():
        if name not in known:
            known[name] = file_digest(root / name)
        if known[name] != digest:
            return False
    return True


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def _tracer() -> tuple[str, ...]:
    """What reads models: joulecast, down to its own sources (a checkout keeps its version), and all that is installed.

    The list of packages is that of their metadata folders, `torch-2.13.0.dist-info`: reading it takes a millisecond.
    """
    own = sorted(Path(workload.__file__).parents[1].rglob("*.py"))
    code = _digest(b"".join(path.read_bytes() for path in own))
    packages = {
        name
        for folder in sys.path
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if name.endswith((".dist-info", ".egg-info"))
    }
    installed = _digest("\n".join(sorted(packages)).encode())
    return __version__, workload.SCHEMA, platform.python_version(), code, installed
