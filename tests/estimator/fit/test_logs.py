"""Step times from logs of other tools, each written here as the tool writes it."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.fit.logs import Log, read_log
from joulecast.estimator.fit.runs import read_runs


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def event(wall: float, step: int, summary: bool = True) -> bytes:
    """A record of TensorFlow's event file: length, checksum, Event message, checksum."""
    value = b"\x0a\x04loss\x15" + struct.pack("<f", 0.5)
    body = b"\x09" + struct.pack("<d", wall) + b"\x10" + varint(step)
    if summary:
        body += b"\x2a" + varint(len(value) + 2) + b"\x0a" + varint(len(value)) + value
    return struct.pack("<Q", len(body)) + b"\0" * 4 + body + b"\0" * 4


def trace(steps: int = 4, step_us: float = 20_000.0, **extra: Any) -> dict[str, Any]:
    events = [
        {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{n}", "ts": 1e6 + n * step_us, "dur": step_us - 90}
        for n in range(steps)
    ]
    kernels = [{"ph": "X", "cat": "kernel", "name": "gemm", "ts": 1e6, "dur": 10.0}]
    return {
        "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-40GB"}],
        "traceEvents": [*kernels, *events],
        **extra,
    }


def test_a_wandb_history_in_csv_gives_seconds_by_global_step_and_watts(tmp_path: Path) -> None:
    path = tmp_path / "wandb.csv"
    lines = [f"{n},{n * 50},{30 + n * 10},{200 + 100 * (n % 2)}" for n in range(6)]
    path.write_text("_step,trainer/global_step,_runtime,system.gpu.0.powerWatts\n" + "\n".join(lines) + "\n")
    log = read_log(path)
    assert log is not None
    assert log.seconds == pytest.approx(0.2)  # 10 s for every 50 steps; the 30 s of the start do not count
    assert log.watts == pytest.approx(250.0)
    assert "global_step" in log.note


def test_a_charts_columns_carry_the_runs_name_and_time_stamps_in_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "chart.csv"
    rows = [f"{n * 10},{1_700_000_000_000 + n * 5000},1.0" for n in range(5)]
    path.write_text('"Step","resnet-a1 - _timestamp","resnet-a1 - loss"\n' + "\n".join(rows))
    log = read_log(path)
    assert log is not None
    assert log.seconds == pytest.approx(0.5)


@pytest.mark.parametrize("lines", [True, False])
def test_a_wandb_history_in_json_is_a_list_or_a_line_each(tmp_path: Path, lines: bool) -> None:
    rows = [{"_step": n, "_runtime": 5.0 + 0.25 * n, "loss": 1.0} for n in range(9)]
    path = tmp_path / ("history.jsonl" if lines else "history.json")
    path.write_text("\n".join(json.dumps(row) for row in rows) if lines else json.dumps(rows))
    log = read_log(path)
    assert log is not None
    assert log.seconds == pytest.approx(0.25)


def test_a_pause_between_epochs_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "scalars.csv"
    times = [0.0, 1.0, 2.0, 3.0, 63.0, 64.0, 65.0, 66.0]  # a minute of validation
    path.write_text("Wall time,Step,Value\n" + "\n".join(f"{t},{10 * n},0.1" for n, t in enumerate(times)))
    log = read_log(path)
    assert log is not None
    assert log.seconds == pytest.approx(0.1)
    assert "TensorBoard" in log.note


def test_an_event_file_is_read_without_tensorboard_and_a_last_record_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1700000000.host.1.0"
    records = [event(99.0, 0, summary=False), *(event(100.0 + 3.0 * n, 300 * n) for n in range(5))]
    path.write_bytes(b"".join(records) + event(900.0, 1500)[:-9])
    log = read_log(path)
    assert log is not None
    assert log.seconds == pytest.approx(0.01)
    assert "4 intervals" in log.note


