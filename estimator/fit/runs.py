"""A table of a user's own runs: the columns that it needs, and checks of every row."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import FitError
from ..base.suggest import near
from .logs import Log, read_log, unpacked

_SECONDS, _RATE, _WATTS, _JOULES = "seconds_per_step", "samples_per_second", "watts", "joules_per_step"
_NEEDED = ("model", "batch")
OPTIONAL = ("precision", "input", "dataset", "sequence_length", "optimizer", "hardware", "software")
_STEPS, _TOKENS = "steps_per_second", "tokens_per_second"
_ALIASES = {
    **dict.fromkeys(("batch_size", "bs", "batchsize", "per_device_train_batch_size", "train_batch_size"), "batch"),
    **dict.fromkeys(("arch", "architecture", "model_name", "network"), "model"),
    **dict.fromkeys(("sec_per_step", "s_per_step", "step_time", "step_seconds", "time_per_step"), _SECONDS),
    **dict.fromkeys(("seconds_per_iteration", "seconds_per_batch", "iteration_time"), _SECONDS),
    **dict.fromkeys(("train_samples_per_second", "train_train_samples_per_second", "throughput"), _RATE),
    **dict.fromkeys(("images_per_second", "examples_per_second", "images_per_sec", "samples_per_sec"), _RATE),
    **dict.fromkeys(("train_steps_per_second", "train_train_steps_per_second", "iterations_per_second"), _STEPS),
    **dict.fromkeys(("train_tokens_per_second", "tokens_per_sec"), _TOKENS),
    **dict.fromkeys(("power_w", "power", "power_draw", "mean_power_w"), _WATTS),
    **dict.fromkeys(("seq_length", "seq_len", "max_seq_length"), "sequence_length"),
    **dict.fromkeys(("gpu", "gpu_name"), "hardware"),
    "optim": "optimizer",
    "dtype": "precision",
    "input_shape": "input",
}
"""Names that trainers and their logs give to the columns, in small letters and with underscores."""
_MILLISECONDS = ("ms_per_step", "ms_per_batch", "ms_per_iteration", "step_time_ms", "milliseconds_per_step", "step_ms")
_UNITS = {
    _SECONDS: {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6},
    _RATE: dict.fromkeys(("img/s", "images/s", "samples/s", "img/sec", "images/sec", "samples/sec"), 1.0),
    _WATTS: {"w": 1.0, "watts": 1.0, "kw": 1e3, "mW": 1e-3},
    _JOULES: {"j": 1.0, "joules": 1.0, "kj": 1e3, "mJ": 1e-3, "MJ": 1e6, "wh": 3600.0},
}
"""What a unit in brackets behind a column's name is worth in the column's own."""
_PRECISIONS = {"32": "fp32", "32-true": "fp32", "no": "fp32", "16-mixed": "fp16", "bf16-mixed": "bf16", "half": "fp16"}
"""What Lightning and Accelerate call a precision."""
COLUMNS = (*_NEEDED, _SECONDS, _RATE, _WATTS, _JOULES, *OPTIONAL)
_KNOWN = (*COLUMNS, _STEPS, _TOKENS)
_ALIKE = 0.8
"""From this likeness on, an unknown column is a misspelt one."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row: `seconds` and `joules` are of one step of `batch` samples; joules None where not metered."""

    line: int
    model: str
    batch: int
    seconds: float
    joules: float | None
    options: Mapping[str, str]  # the `OPTIONAL` columns that are not empty
    note: str = ""  # how a log was read


def read_runs(path: Path, defaults: Mapping[str, str] | None = None) -> tuple[Run, ...]:
    """The runs of a CSV table, or the one run of a log of W&B, TensorBoard or torch.profiler (`read_log`).

    `defaults` are what a log does not state: model and batch, and columns that the table leaves out. Raises FitError,
    which names the line, the column and the value seen.
    """
    defaults = defaults or {}
    log = read_log(path)
    if log is not None:
        return (_logged(path, log, defaults),)
    text = unpacked(path)
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        columns = [_column(path, name) for name in reader.fieldnames or ()]
        reader.fieldnames = [column.name for column in columns]
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise FitError(f"{path} cannot be read ({error}); give a CSV file in UTF-8") from error
    unused = _check_columns(path, [column.name for column in columns], defaults)
    if not rows:
        raise FitError(f"{path} has no rows; add one line for each run")
    scales = {column.name: column.scale for column in columns if column.scale != 1.0}
    runs = tuple(
        _run(path, line, {**defaults, **_scaled(_filled(row, decimal_comma=delimiter == ";"), scales)})
        for line, row in rows
    )
    _check_same(path, runs)
    if unused:
        runs = (replace(runs[0], note=f"columns not used: {', '.join(unused)}"), *runs[1:])
    return runs


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    scale: float = 1.0


def _column(path: Path, text: str) -> _Column:
    """The column that a table's header means, and what its unit is worth; its own text for one that is not known."""
    bracketed = re.fullmatch(r"(.*?)\s*[(\[]([^)\]]*)[)\]]\s*", text)
    name, unit = (bracketed[1], bracketed[2].strip()) if bracketed else (text, "")
    plain = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    if plain in _MILLISECONDS:
        return _Column(_SECONDS, 1e-3)
    known = _ALIASES.get(plain, plain)
    if known not in _KNOWN:
        return _Column(text.strip())
    if not unit or known not in _UNITS:
        return _Column(known)
    units = _UNITS[known]
    unit = unit if unit in units else unit.casefold()  # only mJ and MJ differ by their case
    if unit not in units:
        raise FitError(f"{path} has the unit {unit!r} in {text.strip()!r}; give one of {', '.join(units)}")
    return _Column(known, units[unit])


