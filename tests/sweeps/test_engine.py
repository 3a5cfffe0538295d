"""The engines for real: joblib's processes, a Dask cluster and a Ray instance; workers that die, clusters that go."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import joulecast as jc
from joulecast.estimator.answer.request import Request
from joulecast.estimator.base.errors import JoulecastError
from joulecast.sweeps import jobs
from joulecast.sweeps.engine import make_engine

WIDTHS = [{"width": width} for width in range(1, 9)]
OTHER_WIDTHS = [{"width": width} for width in range(9, 17)]
DEADLY = [*WIDTHS[:3], {"width": 1, "kills": True}, *WIDTHS[3:]]


@pytest.fixture
def expected(base: Request, tmp_path: Path) -> bytes:
    return serial_table(WIDTHS, base, tmp_path)


def serial_table(candidates: Any, base: Request, tmp_path: Path) -> bytes:
    """The table that a sweep in this process writes."""
    path = tmp_path / "serial.csv"
    jc.sweep(candidates, base, jobs=1, output=path)
    return path.read_bytes()


def swept(candidates: Any, base: Request, tmp_path: Path, **options: Any) -> tuple[Any, bytes]:
    path = tmp_path / "out.csv"
    report = jc.sweep(candidates, base, output=path, **options)
    return report, path.read_bytes()


def test_processes_of_this_machine_give_the_same_bytes(base: Request, tmp_path: Path, expected: bytes) -> None:
    assert swept(WIDTHS, base, tmp_path, jobs=2)[1] == expected


def test_a_model_that_ends_its_process_fails_alone(base: Request, tmp_path: Path) -> None:
    report, _ = swept([*WIDTHS[:2], {"width": 1, "ends": True}], base, tmp_path, jobs=1)
    assert (report.candidates, report.failed) == (3, 1)
    assert "ended its process with signal SIGKILL" in report.failures[0][0]


def test_a_model_that_ends_the_engines_process_fails_alone(base: Request, tmp_path: Path) -> None:
    report, _ = swept(DEADLY, base, tmp_path, jobs=2)
    assert (report.candidates, report.failed) == (9, 1)
    assert report.failures == (("the model's code ended its process: SIGKILL(-9)", 1),)


def test_a_worker_with_another_version_is_refused_and_named(base: Request) -> None:
    job = next(jobs.make_jobs([(0, {"width": 1})], base, ()))
    with pytest.raises(
        JoulecastError, match=rf"the worker on .+, process {os.getpid()} has joulecast .+, this sweep 9.9"
    ):
        list(make_engine(jobs=1).run([{**job, "version": "9.9"}]))


def refused(base: Request, engine: str, **options: Any) -> str:
    """What a job of another version of joulecast raises on a real cluster."""
    job = next(jobs.make_jobs([(0, {"width": 1})], base, ()))
    with make_engine(engine, **options) as processes, pytest.raises(JoulecastError) as raised:
        list(processes.run([{**job, "version": "9.9"}]))
    return str(raised.value)


ANOTHER_VERSION = r"the worker on \S+, process \d+ has joulecast \S+, this sweep 9\.9: install the same on both"


# -- Dask ----------------------------------------------------------------------------------------


class Cluster:
    """A scheduler and two workers, each a process of its own; `repaired` starts those that do not run."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def repaired(self) -> Cluster:
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.close()
            self.scheduler = start_scheduler(self._file)
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        self.workers += [start_worker(self._file) for _ in range(2 - len(self.workers))]
        self.address = _address(self._file)
        return self

    def close(self) -> None:
        for process in (self.scheduler, *self.workers):
            if process is not None:
                kill(process)
        self.scheduler, self.workers = None, []
        self._file.unlink(missing_ok=True)


