"""A project in its own git repository, and `joulecast check` run in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., "subprocess.CompletedProcess[str]"]

SIZES = "WIDTH = 16\n"
NET = """
import torch
from torch import nn
from sizes import WIDTH

class Net(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 64, 3, padding=1)
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.head(torch.relu(self.conv3(x)).mean((2, 3)))
"""
CONFIG = """
[project]
name = "shop"

[tool.joulecast]
hardware = "t4"
dataset = "cifar10"
epochs = 10
pue = 1.0

[[tool.joulecast.models]]
name = "classifier"
model = "models/net.py:Net"
budget = "{budget}"
"""


def git(folder: Path, *arguments: str) -> str:
    own = {f"GIT_{who}_{what}": "t@t.test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env={**os.environ, **own}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(folder: Path, message: str = "change") -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository on its branch `main` with one model, its helper module and a generous budget."""
    root = tmp_path / "project"
    (root / "models").mkdir(parents=True)
    (root / "models/net.py").write_text(NET)
    (root / "models/sizes.py").write_text(SIZES)
    (root / "pyproject.toml").write_text(CONFIG.format(budget="1 MWh"))
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "first")
    return root


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """No file of this user is read or written, and the console scripts are on the path."""
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    own = {
        "JOULECAST_STORE": str(tmp_path / "store"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "PATH": scripts + os.pathsep + os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return dict(os.environ)


@pytest.fixture
def call(
    project: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Call:
    """`call("--json")`: `joulecast check --jobs 1 --json` in the project, from this process, whose reader is warm."""
    from joulecast.cli import main as commands

    monkeypatch.chdir(project)

    def enter(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["joulecast", "check", "--jobs", "1", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            commands.main()
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(command, int(end.value.code or 0), out, err)

    return enter