@pytest.mark.parametrize("packed", [True, False])
def test_a_profilers_trace_gives_the_pace_of_its_steps_and_the_gpu(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("host.pt.trace.json.gz" if packed else "trace.json")
    text = json.dumps(trace())
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    log = read_log(path)
    assert log is not None
    assert log.seconds == pytest.approx(0.020)
    assert log.hardware == "NVIDIA A100-SXM4-40GB"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.json", json.dumps(trace())[:500], "ends in the middle"),
        ("t.json.gz", gzip.compress(json.dumps(trace()).encode(), mtime=0)[:90], "is cut off"),
        ("t.json", json.dumps({"traceEvents": []}), "marks no steps among its 0 events; profile with schedule="),
        ("t.json", json.dumps(trace(deviceProperties=[{"name": "A"}, {"name": "B"}])), "several kinds of GPU: A, B"),
        ("t.json", json.dumps([1, 2]), "is neither a torch.profiler trace"),
        ("t.json", "[]", "has no rows"),
        ("h.csv", "_step,_runtime\n1,1\n2,2\n", "logs 2 different steps"),
        ("h.csv", "_runtime,loss\n1,1\n2,2\n", "lacks the column of a step; it has _runtime, loss"),
        ("h.json", json.dumps([{"_step": 1, "loss": 2}] * 3), "lacks the column of a time"),
        ("h.csv", "_step,_runtime\n1,9\n2,8\n3,7\n", "do not grow with the step"),
        ("events.out.tfevents.1.h", "", "logs 0 different steps"),
    ],
)
def test_a_broken_log_is_one_line_that_says_what_and_the_fix(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FitError) as raised:
        read_log(path)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_of_runs_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("model,batch,seconds_per_step\nnet.py,3,1\n")
    assert read_log(path) is None


def test_a_log_needs_its_model_and_batch_and_takes_the_rest_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace()))
    with pytest.raises(FitError, match="does not say its model; give `model`"):
        read_runs(path)
    with pytest.raises(FitError, match="does not say its batch; give `batch_size`"):
        read_runs(path, {"model": "net.py"})
    (run,) = read_runs(path, {"model": "net.py", "batch": "64", "precision": "fp16"})
    assert (run.model, run.batch, run.seconds, run.joules) == ("net.py", 64, 0.02, None)
    assert run.options == {"precision": "fp16", "hardware": "NVIDIA A100-SXM4-40GB"}


