"""Tracing Keras models: in a process of their own, on Keras' torch backend.

Keras takes its backend once per process, and its torch backend makes every layer an `nn.Module`: the
same `trace` serves both frameworks, and the caller's own Keras and TensorFlow stay as they are. The
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import JoulecastError, ModelError
from .workload import Workload

INSTALL_KERAS = "pip install 'joulecast[keras]'"
_KERAS_ROOTS = frozenset({"keras", "tensorflow"})


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
    (a dataset's shape). The options are those of `trace`; `name` is by default the model's own.
    """

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[KerasInput] = ()
    fallback: KerasInput | None = None
    batch_size: int = 128
    train: bool = True
    optimizer: str = "sgd"
    precision: str | None = None
    accumulate: int = 1
    name: str | None = None
    layers: bool = True


def is_keras_target(target: str) -> bool:
    """Whether `target` (FILE.py[:name] or package.module:callable) is a Keras model, without importing it."""
    location, _, _ = target.partition(":") if not _is_file(target) else (target, "", "")
    if _is_file(location):
        return is_keras_source(location)
    if location.partition(".")[0] in _KERAS_ROOTS:
        return True
    try:
        spec = importlib.util.find_spec(location)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and is_keras_source(spec.origin)


def is_keras_source(path: str | Path) -> bool:
    """Whether a Python file imports Keras or TensorFlow and no torch; False for what is not Python."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    return bool(roots & _KERAS_ROOTS) and "torch" not in roots


def trace_keras(request: KerasRequest, *, time_limit_s: float = 120.0) -> Workload:
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
    return Workload.from_json(answer["workload"])


def _ask_worker(request: KerasRequest, time_limit_s: float) -> dict[str, Any]:
    worker = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.keras_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_worker_environment(),
        start_new_session=True,  # so that processes which the model starts end with it
    )
    try:
        answer, complaints = worker.communicate(json.dumps(asdict(request)).encode(), timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{request.target} still ran after {time_limit_s:g} s, the time limit; "
            "raise it with --time-limit SECONDS"
        ) from None
    finally:
        _end(worker)
    if not answer:
        last = complaints.decode(errors="replace").strip().rpartition("\n")[2] or "it said nothing"
        raise ModelError(
            f"{request.target} ended its process with status {worker.returncode} ({last}); "
            'put what is not the model under `if __name__ == "__main__":`'
        )
    document: dict[str, Any] = json.loads(answer)
    return document


def _worker_environment() -> dict[str, str]:
    """Keras on torch on the CPU: nothing is computed, and no GPU is to be taken from a running job."""
    own = {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _end(worker: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(worker.pid, signal.SIGKILL)
        elif worker.poll() is None:
            worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout, worker.stderr):
        if pipe is not None:
            pipe.close()


def _is_file(location: str) -> bool:
    return location.endswith(".py") or Path(location).is_file()
