"""The table of a sweep: columns, types and formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.sweeps.table import check_format, write_table

RESULTS: list[dict[str, Any]] = [
    {"index": 0, "asked": {"width": 4, "act": "relu"}, "row": {"energy_kwh": 1.0, "over_budget": False}},
    {"index": 1, "asked": {"width": 0.5, "dropout": None}, "error": 'a, "b"'},
    {"index": 2, "asked": {"act": 3, "deep": {"a": 1}}, "row": {"energy_kwh": 2.5, "over_budget": True}},
]
COLUMNS = ["candidate", "width", "act", "energy_kwh", "over_budget", "dropout", "deep", "error"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_every_format_has_all_columns_and_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_table(path, RESULTS)
    read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [list(row) for row in rows] == [COLUMNS] * 3
        frame = pandas.DataFrame(rows)
    else:
        frame = read[suffix](path)
    assert list(frame.columns) == COLUMNS
    assert list(frame["candidate"]) == [0, 1, 2]
    assert frame["width"][0] == 4.0
    assert frame["width"][1] == 0.5
    assert frame["act"][2] == "3"  # a column of texts and numbers is one of texts
    assert frame["deep"][2] == "{'a': 1}"
    assert frame["error"][1] == 'a, "b"'
    assert [path.name] == [one.name for one in tmp_path.iterdir()]


def test_columns_of_parquet_have_types(tmp_path: Path) -> None:
    write_table(tmp_path / "out.parquet", RESULTS * 700)  # more than one chunk
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    assert len(frame) == 2100
    assert frame["energy_kwh"].dtype == "float64"
    assert frame["candidate"].dtype == "int64"
    assert frame["over_budget"][2] is True


def test_names_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(JoulecastError, match=r"end its name with \.csv or \.parquet or \.jsonl"):
        check_format(tmp_path / "out.xlsx")
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(JoulecastError, match="is a folder"):
        check_format(tmp_path / "out.csv")


def test_a_table_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(JoulecastError, match="cannot be written"):
        write_table(tmp_path / "none" / "out.csv", RESULTS)
