"""What a process of the engine does: it reads one model's step and prices every candidate of the job on it.

A job and its results are plain values, so that a worker with another joulecast can read them and refuse.
"""

from __future__ import annotations

import os
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..estimator.answer.answer import Answer
from ..estimator.answer.estimate import find_profile, priced
from ..estimator.answer.parallel_config import config_notes, with_config
from ..estimator.answer.request import Request
from ..estimator.answer.where import Where, read_where
from ..estimator.base.errors import JoulecastError
from ..estimator.base.recent import Recent
from ..estimator.cost.profile import Profile
from ..estimator.model.reader import ReadRequest, free_reader
from ..estimator.trace.workload import Workload
from .candidates import candidate

JOB_CANDIDATES = 100  # of one model: a sweep that is stopped loses at most one job of each process
_WORKLOADS = 32  # that a process keeps; one takes about a megabyte
_OTHERS = 64  # profiles, and places, that a process keeps
_WINDOW = 4096  # candidates among which those of one model are found

Job = Mapping[str, Any]
Result = dict[str, Any]


class WorkerVersionError(JoulecastError):
    """A worker that runs another joulecast."""


def make_jobs(
    given: Iterable[tuple[int, Mapping[str, Any]]], base: Request, columns: tuple[str, ...]
) -> Iterator[Job | Result]:
    """Jobs for the numbered candidates, and a result for each candidate that no request can be built for."""
    window: OrderedDict[object, list[tuple[int, Mapping[str, Any]]]] = OrderedDict()
    size = 0
    for index, values in given:
        try:
            key = with_config(candidate(index, values, columns).request(base)).trace_key
        except JoulecastError as error:
            yield failed(index, values, error)
            continue
        group = window.setdefault(key, [])
        group.append((index, values))
        size += 1
        if len(group) == JOB_CANDIDATES:
            yield _job(window.pop(key), base, columns)
            size -= JOB_CANDIDATES
        if size == _WINDOW:
            _, oldest = window.popitem(last=False)
            yield _job(oldest, base, columns)
            size -= len(oldest)
    for group in window.values():
        yield _job(group, base, columns)


def _job(group: list[tuple[int, Mapping[str, Any]]], base: Request, columns: tuple[str, ...]) -> Job:
    return {"version": __version__, "base": base, "columns": columns, "folder": os.getcwd(), "candidates": tuple(group)}


def failed(index: int, values: Mapping[str, Any], error: Exception) -> Result:
    return {"index": index, "asked": dict(values), "error": " ".join(str(error).split())}


# -- in the worker -------------------------------------------------------------------------------


def run_job(job: Job) -> list[Result]:
    """A result for each candidate, in order. Raises WorkerVersionError where the job is another version's."""
    if job["version"] != __version__:
        place = f"{socket.gethostname()}, process {os.getpid()}"
        raise WorkerVersionError(
            f"the worker on {place} has joulecast {__version__}, this sweep {job['version']}: install the same on both"
        )
    return [_result(index, values, job) for index, values in job["candidates"]]


def _result(index: int, values: Mapping[str, Any], job: Job) -> Result:
    try:
        asked = placed(candidate(index, values, job["columns"]).request(job["base"]), job["folder"])
        request = with_config(asked)
        answer = priced(request, _KEPT.workload(request), _KEPT.profile(request), where=_KEPT.where(request))
        answer = answer.noting(config_notes(asked))
    except JoulecastError as error:
        return failed(index, values, error)
    except Exception as error:  # a bug of joulecast: the other candidates are still priced
        return failed(index, values, JoulecastError(f"joulecast failed: {type(error).__name__}: {error}"))
    columns = row(answer)
    columns["model"] = columns["model"].removeprefix(f"{job['folder']}{os.sep}")
    return {"index": index, "asked": dict(values), "row": columns}


def placed(request: Request, folder: str) -> Request:
    """The request with relative files as a process in `folder` finds them: a worker may run in another folder."""
    model = os.path.join(folder, str(request.model))
    if isinstance(request.model, str | Path) and os.path.exists(re.sub(r"\.(py|ipynb):.*", r".\1", model)):
        request = replace(request, model=model)
    if isinstance(request.hardware, str | Path) and str(request.hardware).endswith(".json"):
        request = replace(request, hardware=os.path.join(folder, request.hardware))
    if request.parallel_config is not None:
        request = replace(request, parallel_config=os.path.join(folder, request.parallel_config))
    return request


def row(answer: Answer) -> dict[str, Any]:
    """The columns of `estimate --csv`, with the step's FLOPs and whether a budget of the candidate is exceeded."""
    columns = answer.rows()[0]
    columns["step_flops"] = answer.workload.flops
    if answer.verdicts:
        columns["over_budget"] = answer.exceeded
    return columns


class Kept:
    """What a process looked up already, by the part of a request that asks for it; failures too."""

    def __init__(self, workloads: int, read: Callable[[Request], Workload]) -> None:
        self._read = read
        self._workloads: Recent[Workload | JoulecastError] = Recent(workloads)
        self._profiles: Recent[Profile] = Recent(_OTHERS)
        self._places: Recent[Where] = Recent(_OTHERS)

    def workload(self, request: Request) -> Workload:
        found = self._workloads.get(request.trace_key)
        if found is None:
            try:
                found = self._read(request)
            except JoulecastError as error:
                found = error.with_traceback(None)
            self._workloads.put(request.trace_key, found)
        if isinstance(found, JoulecastError):
            raise found
        return found

    def profile(self, request: Request) -> Profile:
        if isinstance(request.hardware, Profile):
            return request.hardware
        key = request.hardware_key
        return self._profiles.get(key) or self._profiles.put(key, find_profile(request))

    def where(self, request: Request) -> Where:
        key = request.place_key
        return self._places.get(key) or self._places.put(key, read_where(request))


def _read(request: Request) -> Workload:
    """One step of the model, on one core; what its code prints is dropped."""
    with free_reader() as reader:
        return reader.read(ReadRequest(str(request.model), request.trace_options), quiet=True, threads=1).work


_KEPT = Kept(_WORKLOADS, _read)
