"""The process that reads models (reader.py): a request in JSON, answered with a workload or an error."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any

from ..base.errors import InternalError, JoulecastError
from ..sandbox.collection import without_collection
from ..sandbox.opened_files import Recording
from ..sandbox.origin import check_origin, import_from
from ..sandbox.process import serve
from ..sandbox.user_code import is_users, one_line
from .read_model import read_model
from .reader import ReadRequest

# Imported once, before the process answers in forks: they take seconds.
_ALWAYS = (
    *("numpy.random", "torch.fx.experimental.symbolic_shapes", "torch._subclasses.schema_check_mode"),
    *("joulecast.estimator.trace.training_step", "joulecast.estimator.sandbox.redirect"),
    *("joulecast.estimator.model.inputs", "joulecast.estimator.model.load", "joulecast.estimator.model.hub"),
)
# The same for these, once a model has used them.
_IF_USED = (
    *("torch._dynamo", "fvcore.nn", "timm", "torchvision"),
    *("transformers", "transformers.modeling_utils", "transformers.generation"),
    # What Keras imports. Keras itself is left out: it takes its backend from the environment of the model.
    *("matplotlib.pyplot", "pandas", "scipy.stats", "sklearn"),
)


def main() -> None:
    _import(_ALWAYS)
    _warm_up()
    serve(answer, prepare)


def prepare(document: dict[str, Any]) -> None:
    """Imports the installed libraries that earlier models used. Nothing of the user's own runs."""
    _import(document["libraries"])


def _import(names: Iterable[str]) -> None:
    with without_collection():
        for name in names:
            with contextlib.suppress(Exception):  # reading the model says what is missing
                importlib.import_module(name)


def _warm_up() -> None:
    """Fills the caches of PyTorch's dispatcher. Without a backward pass: its threads would not survive a fork."""
    import torch

    from ..trace.trace import trace

    trace(torch.nn.Conv2d(1, 1, 1, device="meta"), torch.empty(1, 1, 1, 1, device="meta"), train=False, layers=False)


def answer(document: dict[str, Any]) -> dict[str, Any]:
    """Reads one model in this process, which is not to be used for another one afterwards."""
    start = time.perf_counter()
    try:
        request = ReadRequest.from_json(document)
        if request.folder:
            os.chdir(request.folder)
        if request.top and request.checkout:
            import_from(request.top, request.checkout)
        read = Recording(request.watched) if request.top else None
        work = read_model(request.model, request.options)
        sources = read.files() if read else ()
        if request.checkout:
            check_origin(request.model, sources, request.checkout)
    except JoulecastError as error:
        return _error(str(error), type(error).__name__, getattr(error, "frames", ""))
    except KeyboardInterrupt:  # the user's code raises it
        return _error("interrupted", KeyboardInterrupt.__name__)
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return _error(
            f"joulecast failed: {type(error).__name__}: {one_line(str(error))}", InternalError.__name__, frames
        )
    used = [name for name in _IF_USED if name in sys.modules and not is_users(sys.modules[name].__file__ or "")]
    return {"workload": work.to_json(), "sources": sources, "libraries": used, "seconds": time.perf_counter() - start}


def _error(message: str, kind: str, frames: str = "") -> dict[str, Any]:
    return {"error": message, "kind": kind, "frames": frames}
