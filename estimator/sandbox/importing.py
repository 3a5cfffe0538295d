"""Imports a user's model file the way Python runs a script, and removes every trace of it afterwards."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import itertools
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from .source import notebook_cells, parsed_source
from .training_stop import TrainingStarted, guard_module

_ROOT = "joulecast_user_"
_COUNTER = itertools.count()

# Files that mark the root of a repository.
_ROOT_MARKERS = (".git", ".hg", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "environment.yml")
# How far above a file its imports are looked for where no root is marked.
_LEVELS_ABOVE = 4
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep


class UserImports:
    """The user's modules in `folders`; they are in `sys.modules` only while `active`.

    Two model files may each have a `blocks.py` next to them, and importing one again runs it again.
    For a `file`, imports are also looked for in the folders above it, up to the root of its repository; while
    active, `sys.argv` is that file's, with its `arguments`. Inside `timm.py`, `import timm` is the installed package.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        file: Path | None = None,
        arguments: Sequence[str] = (),
        before_installed: bool = True,
    ) -> None:
        above, is_root_known = _folders_above(file) if file else ([], False)
        self._file = file
        self._arguments = arguments
        self._finder = _Finder(
            [str(folder) for folder in folders],
            [str(folder) for folder in above],
            own_name=file.stem if file else "",
            before_installed=before_installed,
            above_first=is_root_known,
        )
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The user's modules can be imported; `sys.path`, `sys.argv`, the folder and imports are restored."""
        path, folder, bytecode, arguments = list(sys.path), os.getcwd(), sys.dont_write_bytecode, sys.argv
        self._finder.path = path
        displaced = {name: sys.modules[name] for name in self._modules if name in sys.modules}
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self._finder)
        sys.dont_write_bytecode = True  # nothing is written next to the user's files
        sys.argv = [str(self._file), *self._arguments] if self._file else arguments[:1]
        try:
            yield
        finally:
            sys.argv = arguments
            sys.dont_write_bytecode = bytecode
            sys.path[:] = path
            os.chdir(folder)
            sys.meta_path.remove(self._finder)
            for name in [name for name in sys.modules if self._finder.is_users(name)]:
                self._modules[name] = sys.modules.pop(name)
            sys.modules.update(displaced)

    def import_file(self, path: Path, *, as_main: bool = False) -> ModuleType:
        """Runs the file as a new module, whose `__name__` is "__main__" only if asked for; to be called while active.

        A TrainingStarted that the file raises has its `module`, as far as it ran.
        """
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
        loader: SourceFileLoader | None = None
        if path.suffix == ".ipynb":
            loader = _Notebook(name, str(path))
        elif as_main:
            loader = _Script(name, str(path))
        spec = importlib.util.spec_from_file_location(name, path, loader=loader, submodule_search_locations=inside)
        assert spec is not None
        assert spec.loader is not None  # a .py file always has both
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except TrainingStarted as stop:
            stop.module = module
            raise
        return module


def _folders_above(file: Path) -> tuple[list[Path], bool]:
    """The folders above the file's own, nearest first, and whether they end at the root of a repository."""
    own = file.resolve().parent
    folders = [own, *own.parents]
    for count, folder in enumerate(folders):
        if any((folder / marker).exists() for marker in _ROOT_MARKERS):
            return folders[1 : count + 1], True
    outside = {Path(folders[-1]), Path.home()}
    return [folder for folder in folders[1 : 1 + _LEVELS_ABOVE] if folder not in outside], False


class _Finder(MetaPathFinder):
    """Finds the user's modules. `above_first`: folders above the file come before installed packages."""

    def __init__(
        self, folders: list[str], above: list[str], *, own_name: str, before_installed: bool, above_first: bool
    ) -> None:
        self.path: Sequence[str] = ()  # sys.path without what the user's code adds
        self._folders = folders
        self._above = above
        self._own_name = own_name
        self._before_installed = before_installed
        self._above_first = above_first
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
        if _is_module(local) and self._before_installed and fullname != self._own_name:
            return self._users(fullname, local)
        above = None
        if self._above and fullname != self._own_name and not _asked_by_library():
            above = PathFinder.find_spec(fullname, self._above)
            if _is_module(above) and self._above_first and fullname not in sys.stdlib_module_names:
                return self._users(fullname, above)
        return _library_spec(self, fullname, None) or self._users(fullname, local or above)

    def _users(self, fullname: str, spec: ModuleSpec | None) -> ModuleSpec | None:
        if spec is not None:
            self._names.add(fullname)
        return spec


def _is_module(spec: ModuleSpec | None) -> bool:
    """Whether `spec` is a module or a package with an __init__.py, not just a folder."""
    return spec is not None and spec.loader is not None


def _asked_by_library() -> bool:
    """Whether installed code runs the import: its optional imports must not find a folder of the user's."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if name != __file__ and not name.startswith("<frozen importlib") and os.sep + "importlib" + os.sep not in name:
            return bool(_INSTALLED.search(name)) or name.startswith(_STDLIB)
        frame = frame.f_back
    return False


def _library_spec(finder: MetaPathFinder, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """What the other finders return, to be imported on the CPU."""
    for other in sys.meta_path:
        spec = None if other is finder else other.find_spec(fullname, path)
        if spec is not None:
            if type(spec.loader) is SourceFileLoader:
                spec.loader = _OnCpu(spec.loader.name, spec.loader.path)
            return spec
    return None


class _OnCpu(SourceFileLoader):
    """Imports a library with its module-level tensors on the CPU while the model is built on meta.

    Libraries stay imported, and a constant on the meta device would break them for good.
    """

    def exec_module(self, module: ModuleType) -> None:
        import torch

        from .redirect import as_on_a_gpu

        with torch.device("cpu"):
            super().exec_module(module)
        guard_module(module)
        as_on_a_gpu(module)


class _Script(SourceFileLoader):
    """Runs a file as `python FILE` does."""

    def exec_module(self, module: ModuleType) -> None:
        module.__name__ = "__main__"
        own, code = sys.modules["__main__"], self.get_code(self.name)
        assert code is not None  # a .py file always has it
        sys.modules["__main__"] = module  # where the annotations of its dataclasses are looked up
        try:
            exec(code, vars(module))
        finally:
            sys.modules["__main__"] = own


class _Notebook(SourceFileLoader):
    """Runs the code cells of a notebook; errors name the cell and the line in it."""

    def exec_module(self, module: ModuleType) -> None:
        path = Path(self.path)
        cells = notebook_cells(path)
        _show_source(self.path, "\n".join(cell.source for cell in cells))  # what `inspect` shows as the module's
        for cell in cells:
            name = f"{self.path} cell {cell.number}"
            _show_source(name, cell.source)
            exec(_compiled(cell.source, name), vars(module))


def _compiled(source: str, name: str) -> CodeType:
    return compile(source, name, "exec", dont_inherit=True)


def _show_source(name: str, source: str) -> None:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)


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
    tree = parsed_source(path)
    return tree is not None and any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