def start_scheduler(file: Path) -> subprocess.Popen[bytes]:
    return start("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))


def start_worker(file: Path) -> subprocess.Popen[bytes]:
    options = ("--nthreads", "1", "--no-dashboard", "--no-nanny")
    return start("distributed.cli.dask_worker", "--scheduler-file", str(file), *options)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a worker and what it started end together
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    found = Cluster(tmp_path_factory.mktemp("dask"))
    yield found
    found.close()


@pytest.fixture
def dask(cluster: Cluster) -> Cluster:
    """A whole one: the last test may have killed a part of it."""
    return cluster.repaired()


def kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _address(path: Path, workers: int = 2) -> str:
    import json

    from distributed import Client

    end = time.monotonic() + 120
    while time.monotonic() < end:
        if path.exists() and path.read_text().endswith("}"):
            address = str(json.loads(path.read_text())["address"])
            with Client(address, timeout=60, set_as_default=False) as client:
                if workers:
                    client.wait_for_workers(workers, timeout=120)
            return address
        time.sleep(0.2)
    raise TimeoutError("no scheduler")


def test_a_dask_worker_with_another_version_is_refused_and_named(base: Request, dask: Cluster) -> None:
    assert re.fullmatch(ANOTHER_VERSION, refused(base, "dask", address=dask.address))


def test_a_dask_cluster_gives_the_same_bytes_though_a_worker_is_killed(
    base: Request, tmp_path: Path, dask: Cluster, expected: bytes
) -> None:
    def watch(done: int, total: int | None, failed: int) -> None:
        kill(dask.workers[0])

    _, table = swept(WIDTHS, base, tmp_path, engine="dask", address=dask.address, watch=watch)
    assert table == expected


def test_a_sweep_goes_on_after_its_scheduler_was_killed(base: Request, tmp_path: Path, dask: Cluster) -> None:
    """With candidates that no worker has read yet, so that some are left when the first is done."""
    expected = serial_table(OTHER_WIDTHS, base, tmp_path)

    def watch(done: int, total: int | None, failed: int) -> None:
        assert dask.scheduler is not None
        kill(dask.scheduler)

    with pytest.raises(JoulecastError, match=r"the Dask scheduler at .+ is gone: start it again"):
        swept(OTHER_WIDTHS, base, tmp_path, engine="dask", address=dask.address, watch=watch)
    kept = (tmp_path / "out.csv.partial").read_bytes().count(b"\n") - 1
    assert 0 < kept < len(OTHER_WIDTHS)
    done: list[int] = []
    _, table = swept(OTHER_WIDTHS, base, tmp_path, jobs=1, watch=lambda *counts: done.append(counts[0]))
    assert table == expected
    assert len(done) == len(OTHER_WIDTHS) - kept  # what was done is not done again


def test_no_scheduler_and_no_address(base: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("joulecast.sweeps.engine._PATIENCE_S", 1)
    with pytest.raises(JoulecastError, match="needs `address`"):
        jc.sweep(WIDTHS, base, engine="dask")
    with pytest.raises(JoulecastError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        jc.sweep(WIDTHS, base, engine="dask", address="tcp://127.0.0.1:9")


def test_a_scheduler_without_workers(base: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    found = tmp_path / "scheduler.json"
    scheduler = start_scheduler(found)
    try:
        address = _address(found, workers=0)
        monkeypatch.setattr("joulecast.sweeps.engine._PATIENCE_S", 1)
        with pytest.raises(JoulecastError, match=r"the Dask cluster at tcp://.+ has no workers: start some"):
            jc.sweep(WIDTHS, base, engine="dask", address=address)
    finally:
        kill(scheduler)


# -- Ray -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A real instance of two processes."""
    found = pytest.importorskip("ray")
    found.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield found
    found.shutdown()


def test_a_ray_instance_gives_the_same_bytes(base: Request, tmp_path: Path, ray: Any, expected: bytes) -> None:
    assert swept(WIDTHS, base, tmp_path, engine="ray", jobs=2)[1] == expected


def test_a_model_that_ends_its_ray_worker_fails_alone(base: Request, tmp_path: Path, ray: Any) -> None:
    report, _ = swept(DEADLY, base, tmp_path, engine="ray", jobs=2)
    assert (report.candidates, report.failed) == (9, 1)
    assert "the model's code ended its process: " in report.failures[0][0]


def test_a_ray_worker_with_another_version_is_refused_and_named(base: Request, ray: Any) -> None:
    assert re.fullmatch(ANOTHER_VERSION, refused(base, "ray", jobs=2))
