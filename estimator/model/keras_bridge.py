"""Traces Keras models: in a process of their own, on Keras' torch backend.

Keras chooses its backend once per process, and its torch backend makes every layer an `nn.Module`: the
same `trace` reads both frameworks, and the caller's own Keras and TensorFlow stay as they are. The
process (keras_worker.py) reads one JSON request from stdin and answers with one JSON object.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from ..base.errors import JoulecastError, ModelError
from ..sandbox.opened_files import note_sources, recorded_folders
from ..sandbox.source import SOURCE_SUFFIXES, is_source, parsed_source
from ..trace.workload import Workload

INSTALL_KERAS = "pip install 'joulecast[keras]'"
_KERAS_ROOTS = frozenset({"keras", "tensorflow"})
# For Python, Keras and TensorFlow to start, on a busy machine too, before the model's own time counts.
_START_S = 240.0


@dataclass(frozen=True, slots=True)
class KerasInput:
    """One input of a sample: its shape without the batch dimension, channels last for images."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str = ""


@dataclass(frozen=True, slots=True)
class KerasRequest:
    """What the worker is to trace.

    `target` is FILE.py, FILE.py:name or package.module:callable. Inputs come from `inputs`; else from
    the file's `example_inputs(batch_size)`; else from what the model declares; else from `fallback`
    (a dataset's shape). `num_classes` goes to a builder that takes it. The options are those of `trace`;
    `name` is by default the model's own.
    """

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[KerasInput] = ()
    fallback: KerasInput | None = None
    batch_size: int = 128
    num_classes: int | None = None
    train: bool = True
    optimizer: str = "sgd"
    precision: str | None = None
    accumulate: int = 1
    name: str | None = None
    layers: bool = True


def is_keras_target(target: str) -> bool:
    """Whether `target` (FILE.py[:name] or package.module:callable) is a Keras model, without importing it."""
    location, _ = split_target(target)
    if is_source(location):
        return is_keras_source(location)
    if location.partition(".")[0] in _KERAS_ROOTS:
        return True
    try:
        spec = importlib.util.find_spec(location)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and is_keras_source(spec.origin)


def split_target(target: str) -> tuple[str, str]:
    """FILE.py or module, and the name in it ("" for none)."""
    location, colon, name = target.rpartition(":")
    return (location, name) if colon and not target.endswith(SOURCE_SUFFIXES) else (target, "")


def is_keras_source(path: str | Path) -> bool:
    """Whether a file imports Keras or TensorFlow but not torch; False for a file that is not Python."""
    tree = parsed_source(Path(path))
    if tree is None:
        return False
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    return bool(roots & _KERAS_ROOTS) and "torch" not in roots


def trace_keras(request: KerasRequest, *, time_limit_s: float = 60.0) -> Workload:
    """The workload of a Keras model, with `framework="keras"` and Keras' layer names.

    Raises
    ------
    ModelError
        The model's own code failed or outlived `time_limit_s`.
    JoulecastError
        An option that cannot be used, or no Keras 3 to trace with.
    """
    if importlib.util.find_spec("keras") is None:
        raise JoulecastError(f"{request.target} needs Keras 3, which is not installed; {INSTALL_KERAS}")
    answer = _ask_worker(request, time_limit_s)
    if "error" in answer:
        if answer["kind"] == "ModelError":
            raise ModelError(answer["error"], answer["frames"])
        raise JoulecastError(answer["error"])
    note_sources(answer["sources"])
    return Workload.from_json(answer["workload"])


def _ask_worker(request: KerasRequest, time_limit_s: float) -> dict[str, Any]:
    own = {"time_limit_s": time_limit_s, "record_under": recorded_folders()}
    message = json.dumps({**asdict(request), **own}).encode()
    limit_s = _START_S + time_limit_s
    with tempfile.TemporaryFile() as complaints:  # no pipe: processes that the model leaves behind hold it open
        worker = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.keras_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_worker_environment(),
            start_new_session=True,  # so that they end with it
        )
        try:
            answer, _ = worker.communicate(message, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise ModelError(
                f"{request.target} held its process for {limit_s:g} s and was ended; raise `time_limit_s`"
            ) from None
        finally:  # Ctrl-C reaches this process alone
            _end(worker)
        if not answer:
            raise ModelError(_last_words(request.target, worker.returncode, complaints))
    document: dict[str, Any] = json.loads(answer)
    return document


def _last_words(target: str, status: int, complaints: IO[bytes]) -> str:
    complaints.seek(0)
    last = complaints.read().decode(errors="replace").strip().rpartition("\n")[2] or "no message"
    return (
        f"{target} ended its process with status {status} ({last}); "
        'put what is not the model under `if __name__ == "__main__":`'
    )


def _worker_environment() -> dict[str, str]:
    """Keras on torch on the CPU: nothing is computed, and no GPU is to be taken from a running job."""
    own = {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Ends the worker and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
    elif worker.poll() is None:
        worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            pipe.close()
