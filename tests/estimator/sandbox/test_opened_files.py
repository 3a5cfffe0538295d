"""Files recorded as read: those of the project, however they are opened, and no others."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from joulecast.estimator.sandbox.opened_files import Recording


def test_files_that_are_read_within_and_under_the_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside, inside / "venv/lib/site-packages/torch", inside / ".git"):
        folder.mkdir(parents=True)
        for name in ("before", "opened", "low", "written"):
            (folder / f"{name}.txt").write_text("x")
    (inside / "before.txt").read_text()
    read = Recording([inside])
    for folder in (inside, outside, inside / "venv/lib/site-packages/torch", inside / ".git"):
        (folder / "opened.txt").read_text()
        os.close(os.open(str(folder / "low.txt"), os.O_RDONLY))
        (folder / "written.txt").write_text("y")
    assert read.files() == (str(inside / "low.txt"), str(inside / "opened.txt"))


def test_a_relative_path_is_of_the_folder_it_was_opened_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.csv").write_text("1")
    read = Recording([tmp_path])
    monkeypatch.chdir(tmp_path)
    Path("table.csv").read_text()
    monkeypatch.chdir("/")
    assert read.files() == (str(tmp_path / "table.csv"),)


def test_a_module_counts_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "joulecast_own_layers.py").write_text("x = 1\n")
    importlib.import_module("joulecast_own_layers")  # which leaves the compiled file: the next import reads that
    assert list(tmp_path.glob("__pycache__/*.pyc"))
    del sys.modules["joulecast_own_layers"]
    read = Recording([tmp_path])
    importlib.import_module("joulecast_own_layers")
    del sys.modules["joulecast_own_layers"]
    assert [Path(path).name for path in read.files()] == ["joulecast_own_layers.py"]
