"""The results of a sweep as a CSV or Parquet file, a row for each candidate, in a few rows of memory."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..estimator.base.errors import JoulecastError
from .ranking import columns_of

FORMATS = (".csv", ".parquet", ".jsonl")
_ROWS = 1000  # of one chunk
_TYPES = (bool, int, float, str)  # a column has the last of these that occurs in it


def check_format(path: Path) -> None:
    """Raises JoulecastError where `path` cannot be the table of a sweep."""
    if path.suffix not in FORMATS:
        raise JoulecastError(f"{path} is not a table: end its name with {' or '.join(FORMATS)}")
    if path.is_dir():
        raise JoulecastError(f"{path} is a folder: give the name of a file in it")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise JoulecastError(
                "writing Parquet needs pyarrow, which is not installed: pip install 'joulecast[parquet]'"
            ) from None


def write_table(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Writes the results to `path`, whole or not at all; `results` is read twice."""
    types = _types(columns_of(result) for result in results)
    rows = ({name: _as(types[name], columns_of(result).get(name)) for name in types} for result in results)
    part = path.with_name(f".{path.name}.part")
    try:
        {".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_jsonl}[path.suffix](part, types, rows)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise JoulecastError(f"{path} cannot be written ({error.strerror or error})") from None


def _types(rows: Iterable[Mapping[str, Any]]) -> dict[str, type]:
    """The columns of all rows, in the order in which they occur, with `error` as the last, and their types."""
    found: dict[str, type] = {}
    for row in rows:
        for name, value in row.items():
            own = type(value) if type(value) in _TYPES else str
            if value is not None:
                found[name] = _wider(found.get(name, own), own)
            else:
                found.setdefault(name, bool)
    error = found.pop("error", str)
    return {**found, "error": error}


def _wider(one: type, other: type) -> type:
    if one is other:
        return one
    if bool in (one, other) or str in (one, other):
        return str
    return float


def _as(kind: type, value: Any) -> Any:
    return None if value is None else str(value) if kind is str else kind(value)


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write_csv(path: Path, types: Mapping[str, type], rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(types), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, types: Mapping[str, type], rows: Iterator[dict[str, Any]]) -> None:
    import json

    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _write_parquet(path: Path, types: Mapping[str, type], rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in types.items()])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for chunk in _chunks(rows):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))
