"""Step times from what other tools have logged: Weights & Biases, TensorBoard and torch.profiler."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ..base.errors import FitError

_STEPS = ("trainer/global_step", "train/global_step", "global_step", "_step", "step")
_TIMES = ("_runtime", "_timestamp", "wall time", "relative time (process)", "relative time (wall)")
_WATTS = "powerwatts"  # W&B's system metrics end in it: system.gpu.0.powerWatts
_MILLISECONDS = 1e11  # a time stamp above this is in milliseconds
_LEAST_POINTS = 3
_TFEVENTS = "tfevents"
_STEP_MARK = "ProfilerStep#"
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_RUNS_TABLE = frozenset(("state", "created", "sweep", "tags"))
"""Columns of a W&B table that has a line for each run: a table, not the history of one."""
_PER_SECOND = "train_steps_per_second"


@dataclass(frozen=True, slots=True)
class Log:
    """One run: the median seconds of a step, mean watts of the GPU and its name, None where not logged."""

    seconds: float
    watts: float | None
    hardware: str | None
    note: str


def read_log(path: Path) -> Log | None:
    """The run in a file of one of the three tools; None for any other CSV file. Raises FitError."""
    if _TFEVENTS in path.name:
        return _from_points(path, list(_events(path)), "TensorBoard event file")
    names = {suffix.lower() for suffix in path.suffixes}
    if ".json" in names or ".jsonl" in names:
        return _json_log(path)
    header = next(csv.reader(io.StringIO(unpacked(path).split("\n", 1)[0])), [])
    plain = {_plain(name) for name in header}
    if len(plain & _RUNS_TABLE) > 1:
        return None
    if plain.isdisjoint(_TIMES):
        if not plain.isdisjoint(_STEPS) and "model" not in plain:
            raise FitError(
                f"{path} logs steps without their times; it has {', '.join(header[:8])}: export them over relative "
                "time, or with _runtime, _timestamp or Wall time"
            )
        return None
    rows = list(csv.DictReader(io.StringIO(unpacked(path))))
    return _history(path, rows, "TensorBoard" if {"wall time", "value"} <= plain else "W&B")


def unpacked(path: Path) -> str:
    """The text of a file, packed with gzip or not. Raises FitError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FitError(
            f"{path} does not exist; give a table of runs, or a log of W&B, TensorBoard or torch.profiler"
        ) from None
    except OSError as error:
        raise FitError(f"{path} cannot be read ({error.strerror or error}); give a file in UTF-8") from error
    if data.startswith(_ZIP):
        raise FitError(f"{path} is a zip archive; unpack it, and give the file inside")
    try:
        return (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8-sig")
    except EOFError:
        raise FitError(f"{path} is cut off: the gzip data ends early; copy the file again") from None
    except (OSError, zlib.error) as error:
        raise FitError(f"{path} is damaged gzip data ({error}); copy the file again") from error
    except UnicodeDecodeError as error:
        raise FitError(f"{path} cannot be read ({error}); give a file in UTF-8") from error


def _plain(name: str) -> str:
    """A column's name without the run that W&B's charts put before it."""
    return name.split(" - ")[-1].strip().lower()


# -- Histories: one row per logged step ------------------------------------------------------------------------------


def _history(path: Path, rows: Sequence[Mapping[str, Any]], tool: str) -> Log:
    if not rows:
        raise FitError(f"{path} has no rows; export the history of a run that has logged steps")
    names = dict.fromkeys(name for row in rows for name in row if name is not None)
    step = _column(path, names, _STEPS, "a step", "global_step or _step")
    time = _column(path, names, _TIMES, "a time", "_runtime or _timestamp")
    points = [(_number(row.get(time)), _number(row.get(step))) for row in rows]
    power = [name for name in names if _plain(name).endswith(_WATTS)]
    watts = [value for row in rows if power and (value := _number(row.get(power[0]))) is not None and value > 0]
    known = [(second, count) for second, count in points if second is not None and count is not None]
    counted = ", which counts what was logged" if _plain(step) == "_step" else ""
    log = _from_points(path, known, f"{tool}, steps by {_plain(step)!r}{counted}")
    return Log(log.seconds, sum(watts) / len(watts) if watts else None, None, log.note)


def _column(path: Path, names: Mapping[str, Any], wanted: Sequence[str], what: str, example: str) -> str:
    for plain in wanted:
        found = [name for name in names if _plain(name) == plain]
        if len(found) > 1:
            runs = ", ".join(name.rpartition(" - ")[0] or name for name in found)
            raise FitError(f"{path} holds {len(found)} runs: {runs}; export one")
        if found:
            return found[0]
    raise FitError(f"{path} lacks the column of {what}; it has {', '.join(list(names)[:8])}: export {example} too")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _from_points(path: Path, points: Sequence[tuple[float, float]], what: str) -> Log:
    """Seconds per step between logged steps, by their median; `points` are times and steps."""
    by_step: dict[float, float] = {}
    for second, step in points:
        by_step[step] = max(second, by_step.get(step, second))
    if len(by_step) < _LEAST_POINTS:
        raise FitError(f"{path} logs {len(by_step)} different steps; a step's time needs at least {_LEAST_POINTS}")
    ordered = sorted(by_step.items())
    scale = 1e-3 if ordered[-1][1] > _MILLISECONDS else 1.0
    rates = [(b - a) * scale / (after - before) for (before, a), (after, b) in pairwise(ordered)]
    seconds = median(rates)
    if seconds <= 0:
        raise FitError(f"{path} has times that do not grow with the step ({seconds:g} s per step); export one run")
    return Log(seconds, None, None, f"{what}: median of {len(rates)} intervals, {seconds:.4g} s per step")


# -- TensorBoard event files ------------------------------------------------------------------------------------------


def _events(path: Path) -> Iterator[tuple[float, float]]:
    """Wall time and step of every event: fields 1 and 2 of each record. A last record cut off is left out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FitError(f"{path} cannot be read ({error}); give a TensorBoard event file") from error
    at = 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        record = data[at + 12 : at + 12 + size]
        if len(record) < size:
            break
        wall, step = _event(record)
        if step is not None:
            yield wall, step
        at += 16 + size


def _event(record: bytes) -> tuple[float, float | None]:
    """Protocol buffer fields: a tag that is a field number times 8 plus the type of what follows."""
    wall, step, at, scalar = 0.0, 0, 0, False
    while at < len(record):
        tag, at = _varint(record, at)
        if tag == 0x09 and at + 8 <= len(record):
            (wall,) = struct.unpack_from("<d", record, at)
            at += 8
        elif tag == 0x10:
            step, at = _varint(record, at)
        elif tag & 7 == 2:
            size, at = _varint(record, at)
            at += size
            scalar = scalar or tag >> 3 == 5  # a summary
        else:
            break
    return wall, float(step) if scalar else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, at


# -- JSON: torch.profiler's traces and W&B's histories ----------------------------------------------------------------


def _json_log(path: Path) -> Log:
    text = unpacked(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        lines = _json_lines(text)
        if lines is None:
            cut = error.pos >= len(text.rstrip()) - 1 or "Unterminated" in error.msg
            where = "ends in the middle" if cut else f"is broken at character {error.pos}"
            raise FitError(f"{path} {where} ({error.msg}): export it again, and wait until the export ends") from None
        document = lines
    if isinstance(document, dict) and "traceEvents" in document:
        return _profiler(path, document)
    if isinstance(document, dict) and (rate := _trainers_rate(document)):
        note = f"transformers, the whole training with its evaluations and saves: {1 / rate:.4g} s per step"
        return Log(1 / rate, None, None, note)
    if isinstance(document, list) and document and all(_is_scalar(row) for row in document):
        return _from_points(path, [(row[0], row[1]) for row in document], "TensorBoard")
    if isinstance(document, dict):
        document = document.get("history", document.get("data", [document]))
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        return _history(path, document, "W&B")
    raise FitError(f"{path} is neither a torch.profiler trace (traceEvents) nor a W&B history (a list of rows)")


def _trainers_rate(document: Mapping[str, Any]) -> float | None:
    """Steps per second in `train_results.json` or at the end of `trainer_state.json`."""
    history = document.get("log_history")
    places = [
        document,
        *(row for row in reversed(history if isinstance(history, list) else []) if isinstance(row, dict)),
    ]
    rates = [rate for place in places if (rate := _number(place.get(_PER_SECOND))) is not None and rate > 0]
    return rates[0] if rates else None


def _is_scalar(row: Any) -> bool:
    """Wall time, step and value, as TensorBoard writes a point."""
    return isinstance(row, list) and len(row) == 3 and all(isinstance(value, int | float) for value in row[:2])


def _json_lines(text: str) -> list[Any] | None:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return None
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        return None


def _profiler(path: Path, document: Mapping[str, Any]) -> Log:
    events = [event for event in document["traceEvents"] if isinstance(event, dict)]
    marks = sorted(
        (float(event["ts"]), float(event.get("dur", 0.0)))
        for event in events
        if str(event.get("name", "")).startswith(_STEP_MARK) and event.get("cat") != "gpu_user_annotation"
    )
    if not marks:
        raise FitError(
            f"{path} marks no steps among its {len(events)} events; profile with schedule=... and call prof.step() "
            "after every step of the loop"
        )
    starts = [start for start, _ in marks]
    gaps = [after - before for before, after in pairwise(starts)]
    seconds = (median(gaps) if gaps else marks[0][1]) / 1e6
    if seconds <= 0:
        raise FitError(f"{path} has steps of {seconds:g} s; profile at least two steps")
    cards = dict.fromkeys(str(one["name"]) for one in document.get("deviceProperties", []) if one.get("name"))
    if len(cards) > 1:
        raise FitError(f"{path} was made on several kinds of GPU: {', '.join(cards)}; give a trace of one")
    note = f"torch.profiler: {len(marks)} steps, {seconds:.4g} s per step; the profiler itself makes steps slower"
    if not gaps:
        note += ", and the end of a single step is the CPU's: profile several"
    return Log(seconds, None, next(iter(cards), None), note)
