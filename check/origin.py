"""Packages of the project, when its models are read as they were at another commit.

A project that is installed in editable mode is found through `sys.path` in the checkout, whichever commit a model is
read at: the checkout's figures would stand for the base's.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from ..estimator.base.errors import JoulecastError
from ..estimator.sandbox.opened_files import is_project_file


@contextlib.contextmanager
def packages_of(top: Path, checkout: Path | None) -> Iterator[None]:
    """What is imported from folders of `checkout` comes from the same folders of `top` meanwhile."""
    if checkout is None:
        yield
        return
    path, before = list(sys.path), _modules_in(checkout)
    sys.path[:] = [_moved(entry, checkout, top) for entry in path]
    _drop(before)
    try:
        yield
    finally:
        _drop(_modules_in(top))
        sys.path[:] = path
        sys.modules.update(before)


def check_origin(model: str, files: Iterable[str], checkout: Path | None) -> None:
    """Raises JoulecastError where one of `files` is the checkout's after all: an import hook has led there."""
    if checkout is None:
        return
    own = {os.path.dirname(os.path.realpath(file)) for name, file in _files() if _is_ours(name)}
    for file in files:
        if is_project_file(file, [checkout]) and os.path.dirname(file) not in own:
            name = os.path.relpath(file, os.path.realpath(checkout))
            raise JoulecastError(f"{model} imports the checkout's {name}, which is installed; name a file as the model")


def _moved(entry: str, checkout: Path, top: Path) -> str:
    if not (entry and (is_project_file(entry, [checkout]) or os.path.realpath(entry) == os.path.realpath(checkout))):
        return entry
    return os.path.join(top, os.path.relpath(os.path.realpath(entry), os.path.realpath(checkout)))


def _modules_in(folder: Path) -> dict[str, ModuleType]:
    """Joulecast's own are left out: they read the models."""
    files = [(name, file) for name, file in _files() if not _is_ours(name)]
    return {name: sys.modules[name] for name, file in files if is_project_file(file, [folder])}


def _files() -> list[tuple[str, str]]:
    """The loaded modules' names and files."""
    modules = [(name, module) for name, module in list(sys.modules.items()) if isinstance(module, ModuleType)]
    return [(name, file) for name, module in modules if isinstance(file := vars(module).get("__file__"), str)]


def _is_ours(name: str) -> bool:
    return name == "__main__" or name.partition(".")[0] == "joulecast"


def _drop(modules: Iterable[str]) -> None:
    for name in modules:
        del sys.modules[name]
    importlib.invalidate_caches()