def test_names_that_trainers_give_to_columns_are_known_and_options_fill_gaps(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("arch,per_device_train_batch_size,train_samples_per_second,precision\nnet.py,8,16,\n,8,32,fp32\n")
    one, other = read_runs(path, {"model": "other.py", "precision": "bf16"})
    assert (one.model, one.batch, one.seconds, one.options["precision"]) == ("net.py", 8, 0.5, "bf16")
    assert (other.model, other.seconds, other.options["precision"]) == ("other.py", 0.25, "fp32")


# -- What each reader takes from a file, and its limits ---------------------------------------------------------------


def written(path: Path, content: str | bytes) -> Log:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    log = read_log(path)
    assert log is not None
    return log


def refused(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FitError) as raised:
        read_log(path)
    return str(raised.value).removeprefix(f"{path} ")


STEADY = "_step,_runtime\n0,0\n1,2\n2,4\n"


def test_three_points_are_enough_and_empty_lines_of_a_table_are_no_log(tmp_path: Path) -> None:
    log = written(tmp_path / "h.csv", STEADY)
    assert log == Log(
        2.0, None, None, "W&B, steps by '_step', which counts what was logged: median of 2 intervals, 2 s per step"
    )
    (tmp_path / "empty.csv").write_text("")
    assert read_log(tmp_path / "empty.csv") is None
    assert refused(tmp_path / "h.csv", "_step,_runtime\n").startswith("has no rows; export the history")


def test_a_table_may_be_packed_and_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert written(tmp_path / "h.csv.gz", gzip.compress(STEADY.encode())).seconds == 2.0
    assert written(tmp_path / "h.csv", STEADY.encode("utf-8-sig")).seconds == 2.0
    rows = json.dumps([{"_step": n, "_runtime": 3 * n} for n in range(3)])
    assert written(tmp_path / "H.JSON", rows).seconds == 3.0
    assert written(tmp_path / "h.json.gz", gzip.compress(rows.encode())).seconds == 3.0


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="does not exist; give a table of runs, or a log of W&B"):
        read_log(tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(FitError, match=r"cannot be read \(.*directory.*\); give a file in UTF-8"):
        read_log(tmp_path / "folder.json")
    with pytest.raises(FitError, match=r"cannot be read \(.*No such file.*\); give a TensorBoard event file"):
        read_log(tmp_path / "events.out.tfevents.1")
    assert "give a file in UTF-8" in refused(tmp_path / "h.json", b"\xff\xfe")
    assert "is broken at character 0" in refused(tmp_path / "h.json.gz", b"not packed")
    packed = bytearray(gzip.compress(b'[{"_step": 1}]' * 50))
    packed[12] ^= 0xFF
    assert "is damaged gzip data" in refused(tmp_path / "h.json.gz", bytes(packed))
    assert "is a zip archive; unpack it" in refused(tmp_path / "h.json", b"PK\x03\x04rest")


def test_a_packed_file_without_the_ending_and_the_other_way_round(tmp_path: Path) -> None:
    rows = json.dumps([{"_step": n, "_runtime": 3.0 * n} for n in range(4)]).encode()
    assert written(tmp_path / "h.json", gzip.compress(rows)).seconds == 3.0
    assert written(tmp_path / "g.json.gz", rows).seconds == 3.0


def test_points_that_tensorboard_downloads_as_json(tmp_path: Path) -> None:
    points = json.dumps([[1.79e9 + 0.5 * step, step, 1.0] for step in range(0, 100, 20)])
    log = written(tmp_path / "run.json", points)
    assert log.seconds == pytest.approx(0.5)
    assert log.note.startswith("TensorBoard")


def test_results_of_a_transformers_training(tmp_path: Path) -> None:
    results = {"train_runtime": 10.0, "train_steps_per_second": 4.0}
    assert written(tmp_path / "train_results.json", json.dumps(results)).seconds == 0.25
    state = {"log_history": [{"step": 1, "loss": 2.0}, {"step": 9, **results}], "global_step": 9}
    assert written(tmp_path / "trainer_state.json", json.dumps(state)).seconds == 0.25


def test_a_chart_of_two_runs_and_one_without_times_are_refused(tmp_path: Path) -> None:
    two = "Relative Time (Process),a - train/global_step,a - train/global_step__MIN,b - train/global_step\n"
    rows = "".join(f"{n},{n},{n},{n}\n" for n in range(4))
    assert refused(tmp_path / "two.csv", two + rows) == "holds 2 runs: a, b; export one"
    message = refused(tmp_path / "steps.csv", "Step,a - loss\n1,2\n2,1\n")
    assert message.startswith("logs steps without their times; it has Step, a - loss: export them over relative time")


def test_a_table_with_a_line_for_each_run_is_no_history(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("Name,State,Created,_runtime,_step\na,finished,-,100,4000\nb,finished,-,200,8000\nc,x,-,3,9\n")
    assert read_log(path) is None


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("_step,step,global_step,train/global_step,trainer/global_step,_runtime", "trainer/global_step"),
        ("_step,step,global_step,train/global_step,_runtime", "train/global_step"),
        ("_step,step,global_step,_runtime", "global_step"),
        ("step,_step,_runtime", "_step"),
        ("Step,_runtime", "step"),
        ("a - b - Step,_runtime", "step"),
    ],
)
def test_the_trainers_step_goes_before_the_loggers(tmp_path: Path, header: str, column: str) -> None:
    """Column c counts c + 1 steps for each row, so the seconds of a step tell the column."""
    names = header.split(",")
    rows = [[str(n * (at + 1)) for at in range(len(names) - 1)] + [str(60 * n)] for n in range(4)]
    log = written(tmp_path / "h.csv", "\n".join([header, *(",".join(row) for row in rows)]))
    position = next(at for at, name in enumerate(names) if name.split(" - ")[-1].lower() == column)
    assert log.seconds == pytest.approx(60 / (position + 1))
    assert f"steps by {column!r}" in log.note


