"""A cache of traced workloads, each valid until a file that it was read from changes.

The key is what was asked: the model's text, the options of its trace, joulecast, Python and the installed packages.
An entry is used only while every file that the model was read from still has the same digest. The key does not
include what prices a workload: budgets, regions and profiles may change without a new trace.

An entry is two lines of JSON: the files it was read from, and the workload. Unreadable entries are ignored.
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
    """Workloads in `folder`, which need not exist. `problem` says why the last one could not be stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None

    def find(self, key: str, root: Path) -> Workload | None:
        """The workload of that key, if the files under `root` are unchanged since it was stored."""
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
                    os.utime(path)  # the least recently used entries are deleted first
                    return work
        return None

    def store(self, key: str, root: Path, work: Workload, sources: Iterable[str]) -> None:
        """Stores `work`, read from the files `sources`. If the folder cannot be written, `problem` says so."""
        read = {os.path.relpath(path, os.path.realpath(root)): file_digest(Path(path)) for path in sources}
        body = json.dumps(work.to_json(), allow_nan=False)
        head = {"schema": SCHEMA, "sources": read, "workload": _digest(body.encode())}
        name = _digest(json.dumps(read, sort_keys=True).encode())
        try:
            write_text(self.folder / key / f"{name[:32]}.json", f"{json.dumps(head)}\n{body}")
        except OSError as error:
            self.problem = f"the cache {self.folder} cannot be written ({error.strerror}): the next check traces again"

    def prune(self) -> None:
        """Deletes the entries used longest ago, beyond the maximum number."""
        with contextlib.suppress(OSError):  # another check may delete them at the same time
            entries = sorted(self.folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in entries[_MOST_ENTRIES:]:
                path.unlink()


def trace_key(model: str, options: TraceOptions) -> str:
    """A digest of what was asked, 32 characters; the model's own files are not part of it."""
    asked = {name: value for name, value in asdict(options).items() if name != "time_limit_s"}
    return _digest(json.dumps([SCHEMA, model, asked, *_tracer()], sort_keys=True).encode())[:32]


def file_digest(path: Path) -> str | None:
    """SHA-256 of the file, or None if it cannot be read."""
    try:
        return _digest(path.read_bytes())
    except OSError:
        return None


def sources_digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all Python files in `folder` and its subfolders."""
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in folder.rglob("*.py")}
    return _digest(json.dumps(files, sort_keys=True).encode())


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
    """The software that reads models: joulecast with the digest of its sources, Python and the installed packages.

    The digest is needed because the sources of a checkout change without a new version. Packages are listed by their
    metadata folders, such as `torch-2.13.0.dist-info`, which takes a millisecond.
    """
    code = sources_digest(Path(workload.__file__).parents[1])
    packages = {
        name
        for folder in sys.path
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if name.endswith((".dist-info", ".egg-info"))
    }
    installed = _digest("\n".join(sorted(packages)).encode())
    return __version__, workload.SCHEMA, platform.python_version(), code, installed
