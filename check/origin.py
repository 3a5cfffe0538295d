"""The project's own packages when its models are read at another commit.

If the project is installed in editable mode, `sys.path` leads to the checkout. Without this module, models of the
base commit would import the checkout's code and get the checkout's figures.
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
    """While active, imports from folders of `checkout` come from the same folders of `top`."""
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
    """Raises JoulecastError if one of `files` belongs to the checkout, because an import hook led there."""
    if checkout is None:
        return
    own = {os.path.dirname(os.path.realpath(file)) for name, file in _files() if _is_ours(name)}
    for file in files:
        if is_project_file(file, [checkout]) and os.path.dirname(file) not in own:
            name = os.path.relpath(file, os.path.realpath(checkout))
            raise JoulecastError(
                f"{model} imports {name} from the checkout, where it is installed; give a file as the model"
            )


def _moved(entry: str, checkout: Path, top: Path) -> str:
    if not (entry and (is_project_file(entry, [checkout]) or os.path.realpath(entry) == os.path.realpath(checkout))):
        return entry
    return os.path.join(top, os.path.relpath(os.path.realpath(entry), os.path.realpath(checkout)))


def _modules_in(folder: Path) -> dict[str, ModuleType]:
    """Joulecast's own modules are left out: they are needed to read the models."""
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