def test_run_time_goes_before_time_stamps(tmp_path: Path) -> None:
    for times, seconds in (("_runtime,_timestamp", 5), ("_timestamp,Wall time", 5), ("Relative Time (Process),x", 5)):
        rows = "\n".join(f"{n},{5 * n},{7 * n}" for n in range(4))
        assert written(tmp_path / "h.csv", f"_step,{times}\n{rows}").seconds == pytest.approx(seconds)
    rows = "\n".join(f"{n},{5 * n}" for n in range(4))
    assert written(tmp_path / "h.csv", f"_step,relative time (wall)\n{rows}").seconds == pytest.approx(5)


def test_the_tool_is_told_by_the_columns_of_a_scalar(tmp_path: Path) -> None:
    rows = "\n".join(f"{n},{n},1" for n in range(3))
    assert written(tmp_path / "h.csv", f"Wall time,Step,Value\n{rows}").note.startswith("TensorBoard, ")
    assert written(tmp_path / "h.csv", f"Wall time,Step,Loss\n{rows}").note.startswith("W&B, ")


def test_watts_are_the_mean_of_the_first_gpus_samples_above_0(tmp_path: Path) -> None:
    rows = ["0,0,0,900", "1,1,,900", "2,2,0.5,900", "3,3,100.5,900", "4,4,oops,900,left over", "5,5"]
    header = "_step,_runtime,system.gpu.0.powerWatts,system.gpu.1.powerWatts"
    assert written(tmp_path / "h.csv", "\n".join([header, *rows])).watts == pytest.approx((0.5 + 100.5) / 2)
    assert written(tmp_path / "h.csv", f"{header}\n0,0,0,0\n1,1,0,0\n2,2,0,0").watts is None


def points(tmp_path: Path, steps_and_times: Sequence[tuple[float, float]]) -> float:
    rows = "\n".join(f"{step!r},{time!r}" for step, time in steps_and_times)
    return written(tmp_path / "h.csv", f"_step,_timestamp\n{rows}").seconds


def test_a_step_logged_twice_ends_at_its_last_time_and_order_does_not_matter(tmp_path: Path) -> None:
    assert points(tmp_path, [(0, 0), (1, 1), (1, 4), (2, 8), (3, 12)]) == pytest.approx(4)
    assert points(tmp_path, [(0, 0), (1, 4), (1, 1), (2, 8), (3, 12)]) == pytest.approx(4)
    assert points(tmp_path, [(6, 12), (0, 0), (3, 6)]) == pytest.approx(2)


@pytest.mark.parametrize(("start", "scale"), [(0.0, 1), (1.7e9, 1), (9e10, 1), (2e11, 1e-3), (1.7e12, 1e-3)])
def test_time_stamps_above_1e11_are_in_milliseconds(tmp_path: Path, start: float, scale: float) -> None:
    assert points(tmp_path, [(n, start + 500 * n) for n in range(3)]) == pytest.approx(500 * scale)


def test_rows_without_a_time_or_without_a_step_are_left_out(tmp_path: Path) -> None:
    rows = ["0,0", ",100", "1,2", "2,", "3,6", ",", "4,8"]
    assert written(tmp_path / "h.csv", "_step,_runtime\n" + "\n".join(rows)).note.endswith(
        "median of 3 intervals, 2 s per step"
    )


def test_time_that_stands_still_is_refused_and_a_slow_step_is_not(tmp_path: Path) -> None:
    same = refused(tmp_path / "h.csv", "_step,_runtime\n1,7\n2,7\n3,7\n")
    assert same == "has times that do not grow with the step (0 s per step); export one run"
    assert points(tmp_path, [(n, 1e-3 * n) for n in range(3)]) == pytest.approx(1e-3)


