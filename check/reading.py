"""Reads models in parallel, so that one crash does not affect the others."""

from __future__ import annotations

import os
import queue
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from types import TracebackType
from typing import Self

from ..estimator.base.errors import JoulecastError
from ..estimator.model.reader import Reader, Reading, ReadRequest, shared_reader

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


class Readers:
    """At most `jobs` processes (None: one per core), each of which reads one model after the other."""

    def __init__(self, jobs: int | None = None) -> None:
        self._cores = os.cpu_count() or 1
        self._jobs = jobs or self._cores
        self._free: queue.SimpleQueue[Reader] = queue.SimpleQueue()
        self._own: list[Reader] = []  # beside this process's, which outlives them

    def __enter__(self) -> Self:
        self._free.put(shared_reader())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if error is not None:  # Ctrl-C, while a thread waits for it
            shared_reader().close()
        for reader in self._own:
            reader.close()

    def read(self, requests: Sequence[ReadRequest]) -> list[Reading | Failure]:
        """Their results, in order."""
        while len(self._own) + 1 < min(self._jobs, len(requests)):
            self._own.append(Reader())
            self._free.put(self._own[-1])
        if len(requests) > 2 * self._jobs:
            for reader in (shared_reader(), *self._own):
                reader.expect(_USED_BY_MANY)
        with ThreadPool(len(self._own) + 1) as pool:
            return pool.map(self._read, requests, chunksize=1)

    def _read(self, request: ReadRequest) -> Reading | Failure:
        reader = self._free.get()
        try:
            return reader.read(request, quiet=True, threads=max(1, self._cores // (len(self._own) + 1)))
        except JoulecastError as error:
            return Failure.of(error)
        finally:
            self._free.put(reader)
