"""The progress of `measure`: one bar on a terminal, and only a few lines in a pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
from typing import Any

import pytest

from joulecast.cli.suite_progress import SuiteProgress

CASES = 300


def measured(progress: SuiteProgress, cases: int = CASES, budget_s: float = 1200.0) -> None:
    """All cases, the same time for each, with half of the time unused."""
    with progress:
        for done in range(cases):
            progress.begin(f"case {done}", done, cases, budget_s * (1 - done / cases / 2))
            progress.end(None)  # type: ignore[arg-type]


def test_a_pipe_gets_a_line_per_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    measured(SuiteProgress(quiet=False))
    assert capsys.readouterr().err.splitlines() == [
        "75 of up to 300 cases measured, 17:30 left",
        "150 of up to 300 cases measured, 15:00 left",
        "225 of up to 300 cases measured, 12:30 left",
    ]


def test_time_counts_where_it_ends_first(capsys: pytest.CaptureFixture[str]) -> None:
    with SuiteProgress(quiet=False) as progress:
        for done, left_s in enumerate((240.0, 170.0, 100.0, 50.0, 1.0)):
            progress.begin("case", done, 300, left_s)
    assert capsys.readouterr().err.splitlines() == [
        "1 of up to 300 cases measured, 2:50 left",
        "2 of up to 300 cases measured, 1:40 left",
        "3 of up to 300 cases measured, 0:50 left",
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    measured(SuiteProgress(quiet=True))
    assert capsys.readouterr() == ("", "")


def everything(terminal: int) -> str:
    """What the closed other side wrote. The kernel hands it over in pieces, and ends with EIO."""
    text = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 100_000):
            text += piece
    return text.decode()


def test_a_terminal_gets_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress: Any = SuiteProgress(quiet=False)
        with progress:
            progress.begin("alexnet", 1, 4, 60.0)
            progress._bar.refresh()
            assert progress._bar.tasks[0].percentage == pytest.approx(25)
            assert len(progress._bar.tasks) == 1
        monkeypatch.undo()
    shown = everything(parent)
    os.close(parent)
    assert "1 of up to 4 cases measured, 1:00 left: alexnet" in shown
