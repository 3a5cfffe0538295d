"""Tables of a user's own runs: each column, its other names, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.fit.runs import COLUMNS, Run, read_runs

HEAD = "model,batch,seconds_per_step"


def table(tmp_path: Path, *lines: str, **defaults: str) -> tuple[Run, ...]:
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_runs(path, defaults or None)


def problem(tmp_path: Path, *lines: str, **defaults: str) -> str:
    with pytest.raises(FitError) as raised:
        table(tmp_path, *lines, **defaults)
    return str(raised.value).removeprefix(str(tmp_path / "runs.csv"))


def test_the_columns_are_those_of_the_documentation() -> None:
    assert (
        *("model", "batch", "seconds_per_step", "samples_per_second", "watts", "joules_per_step"),
        *("precision", "input", "dataset", "sequence_length", "optimizer", "hardware", "software"),
    ) == COLUMNS


def test_a_row_is_one_run_with_the_line_that_it_stands_on(tmp_path: Path) -> None:
    header = f"{HEAD},joules_per_step,precision,sequence_length,optimizer"
    first, second = table(tmp_path, header, "a.py,1,0.5,30,fp16,128,adam", "b.py,2e1,4,7,,,")
    assert first == Run(
        2, "a.py", 1, 0.5, 30.0, {"precision": "fp16", "sequence_length": "128", "optimizer": "adam"}, ""
    )
    assert second == Run(3, "b.py", 20, 4.0, 7.0, {}, "")


@pytest.mark.parametrize(
    ("column", "value", "field", "expected"),
    [
        ("batch_size", "8", "batch", 8),
        ("per_device_train_batch_size", "8", "batch", 8),
        ("train_batch_size", "8", "batch", 8),
        ("arch", "m.py", "model", "m.py"),
        ("model_name", "m.py", "model", "m.py"),
        ("train_samples_per_second", "4", "seconds", 2.0),
        ("train/train_samples_per_second", "4", "seconds", 2.0),
        ("seq_length", "77", "sequence_length", "77"),
        ("gpu", "t4", "hardware", "t4"),
    ],
)
def test_names_that_trainers_give_to_columns(
    tmp_path: Path, column: str, value: str, field: str, expected: object
) -> None:
    cells = {"model": "x.py", "batch": "8", "seconds_per_step": "1"}
    cells.pop(field, None)
    if field == "seconds":
        del cells["seconds_per_step"]
    cells[column] = value
    (run,) = table(tmp_path, ",".join(cells), ",".join(cells.values()))
    assert getattr(run, field, run.options.get(field)) == expected


def test_a_cells_blanks_are_dropped_and_empty_cells_leave_the_default(tmp_path: Path) -> None:
    (run,) = table(tmp_path, f"{HEAD} , watts", " a.py , 2 , 0.5 ,  ", hardware="t4")
    assert (run.model, run.batch, run.joules, run.options) == ("a.py", 2, None, {"hardware": "t4"})
    (run,) = table(tmp_path, f"{HEAD},precision", "a.py,2,1", precision="bf16")  # a cell too few
    assert run.options == {"precision": "bf16"}


def test_joules_come_from_watts_and_the_steps_time(tmp_path: Path) -> None:
    (run,) = table(tmp_path, f"{HEAD},watts", "a.py,2,0.25,8")
    assert run.joules == 2.0
    (run,) = table(tmp_path, "model,batch,samples_per_second,joules_per_step", "a.py,2,8,3")
    assert (run.seconds, run.joules) == (0.25, 3.0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEAD, "a.py,0,1"), ":2 has batch '0'; give a number above 0"),
        ((HEAD, "a.py,,1"), ":2 has batch ''; give a number above 0"),
        ((HEAD, "a.py,inf,1"), ":2 has batch 'inf'; give a number above 0"),
        ((HEAD, "a.py,1,nan"), ":2 has seconds_per_step 'nan'; give a number above 0"),
        ((HEAD, "a.py,1,-1"), ":2 has seconds_per_step '-1'; give a number above 0"),
        ((HEAD, "a.py,1,1", ",1,1"), ":3 has no model; give a text such as net.py:Net"),
        ((HEAD, "a.py,1,"), ":2 has neither of seconds_per_step and samples_per_second; give one"),
        ((f"{HEAD},samples_per_second", "a.py,1,1,1"), ":2 has both of seconds_per_step and samples_per_second;"),
        (("model,batch,samples_per_second", "a.py,1,0"), ":2 has samples_per_second '0'; give a number above 0"),
        ((f"{HEAD},watts", "a.py,1,1,0"), ":2 has watts '0'; give a number above 0"),
        ((f"{HEAD},joules_per_step", "a.py,1,1,x"), ":2 has joules_per_step 'x'; give a number above 0"),
        ((f"{HEAD},watts,joules_per_step", "a.py,1,1,1,1"), ":2 has both of watts and joules_per_step; give one"),
        ((f"{HEAD},sequence_length", "a.py,1,1,12.5"), ":2 has sequence_length '12.5'; give a whole number of tokens"),
        ((f"{HEAD},software", "a.py,1,1,eager", "a.py,1,1,"), " mixes software: (empty), eager; fit one profile for"),
        ((f"{HEAD},watts", "a.py,1,1,", "a.py,1,1,3"), " has energy for 1 of 2 runs; give it for all or for none"),
        (("batch,seconds_per_step", "1,1"), " lacks the column model; it has batch, seconds_per_step"),
        ((HEAD,), " has no rows; add one line for each run"),
        (("",), " lacks the column model; it has none"),
        ((f"{HEAD},hardwear", "a.py,1,1,t4"), " has column 'hardwear'; did you mean"),
    ],
)
def test_what_is_refused_names_the_line_the_column_and_the_value(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    assert problem(tmp_path, *lines).startswith(message)


@pytest.mark.parametrize(
    ("header", "row", "seconds", "joules"),
    [
        ("Model,Batch Size,Throughput (img/s),Power (W)", "a.py,64,128,100", 0.5, 50.0),
        ("model,batch,ms_per_step", "a.py,64,500", 0.5, None),
        ("model,batch,Step time [ms],Power [kW]", "a.py,64,500,0.1", 0.5, 50.0),
        ("network,bs,images_per_second,gpu", "a.py,64,128,t4", 0.5, None),
        ("model,batch,train_steps_per_second,train_samples_per_second", "a.py,64,2,128", 0.5, None),
        ("model,batch,tokens_per_second,seq_len", "a.py,8,8192,512", 0.5, None),
        ("model;batch;seconds_per_step", "a.py;64;0,5", 0.5, None),
        ("model\tbatch\tseconds_per_step", "a.py\t64\t0.5", 0.5, None),
        ("model,batch,seconds_per_step,joules_per_step (Wh)", "a.py,64,0.5,0.01", 0.5, 36.0),
        ("model,batch,seconds_per_step,joules_per_step (MJ)", "a.py,64,0.5,0.00005", 0.5, 50.0),
        ("model,batch,seconds_per_step,joules_per_step (mJ)", "a.py,64,0.5,50000", 0.5, 50.0),
        ("model,batch,seconds_per_step,watts (mW)", "a.py,64,0.5,100000", 0.5, 50.0),
    ],
)
def test_names_units_and_delimiters_of_other_tables(
    tmp_path: Path, header: str, row: str, seconds: float, joules: float | None
) -> None:
    (run,) = table(tmp_path, header, row)
    assert (run.model, run.batch in (8, 64), run.seconds) == ("a.py", True, pytest.approx(seconds))
    assert run.joules == (None if joules is None else pytest.approx(joules))


def test_columns_of_no_use_are_named_in_a_note(tmp_path: Path) -> None:
    header = "Name,State,Created,Tags,_runtime,_step,batch_size,model,train/train_samples_per_second"
    first, second = table(tmp_path, header, "x,finished,-,-,9,9,64,a.py,128", "y,finished,-,-,9,9,64,b.py,256")
    assert (first.seconds, second.seconds, second.note) == (0.5, 0.25, "")
    assert first.note == "columns not used: Name, State, Created, Tags, _runtime, _step"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("model,batch,step_time (h)", " has the unit 'h' in 'step_time (h)'; give one of s, sec, seconds, ms, us"),
        ("model,batch,seconds_per_step,bs", " has the column batch twice, under two names; leave one out"),
        ("model,batch,tokens_per_second", ":2 has sequence_length ''; give a number above 0"),
        ("Name,batch,seconds_per_step", " lacks the column model; it has Name, batch, seconds_per_step"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, header: str, message: str) -> None:
    assert problem(tmp_path, header, ",".join(["1"] * (header.count(",") + 1))).startswith(message)


@pytest.mark.parametrize(
    ("text", "precision"), [("FP32", "fp32"), ("bf16-mixed", "bf16"), ("32-true", "fp32"), ("x", "x")]
)
def test_names_of_precisions(tmp_path: Path, text: str, precision: str) -> None:
    (run,) = table(tmp_path, f"{HEAD},precision", f"a.py,1,1,{text}")
    assert run.options["precision"] == precision


def test_a_default_stands_for_a_missing_column(tmp_path: Path) -> None:
    (run,) = table(tmp_path, "seconds_per_step", "2", model="a.py", batch="4")
    assert (run.model, run.batch, run.seconds) == ("a.py", 4, 2.0)
    assert problem(tmp_path, "model,batch", "a.py,1", colour="red").startswith(" has column 'colour'")


def test_a_file_that_is_no_text_and_one_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(b"model,batch\n\xff\xfe,1\n")
    with pytest.raises(FitError, match=r"cannot be read \(.*\); give a"):
        read_runs(path)
    with pytest.raises(FitError, match="does not exist; give a table of runs"):
        read_runs(tmp_path / "none.csv")


def test_a_logs_watts_and_gpu_go_with_its_run(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("_step,_runtime,system.gpu.0.powerWatts\n0,0,200\n1,2,200\n2,4,200\n")
    (run,) = read_runs(path, {"model": "a.py", "batch": "4", "hardware": "t4"})
    assert (run.line, run.seconds, run.joules, run.options) == (1, 2.0, 400.0, {"hardware": "t4"})
    assert run.note == "W&B, steps by '_step', which counts what was logged: median of 2 intervals, 2 s per step"
    trace = tmp_path / "t.json"
    trace.write_text(
        '{"deviceProperties": [{"name": "A100"}], "traceEvents": [{"name": "ProfilerStep#1", "ts": 1, "dur": 3e6}]}'
    )
    (run,) = read_runs(trace, {"model": "a.py", "batch": "4"})
    assert (run.seconds, run.joules, run.options["hardware"]) == (3.0, None, "A100")
    (run,) = read_runs(trace, {"model": "a.py", "batch": "4", "hardware": "t4"})
    assert run.options["hardware"] == "t4"  # what the caller says goes before the log
    assert math.isfinite(run.seconds)


def test_a_unit_that_differs_by_its_case_is_not_guessed(tmp_path: Path) -> None:
    """Megawatts are no milliwatts."""
    assert "has the unit 'mw' in 'watts (MW)'" in problem(
        tmp_path, "model,batch,seconds_per_step,watts (MW)", "a.py,1,1,1"
    )
