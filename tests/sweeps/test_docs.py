"""docs/sweep.md word for word: its files are written as they stand there, and its commands run in order."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from joulecast.cli import main as commands

PAGE = Path(__file__).parents[2] / "docs" / "sweep.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SCRIPTS = {text.split("\n")[0][2:]: text for kind, text in BLOCKS if kind == "python"}
COMMANDS = [text for kind, text in BLOCKS if kind == "sh"]


def command(part: str) -> str:
    """The only command of the page with that part."""
    (found,) = (text for text in COMMANDS if part in text)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files."""
    path = tmp_path_factory.mktemp("docs")
    for name, text in SCRIPTS.items():
        (path / name).write_text(text)
    (trials,) = (text for kind, text in BLOCKS if kind == "json")
    (path / "trials.jsonl").write_text(trials)
    return path


def run(folder: Path, text: str, *, program: str = "bash", cores: int = 1) -> str:
    """What a command prints on a machine with so many cores; processes that it left in the background end with it."""
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "default"}
    environment["LOKY_MAX_CPU_COUNT"] = str(cores)  # each core has its own processes, which import torch for seconds
    arguments = ["bash", "-euo", "pipefail", "-c", text] if program == "bash" else [sys.executable, text]
    with (folder / "stderr.txt").open("w") as errors:
        started = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = started.communicate(timeout=400)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
    assert started.returncode == 0, (folder / "stderr.txt").read_text()[-2000:]
    return said


Here = Callable[[str], str]


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """What a command prints that starts nothing but `joulecast`, in this process and on one core, which is faster."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")

    def enter(text: str) -> str:
        monkeypatch.setattr(sys, "argv", shlex.split(text.replace("\\\n", "")))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            commands.main()
        said, errors = capfd.readouterr()
        assert not end.value.code, errors
        return said

    return enter


def test_a_grid_with_its_table_and_its_page(folder: Path) -> None:
    said = run(folder, command("--set width=8,16,32"), cores=2)
    assert said.startswith("6 candidates; all of them one after another:")
    assert "within budget" in said
    assert (folder / "sweep.csv").read_text().count("\n") == 7
    assert "A sweep of 6 candidates" in (folder / "sweep.html").read_text()


def test_a_file_of_candidates_with_known_accuracies(folder: Path, here: Here) -> None:
    pytest.importorskip("pyarrow")
    import pandas

    said = here(command("--from trials.jsonl"))
    assert said.startswith("3 candidates;")
    front = said.partition("Pareto front (least energy_kwh, most accuracy)")[2]
    assert re.findall(r"0\.9\d+", front) == ["0.912", "0.934"]  # 0.929 needs more energy than 0.934
    assert pandas.read_parquet(folder / "trials.parquet")["accuracy"].tolist() == [0.912, 0.934, 0.929]


def test_the_trials_of_an_optuna_study(here: Here) -> None:
    pytest.importorskip("optuna")
    assert here(command("--from study.py:study")).startswith("3 candidates;")


def test_a_search_space_of_ray_tune(here: Here) -> None:
    pytest.importorskip("ray.tune")
    assert here(command("--from space.py:space")).startswith("4 candidates;")


def _free_port() -> int:
    """One that no program gets by itself: those that the system gives out start at 32768."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    pytest.skip("no free port")


def test_a_dask_cluster(folder: Path) -> None:
    pytest.importorskip("distributed")
    port = _free_port()
    text = command("dask scheduler").replace("8786", str(port))  # the tests of another process may use that one
    text = re.sub(r"^dask ", f"{sys.executable} -m dask ", text, flags=re.MULTILINE)
    background = re.sub(r" &$", " >>cluster.txt 2>&1 &", text, flags=re.MULTILINE)
    assert run(folder, background).startswith("2 candidates;")


def test_a_sweep_in_python(folder: Path) -> None:
    said = run(folder, "sweep_in_python.py", program="python")
    assert "energy_kwh" in said
    assert float(said.split()[0]) > 0


def test_a_search_of_optuna_with_a_limit_of_energy(folder: Path) -> None:
    pytest.importorskip("optuna")
    said = run(folder, "search_optuna.py", program="python")
    width, kwh = re.findall(r"\{'width': (\d+)\} (\S+) kWh", said)[0]
    assert 16 <= int(width) < 128  # those of 128 are pruned
    assert 0 < float(kwh) <= 0.008


def test_a_search_of_ray_tune_with_the_energy_of_each_trial(folder: Path) -> None:
    pytest.importorskip("ray.tune")
    said = run(folder, "search_ray.py", program="python")
    found = dict(re.findall(r"\{'width': (\d+)\} \S+ (\S+) kWh", said))
    assert set(found) == {"16", "64"}
    assert 0 < float(found["16"]) < float(found["64"])


def test_a_search_of_scikit_learn_within_a_limit(folder: Path) -> None:
    said = run(folder, "search_sklearn.py", program="python")
    width, kwh = re.findall(r"\{'width': (\d+)\} (\S+) kWh", said)[0]
    assert width in ("16", "32")
    assert 0 < float(kwh) <= 0.008
