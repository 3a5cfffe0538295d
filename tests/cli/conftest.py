"""Runs the commands as a user does: the installed console scripts, in separate processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`call("estimate", "--model", ...)`: the same entry point in this process, which is faster."""
    from joulecast.cli import main as commands

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOULECAST_STORE", str(tmp_path / "store"))

    def enter(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capfd.readouterr()
        entry = {"estimate": commands.estimate, "measure": commands.measure, "joulecast": commands.main}[program]
        with pytest.raises(SystemExit) as end:
            entry()
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess([program, *map(str, arguments)], int(end.value.code or 0), out, err)

    return enter


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("estimate", "--model", ...)` in an empty folder, with an empty store."""
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])

    def call(program: str, *arguments: str | Path, env: dict[str, str] | None = None, **options: object):
        executable = shutil.which(program, path=scripts)
        assert executable, f"{program} is not installed beside {sys.executable}"
        environment = {**os.environ, "JOULECAST_STORE": str(tmp_path / "store"), "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(
            [executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env=environment,
            **options,  # type: ignore[call-overload]
        )

    return call