def _scaled(cells: dict[str, str], scales: Mapping[str, float]) -> dict[str, str]:
    """The cells in the units of their columns; what is no number stays for the message that names it."""
    for name in cells.keys() & scales.keys():
        with suppress(ValueError):
            cells[name] = repr(float(cells[name]) * scales[name])
    return cells


def _filled(row: Mapping[str | None, Any], *, decimal_comma: bool = False) -> dict[str, str]:
    """The cells that are not empty."""
    cells = {name: text for name, value in row.items() if name is not None and (text := (value or "").strip())}
    if decimal_comma:
        cells = {name: re.sub(r"^(\d+),(\d+)$", r"\1.\2", text) for name, text in cells.items()}
    return cells


def _logged(path: Path, log: Log, defaults: Mapping[str, str]) -> Run:
    missing = [name for name in _NEEDED if not defaults.get(name)]
    if missing:
        field = {"batch": "batch_size"}.get(missing[0], missing[0])
        raise FitError(f"{path} is the log of one run and does not say its {missing[0]}; give `{field}`")
    row = {**defaults, _SECONDS: repr(log.seconds)}
    if log.watts is not None:
        row[_WATTS] = repr(log.watts)
    if log.hardware is not None:
        row.setdefault("hardware", log.hardware)
    return replace(_run(path, 1, row), note=log.note)


def _check_columns(path: Path, names: Sequence[str], defaults: Mapping[str, str]) -> list[str]:
    """The columns that are not used. Raises FitError for one that seems misspelt, one twice, and for missing ones."""
    unknown = [name for name in names if name and name not in _KNOWN]
    misspelt = next((name for name in unknown if difflib.get_close_matches(name, COLUMNS, cutoff=_ALIKE)), None)
    strange = misspelt or next((name for name in defaults if name not in COLUMNS), None)
    have = {*names, *defaults}
    missing = [name for name in _NEEDED if name not in have]
    if have.isdisjoint((_SECONDS, _RATE, _STEPS, _TOKENS)):
        missing.append(f"{_SECONDS} or {_RATE}")
    if missing and strange is None:
        needed = (*_NEEDED, _SECONDS, _RATE)
        strange = next((name for name in unknown if difflib.get_close_matches(name, needed)), None)
    if strange is not None:
        raise FitError(f"{path} has column {strange!r}{near(strange, COLUMNS)}; the columns are {', '.join(COLUMNS)}")
    twice = next((name for name in _KNOWN if list(names).count(name) > 1), None)
    if twice is not None:
        raise FitError(f"{path} has the column {twice} twice, under two names; leave one out")
    if missing:
        raise FitError(f"{path} lacks the column {missing[0]}; it has {', '.join(names) or 'none'}")
    return unknown


def _run(path: Path, line: int, row: Mapping[str, str]) -> Run:
    where = f"{path}:{line}"
    if not row.get("model"):
        raise FitError(f"{where} has no model; give a text such as net.py:Net")
    batch = _positive(where, "batch", row.get("batch", ""))
    if batch != int(batch):
        raise FitError(f"{where} has batch {row['batch']!r}; give a whole number of samples per step")
    step_s = _step_seconds(where, row, batch)
    watts, joules = row.get(_WATTS, ""), row.get(_JOULES, "")
    if watts and joules:
        raise FitError(f"{where} has both of {_WATTS} and {_JOULES}; give one")
    energy = _positive(where, _WATTS, watts) * step_s if watts else None
    energy = _positive(where, _JOULES, joules) if joules else energy
    options = {name: row[name] for name in OPTIONAL if row.get(name)}
    if "precision" in options:
        plain = options["precision"].casefold()
        options["precision"] = _PRECISIONS.get(plain, plain)
    if "sequence_length" in options and not options["sequence_length"].isdigit():
        raise FitError(f"{where} has sequence_length {options['sequence_length']!r}; give a whole number of tokens")
    return Run(line, row["model"], int(batch), step_s, energy, options)


def _step_seconds(where: str, row: Mapping[str, str], batch: float) -> float:
    given = [name for name in (_SECONDS, _RATE, _STEPS, _TOKENS) if row.get(name)]
    if _SECONDS in given and _RATE in given:
        raise FitError(f"{where} has both of {_SECONDS} and {_RATE}; give one")
    if not given:
        raise FitError(f"{where} has neither of {_SECONDS} and {_RATE}; give one")
    value = _positive(where, given[0], row[given[0]])  # trainers log several rates of the same run
    if given[0] == _SECONDS:
        return value
    if given[0] == _STEPS:
        return 1.0 / value
    if given[0] == _TOKENS:
        length = row.get("sequence_length", "")
        return batch * _positive(where, "sequence_length", length) / value
    return batch / value


def _positive(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise FitError(f"{where} has {column} {text!r}; give a number above 0")
    return value


def _check_same(path: Path, runs: Sequence[Run]) -> None:
    for column in ("hardware", "software"):
        values = sorted({run.options.get(column, "") for run in runs})
        if len(values) > 1:
            shown = ", ".join(value or "(empty)" for value in values)
            raise FitError(f"{path} mixes {column}: {shown}; fit one profile for each")
    metered = sum(run.joules is not None for run in runs)
    if metered not in (0, len(runs)):
        raise FitError(f"{path} has energy for {metered} of {len(runs)} runs; give it for all or for none")
