"""Which files a model was read from, as Python's audit events show them being opened.

A model's modules are in `sys.modules` only for a while (importing.py), and its code may read a table or a
configuration that lies beside it: either way a file is opened.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR
_NOT_OURS = re.compile(r"[/\\]((site|dist)-packages|\.git)[/\\]")
_STDLIB_FOLDER = sysconfig.get_paths()["stdlib"]
_STDLIB = (os.path.join(_STDLIB_FOLDER, ""), os.path.join(os.path.realpath(_STDLIB_FOLDER), ""))


@dataclass(slots=True)
class Recording:
    """The files under `folders` that were read while it lasted; installed packages are left out."""

    folders: tuple[str, ...]
    _opened: set[str] = field(default_factory=set)

    def note(self, paths: Iterable[str]) -> None:
        self._opened.update(os.path.abspath(path) for path in paths)

    def files(self) -> tuple[str, ...]:
        """Their real paths, sorted; of a compiled module the source."""
        found = {os.path.realpath(_source(path)) for path in self._opened if is_project_file(path, self.folders)}
        return tuple(sorted(path for path in found if os.path.isfile(path)))


def is_project_file(path: str, folders: Iterable[str | Path]) -> bool:
    """Whether `path` lies under one of `folders`, links followed, and is neither git's nor installed there."""
    if not _may_count(path):  # thousands of modules are installed ones, and following links takes long
        return False
    real = os.path.realpath(path)
    return _may_count(real) and real.startswith(tuple(os.path.join(os.path.realpath(name), "") for name in folders))


_current: Recording | None = None
_listening = False


@contextlib.contextmanager
def recording(folders: Iterable[str | Path]) -> Iterator[Recording]:
    """Records the files under `folders` that are read within, or that were imported before and still are."""
    global _current, _listening
    if not _listening:
        sys.addaudithook(_listen)  # once and for good: Python knows no way to take a hook off
        _listening = True
    before, recorded = _current, Recording(tuple(str(folder) for folder in folders))
    _current = recorded
    try:
        yield recorded
    finally:
        _current = before
        recorded.note(filter(None, map(_file, list(sys.modules.values()))))


def recorded_folders() -> tuple[str, ...]:
    """Where the recording that is on looks; none where none is on."""
    return _current.folders if _current else ()


def note_sources(paths: Iterable[str]) -> None:
    """Files that another process has read for this one."""
    if _current:
        _current.note(paths)


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _current is not None:
        path, _, flags = arguments
        if isinstance(path, str) and not flags & _WRITING:
            _current.note([path])


def _may_count(path: str) -> bool:
    folder = os.path.join(path, "")
    return not folder.startswith(_STDLIB) and not _NOT_OURS.search(folder)


def _source(path: str) -> str:
    try:
        return importlib.util.source_from_cache(path) if path.endswith(".pyc") else path
    except ValueError:  # compiled, and not in a cache folder
        return path


def _file(module: object) -> str | None:
    """Without asking the module itself: some answer any question by importing or failing."""
    path = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return path if isinstance(path, str) else None
