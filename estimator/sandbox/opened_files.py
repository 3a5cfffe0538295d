"""Which files a model was read from, as Python's audit events show them being opened.

A model's modules are in `sys.modules` only for a while (importing.py), and its code may read a table or a
configuration next to it. Either way a file is opened.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR
_NOT_OURS = re.compile(r"[/\\]((site|dist)-packages|\.git)[/\\]")
_STDLIB_FOLDER = sysconfig.get_paths()["stdlib"]
_STDLIB = (os.path.join(_STDLIB_FOLDER, ""), os.path.join(os.path.realpath(_STDLIB_FOLDER), ""))


class Recording:
    """The files under `folders` that this process reads from now on; installed packages are left out.

    It lasts as long as the process: Python has no way to remove an audit hook.
    """

    def __init__(self, folders: Iterable[str | Path]) -> None:
        self._folders = tuple(str(folder) for folder in folders)
        self._opened: set[str] = set()
        sys.addaudithook(self._listen)

    def files(self) -> tuple[str, ...]:
        """Their real paths, sorted; of a compiled module the source."""
        found = {os.path.realpath(_source(path)) for path in self._opened if is_project_file(path, self._folders)}
        return tuple(sorted(path for path in found if os.path.isfile(path)))

    def _listen(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and not flags & _WRITING:
                self._opened.add(os.path.abspath(path))


def is_project_file(path: str, folders: Iterable[str | Path]) -> bool:
    """Whether `path` lies under one of `folders`, links followed, and is neither git's nor installed there."""
    if not _may_count(path):  # thousands of modules are installed ones, and following links takes long
        return False
    real = os.path.realpath(path)
    return _may_count(real) and real.startswith(tuple(os.path.join(os.path.realpath(name), "") for name in folders))


def _may_count(path: str) -> bool:
    folder = os.path.join(path, "")
    return not folder.startswith(_STDLIB) and not _NOT_OURS.search(folder)


def _source(path: str) -> str:
    try:
        return importlib.util.source_from_cache(path) if path.endswith(".pyc") else path
    except ValueError:  # compiled, and not in a cache folder
        return path
