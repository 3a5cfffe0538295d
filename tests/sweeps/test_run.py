"""Sweeps in this process: figures, totals, budgets, failures and resumption."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

import joulecast as jc
from joulecast.estimator.answer.estimate import answer
from joulecast.estimator.answer.request import Request
from joulecast.estimator.base.errors import JoulecastError
from joulecast.sweeps import jobs

from .conftest import parameters


def sweep(candidates: Any, base: Request, **options: Any) -> Any:
    return jc.sweep(candidates, base, jobs=1, **options)


def test_every_row_is_what_estimate_answers(base: Request, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    report = sweep({"width": [4, 8], "hardware": ["rtx-4090", "t4"], "batch_size": [8, 16]}, base, output=path)
    frame = pandas.read_parquet(path)
    assert report.candidates == len(frame) == 8
    for _, row in frame.iterrows():
        own = answer(
            replace(base, model_args={"width": str(row.width)}, hardware=row.profile, batch_size=int(row.batch_size))
        )
        assert row.energy_kwh == own.energy_kwh.value
        assert row.co2e_kg_high == own.co2e_kg.high
        assert row.parameters == parameters(row.width)
        assert row.steps == 2 * -(-100 // row.batch_size)
    assert report.totals["energy_kwh"].value == pytest.approx(frame.energy_kwh.sum(), rel=1e-12)
    assert report.totals["seconds"].high == pytest.approx(frame.seconds_high.sum(), rel=1e-12)


def test_a_model_is_traced_once_for_all_that_share_it(base: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def read(request: Request) -> jc.Workload:
        traced.append(request.trace_key)
        return answer(request).workload

    monkeypatch.setattr(jobs, "_KEPT", jobs.Kept(8, read))
    sweep({"hardware": ["rtx-4090", "t4"], "width": [4, 8], "epochs": [1, 2], "region": ["FR", "SE"]}, base)
    assert len(traced) == 2


def test_the_total_is_compared_with_budgets(base: Request) -> None:
    total = sweep({"width": [4, 8]}, base).totals["co2e_kg"]
    limit = f"{(total.value + total.high) / 2} kgCO2e"
    assert sweep({"width": [4, 8]}, base, budget=limit).exceeded
    assert not sweep({"width": [4, 8]}, base, budget=limit, budget_at="expected").exceeded
    assert not sweep({"width": [4]}, base, budget=limit).exceeded


def test_each_candidate_may_have_a_budget(base: Request) -> None:
    report = sweep([{"width": 4}, {"width": 8, "budget": "1 J"}], base)
    assert report.over_budget == 1
    assert [row["width"] for row in report.top] == [4]


def test_a_candidate_that_fails_is_a_row_with_its_reason(base: Request, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    report = sweep([{"width": 4}, {"width": -1}, {"widht": 4}, {"batch_size": 0}], base, output=path)
    frame = pandas.read_csv(path)
    assert (report.candidates, report.failed) == (4, 3)
    assert frame["energy_kwh"].notna().tolist() == [True, False, False, False]
    assert "negative dimension -1" in frame["error"][1]
    assert "widht" in frame["error"][2]
    assert "batch_size" in frame["error"][3]
    assert "Traceback" not in path.read_text()


def test_names_of_columns_set_nothing(base: Request, lines: Path) -> None:
    from joulecast.sweeps.candidates import read_candidates

    report = sweep(read_candidates(str(lines)), base, columns=["accuracy"], pareto="energy,accuracy", by="accuracy")
    assert report.failed == 0
    assert report.top[0]["accuracy"] == 0.9
    assert {row["width"] for row in report.front} == {4, 8} or len(report.front) == 1
    assert list(report.front_frame()["candidate"]) == [row["candidate"] for row in report.front]


def test_a_stopped_sweep_goes_on_with_the_same_result(base: Request, tmp_path: Path) -> None:
    widths = [{"width": width} for width in range(1, 7)]
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    sweep(widths, base, output=whole)

    def watch(done: int, total: int | None, failed: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(widths, base, output=stopped, watch=watch)
    assert not stopped.exists()
    seen = []
    sweep(widths, base, output=stopped, watch=lambda done, total, failed: seen.append((done, total, failed)))
    assert seen == [(4, 6, 0), (5, 6, 0), (6, 6, 0)]
    assert stopped.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped.csv", "whole.csv"]


def test_a_stopped_sweep_with_other_candidates_does_not_go_on(base: Request, tmp_path: Path) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        sweep([{"width": 1}, {"width": 2}], base, output=path, watch=interrupted)
    with pytest.raises(JoulecastError, match="candidate 0 is not the one in"):
        sweep([{"width": 3}, {"width": 2}], base, output=path)


def test_the_report_as_json(base: Request) -> None:
    document = json.loads(json.dumps(sweep({"width": [4, -1]}, base, pareto="energy,parameters").to_json()))
    assert document["schema"] == "joulecast.sweep/1"
    assert (document["candidates"], document["failed"]) == (2, 1)
    assert document["sources"] == ["datasheet"]
    assert set(document["energy_kwh"]) == {"value", "low", "high"}
    assert document["pareto"] == ["least energy_kwh", "most parameters"]
    assert document["front"][0]["width"] == 4
    assert document["failures"][0]["candidates"] == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"output": "out.txt"}, "is not a table"),
        ({"budget": "3 kilo"}, "budget"),
        ({"budget": "3 EUR"}, "is in EUR, the price in USD"),
        ({"pareto": "energi"}, "did you mean energy"),
        ({"engine": "spark"}, "`engine` 'spark' is not one of"),
        ({"address": "tcp://x"}, "`address` tcp://x needs `engine`"),
    ],
)
def test_options_that_cannot_be_used(base: Request, options: dict[str, Any], error: str) -> None:
    with pytest.raises(JoulecastError, match=error):
        sweep({"width": [4]}, base, **options)


def test_a_live_module_cannot_be_read_in_other_processes() -> None:
    torch = pytest.importorskip("torch")
    base = Request(model=torch.nn.Linear(2, 2), inputs=torch.zeros(1, 2), steps=1)
    with pytest.raises(JoulecastError, match="`model` of a sweep"):
        sweep({"steps": [1]}, base)


def test_no_candidates_at_all(base: Request) -> None:
    report = sweep([], base)
    assert (report.candidates, report.totals, report.top) == (0, {}, ())


def test_a_worker_in_another_folder_finds_the_models_file(
    base: Request, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, name = net.rpartition("/")
    monkeypatch.chdir(folder)
    job = next(jobs.make_jobs([(0, {"width": 4})], replace(base, model=name), ()))
    monkeypatch.chdir(tmp_path)
    (found,) = jobs.run_job(job)
    assert found["row"]["parameters"] == parameters(4)
    assert found["row"]["model"] == name


def test_a_relative_profile_is_that_of_the_sweeps_folder(
    base: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jc.load_profile("rtx-3090").save(tmp_path / "mine.json")
    monkeypatch.chdir(tmp_path)
    job = next(jobs.make_jobs([(0, {"width": 4, "hardware": "mine.json"})], base, ()))
    monkeypatch.chdir(tmp_path.parent)
    (found,) = jobs.run_job(job)
    assert found["row"]["profile"] == "rtx-3090"


def test_regions_are_compared_by_estimate(base: Request) -> None:
    with pytest.raises(JoulecastError, match="`regions` compares places of one run"):
        sweep({"width": [4]}, replace(base, regions="FR,SE"))


def test_numbers_that_json_lacks_are_texts_in_the_rows(base: Request, tmp_path: Path) -> None:
    """Of a candidate that asks for them: it fails alone, and the sweep can be started again."""
    path = tmp_path / "out.jsonl"
    asked = [{"width": 4, "note": math.nan}, {"width": math.inf}, {"width": 8}]
    report = jc.sweep(asked, base, output=path, jobs=1, columns=("note",))
    assert (report.candidates, report.failed) == (3, 1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["note"] for row in rows] == ["nan", None, None]
    assert [row["width"] for row in rows] == ["4", "inf", "8"]
    assert "must be tuple of ints" in rows[1]["error"]


def test_each_gets_every_result_in_order(base: Request) -> None:
    found: list[dict[str, object]] = []
    jc.sweep([{"width": 4}, {"width": -1}], base, jobs=1, each=lambda result: found.append(dict(result)))
    assert [one["index"] for one in found] == [0, 1]
    assert found[0]["row"]["parameters"] == 68  # type: ignore[index]
    assert "negative dimension" in str(found[1]["error"])
