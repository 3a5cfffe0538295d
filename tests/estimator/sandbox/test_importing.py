"""Imports of a user's file: the folders of its repository, its command line, notebooks; everything is undone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401  # loading a model imports it first

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.sandbox.importing import UserImports
from joulecast.estimator.sandbox.source import notebook_cells, python_source


def imported(path: Path):
    imports = UserImports([path.resolve().parent], file=path)
    with imports.active():
        return imports.import_file(path)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# -- the folders above ----------------------------------------------------------------------------


def test_a_package_of_the_repository_is_found_above_the_file(tmp_path):
    write(tmp_path / "src" / "__init__.py")
    write(tmp_path / "src" / "layers" / "__init__.py")
    write(tmp_path / "src" / "layers" / "block.py", "WIDTH = 7\n")
    net = write(tmp_path / "src" / "models" / "net.py", "from src.layers.block import WIDTH\n")
    assert imported(net).WIDTH == 7
    assert "src" not in sys.modules


def test_folders_without_init_are_found_too(tmp_path):
    write(tmp_path / "util" / "ops.py", "K = 3\n")
    assert imported(write(tmp_path / "models" / "net.py", "from util.ops import K\n")).K == 3


def test_in_a_repository_its_packages_come_before_installed_ones(tmp_path, monkeypatch):
    write(tmp_path / "installed" / "some_parts" / "__init__.py")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    write(tmp_path / "repo" / "some_parts" / "__init__.py", "OWN = True\n")
    net = write(tmp_path / "repo" / "models" / "net.py", "import some_parts\nown = hasattr(some_parts, 'OWN')\n")
    assert not imported(net).own  # a folder that is not known to be a repository gives way
    sys.modules.pop("some_parts")
    write(tmp_path / "repo" / "pyproject.toml")
    assert imported(net).own


def test_the_standard_library_is_never_shadowed_from_above(tmp_path):
    write(tmp_path / "pyproject.toml")
    write(tmp_path / "wave.py", "OWN = True\n")
    sys.modules.pop("wave", None)
    assert not imported(write(tmp_path / "models" / "net.py", "import wave\nown = hasattr(wave, 'OWN')\n")).own


def test_nothing_above_the_root_of_the_repository_is_imported(tmp_path):
    write(tmp_path / "outside_of_it.py", "X = 1\n")
    write(tmp_path / "repo" / "setup.py")
    net = write(tmp_path / "repo" / "models" / "net.py", "import outside_of_it\n")
    with pytest.raises(ModuleNotFoundError):
        imported(net)


def test_a_library_does_not_find_the_users_folders(tmp_path):
    """A folder `runs/` above the file must not satisfy a library's optional `import runs`."""
    (tmp_path / "optional_extra").mkdir()
    library = write(
        tmp_path / "site-packages" / "some_library.py",
        "try:\n    import optional_extra\n    FOUND = True\nexcept ImportError:\n    FOUND = False\n",
    )
    net = write(
        tmp_path / "models" / "net.py",
        f"import sys\nsys.path.append({str(library.parent)!r})\nfrom some_library import FOUND\n",
    )
    assert imported(net).FOUND is False


# -- the command line -----------------------------------------------------------------------------


def test_a_file_sees_its_own_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["estimate", "--model", "net.py"])
    net = write(tmp_path / "net.py", "import sys\nseen = list(sys.argv)\nsys.argv.append('x')\n")
    assert imported(net).seen == [str(net)]
    assert sys.argv == ["estimate", "--model", "net.py"]


# -- notebooks ------------------------------------------------------------------------------------


def notebook(path: Path, *cells: str, kind: str = "code") -> Path:
    rows = [{"cell_type": kind, "source": cell.splitlines(keepends=True)} for cell in cells]
    rows.insert(0, {"cell_type": "markdown", "source": ["# import nothing"]})
    return write(path, json.dumps({"cells": rows, "nbformat": 4}))


def test_the_code_cells_of_a_notebook_are_run_without_magics(tmp_path):
    path = notebook(
        tmp_path / "net.ipynb",
        "!pip install x\n%matplotlib inline\nimport math",
        "%%bash\nrm -rf /nowhere\n",
        "%%time\nif True:\n    !ls\n    files = !ls\nvalue = 7 % 4",
        "math?\ntotal = (10\n  % 4)",
    )
    module = imported(path)
    assert (module.value, module.files, module.math.pi > 3) == (3, None, True)
    assert [cell.number for cell in notebook_cells(path)] == [1, 2, 3, 4]
    assert b"pip install" not in python_source(path)


def test_an_error_names_the_cell_and_its_line(tmp_path):
    path = notebook(tmp_path / "net.ipynb", "x = 1", "y = 2\nraise ValueError('here')")
    with pytest.raises(ValueError, match="here") as caught:
        imported(path)
    frame = caught.traceback[-1]
    assert str(frame.path).endswith("net.ipynb cell 2")
    assert frame.lineno + 1 == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": [{"cell_type": "code"}]}', '{"cells": 3}', "[" * 100_000])
def test_a_file_that_is_not_a_notebook(tmp_path, text):
    with pytest.raises(JoulecastError, match=r"cannot be read as a notebook .*nbconvert"):
        notebook_cells(write(tmp_path / "net.ipynb", text))