def test_an_error_names_the_first_eight_columns(tmp_path: Path) -> None:
    header = ",".join(["_runtime", *"abcdefghi"])
    text = refused(tmp_path / "h.csv", f"{header}\n{','.join(['1'] * 10)}\n")
    assert text == "lacks the column of a step; it has _runtime, a, b, c, d, e, f, g: export global_step or _step too"


# -- records of event files, byte by byte


def record(body: bytes, checksum: bytes = b"\x10\x01\x10\x01") -> bytes:
    """The checksum would read as steps if it were taken for a part of the message."""
    return struct.pack("<Q", len(body)) + checksum + body + checksum


def wall(second: float) -> bytes:
    return b"\x09" + struct.pack("<d", second)


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


SUMMARY = field(5, b"\x0a\x00")


def events(tmp_path: Path, bodies: Sequence[bytes], rest: bytes = b"") -> Log:
    return written(tmp_path / "events.out.tfevents.1", b"".join(record(body) for body in bodies) + rest)


def test_step_0_is_left_out_of_its_record_and_checksums_are_skipped(tmp_path: Path) -> None:
    log = events(
        tmp_path, [wall(10) + SUMMARY, *(wall(10 + n) + b"\x10" + varint(100 * n) + SUMMARY for n in (1, 2, 3))]
    )
    assert log.seconds == pytest.approx(0.01)
    assert log.note == "TensorBoard event file: median of 3 intervals, 0.01 s per step"


@pytest.mark.parametrize("size", [1, 127, 128, 300, 20_000])
def test_fields_before_and_after_a_summary_are_skipped_by_their_length(tmp_path: Path, size: int) -> None:
    other = field(9, b"\x10" * size)  # would read as steps
    bodies = [wall(3 * n) + other + b"\x10" + varint(n << 7) + other + SUMMARY + other for n in (1, 2, 3, 4)]
    assert events(tmp_path, bodies).seconds == pytest.approx(3 / 128)


@pytest.mark.parametrize("number", [3, 4, 6, 7, 13])
def test_only_summaries_are_logged_steps(tmp_path: Path, number: int) -> None:
    path = tmp_path / "events.out.tfevents.1"
    bodies = [wall(n) + b"\x10" + varint(n) + field(number, b"\x0a\x00") for n in range(5)]
    assert refused(path, b"".join(record(body) for body in bodies)).startswith("logs 0 different steps")


def test_a_message_ends_at_what_is_not_understood(tmp_path: Path) -> None:
    """Field 15 of fixed width (tag 0x7D), a time cut off, and a group: what stood before them counts."""
    for strange in (b"\x7d\x00\x00\x00\x00", b"\x09\x00", b"\x0b", b"\x18\x05"):
        bodies = [wall(n) + b"\x10" + varint(4 * n) + SUMMARY + strange + b"\x10\x07" for n in (1, 2, 3)]
        assert events(tmp_path, bodies).seconds == pytest.approx(1 / 4), strange


def test_a_time_may_end_its_message_and_a_file_its_record(tmp_path: Path) -> None:
    bodies = [b"\x10" + varint(n) + SUMMARY + wall(7 * n) for n in (1, 2, 3)]
    assert events(tmp_path, bodies).seconds == pytest.approx(7)
    whole = wall(77) + b"\x10\x04" + SUMMARY
    assert "3 intervals" in events(tmp_path, bodies, record(whole)[:-4]).note  # without the last checksum
    assert "2 intervals" in events(tmp_path, bodies, record(whole)[:-5]).note
    for rest in (11, 12, 13):
        assert "2 intervals" in events(tmp_path, bodies, record(whole)[:rest]).note


