"""The store with real processes: killed, interrupted, out of space, and two at the same time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.measure.meters.reading import PowerTrace, TracePoint
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.records.store import Store
from joulecast.measure.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("uncounted")

TRACE = PowerTrace(("package-0",), ("package-0",), (TracePoint(0.0, (0,)), TracePoint(1.0, (42_000_000,))))

# Writes records of about 100 kB, one after another, and says each id once it is written.
WRITER = """
    import sys
    from pathlib import Path
    from joulecast.measure.meters.reading import PowerTrace, TracePoint
    from joulecast.measure.records.records import MeasuredWindow, Record
    from joulecast.measure.records.store import Store

    store = Store(Path(sys.argv[1]))
    windows = tuple(MeasuredWindow(f"w{i}", 1, 1.0) for i in range(900))
    trace = PowerTrace(("p",), ("p",), tuple(TracePoint(float(i), (i,)) for i in range(3000)))
    for _ in range(int(sys.argv[2])):
        record = Record(store.new_id("case"), "case", "case", "now", "complete", {}, windows)
        store.write(record, trace)
        print(record.id, flush=True)
"""


def _record(name: str, **values: object) -> Record:
    plain = {"kind": "case", "name": "case", "created": "now", "status": "complete", "host": {}}
    return Record(id=name, windows=(MeasuredWindow("w", 1, 1.0),), **{**plain, **values})  # type: ignore[arg-type]


def _python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _unreadable(store: Store) -> list[str]:
    problems: list[str] = []
    list(store.records(problems.append))
    return problems


# -- in this process ---------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path):
    store = Store(tmp_path)
    store.write(_record("20260101T000000Z-a-000001"), TRACE)
    found = store.read("20260101T000000Z-a-000001")
    assert found == _record("20260101T000000Z-a-000001")
    path = store.trace_path(found)
    assert path is not None
    assert path.read_text().splitlines()[-1] == "1.000000,42.000,42000000"


def test_a_record_is_found_by_its_beginning_or_end_if_only_one_has_it(tmp_path: Path):
    store = Store(tmp_path)
    for name in ("20260101T000000Z-a-00beef", "20260101T000000Z-b-00cafe", "20260202T000000Z-c-00f00d"):
        store.write(_record(name))
    assert store.read("20260202").id.endswith("00f00d")
    assert store.read("00cafe").id.endswith("00cafe")
    with pytest.raises(JoulecastError, match="2 records start with '20260101'"):
        store.read("20260101")
    with pytest.raises(JoulecastError, match="no record 'nothing'"):
        store.read("nothing")


def test_the_exact_id_wins(tmp_path: Path):
    store = Store(tmp_path)
    for name in ("run", "run-2", "another-run"):
        store.write(_record(name))
    assert store.read("run").id == "run"


def test_records_come_oldest_first_and_a_broken_one_is_named(tmp_path: Path):
    store = Store(tmp_path)
    for name in ("20260202T000000Z-b-000002", "20260101T000000Z-a-000001"):
        store.write(_record(name))
    (store.records_folder / "20260303T000000Z-c-000003.json").write_text('{"schema": "joulecast.rec')
    problems: list[str] = []
    assert [record.id[:8] for record in store.records(problems.append)] == ["20260101", "20260202"]
    assert len(problems) == 1
    assert "000003" in problems[0]


def test_ids_differ_within_one_moment():
    assert len({Store.new_id("x") for _ in range(500)}) == 500


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOULECAST_STORE", str(tmp_path / "elsewhere"))
    assert Store().write(_record("20260101T000000Z-a-000001")).is_relative_to(tmp_path / "elsewhere")


def test_a_place_that_cannot_be_written_is_one_line_with_the_fix(tmp_path: Path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store")
    with pytest.raises(JoulecastError, match="give another `store` folder"):
        store.write(_record("20260101T000000Z-a-000001"))
    with pytest.raises(JoulecastError, match="give another `store` folder"), store.measuring():
        pass


def _refusing(error: OSError) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


def test_a_file_system_without_locks_is_one_line_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fcntl.flock", _refusing(OSError(errno.ENOLCK, "No locks available")))
    said = r"cannot lock .* \(No locks available\); give a `store` folder on a local disk"
    with pytest.raises(JoulecastError, match=said), Store(tmp_path).measuring():
        pass
    with pytest.raises(JoulecastError, match=said), Checkpoints(tmp_path / "run").lock():
        pass


def test_a_disk_too_full_for_the_holders_number_is_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "write_text", _refusing(OSError(errno.ENOSPC, "No space left on device")))
    with Store(tmp_path).measuring():
        assert not (tmp_path / "measuring.pid").exists()


def test_a_run_whose_checkpoint_does_not_fit_goes_on_where_it_is(tmp_path: Path):
    """Another store has nothing to continue from."""
    with pytest.raises(JoulecastError, match="free space and continue this run, or start a new one in another `store`"):
        Checkpoints(tmp_path / "not there").write(1, b"state")


def test_only_old_leftovers_are_swept(tmp_path: Path):
    store = Store(tmp_path)
    kept = store.write(_record("20260101T000000Z-a-000001"))
    old, young = (store.records_folder / f".x.json.{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    store.sweep()
    assert (old.exists(), young.exists(), kept.exists()) == (False, True, True)


# -- other processes ---------------------------------------------------------------------------------


def test_kill_9_at_any_moment_leaves_nothing_unreadable(tmp_path: Path):
    store = Store(tmp_path)
    said: list[str] = []
    for delay_s in (0.0, 0.003, 0.007, 0.013, 0.021, 0.034):
        writer = _python(WRITER, tmp_path, 10_000)
        assert writer.stdout is not None
        said.append(writer.stdout.readline().strip())
        time.sleep(delay_s)
        writer.kill()
        said += writer.communicate()[0].split()
    assert _unreadable(store) == []
    # A line that the kill cut short is no id.
    whole = {name for name in said if len(name) == len(said[0])}
    assert len(whole) >= 6
    assert whole <= {record.id for record in store.records()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_records_and_no_half_ones(tmp_path: Path, number: signal.Signals):
    writer = _python(WRITER, tmp_path, 10_000)
    assert writer.stdout is not None
    first = writer.stdout.readline().strip()
    writer.send_signal(number)
    writer.communicate(timeout=30)
    store = Store(tmp_path)
    assert _unreadable(store) == []
    assert first in {record.id for record in store.records()}
    if number == signal.SIGINT:  # Python unwinds: the temporary file goes too
        assert [path.name for path in store.records_folder.glob(".*")] == []


def test_two_writers_at_once_lose_nothing(tmp_path: Path):
    writers = [_python(WRITER, tmp_path, 25) for _ in range(2)]
    outputs = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {record.id for record in Store(tmp_path).records()} == {name for names in outputs for name in names}
    assert sum(map(len, outputs)) == 50


def test_a_full_disk_ends_in_one_line_and_keeps_what_was_there(tmp_path: Path):
    """RLIMIT_FSIZE stands for the disk: larger writes fail as on a full disk."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        from joulecast.estimator.base.errors import JoulecastError
        from joulecast.measure.records.records import MeasuredWindow, Record
        from joulecast.measure.records.store import Store

        store = Store(Path(sys.argv[1]))
        small = (MeasuredWindow("w", 1, 1.0),)
        store.write(Record("20260101T000000Z-small-000001", "case", "c", "now", "complete", {}, small))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for name in ("20260101T000000Z-small-000001", "20260102T000000Z-large-000002"):
            try:
                store.write(Record(name, "case", "c", "now", "complete", {}, small * 500))
            except JoulecastError as error:
                print(error)
    """
    writer = _python(code, tmp_path)
    output, errors = writer.communicate(timeout=60)
    assert (writer.returncode, errors) == (0, "")
    assert output.count("File too large") == 2
    assert "free space or give another" in output
    store = Store(tmp_path)
    assert [len(record.windows) for record in store.records()] == [1]
    assert _unreadable(store) == []
    assert list(store.records_folder.glob(".*")) == []


def test_a_second_measurement_waits_for_the_first_and_the_lock_dies_with_its_holder(tmp_path: Path):
    code = """
        import sys, time
        from pathlib import Path
        from joulecast.measure.records.store import Store

        with Store(Path(sys.argv[1])).measuring(lambda holder: print("waiting for", holder, flush=True)):
            print("measuring", flush=True)
            time.sleep(60)
    """
    first = _python(code, tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "measuring\n"
    second = _python(code, tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline() == f"waiting for {first.pid}\n"
    first.kill()
    assert second.stdout.readline() == "measuring\n"
    second.kill()
    for process in (first, second):
        process.communicate()
