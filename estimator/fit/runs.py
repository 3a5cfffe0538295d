"""A table of a user's own runs: the columns that it needs, and checks of every row."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import FitError
from ..base.suggest import near
from .logs import Log, read_log

_SECONDS, _RATE, _WATTS, _JOULES = "seconds_per_step", "samples_per_second", "watts", "joules_per_step"
_NEEDED = ("model", "batch")
OPTIONAL = ("precision", "input", "dataset", "sequence_length", "optimizer", "hardware", "software")
_ALIASES = {
    "batch_size": "batch",
    "per_device_train_batch_size": "batch",
    "train_batch_size": "batch",
    "arch": "model",
    "model_name": "model",
    "train_samples_per_second": _RATE,
    "train/train_samples_per_second": _RATE,
    "seq_length": "sequence_length",
    "gpu": "hardware",
}
"""Names that trainers and their logs give to the columns."""
COLUMNS = (*_NEEDED, _SECONDS, _RATE, _WATTS, _JOULES, *OPTIONAL)


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
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [_ALIASES.get(name.strip(), name.strip()) for name in reader.fieldnames or ()]
            reader.fieldnames = names
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FitError(f"{path} cannot be read ({error}); give a CSV file in UTF-8") from error
    _check_columns(path, [*names, *(name for name in defaults if name not in names)])
    if not rows:
        raise FitError(f"{path} has no rows; add one line for each run")
    runs = tuple(_run(path, line, {**defaults, **_filled(row)}) for line, row in rows)
    _check_same(path, runs)
    return runs


def _filled(row: Mapping[str, str | None]) -> dict[str, str]:
    """The cells that are not empty."""
    return {name: text for name, value in row.items() if (text := (value or "").strip())}


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


def _check_columns(path: Path, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise FitError(
            f"{path} has column {unknown[0]!r}{near(unknown[0], COLUMNS)}; the columns are {', '.join(COLUMNS)}"
        )
    missing = [name for name in _NEEDED if name not in names]
    if _SECONDS not in names and _RATE not in names:
        missing.append(f"{_SECONDS} or {_RATE}")
    if missing:
        raise FitError(f"{path} lacks the column {missing[0]}; it has {', '.join(names) or 'none'}")


def _run(path: Path, line: int, row: Mapping[str, str]) -> Run:
    where = f"{path}:{line}"
    if not row.get("model"):
        raise FitError(f"{where} has no model; give a text such as net.py:Net")
    batch = _positive(where, "batch", row.get("batch", ""))
    if batch != int(batch):
        raise FitError(f"{where} has batch {row['batch']!r}; give a whole number of samples per step")
    seconds, rate = row.get(_SECONDS, ""), row.get(_RATE, "")
    if bool(seconds) == bool(rate):
        both = "both" if seconds else "neither"
        raise FitError(f"{where} has {both} of {_SECONDS} and {_RATE}; give one")
    step_s = _positive(where, _SECONDS, seconds) if seconds else batch / _positive(where, _RATE, rate)
    watts, joules = row.get(_WATTS, ""), row.get(_JOULES, "")
    if watts and joules:
        raise FitError(f"{where} has both of {_WATTS} and {_JOULES}; give one")
    energy = _positive(where, _WATTS, watts) * step_s if watts else None
    energy = _positive(where, _JOULES, joules) if joules else energy
    options = {name: row[name] for name in OPTIONAL if row.get(name)}
    if "sequence_length" in options and not options["sequence_length"].isdigit():
        raise FitError(f"{where} has sequence_length {options['sequence_length']!r}; give a whole number of tokens")
    return Run(line, row["model"], int(batch), step_s, energy, options)


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