def test_an_empty_message_and_a_file_of_its_header_alone_have_no_steps(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    for content in (record(b""), record(b"")[:12], record(b"")[:11], wall(1)):
        assert refused(path, content).startswith("logs 0 different steps")


# -- JSON


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"traceEvents": [1, 2', "ends in the middle"),
        ('{"traceEvents": [1, 2\n\n  ', "ends in the middle"),
        ('{"traceEvents": ["Profiler', "ends in the middle"),
        ('{"traceEvents": [1 2, 3, 4, 5]}', "is broken at character 19"),
        ('{"a": 1}\n{"a": oops}\n{"a": 3}', "is broken at character 9"),
        ('{"_step": 1', "ends in the middle"),
    ],
)
def test_a_file_cut_off_is_told_from_one_that_is_broken(tmp_path: Path, text: str, problem: str) -> None:
    message = refused(tmp_path / "t.json", text)
    assert message.startswith(f"{problem} (")
    assert message.endswith("): export it again, and wait until the export ends")


@pytest.mark.parametrize("key", ["history", "data", None])
def test_a_history_may_be_inside_of_a_document(tmp_path: Path, key: str | None) -> None:
    rows = [{"_step": n, "_runtime": 2 * n} for n in range(4)]
    path = tmp_path / "h.json"
    if key is not None:
        assert written(path, json.dumps({key: rows})).seconds == pytest.approx(2)
    else:  # one row, which is too little
        assert refused(path, json.dumps(rows[0])).startswith("logs 1 different steps; a step's time needs at least 3")
    assert refused(path, json.dumps({"history": 3})).startswith("is neither a torch.profiler trace (traceEvents) nor")
    assert refused(path, "7").startswith("is neither a torch.profiler trace (traceEvents) nor")


def test_empty_lines_between_rows_are_skipped(tmp_path: Path) -> None:
    rows = [json.dumps({"_step": n, "_runtime": 2 * n}) for n in range(4)]
    assert written(tmp_path / "h.jsonl", "\n\n".join(rows) + "\n\n").seconds == pytest.approx(2)
    assert refused(tmp_path / "h.jsonl", "\n".join(rows[:2])).startswith("logs 2 different steps")


def step(start_us: float, **more: Any) -> dict[str, Any]:
    return {"name": "ProfilerStep#1", "cat": "user_annotation", "ts": start_us, **more}


@pytest.mark.parametrize(
    ("marks", "seconds", "count"),
    [
        ([step(5e6, dur=250_000.0)], 0.25, 1),  # one step: its own length
        ([step(3e6, dur=9.0), step(1e6, dur=9.0)], 2.0, 2),  # in any order; from start to start
        ([step(0), step(1e6), step(2e6), step(9e6)], 1.0, 4),  # the median
        ([step(0), step(5e5, cat="gpu_user_annotation"), step(1e6)], 1.0, 2),  # the GPU's copy is no step
        ([step(0), {"name": "Profiler", "ts": 5e5}, {"ts": 4e5}, "text", step(1e6)], 1.0, 2),
    ],
)
def test_steps_of_a_trace_are_as_long_as_their_starts_are_apart(
    tmp_path: Path, marks: list[Any], seconds: float, count: int
) -> None:
    log = written(tmp_path / "t.json", json.dumps({"traceEvents": marks}))
    assert log.seconds == pytest.approx(seconds)
    assert (log.watts, log.hardware) == (None, None)
    assert log.note.startswith(f"torch.profiler: {count} steps, {seconds:.4g} s per step")


def test_a_trace_of_one_step_without_length_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path / "t.json", json.dumps({"traceEvents": [step(1e6)]}))
    assert message == "has steps of 0 s; profile at least two steps"


def test_two_gpus_of_one_kind_are_one_and_those_without_a_name_are_left_out(tmp_path: Path) -> None:
    cards = [{"name": "A100"}, {"name": "A100"}, {"id": 3}, {"name": ""}]
    assert written(tmp_path / "t.json", json.dumps(trace(deviceProperties=cards))).hardware == "A100"
