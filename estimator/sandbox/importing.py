"""Importing a user's model file the way Python runs a script, and leaving no trace of it behind."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

_ROOT = "joulecast_user_"
_COUNTER = itertools.count()


class UserImports:
    """The modules of the user's that lie in `folders`; they are in `sys.modules` only while `active`.

    So two model files may each have a `blocks.py` beside them, and importing one again runs it afresh.
    `own_name` is the file's own: inside `timm.py`, `import timm` means the installed one.
    """

    def __init__(self, folders: Sequence[Path], *, own_name: str = "", before_installed: bool = True) -> None:
        self._finder = _Finder([str(folder) for folder in folders], own_name, before_installed)
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The user's modules can be imported; `sys.path`, the working directory and imports are put back."""
        path, folder, bytecode = list(sys.path), os.getcwd(), sys.dont_write_bytecode
        self._finder.path = path
        displaced = {name: sys.modules[name] for name in self._modules if name in sys.modules}
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self._finder)
        sys.dont_write_bytecode = True  # nothing is written beside the user's files
        try:
            yield
        finally:
            sys.dont_write_bytecode = bytecode
            sys.path[:] = path
            os.chdir(folder)
            sys.meta_path.remove(self._finder)
            for name in [name for name in sys.modules if self._finder.is_users(name)]:
                self._modules[name] = sys.modules.pop(name)
            sys.modules.update(displaced)

    def import_file(self, path: Path) -> ModuleType:
        """Runs the file as a new module, `__name__` never being "__main__"; to be called while active."""
        root = ModuleType(f"{_ROOT}{next(_COUNTER)}")
        top, packages = _package(path)
        root.__path__ = [str(top)]
        sys.modules[root.__name__] = root
        parent = root.__name__
        for package in packages:
            parent = importlib.import_module(f"{parent}.{package}").__name__
        is_package = path.stem == "__init__"
        stem = path.resolve().parent.name if is_package else path.stem
        name = f"{parent}.{re.sub(r'[^0-9A-Za-z_]', '_', stem)}"
        inside = [str(path.parent)] if is_package else None
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
        assert spec is not None
        assert spec.loader is not None  # a .py file always has both
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


class _Finder(MetaPathFinder):
    def __init__(self, folders: list[str], own_name: str, before_installed: bool) -> None:
        self.path: Sequence[str] = ()  # sys.path without what the user's code adds
        self._folders = folders
        self._own_name = own_name
        self._before_installed = before_installed
        self._names: set[str] = set()  # top-level names that were found to be the user's

    def is_users(self, name: str) -> bool:
        return name.startswith(_ROOT) or name.partition(".")[0] in self._names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None:
            return None if self.is_users(fullname) else _library_spec(self, fullname, path)
        added = [entry for entry in sys.path if entry not in self.path]
        local = PathFinder.find_spec(fullname, [*self._folders, *added])
        # A local folder without __init__.py gives way to an installed package, as it does in Python.
        gives_way = not self._before_installed or fullname == self._own_name
        if local is not None and local.loader is not None and not gives_way:
            self._names.add(fullname)
            return local
        library = _library_spec(self, fullname, None)
        if library is None and local is not None:
            self._names.add(fullname)
        return library or local


def _library_spec(finder: MetaPathFinder, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """What the other finders say, to be imported on the CPU."""
    for other in sys.meta_path:
        spec = None if other is finder else other.find_spec(fullname, path)
        if spec is not None:
            if type(spec.loader) is SourceFileLoader:
                spec.loader = _OnCpu(spec.loader.name, spec.loader.path)
            return spec
    return None


class _OnCpu(SourceFileLoader):
    """Imports a library with its module-level tensors on the CPU while the model is built on meta:

    libraries stay imported, and a constant on the meta device would break them for good.
    """

    def exec_module(self, module: ModuleType) -> None:
        import torch

        with torch.device("cpu"):
            super().exec_module(module)


def _package(path: Path) -> tuple[Path, list[str]]:
    """The folder to start from and the packages down to the file, as its relative imports need them."""
    folder = path.resolve().parent
    if path.stem == "__init__":
        folder = folder.parent
    packages: list[str] = []
    if _has_relative_imports(path):
        while (folder / "__init__.py").is_file() and folder.parent != folder:
            packages.insert(0, folder.name)
            folder = folder.parent
    return folder, packages


def _has_relative_imports(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # running it says the same with its line
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
