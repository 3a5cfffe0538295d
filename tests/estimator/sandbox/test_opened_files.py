"""Files recorded as read: those of the project, however they are opened, and no others."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from joulecast.estimator.sandbox.opened_files import note_sources, recorded_folders, recording


def names(files: tuple[str, ...]) -> list[str]:
    return [Path(path).name for path in files]


def test_files_that_are_read_within_and_under_the_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside, inside / "venv/lib/site-packages/torch", inside / ".git"):
        folder.mkdir(parents=True)
        for name in ("before", "opened", "low", "written"):
            (folder / f"{name}.txt").write_text("x")
    (inside / "before.txt").read_text()
    with recording([inside]) as read:
        for folder in (inside, outside, inside / "venv/lib/site-packages/torch", inside / ".git"):
            (folder / "opened.txt").read_text()
            os.close(os.open(str(folder / "low.txt"), os.O_RDONLY))
            (folder / "written.txt").write_text("y")
    (inside / "before.txt").read_text()
    assert read.files() == (str(inside / "low.txt"), str(inside / "opened.txt"))


def test_a_relative_path_is_of_the_folder_it_was_opened_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.csv").write_text("1")
    with recording([tmp_path]) as read:
        monkeypatch.chdir(tmp_path)
        Path("table.csv").read_text()
        monkeypatch.chdir("/")
    assert read.files() == (str(tmp_path / "table.csv"),)


@pytest.mark.parametrize("kept", [False, True], ids=["gone from sys.modules", "still in sys.modules"])
def test_a_module_counts_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "joulecast_own_layers.py").write_text("x = 1\n")
    importlib.import_module("joulecast_own_layers")  # which leaves the compiled file: the next import reads that
    assert list(tmp_path.glob("__pycache__/*.pyc"))
    try:
        if not kept:
            del sys.modules["joulecast_own_layers"]
        with recording([tmp_path]) as read:
            if not kept:
                importlib.import_module("joulecast_own_layers")
                del sys.modules["joulecast_own_layers"]
        assert names(read.files()) == ["joulecast_own_layers.py"]
    finally:
        sys.modules.pop("joulecast_own_layers", None)


def test_another_process_may_have_read_for_this_one(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    note_sources([str(tmp_path / "net.py")])  # while nothing is recorded: nobody asked
    assert recorded_folders() == ()
    with recording([tmp_path]) as read:
        assert recorded_folders() == (str(tmp_path),)
        note_sources([str(tmp_path / "net.py"), str(tmp_path / "gone.py"), "/etc/hostname"])
    assert names(read.files()) == ["net.py"]
