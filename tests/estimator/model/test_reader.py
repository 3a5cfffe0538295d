"""Models read in a process of their own: whatever their code does, the caller gets an answer or one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from joulecast.estimator.base.errors import InternalError, JoulecastError, ModelError
from joulecast.estimator.model.adapt import Lora
from joulecast.estimator.model.inputs import InputSpec
from joulecast.estimator.model.presets import dataset_preset
from joulecast.estimator.model.read_model import TraceOptions, read_model
from joulecast.estimator.model.reader import Reader, ReadRequest, free_reader
from joulecast.estimator.model.worker import answer

OPTIONS = TraceOptions(specs=(InputSpec((16,)),), batch_size=4)
MODEL = "from torch import nn\nmodel = nn.Linear(16, 2)\n"
LIMITS_S = (0.5, 4.0, 30.0)  # a busy machine may not get to the endless code within the first of them
ENDED = 'put what is not the model under `if __name__ == "__main__":`'


def read(folder: Path, source: str, **options: object):
    (folder / "mynet.py").write_text(source)
    request = ReadRequest("mynet.py", TraceOptions(**{"specs": OPTIONS.specs, "batch_size": 4, **options}), folder)
    with free_reader() as reader:
        return reader.read(request).work


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# -- code that takes too long ----------------------------------------------------------------------

ENDLESS = {
    "loop": ("x = 1\nwhile True: pass\n", 2),
    "sleep": ("import time\ntime.sleep(1000)\n", 2),
    "constructor": ("from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        while 1: pass\n", 4),
    "catches everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass\n", 3),
    "C code with the lock": ("x = 1\nsum(range(10**13))\n", 2),
    "regular expression": ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')\n", 2),
    "handles signals": (
        "import signal\n"
        "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "while True: pass\n",
        4,
    ),
}


def ended_in(place: str, folder: Path, source: str, doing: str) -> ModelError:
    """The error of code that has no end, which the time limit finds at `place`."""
    for limit_s in LIMITS_S:
        with pytest.raises(ModelError) as caught:
            read(folder, source, time_limit_s=limit_s)
        ending = f"{doing} still ran after {limit_s:g} s, the time limit; raise it with `time_limit_s`"
        if str(caught.value) == f"{place}: {ending}":
            break
    else:
        pytest.fail(str(caught.value))
    return caught.value


@pytest.mark.parametrize(("source", "line"), ENDLESS.values(), ids=ENDLESS)
def test_code_that_does_not_end_is_ended_at_the_time_limit(tmp_path: Path, source: str, line: int) -> None:
    place = "__init__" if "__init__" in source else "<module>"
    error = ended_in(f"mynet.py:{line} in {place}", tmp_path, source, "loading mynet.py")
    assert f"line {line}, in {place}" in error.frames


def test_an_endless_forward_is_ended_too(tmp_path: Path) -> None:
    source = (
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(16, 2)\n"
        "    def forward(self, x):\n"
        "        while True: x = x + 1\n"
    )
    for _ in range(5):  # a stack that changes while it is written is cut, in one of three cases
        ended_in("mynet.py:5 in forward", tmp_path, source, "tracing mynet")


def test_a_process_that_holds_on_beyond_all_patience_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.estimator.model import reader

    with free_reader() as reading:
        reading.start()
    monkeypatch.setattr(reader, "_START_S", 1.0)
    monkeypatch.setattr(reader, "_LIMITS", 0)
    with pytest.raises(ModelError) as caught:
        read(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n")
    assert str(caught.value) == "mynet.py blocked its process for 1 s and was ended; raise `time_limit_s`"


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e7])
def test_time_limits_that_cannot_be_used(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(JoulecastError, match=r"^time limit is .*give `time_limit_s`"):
        read(tmp_path, MODEL, time_limit_s=seconds)


def test_without_a_time_limit(tmp_path: Path) -> None:
    assert read(tmp_path, MODEL, time_limit_s=float("inf")).parameters == 34


# -- code that ends or changes its process -----------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os\nos._exit(7)\n", f"mynet.py ended its process with status 7; {ENDED}"),
        ("import os\nos._exit(0)\n", f"mynet.py ended its process with status 0; {ENDED}"),
        (
            "import ctypes\nctypes.string_at(0)\n",
            f"mynet.py:2 in <module>: mynet.py ended its process with signal SIGSEGV; {ENDED}",
        ),
        (
            "import os\nos.abort()\n",
            f"mynet.py:2 in <module>: mynet.py ended its process with signal SIGABRT; {ENDED}",
        ),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
            f"mynet.py ended its process with signal SIGKILL; {ENDED}",
        ),
        (
            "import sys\nsys.exit(0)\n",
            f"mynet.py:2 in <module>: calls sys.exit(0); {ENDED}",
        ),
        ("def f(:\n", "mynet.py:1: SyntaxError: invalid syntax; fix the syntax error"),
    ],
    ids=["exit", "exit 0", "segfault", "abort", "killed", "sys.exit", "syntax"],
)
def test_code_that_ends_its_process_is_one_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(tmp_path, source)
    assert str(caught.value) == message
    assert read(tmp_path, MODEL).parameters == 34  # the next one is read as ever


CHANGES = {
    "prints": "import os\nprint('{}')\nos.write(1, b'[1, 2]')\n",
    "closes stdout": "import os, sys\nsys.stdout.close()\nos.close(1)\nos.close(0)\n",
    "forks": "import os\nos.fork()\n",
    "leaves a process": "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])\n",
    "folder, environment and path": (
        "import os, sys\nos.chdir('/')\nos.environ.clear()\nsys.path.clear()\nsys.argv.clear()\n"
    ),
    "signal handlers": "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nsignal.alarm(1000)\n",
    "dtype and device": "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.set_default_device('cpu')\n",
    "leaves at the end": "import atexit, os\natexit.register(os._exit, 3)\n",
}


@pytest.mark.parametrize("source", CHANGES.values(), ids=CHANGES)
def test_code_that_changes_its_process(tmp_path: Path, source: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = os.getcwd(), dict(os.environ), list(sys.path), list(sys.argv), signal.getsignal(signal.SIGCHLD)
    children = psutil.Process().children()
    for _ in range(2):
        assert read(tmp_path, source + MODEL).parameters == 34
    assert (os.getcwd(), dict(os.environ), sys.path, sys.argv, signal.getsignal(signal.SIGCHLD)) == before
    assert "mynet" not in sys.modules
    assert capfd.readouterr().out == ""
    assert {child.pid for child in psutil.Process().children()} - {child.pid for child in children} <= ({reader_pid()})
    assert not psutil.Process(reader_pid()).children(), "something is left of it"


def reader_pid() -> int:
    with free_reader() as reader:
        process = reader._sandbox._process
    assert process is not None
    return process.pid


def test_the_model_sees_the_callers_environment_folder_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(tmp_path, MODEL)  # the process runs already
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "some_sizes.py").write_text("WIDTH = 5\n")
    (tmp_path / "net.py").write_text(
        "import os\nfrom torch import nn\nfrom some_sizes import WIDTH\n"
        "model = nn.Linear(WIDTH, int(os.environ['SOME_WIDTH']))\n"
    )
    monkeypatch.setenv("SOME_WIDTH", "7")
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    options = TraceOptions(specs=(InputSpec((5,)),), batch_size=4)
    with free_reader() as reader:
        assert reader.read(ReadRequest("net.py", options)).work.parameters == 5 * 7 + 7


# -- the process -----------------------------------------------------------------------------------


def test_a_reader_ends_with_all_that_it_started(tmp_path: Path) -> None:
    reader = Reader()
    (tmp_path / "net.py").write_text(MODEL)
    assert reader.read(ReadRequest("net.py", OPTIONS, tmp_path)).work.parameters == 34
    pid = reader._sandbox._process.pid
    reader.close()
    assert not psutil.pid_exists(pid)  # and no zombie
    reader.close()
    assert reader.read(ReadRequest("net.py", OPTIONS, tmp_path)).work.parameters == 34  # it starts again
    reader.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_the_caller_ends_the_code_ends(tmp_path: Path, number: int) -> None:
    (tmp_path / "net.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(tmp_path / 'pids')!r}).write_text(f'{{os.getpid()}} "
        "{os.getppid()}')\ntime.sleep(600)\n"
    )
    code = f"import joulecast as jc; jc.estimate({str(tmp_path / 'net.py')!r}, '16', steps=1, hardware='t4')"
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not ((tmp_path / "pids").exists() and (tmp_path / "pids").read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)
    caller.send_signal(number)
    _, said = caller.communicate(timeout=60)
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    until = time.monotonic() + 30
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="requests are answered in forks on Linux")
def test_a_process_that_is_told_to_end_while_it_reads_ends(tmp_path: Path) -> None:
    """Its caller waits for it: Ctrl-C took five seconds when the process went on to the next request."""
    (tmp_path / "net.py").write_text("open('started', 'w').close()\nimport time\ntime.sleep(600)\n")
    reader, until = Reader(), time.monotonic() + 120
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(reader.read, ReadRequest("net.py", OPTIONS, tmp_path))
        while not (tmp_path / "started").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process = reader._sandbox._process
        assert process is not None
        process.terminate()
        with pytest.raises(ModelError, match="with signal SIGTERM"):
            reading.result()
        assert process.returncode == -signal.SIGTERM


def test_where_forks_are_not_safe_each_model_has_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.estimator.sandbox import process

    monkeypatch.setattr(process, "_FORKS", False)
    reader = Reader()
    for source, words in ((MODEL, ""), ("import os\nos._exit(3)\n", "status 3"), ("while 1: pass\n", "net.py:1 in")):
        (tmp_path / "net.py").write_text(source)
        limit_s = 0.5 if "while" in source else 60.0
        request = ReadRequest("net.py", TraceOptions(specs=OPTIONS.specs, time_limit_s=limit_s), tmp_path)
        if words:
            with pytest.raises(ModelError, match=words):
                reader.read(request)
        else:
            assert reader.read(request).work.parameters == 34
        assert reader._sandbox._process is None


def test_the_caller_imports_no_framework(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    code = (
        "import sys, joulecast as jc\n"
        f"jc.estimate({str(tmp_path / 'net.py')!r}, '16', steps=1, hardware='t4')\n"
        "print({'torch', 'fvcore', 'pandas', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -- requests and answers ----------------------------------------------------------------------------


def test_a_request_as_json_is_the_same_request() -> None:
    options = TraceOptions(
        args={"width": "3"},
        specs=(InputSpec((3, 8), "int64", "ids"),),
        preset=dataset_preset("cifar10"),
        lora=Lora(4, ("q", "v")),
        freeze=("encoder.*",),
        precision="bfloat16",
    )
    for request in (
        ReadRequest("net.py:Net", options, Path("/a"), Path("/b"), Path("/c")),
        ReadRequest("hf:gpt2", TraceOptions()),
    ):
        assert ReadRequest.from_json(request.to_json()) == request


def test_the_process_reads_what_this_one_reads(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    here = read_model(str(tmp_path / "net.py"), OPTIONS)
    with free_reader() as reader:
        assert reader.read(ReadRequest(str(tmp_path / "net.py"), OPTIONS)).work == here


def test_a_mistake_of_joulecasts_own_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.estimator.model import worker

    monkeypatch.setattr(worker, "read_model", lambda spec, options: {}["gone"])
    found = answer(ReadRequest("net.py", OPTIONS).to_json())
    assert found["kind"] == InternalError.__name__
    assert found["error"] == "joulecast failed: KeyError: 'gone'"
    assert "test_reader" in found["frames"]
