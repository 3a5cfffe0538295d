"""Records as tables: one row per window, labels kept, integers as integers, the same figures in every format."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pandas
import pytest
from click.testing import CliRunner

import joulecast as jc
from joulecast.cli.measure import measure
from joulecast.estimator.base.errors import JoulecastError
from joulecast.measure.records.export import exported, to_frame
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.records.store import Store

from .test_records import WORK, reading, record

MODELLED = record(windows=(MeasuredWindow("training steps", 5, 1.0, reading(20.0, "modelled"), ("noise",)),))
UNKNOWN = record(windows=(MeasuredWindow("idle", 0, 1.5),), workload=None, op_seconds=None)


def test_csv_has_a_row_for_each_window_and_keeps_the_labels() -> None:
    rows = list(csv.DictReader(io.StringIO(exported([record(), MODELLED, UNKNOWN], "csv").decode())))
    assert [row["energy_label"] for row in rows] == ["measured", "measured", "modelled", "missing"]
    assert float(rows[0]["energy_j"]) == pytest.approx(84.0)
    assert rows[2]["flags"] == "noise"
    assert int(rows[0]["flops_per_step"]) == WORK.flops
    assert (rows[3]["energy_j"], rows[3]["batch_size"], rows[3]["steps"]) == ("", "", "0")


def test_json_holds_everything() -> None:
    documents = json.loads(exported([record(), record(id="other")], "json"))
    assert [Record.from_json(document) for document in documents] == [record(), record(id="other")]


def test_parquet_holds_the_table_with_its_types() -> None:
    pytest.importorskip("pyarrow")
    found = [record(), MODELLED, UNKNOWN]
    again = pandas.read_parquet(io.BytesIO(exported(found, "parquet")))
    pandas.testing.assert_frame_equal(again, to_frame(found))
    assert again["flops_per_step"].dtype == "Int64"
    assert again["energy_j"].isna().tolist() == [False, False, False, True]


def test_parquet_without_pyarrow_is_one_line_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(JoulecastError, match=r"needs pyarrow.*pip install 'joulecast\[parquet\]'") as caught:
        exported([record()], "parquet")
    assert "\n" not in str(caught.value)


def test_a_store_is_a_table_in_python(tmp_path: Path) -> None:
    Store(tmp_path).write(record())
    (tmp_path / "records" / "20991231T000000Z-cut-abc123.json").write_text("{")
    with pytest.warns(UserWarning, match="cannot be read"):
        table = jc.records(tmp_path)
    assert table["energy_j"].sum() == pytest.approx(168.0)
    assert table.groupby("name")["steps"].sum().to_dict() == {"linear": 20}
    assert jc.records(tmp_path / "empty").empty


def test_the_command_writes_parquet_to_a_file_only(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    Store(tmp_path).write(record())
    refused = CliRunner().invoke(measure, ["export", "--format", "parquet", "--store", str(tmp_path)])
    assert refused.exit_code == 2
    assert "give --output FILE" in refused.output
    arguments = ["export", "--format", "parquet", "--output", str(tmp_path / "x.parquet"), "--store", str(tmp_path)]
    assert CliRunner().invoke(measure, arguments).exit_code == 0
    assert len(pandas.read_parquet(tmp_path / "x.parquet")) == 2
