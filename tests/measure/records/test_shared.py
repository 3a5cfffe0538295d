"""A store at an address: a shared folder, memory, and S3 on a real local server; many writers; a lost connection."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec")

from joulecast.estimator.base.errors import JoulecastError
from joulecast.measure.meters.reading import PowerTrace, TracePoint
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.records.shared import SharedStore, open_store
from joulecast.measure.records.store import Store

TRACE = PowerTrace(("package-0",), ("package-0",), (TracePoint(0.0, (0,)), TracePoint(1.0, (42_000_000,))))


def record(name: str) -> Record:
    return Record(name, "case", "case", "now", "complete", {}, (MeasuredWindow("w", 1, 1.0),))


@pytest.fixture
def address() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_a_folder_is_a_store_and_an_address_a_shared_one(tmp_path: Path, address: str) -> None:
    assert type(open_store(tmp_path)) is type(open_store(str(tmp_path))) is Store
    assert isinstance(open_store(address), SharedStore)


def test_what_one_machine_writes_another_one_reads(tmp_path: Path, address: str) -> None:
    first, second = SharedStore(address, tmp_path / "a"), SharedStore(address, tmp_path / "b")
    first.write(record("one"), TRACE)
    second.write(record("two"))
    assert [found.id for found in second.records()] == [found.id for found in first.records()] == ["one", "two"]
    trace = second.trace_path(record("one"))
    assert trace is not None
    assert trace.read_bytes() == (tmp_path / "a" / "records" / "one.csv").read_bytes()
    assert SharedStore(address, tmp_path / "c").read("two") == record("two")


def test_a_shared_folder(tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'shared'}"
    SharedStore(address, tmp_path / "a").write(record("one"))
    assert [found.id for found in SharedStore(address, tmp_path / "b").records()] == ["one"]
    assert sorted(path.name for path in (tmp_path / "shared").rglob("*")) == ["one.json", "records"]


def test_a_record_that_cannot_be_sent_is_kept_and_sent_by_the_next_use(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str] = []
    store = SharedStore(address, tmp_path / "a", problems.append)

    def lost(*_: Any, **__: Any) -> None:
        raise ConnectionError("the network is unreachable")

    with monkeypatch.context() as patch:
        patch.setattr(store._files, "pipe_file", lost)
        store.write(record("one"))
    assert len(problems) == 1
    assert "the network is unreachable" in problems[0]
    assert "kept in" in problems[0]
    other = SharedStore(address, tmp_path / "b")
    assert not list(other.records())
    store.write(record("two"))
    assert [found.id for found in other.records()] == ["one", "two"]


def test_a_writer_that_was_killed_leaves_nothing_that_is_read(tmp_path: Path, address: str) -> None:
    store = SharedStore(address, tmp_path / "a")
    store.write(record("one"))
    store._files.pipe_file(f"{store._root}/records/.two.json.1a2b3c4d", b'{"half')
    assert [found.id for found in SharedStore(address, tmp_path / "b").records()] == ["one"]


def test_an_address_that_does_not_answer(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise TimeoutError("timed out")

    store = SharedStore(address, tmp_path)
    monkeypatch.setattr(store._files, "exists", lost)
    with pytest.raises(JoulecastError, match=r"the store memory://.+ does not answer \(TimeoutError: timed out\)"):
        list(store.records())


@pytest.mark.parametrize(
    ("place", "error"),
    [("nothing://x", "is not an address that fsspec supports"), ("hdfs://host/x", "cannot be opened")],
)
def test_addresses_that_cannot_be_used(tmp_path: Path, place: str, error: str) -> None:
    with pytest.raises(JoulecastError, match=error):
        list(SharedStore(place, tmp_path).records())


# -- S3 ------------------------------------------------------------------------------------------

# A machine: it writes ten records as fast as it can.
WRITER = """
    import sys
    from pathlib import Path
    from joulecast.measure.records.records import MeasuredWindow, Record
    from joulecast.measure.records.shared import SharedStore

    problems = []
    store = SharedStore("s3://fleet/energy", Path(sys.argv[1]), problems.append)
    for number in range(5):
        name = f"{sys.argv[2]}-{number}"
        windows = tuple(MeasuredWindow(f"w{i}", 1, 1.0) for i in range(200))
        store.write(Record(name, "case", name, "now", "complete", {"node": sys.argv[2]}, windows))
    sys.exit("; ".join(problems) or 0)
"""

SERVER = """
import signal
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
signal.pause()
"""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of S3's protocol, in a process of its own."""
    pytest.importorskip("moto")
    s3fs = pytest.importorskip("s3fs")
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    address = f"http://127.0.0.1:{int(server.stdout.readline())}"
    for name, value in (("AWS_ENDPOINT_URL", address), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("fleet")
        yield address
    finally:
        server.kill()
        server.communicate()
        s3fs.S3FileSystem.clear_instance_cache()


def test_many_machines_write_to_s3_at_once_and_lose_nothing(tmp_path: Path, s3: str) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / name), name],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        for name in ("a", "b", "c", "d")
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said
    found = [one.id for one in SharedStore("s3://fleet/energy", tmp_path / "reader").records()]
    assert found == [f"{name}-{number}" for name in "abcd" for number in range(5)]
