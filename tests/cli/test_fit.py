"""`joulecast fit` on real files: tables, logs of other tools, and what each broken one says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU())
        self.head = nn.Linear(width, 10)
    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

class Wide(Net):
    def __init__(self):
        super().__init__(256)

sample_input = (3, 64, 64)
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def predicted_s(call: Run, hardware: str, model: str = "net.py:Net") -> dict[str, float]:
    done = call(
        "estimate", "--model", model, "--input", "3x64x64", "--batch-size", "64", "--steps", "1000", "--hardware",
        hardware, "--software", "eager", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds: dict[str, float] = json.loads(done.stdout)["seconds"]
    return seconds


def table(*rows: str, header: str = "model,batch,input,seconds_per_step") -> str:
    return "\n".join((header, *rows)) + "\n"


@pytest.mark.usefixtures("net")
def test_one_run_moves_the_answer_towards_it_and_three_further(call: Run, tmp_path: Path) -> None:
    before = predicted_s(call, "a100-sxm4-40gb")
    step = 1.4 * before["value"] / 1000
    (tmp_path / "one.csv").write_text(table(f"net.py:Net,64,3x64x64,{step}"))
    done = call("joulecast", "fit", "one.csv", "--name", "mine", "--hardware", "a100-sxm4-40gb")
    assert done.returncode == 0, done.stderr
    assert "1 run of 1 network," in done.stdout
    assert "use it with: estimate --hardware mine" in done.stdout
    after = predicted_s(call, "mine")
    assert 1.1 * before["value"] < after["value"] < 1.4 * before["value"]
    assert after["high"] / after["low"] <= before["high"] / before["low"] * (1 + 1e-9)
    shown = call("joulecast", "explain", "mine").stdout
    assert "seconds compared with the population" in shown
    assert "learnt from the runs" in shown


@pytest.mark.usefixtures("net")
def test_a_log_of_one_run_needs_its_model_and_batch(call: Run, tmp_path: Path) -> None:
    step_us = 1e3 * predicted_s(call, "a100-sxm4-40gb")["value"]
    marks = [
        {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{n}", "ts": n * step_us, "dur": 5}
        for n in range(5)
    ]
    (tmp_path / "trace.json").write_text(
        json.dumps({"deviceProperties": [{"name": "NVIDIA A100-SXM4-40GB"}], "traceEvents": marks})
    )
    bare = call("joulecast", "fit", "trace.json", "--name", "mine")
    assert bare.returncode == 1
    assert "give --model" in bare.stderr
    what = ("--model", "net.py:Net", "--batch-size", "64", "--input", "3x64x64")
    done = call("joulecast", "fit", "trace.json", "--name", "mine", *what)
    assert done.returncode == 0, done.stderr
    assert "5 steps" in done.stdout


@pytest.mark.usefixtures("net")
@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (("net.py:Net,64,3x64x64,1e-9",), "the part's peak is"),
        (("net.py:Net,64,3x64x64,40",), "seems to be in milliseconds"),
        (("net.py:Net,64,3x64x64,-1",), "runs.csv:2 has seconds_per_step '-1'; give a number above 0"),
        (("gone.py:Net,64,3x64x64,1",), "gone.py"),
    ],
)
def test_bad_runs_end_in_one_line(call: Run, tmp_path: Path, rows: tuple[str, ...], problem: str) -> None:
    (tmp_path / "runs.csv").write_text(table(*rows))
    done = call("joulecast", "fit", "runs.csv", "--name", "mine", "--hardware", "a100-sxm4-40gb")
    assert done.returncode == 1
    assert problem in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "code", "problem"),
    [
        ("none.csv", 1, "none.csv does not exist"),
        ("half.json", 1, "half.json ends in the middle"),
        ("mixed.csv", 1, "mixes hardware: l4, t4"),
        ("plain.csv", 2, "the hardware is not known"),
        ("odd.csv", 1, "odd.csv:2 has precision 'amp'; give one of fp32, bf16, fp16, fp8"),
    ],
)
def test_files_that_cannot_be_used(call: Run, tmp_path: Path, file: str, code: int, problem: str) -> None:
    (tmp_path / "half.json").write_text('{"traceEvents": [{"name": "Profiler')
    (tmp_path / "mixed.csv").write_text("model,batch,seconds_per_step,hardware\nx.py,3,1,t4\nx.py,3,1,l4\n")
    (tmp_path / "plain.csv").write_text("model,batch,seconds_per_step\nx.py,3,1\n")
    (tmp_path / "odd.csv").write_text("model,batch,seconds_per_step,hardware,precision\nx.py,3,1,t4,amp\n")
    done = call("joulecast", "fit", file, "--name", "mine")
    assert done.returncode == code
    assert problem in done.stderr


def test_hardware_that_the_table_contradicts(call: Run, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("model,batch,seconds_per_step,hardware\nx.py,3,1,Tesla T4\n")
    done = call("joulecast", "fit", "runs.csv", "--name", "mine", "--hardware", "l4")
    assert done.returncode == 2
    assert "--hardware l4 and the Tesla T4 of runs.csv contradict: leave out --hardware" in done.stderr
    same = call("joulecast", "fit", "runs.csv", "--name", "mine", "--hardware", "t4")
    assert "contradict" not in same.stderr
