"""Reads models in parallel, so that one crash does not affect the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

from ..estimator.base.errors import JoulecastError
from ..estimator.model.reader import Reading, ReadRequest, free_reader

_USED_BY_MANY = "torch._dynamo"  # for models with layer norms or batch norms


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer: one line, the kind of error, and the frames of the user's own code."""

    message: str
    kind: str = "ModelError"
    frames: str = ""

    @classmethod
    def of(cls, error: JoulecastError) -> Failure:
        return cls(" ".join(str(error).split()), type(error).__name__, getattr(error, "frames", ""))


def read_all(requests: Sequence[ReadRequest], jobs: int | None = None) -> list[Reading | Failure]:
    """Their results, in order, read in at most `jobs` processes (None: one per core)."""
    cores = os.cpu_count() or 1
    jobs = min(jobs or cores, len(requests))
    libraries = (_USED_BY_MANY,) if len(requests) > 2 * jobs else ()

    def read(request: ReadRequest) -> Reading | Failure:
        try:
            with free_reader() as reader:
                reader.expect(*libraries)
                return reader.read(request, quiet=True, threads=max(1, cores // jobs))
        except JoulecastError as error:
            return Failure.of(error)

    if not requests:
        return []
    with ThreadPool(jobs) as pool:
        return pool.map(read, requests, chunksize=1)
