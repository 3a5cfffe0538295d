"""Models that crash, each in its own process: the others still get their figures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from joulecast.check.tracing import Failure, Task, Traced, Tracers, trace_model
from joulecast.estimator.model.inputs import InputSpec
from joulecast.estimator.model.read_model import TraceOptions

OPTIONS = TraceOptions(specs=(InputSpec((16,)),), batch_size=4)
GOOD = "from torch import nn\nmodel = nn.Linear(16, {size})\n"
# In code that interruptions do not end, the time limit ends the process.
HOLDS_ON = """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
"""


def task(folder: Path, name: str, source: str, time_limit_s: float = 60.0) -> Task:
    (folder / f"{name}.py").write_text(source)
    return Task(f"{name}.py", replace(OPTIONS, time_limit_s=time_limit_s), folder, folder)


@pytest.mark.usefixtures("environment")
def test_a_model_that_ends_its_process_takes_no_other_along(tmp_path: Path) -> None:
    tasks = [
        task(tmp_path, "leaves", "import os\nos._exit(7)\n"),
        task(tmp_path, "holds_on", HOLDS_ON, time_limit_s=1.0),
        task(tmp_path, "first", GOOD.format(size=2)),
        task(tmp_path, "second", GOOD.format(size=3)),
    ]
    with Tracers(2) as tracers:
        leaves, holds_on, first, second = tracers.trace(tasks)
    for found, size in ((first, 2), (second, 3)):
        assert isinstance(found, Traced), found
        assert found.work.parameters == 17 * size
        assert [Path(path).suffix for path in found.sources] == [".py"]
    assert isinstance(leaves, Failure)
    assert "leaves.py ended its process: EXIT(7)" in leaves.message
    assert isinstance(holds_on, Failure)
    assert "holds_on.py still ran after 1 s" in holds_on.message
    assert "\n" not in leaves.message + holds_on.message


@pytest.mark.usefixtures("environment")
def test_a_process_that_hangs_beyond_all_patience_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.check import tracing

    monkeypatch.setattr(tracing, "_START_S", 3.0)
    monkeypatch.setattr(tracing, "_ATTEMPTS", 0)
    # A process that is stopped stands for code that holds the interpreter: no alarm gets through to it.
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n"
    with Tracers(1) as tracers:
        (found,) = tracers.trace([task(tmp_path, "hangs", source)])
    assert isinstance(found, Failure)
    assert found.message == "hangs.py blocked its process for 3 s and was ended; raise `time_limit_s`"


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("raise ValueError('my own words')\n", "ModelError", "ValueError: my own words"),
        ("import sys\nsys.exit(5)\n", "ModelError", "calls sys.exit(5)"),
        ("from torch import nn\nmodel = nn.Linear(17, 2)\n", "ModelError", "RuntimeError"),
        ("x = 1\n", "JoulecastError", "no model"),
        ("while True:\n    pass\n", "ModelError", "still ran after 1 s"),
    ],
)
def test_what_fails_is_one_line(tmp_path: Path, source: str, kind: str, words: str) -> None:
    here = os.getcwd()
    found = trace_model(task(tmp_path, "bad", source, time_limit_s=1.0 if "while" in source else 60.0))
    assert isinstance(found, Failure)
    assert found.kind == kind
    assert words in found.message
    assert "\n" not in found.message
    assert os.getcwd() == here


def test_a_mistake_of_joulecasts_own_is_a_failure_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.check import tracing

    monkeypatch.setattr(tracing, "read_model", lambda spec, options: {}["gone"])
    found = trace_model(task(tmp_path, "good", GOOD.format(size=2)))
    assert isinstance(found, Failure)
    assert found.kind == "InternalError"
    assert found.message == "joulecast failed: KeyError: 'gone'"
    assert "test_tracing" in found.frames
