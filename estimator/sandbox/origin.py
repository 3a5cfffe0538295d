"""The project's own packages when its models are read at another commit.

If the project is installed in editable mode, `sys.path` leads to the checkout. Without this module, models of the
base commit would import the checkout's code and get the checkout's figures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from ..base.errors import JoulecastError
from .opened_files import is_project_file


def import_from(top: Path, checkout: Path) -> None:
    """From now on, imports from folders of `checkout` come from the same folders of `top`."""
    sys.path[:] = [_moved(entry, checkout, top) for entry in sys.path]


def check_origin(model: str, files: Iterable[str], checkout: Path) -> None:
    """Raises JoulecastError if one of `files` belongs to the checkout, because an import hook led there."""
    own = {os.path.dirname(os.path.realpath(file)) for file in _joulecasts_files()}
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


def _joulecasts_files() -> list[str]:
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "joulecast"]
    return [file for module in modules if isinstance(module, ModuleType) and (file := vars(module).get("__file__"))]
