"""`joulecast sweep` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas
import pytest

from .conftest import Run

NET = """
    import os, sys, time
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=8, stops=0):
            super().__init__()
            print("hello from the model")
            while stops == width and not os.path.exists("go"):
                time.sleep(0.01)
            self.body = nn.Linear(16, width)

        def forward(self, x):
            return self.body(x)
"""
RUN = ("--input", "16", "--samples", "100", "--epochs", "2", "--hardware", "rtx-4090", "--jobs", "1")


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(textwrap.dedent(NET))
    return "net.py:Net"


def test_a_grid_with_its_total_its_best_and_its_front(call: Run, net: str, tmp_path: Path) -> None:
    axes = ("--set", "width=4,8", "--set", "batch_size=10,50")
    done = call("joulecast", "sweep", "--model", net, *axes, *RUN, "--pareto", "energy,parameters", "--output", "o.csv")
    assert done.returncode == 0
    assert done.stdout.startswith("4 candidates; all of them one after another:\n")
    assert "predicted; profiles: datasheet; 90 % intervals:" in done.stdout
    assert "5 best" not in done.stdout
    assert "4 best (least energy_kwh)" in done.stdout
    assert "Pareto front (least energy_kwh, most parameters)" in done.stdout
    assert "hello" not in done.stdout + done.stderr
    assert "4 of 4 candidates" in done.stderr
    assert pandas.read_csv(tmp_path / "o.csv")["parameters"].tolist() == [68, 68, 136, 136]


def test_the_report_page_has_every_candidate_and_the_front_asked_for(call: Run, net: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("".join(f'{{"width": {w}, "accuracy": {w / 100}}}\n' for w in (4, 8, -1)))
    options = ("--from", "c.jsonl", "--column", "accuracy", "--pareto", "energy,accuracy:min", "--budget", "1kWh")
    done = call("joulecast", "sweep", "--model", net, *options, *RUN, "--report", "page.html")
    assert done.returncode == 0
    assert done.stderr.endswith("wrote page.html\n")
    text = (tmp_path / "page.html").read_text()
    data = json.loads(re.findall(r'id="report-data">(.*?)</script>', text, re.DOTALL)[0])
    columns = {column["name"]: column for column in data["columns"]}
    assert data["chart"] == "accuracy"
    assert columns["accuracy"]["values"] == [0.04, 0.08, -0.01]
    assert columns["accuracy"]["more"] is False
    assert columns["parameters"]["values"] == [68, 136, None]
    assert "negative dimension" in data["reasons"][data["failed"]["2"]]
    assert "Within budget" in text
    assert "--report page.html" in text


def test_a_page_that_cannot_be_written_is_refused_before_the_sweep(call: Run, net: str, tmp_path: Path) -> None:
    done = call("joulecast", "sweep", "--model", net, "--set", "width=4", *RUN, "--report", str(tmp_path))
    assert done.returncode == 1
    assert "--report" in done.stderr
    assert "candidates" not in done.stderr


def test_json(call: Run, net: str) -> None:
    done = call("joulecast", "sweep", "--model", net, "--set", "width=4,-1", *RUN, "--json", "--top", "1")
    document = json.loads(done.stdout)
    assert (document["candidates"], document["failed"], len(document["top"])) == (2, 1, 1)
    assert "negative dimension" in document["failures"][0]["error"]


def test_a_parallel_configuration_is_read_as_by_estimate(call: Run, net: str, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 2}}')
    run = ("--input", "16", "--samples", "96", "--epochs", "2", "--cluster", "dgx-a100", "--parallel-config", "ds.json")
    own = json.loads(call("estimate", "--model", net, *run, "--json").stdout)
    assert own["steps"] == 2 * 96 // (4 * 8)
    found = call("joulecast", "sweep", "--model", net, "--set", "width=8", *run, "--jobs", "1", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["seconds"] == own["seconds"]
    assert json.loads(found.stdout)["node_energy_kwh"] == own["node_energy_kwh"]


def test_a_budget_of_the_sweep_and_one_of_each_candidate(call: Run, net: str) -> None:
    grid = ("sweep", "--model", net, "--set", "width=4,8", *RUN)
    over = call("joulecast", *grid, "--budget", "1 J")
    assert over.returncode == 3
    assert "1 J: over budget" in over.stdout
    each = call("joulecast", *grid, "--each-budget", "1 J")
    assert each.returncode == 0
    assert "2 candidates, 2 over their budget" in each.stdout


def test_several_models_are_an_axis(call: Run, net: str) -> None:
    done = call("joulecast", "sweep", "--model", net, "--model", "none.py:Net", *RUN)
    assert done.returncode == 0
    assert "2 candidates, 1 failed" in done.stdout


def test_all_candidates_failed(call: Run, net: str) -> None:
    assert call("joulecast", "sweep", "--model", net, "--set", "widht=4", *RUN).returncode == 1


def test_failures_name_options(call: Run, net: str) -> None:
    done = call("joulecast", "sweep", "--model", net, "--set", "batch_size=0", *RUN)
    assert done.stdout.startswith("1 candidate, 1 failed\n1 failed: --batch-size 0 cannot be used")


@pytest.mark.parametrize(
    ("options", "status", "error"),
    [
        ((), 2, "no candidates: give --set NAME=A,B (a grid) or --from FILE"),
        (("--set", "width=4", "--from", "x.jsonl"), 2, "--from x.jsonl and --set contradict"),
        (("--from", "x.jsonl"), 1, "x.jsonl is not a file"),
        (("--set", "width"), 2, "axis 'width' is not NAME=VALUE,VALUE: give the values, as in width=64,128"),
        (("--set", "width=4", "--output", "o.xlsx"), 1, "is not a table"),
        (("--set", "width=4", "--engine", "dask"), 1, "--engine dask needs --address"),
        (("--set", "width=4", "--optimizer", "sgdd"), 1, "sgdd"),
        (("--set", "width=4", "--pareto", "energi"), 1, "did you mean energy"),
    ],
)
def test_mistakes_are_one_line(call: Run, net: str, options: tuple[str, ...], status: int, error: str) -> None:
    done = call("joulecast", "sweep", "--model", net, *options, *RUN)
    assert done.returncode == status
    assert error in done.stderr
    assert done.stderr.strip().count("\n") <= 1  # a line of progress may come first


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_stopped_goes_on(call: Run, net: str, tmp_path: Path, number: int) -> None:
    command = [
        *(str(Path(sys.executable).parent / "joulecast"), "sweep", "--model", net, "--output", "o.csv"),
        *("--set", "width=1,2,3,4,5,6", "--set", "stops=4", *RUN),
    ]
    journal = tmp_path / "o.csv.partial"
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    end = time.monotonic() + 120
    while time.monotonic() < end and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.02)
    first.send_signal(number)  # while it waits for the file `go`
    _, said = first.communicate(timeout=60)
    assert first.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert b"o.csv.partial keeps the candidates that are done; the same command resumes it" in said
    kept = journal.read_bytes().count(b"\n") - 1
    assert 2 <= kept < 6
    (tmp_path / "go").touch()
    again = call("joulecast", *command[1:])
    assert again.returncode == 0, again.stderr
    assert pandas.read_csv(tmp_path / "o.csv")["parameters"].tolist() == [17 * width for width in range(1, 7)]
    assert not journal.exists()
