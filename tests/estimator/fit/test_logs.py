"""Step times from logs of other tools, each written here as the tool writes it."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.fit.logs import read_log
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
        ("t.json.gz", gzip.compress(json.dumps(trace()).encode())[:90], "is cut off"),
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
