"""Odd command lines end with one line and an exit status, without a traceback, a hang or large memory.

It runs 100 command lines; JOULECAST_ODD_LINES=1000 runs more.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from joulecast.cli import main as commands

COUNT = int(os.environ.get("JOULECAST_ODD_LINES", "100"))
MAX_S, MAX_BYTES = 60.0, 2 * 2**30
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))
    def forward(self, x):
        return self.body(x)
"""

ODD = st.sampled_from(
    [
        *("0", "-1", "1", "2", "7.5", "1e3", "1e400", "-1e400", "nan", "inf", "-0", "0x10", "1_000", "½"),
        *(str(2**31), str(2**63 - 1), str(2**63), str(2**64), str(10**30), "9" * 400, "9" * 5000, "-" + "9" * 30),
        *("", " ", "\t", "16,16", "16x", "x", ":", "a:b:c:d", "ids:int64:16", "int64:16", "16," * 200 + "16"),
        *("float33:16", "16,0", "16,-1", "16:", f"{2**40}", f"{2**62},{2**62}"),
        *("/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/mem", "/", ".", "..", "~", "~nobody-here", "a" * 300),
        *("x" * 5000, "net.py", "net.py:Net", "net.py:", ":Net", "net.py:Net:Net", "missing.json", "hf:", "hf:a/b/c"),
        *("\ud800", "é", "日本", "🔥", "a\nb", "%s", "{0}", "--", "-h", "$(x)", "*", "\\", "'", '"'),
        *("2kWh", "-2kWh", "1e999kWh", "2 parsecs", "5kgCO2e", "3USD", "10h", "kWh", "nan kWh", "0kWh"),
        *("FR", "US-CA", "fr", "Atlantis", "rtx-3090", "a100", "sgd", "SGD", "lion", "adamm", "bf16", "fp128"),
        *("torch.nn:MSELoss", "torch.nn:", "net.py:Net.forward", "no.such:loss", "r=4", "r=-1", "r=4,targets=body.0"),
        *("body.*", "[", "full", "selective", "eager", "compiled"),
        *("width=4", "width=", "=4", "width", "width=" + "9" * 400, "width=[" * 300, "depth=3"),
    ]
)
OPTIONS = (
    *("--input", "--model-arg", "--dataset", "--sequence-length", "--batch-size", "--optimizer", "--precision"),
    *("--accumulate", "--epochs", "--steps", "--samples", "--tokens", "--val-samples", "--devices", "--hardware"),
    *("--pue", "--region", "--regions", "--carbon-intensity", "--price", "--currency", "--budget", "--budget-at"),
    *("--loss", "--lora", "--freeze", "--software", "--cores", "--activation-checkpointing"),
    *("--format", "--accuracy", "--time-limit", "--model", "--cluster", "--parallel", "--zero"),
)
FLAGS = st.sampled_from(
    [
        "--inference",
        "--layers",
        "--json",
        "--csv",
        "--traceback",
        "--verbose",
        "--fsdp",
        "--ema",
        "--compile",
        "--clip-gradients",
    ]
)
PAIRS = st.tuples(st.sampled_from(OPTIONS), ODD | st.text(max_size=12))
LINES = st.tuples(st.lists(PAIRS, min_size=1, max_size=4), st.lists(FLAGS, max_size=2), st.booleans())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "net.py").write_text(NET)
    return folder


def enter(folder: Path, arguments: list[str]) -> tuple[int, str]:
    out, err, argv, before = io.StringIO(), io.StringIO(), sys.argv, os.getcwd()
    own = {"HF_HUB_OFFLINE": "1", "JOULECAST_STORE": str(folder / "store")}
    saved = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    os.chdir(folder)
    sys.argv = ["estimate", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            commands.estimate()
    finally:
        sys.argv = argv
        os.chdir(before)
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return int(end.value.code or 0), err.getvalue()


@settings(max_examples=COUNT, deadline=None, derandomize=COUNT <= 100, suppress_health_check=list(HealthCheck))
@given(LINES)
@example(([("--batch-size", str(2**64))], [], True))
@example(([("--input", str(2**64))], [], False))
@example(([("--accumulate", "9" * 30)], [], True))
@example(([("--devices", "9" * 30)], [], True))
@example(([("--time-limit", "1e300")], [], True))
@example(([("--sequence-length", "9" * 30)], [], True))
@example(([("--hardware", "/dev/zero")], [], True))
@example(([("--hardware", "x" * 5000)], [], True))
@example(([("--model", "x" * 5000)], [], True))
@example(([("--model", "a\0b")], [], True))
def test_odd_command_lines(folder: Path, line: tuple[list[tuple[str, str]], list[str], bool]) -> None:
    pairs, flags, is_complete = line
    given_options = [text for pair in pairs for text in pair] + flags
    usual = {"--model": "net.py", "--input": "16", "--steps": "3", "--hardware": "rtx-3090", "--time-limit": "20"}
    rest = [text for name, value in usual.items() if name not in given_options for text in (name, value)]
    # Of the processor: the wall clock of a machine that does other work says nothing.
    started, kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, errors = enter(folder, [*given_options, *(rest if is_complete else rest[:4])])
    assert status in (0, 1, 2, 3), errors
    assert "Traceback" not in errors
    if status in (1, 2):
        assert "estimate: " in errors
        assert "--traceback" in flags or len(errors.strip().splitlines()) <= 3, errors
        assert len(errors) < 4000
    assert time.process_time() - started < MAX_S
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kib) < MAX_BYTES
