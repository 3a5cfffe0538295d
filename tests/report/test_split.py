"""The page's section on a cluster's split: its tables add up and say what each energy covers."""

from __future__ import annotations

from datetime import date

import joulecast as jc
from joulecast.estimator.answer.estimate import answer
from joulecast.report.document import Report, figure
from joulecast.report.page import render
from joulecast.report.script import script_data
from joulecast.report.split import split_sentence, split_tables

from ..estimator.cost.parallel.decoder import decoder


def ask(**fields: object) -> jc.Answer:
    common = {"model": decoder(), "steps": 10, "cluster": "2x8xa100-sxm4-80gb:200gb", "parallel": "dp=2,tp=8"}
    return answer(jc.Request(**{**common, **fields}))


def test_the_page_shows_the_split() -> None:
    found = ask(device_hour=2.0, budget="1 USD")
    page = render(Report((found,), "command", "1.0", date(2026, 1, 1)))
    assert "How the devices share it" in page
    assert "dp=2, tp=8" in page
    assert "rent at 2.00 USD a device and hour" in page
    assert "by the nodes, times" in page
    assert found.split is not None
    tables = {table.title: table for table in split_tables(found)}
    assert tables["The split"].rows[1] == ("tensor parallel", "8")
    assert tables["One step"].rows[-1][0] == "all"
    assert len(tables["Energy and money by boundary"].rows) == 5
    assert split_sentence(found).endswith("as asked for.")


def test_the_script_grows_whole_nodes_and_the_rent() -> None:
    found = ask(device_hour=2.0, budget="1 USD")
    assert found.bill is not None
    assert found.node_energy_kwh is not None
    data = script_data(Report((found,), "command", "1.0", date(2026, 1, 1)))
    model = data["models"][0]
    assert model["limits"][0]["figure"] == "rent"
    assert abs(model["rent_per_s"] * found.seconds.value - found.bill.value) < 1e-9
    assert abs(model["growth"]["energy_kwh"]["value"][1] * 10 - found.node_energy_kwh.value) < 1e-12
    assert figure(found, "energy_kwh") == found.node_energy_kwh


def test_a_run_on_one_device_has_no_such_section() -> None:
    alone = answer(jc.Request(model=decoder(), steps=10, hardware="a100-sxm4-80gb"))
    assert split_tables(alone) == ()
    assert "How the devices share it" not in render(Report((alone,), "command", "1.0", date(2026, 1, 1)))
