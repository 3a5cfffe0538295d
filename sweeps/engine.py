"""Runs jobs in other processes: of this machine or of a Dask cluster, through joblib, or of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from ..estimator.base.errors import JoulecastError
from .jobs import Job, Result, failed, run_job

ENGINES = ("local", "dask", "ray")
_EXIT_CODES = re.compile(r"exit codes of the workers are \{(.*)\}")  # as loky writes them
_PATIENCE_S = 40  # for a cluster that has just been started
_AHEAD = 2  # jobs that wait for each process


class _ProcessDied(Exception):  # noqa: N818 - the message is the reason
    """A process ended while it ran a job."""


class Engine(ABC):
    """Processes that run jobs; use it as a context manager. `make_engine` makes one."""

    def __enter__(self) -> Engine:
        self._stack = contextlib.ExitStack()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @abstractmethod
    def _results(self, jobs: Iterator[Job]) -> Iterator[tuple[int, list[Result]]]:
        """The key of each job and its results, as they come. Raises _ProcessDied."""

    def run(self, jobs: Iterable[Job]) -> Iterator[list[Result]]:
        """The results of each job, as they come. Jobs are taken only as they are needed.

        When a process dies, the jobs that were under way run again, a candidate at a time. One that ends its process
        again gets that as its error. Raises JoulecastError where the cluster is gone.
        """
        waiting = iter(jobs)
        under_way: dict[int, Job] = {}

        def taken() -> Iterator[Job]:
            for job in waiting:
                under_way[_key(job)] = job
                yield job

        while True:
            try:
                for key, results in self._results(taken()):
                    del under_way[key]
                    yield results
                return
            except _ProcessDied:
                for key in list(under_way):
                    yield from map(self._alone, _single(under_way.pop(key)))

    def _alone(self, job: Job) -> list[Result]:
        """The result of a job of one candidate that may end its process."""
        try:
            return [result for _, results in self._results(iter([job])) for result in results]
        except _ProcessDied as died:
            index, values = job["candidates"][0]
            return [failed(index, values, JoulecastError(f"the model's code ended its process: {died}"))]


def make_engine(name: str = "local", *, address: str | None = None, jobs: int | None = None) -> Engine:
    """The engine of that name.

    `jobs` is the number of processes, None for one a core (of the cluster); with 1 on this machine, jobs run in this
    process. `address` is that of a Dask scheduler ("tcp://host:8786") or a Ray cluster ("auto", "ray://host:10001").
    Raises JoulecastError where the cluster cannot be reached or its package is not installed, when the engine starts.
    """
    if name not in ENGINES:
        raise JoulecastError(f"`engine` {name!r} is not one of {', '.join(ENGINES)}")
    if name == "local":
        if address is not None:
            raise JoulecastError(f"`address` {address} needs `engine` dask or ray")
        return _Serial() if jobs == 1 else _Local(jobs)
    return _Dask(address, jobs) if name == "dask" else _Ray(address, jobs)


class _Serial(Engine):
    """Runs jobs in this process."""

    def _results(self, jobs: Iterator[Job]) -> Iterator[tuple[int, list[Result]]]:
        return ((_key(job), run_job(job)) for job in jobs)


class _Joblib(Engine):
    """Runs jobs through a backend of joblib."""

    backend: str

    def __init__(self, jobs: int | None) -> None:
        self._jobs = jobs

    def _results(self, jobs: Iterator[Job]) -> Iterator[tuple[int, list[Result]]]:
        from joblib import Parallel, delayed, parallel_config

        with parallel_config(backend=self.backend, n_jobs=self._jobs or -1):
            run = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=f"{_AHEAD}*n_jobs")
            yield from run(delayed(_keyed)(job) for job in jobs)


class _Local(_Joblib):
    """joblib's own processes."""

    backend = "loky"

    def _results(self, jobs: Iterator[Job]) -> Iterator[tuple[int, list[Result]]]:
        from joblib.externals.loky.process_executor import BrokenProcessPool

        try:
            yield from super()._results(jobs)
        except BrokenProcessPool as error:
            codes = _EXIT_CODES.findall(str(error))
            raise _ProcessDied(", ".join(codes) or _reason(error)) from error


class _Dask(_Joblib):
    """The workers of a Dask cluster. Dask runs a job again that a worker did not finish, three times at most."""

    backend = "dask"

    def __init__(self, address: str | None, jobs: int | None) -> None:
        if address is None:
            raise JoulecastError("`engine` dask needs `address`, that of its scheduler: tcp://host:8786")
        super().__init__(jobs)
        self._address = address

    def __enter__(self) -> Engine:
        super().__enter__()
        try:
            from distributed import Client
        except ImportError:
            raise _not_installed("dask") from None
        try:
            client = self._stack.enter_context(Client(self._address, timeout=_PATIENCE_S, set_as_default=True))
        except (OSError, ValueError) as error:
            raise JoulecastError(f"no Dask scheduler answers at {self._address}: {_reason(error)}") from None
        try:
            client.wait_for_workers(1, timeout=_PATIENCE_S)
        except TimeoutError:
            self._stack.close()
            raise JoulecastError(
                f"the Dask cluster at {self._address} has no workers: start some with dask worker"
            ) from None
        return self

    def _results(self, jobs: Iterator[Job]) -> Iterator[tuple[int, list[Result]]]:
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        try:
            yield from super()._results(jobs)
        except KilledWorker as error:
            raise _ProcessDied(_reason(error)) from error
        except (CancelledError, CommClosedError) as error:
            raise _gone(f"the Dask scheduler at {self._address}") from error


class _Ray(Engine):
    """The tasks of a Ray cluster: joblib's backend for Ray cannot give results as they come."""

    def __init__(self, address: str | None, jobs: int | None) -> None:
        self._address, self._jobs = address, jobs

    def __enter__(self) -> Engine:
        super().__enter__()
        try:
            import ray
        except ImportError:
            raise _not_installed("ray") from None
        if not ray.is_initialized():
            cpus = self._jobs if self._address is None else None
            try:
                ray.init(self._address, num_cpus=cpus, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise JoulecastError(f"no Ray cluster answers at {self._address}: {_reason(error)}") from None
            self._stack.callback(ray.shutdown)
        return self

    def _results(self, jobs: Iterator[Job]) -> Iterator[tuple[int, list[Result]]]:
        import ray

        keyed = ray.remote(num_cpus=1, max_retries=0)(_keyed)
        most = _AHEAD * (self._jobs or max(1, int(ray.cluster_resources().get("CPU", 1))))
        pending: list[Any] = []
        try:
            while True:
                while len(pending) < most and (job := next(jobs, None)) is not None:
                    pending.append(keyed.remote(job))
                if not pending:
                    return
                done, pending = ray.wait(pending, num_returns=1)
                yield ray.get(done[0])
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            raise _ProcessDied(_reason(error)) from error
        except ray.exceptions.RayTaskError as error:  # its text has Ray's own frames
            raise error.cause from error
        except (ray.exceptions.RaySystemError, ConnectionError) as error:
            raise _gone(f"the Ray cluster at {self._address}") from error
        finally:
            for one in pending:
                with contextlib.suppress(Exception):  # the cluster may be gone
                    ray.cancel(one, force=True)


def _key(job: Job) -> int:
    """The index of a job's first candidate, which no other job has."""
    return int(job["candidates"][0][0])


def _keyed(job: Job) -> tuple[int, list[Result]]:
    return _key(job), run_job(job)


def _single(job: Job) -> Iterator[Job]:
    """Jobs of one candidate each."""
    return ({**job, "candidates": (one,)} for one in job["candidates"])


def _reason(error: BaseException) -> str:
    """The first line of an error's message."""
    return next((line for line in str(error).strip().splitlines() if line), type(error).__name__)[:200]


def _gone(what: str) -> JoulecastError:
    return JoulecastError(f"{what} is gone: start it again, and repeat the command; what is done is kept")


def _not_installed(name: str) -> JoulecastError:
    return JoulecastError(f"`engine` {name} needs {name}, which is not installed: pip install 'joulecast[{name}]'")
