"""The page of a sweep as text and in a headless Chromium: chart, front, filters, table and 10,000 candidates."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.place.budget import parse_limit, verdict_of
from joulecast.report.sweep_page import SweepPage, SweepTable, cell_text, front_rows, render_sweep
from joulecast.sweeps.ranking import Ranking, parse_merits

from .tabs import Tab
from .test_page import HOSTILE, Page
from .test_page_looks import CONTRAST, WIDE


def result(index: int, asked: Mapping[str, Any], kwh: float = 0.0, parameters: int = 0, **more: Any) -> dict[str, Any]:
    """A candidate of that energy and size; the bounds are half and twice the figure. `error` makes it fail."""
    if "error" in more:
        return {"index": index, "asked": dict(asked), "error": more["error"]}
    figures = {"energy_kwh": kwh, "facility_energy_kwh": 1.5 * kwh, "co2e_kg": 0.4 * kwh, "seconds": 3600 * kwh}
    figures["cost"] = 0.2 * kwh
    row = {f"{name}{end}": value * by for name, value in figures.items() for end, by in ENDS.items()}
    return {"index": index, "asked": dict(asked), "row": {**row, "parameters": parameters, "step_flops": 7, **more}}


ENDS = {"": 1.0, "_low": 0.5, "_high": 2.0}
# By hand: of parameters against energy, 0, 1 and 3 are on the front (2 needs more than 1 for fewer parameters; 4 is
# over its budget); of the accuracy, 0, 2 and 4 would be, without 4 for its budget.
FEW = [
    result(0, {"width": 8, "hardware": "t4", "accuracy": 0.5}, 1.0, 100),
    result(1, {"width": 16, "hardware": "t4", "accuracy": 0.4}, 2.0, 300),
    result(2, {"width": 16, "hardware": "a100", "accuracy": 0.6}, 3.0, 200),
    result(3, {"width": 32, "hardware": "a100", "accuracy": 0.5}, 4.0, 400),
    result(4, {"width": 64, "hardware": "a100", "accuracy": 0.9}, 5.0, 500, over_budget=True),
    result(5, {"width": -1, "hardware": "t4", "accuracy": None}, error="net.py:5: no such width"),
]


def sweep_page(results: Sequence[dict[str, Any]], budget: str | None = None, **values: Any) -> SweepPage:
    table, ranking = SweepTable(), Ranking()
    for one in results:
        table.add(one)
        ranking.add(one)
    limits = [parse_limit(budget)] if budget and ranking.totals else []
    given = {
        "totals": ranking.totals,
        "verdicts": [verdict_of(limit, ranking.totals["facility_energy_kwh"], "high") for limit in limits],
        "failures": Counter(one["error"] for one in results if "error" in one).most_common(),
        "sources": ("datasheet",),
        "currency": "USD",
        "front_column": "parameters",
        "more_is_better": {},
        "candidates_from": "candidates.jsonl",
        "command": "joulecast sweep --from candidates.jsonl",
        "version": "1.2.3",
        "made": date(2026, 11, 25),
    }
    return SweepPage(table, **{**given, **values})


def page(results: Sequence[dict[str, Any]], budget: str | None = None, **values: Any) -> Page:
    return Page(render_sweep(sweep_page(results, budget, **values)))


def written(folder: Path, results: Sequence[dict[str, Any]], budget: str | None = None, **values: Any) -> Path:
    path = folder / "sweep.html"
    path.write_text(render_sweep(sweep_page(results, budget, **values)), encoding="utf-8")
    return path


# -- as text -----------------------------------------------------------------------------------------


def test_the_totals_are_the_sums() -> None:
    """1 + 2 + 3 + 4 + 5 = 15 kWh; times 1.5 22.5 kWh; half and twice as bounds; 40 kWh are 5 below the upper end."""
    text = page(FEW, "40 kWh").text
    assert "Over budget: 12.5 % above 40 kWh" in text
    assert "Energy with PUE 45.0 kWh at the upper end of the interval, 5.00 kWh above the budget (12.5 %)" in text
    for figure in ("22.5 kWh 11.2 to 45.0 kWh", "15.0 kWh 7.50 to 30.0 kWh", "6.00 kg CO2e", "15.0 h", "3.00 USD"):
        assert figure in text
    assert "1: net.py:5: no such width" in text
    assert "joulecast sweep --from candidates.jsonl" in text


def test_without_a_budget_the_headline_is_the_total() -> None:
    assert "22.5 kWh of electricity, 6.00 kg CO2e and 3.00 USD, in 15.0 h" in page(FEW).text


def test_a_page_needs_no_other_file_and_has_no_style_attributes() -> None:
    shown = page(FEW, "40 kWh")
    assert not any({"src", "style", "onclick"} & set(attributes) for _, attributes in shown.elements)
    links = [str(attributes["href"]) for _, attributes in shown.elements if "href" in attributes]
    assert links[0] == "data:,"
    assert all(link.startswith("#front-") for link in links[1:])  # within the chart


@pytest.mark.parametrize("results", [[result(0, {"width": 1}, error="no")], [result(0, {}, 1.0, 10)], FEW[4:5]])
def test_sweeps_with_one_candidate_have_a_page(results: list[dict[str, Any]]) -> None:
    assert "A sweep of 1 candidates" not in page(results).text
    assert "A sweep of 1 candidate" in page(results).text


def test_names_cannot_break_the_page() -> None:
    odd = [result(0, {HOSTILE: HOSTILE}, 1.0, 1), result(1, {HOSTILE: HOSTILE}, error=HOSTILE)]
    shown = page(odd, candidates_from=HOSTILE, command=HOSTILE, version=HOSTILE, currency=HOSTILE)
    assert len(shown.all("script")) == 2
    assert shown.all("img") == []


def test_the_front_by_hand() -> None:
    one = sweep_page(FEW)
    values = {"more": True, "values": one.table.figures["parameters"]}
    assert front_rows(one.table, values) == [0, 1, 3]
    assert front_rows(one.table, {**values, "more": False}) == [0]
    assert front_rows(one.table, {"more": True, "values": one.table.asked["accuracy"]}) == [0, 2]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=25))
def test_the_front_is_that_of_the_ranking(points: list[tuple[int, int, bool, bool]]) -> None:
    results = [
        result(index, {}, float(kwh), size, over_budget=over) if works else result(index, {}, error="no")
        for index, (kwh, size, over, works) in enumerate(points)
    ]
    ranking = Ranking(parse_merits("energy,parameters"))
    for one in results:
        ranking.add(one)
    table = sweep_page(results).table
    front = front_rows(table, {"more": True, "values": table.figures["parameters"]})
    assert sorted(front) == sorted(ranking.front())


# -- in the browser ----------------------------------------------------------------------------------


def cells(tab: Tab) -> list[list[str]]:
    query = (
        "[...document.querySelectorAll('#table tbody tr')].map((row) => [...row.cells].map((one) => one.textContent))"
    )
    return list(tab.page.evaluate(query))


def candidates(tab: Tab) -> list[str]:
    return [row[0] for row in cells(tab)]


def dots(tab: Tab, kind: str) -> int:
    """How many dots of a kind the chart has: "front" or "other"."""
    return str(tab.page.locator(f".{kind}-dots").get_attribute("d")).count("M")


def test_the_script_writes_what_python_wrote(browser: Any, scriptless: Any, tmp_path: Path) -> None:
    chance = random.Random(3)
    odd = [
        result(
            index,
            {"lr": 10 ** chance.uniform(-9, 3), "shift": -chance.random(), "on": index % 3 == 0, "n": index * 12345},
            10 ** chance.uniform(-9, 6),
            round(10 ** chance.uniform(0, 13)),
            step_flops=round(10 ** chance.uniform(0, 18)),
        )
        for index in range(45)
    ]
    path = written(tmp_path, [*odd, result(45, {"lr": None}, error="a reason"), result(46, {"on": "text"}, 1.0, 9)])
    on, off = Tab(browser, path), Tab(scriptless, path)
    assert cells(on) == cells(off)
    assert len(cells(on)) == 47
    on.close()
    off.close()


def test_without_scripts_the_chart_and_the_table_are_there_and_the_filters_are_not(
    scriptless: Any, tmp_path: Path
) -> None:
    tab = Tab(scriptless, written(tmp_path, FEW))
    assert not tab.page.locator("#filters").is_visible()
    assert not tab.page.locator("#pages").is_visible()
    label = tab.page.locator("#chart svg").get_attribute("aria-label")
    assert label == "Scatter plot. Energy against parameters of 5 candidates. On the front: 0, 1, 3"
    assert candidates(tab) == ["0", "1", "2", "3", "4over budget", "5"]
    tab.close()


def test_the_chart_and_its_front_follow_the_filters(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, FEW))
    assert (dots(tab, "front"), dots(tab, "other")) == (3, 2)
    tab.page.select_option("#against", label="accuracy")
    assert tab.page.locator("#chart-title").inner_text() == "Energy against accuracy"
    assert (dots(tab, "front"), dots(tab, "other")) == (2, 3)
    label = tab.page.locator("#chart svg").get_attribute("aria-label")
    assert label == "Scatter plot. Energy against accuracy of 5 candidates. On the front: 0, 2"
    tab.page.get_by_label("hardware", exact=True).select_option("a100")
    assert candidates(tab) == ["2", "3", "4over budget"]
    assert (dots(tab, "front"), dots(tab, "other")) == (1, 2)
    shown = tab.page.locator("#shown").inner_text()
    assert shown == "3 of 6 candidates; together 12.0 kWh (6.00 to 24.0 kWh), 4.80 kg CO2e, 12.0 h, 2.40 USD"
    tab.page.click("#reset")
    assert (dots(tab, "front"), dots(tab, "other"), len(cells(tab))) == (3, 2, 6)
    tab.close()


@pytest.mark.parametrize(
    ("show", "expected"),
    [("priced", "01234"), ("front", "013"), ("over", "4"), ("failed", "5"), ("all", "012345")],
)
def test_which_candidates_are_shown(browser: Any, tmp_path: Path, show: str, expected: str) -> None:
    tab = Tab(browser, written(tmp_path, FEW))
    tab.page.select_option("#show", show)
    assert [name[0] for name in candidates(tab)] == list(expected)
    tab.close()


def test_ranges_and_text(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, FEW))
    tab.page.fill("#most", "3")
    assert candidates(tab) == ["0", "1", "2"]
    tab.page.fill("#least", "1.5")
    assert candidates(tab) == ["1", "2"]
    tab.page.select_option("#range", label="accuracy")
    assert candidates(tab) == []
    tab.page.click("#reset")
    tab.page.fill("#text", "SUCH width")
    assert candidates(tab) == ["5"]
    assert tab.page.locator("#shown").inner_text() == "1 of 6 candidates"
    tab.close()


def test_sorting_by_headings_and_by_the_control(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, FEW))
    heading = tab.page.get_by_role("columnheader", name="parameters")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [name[0] for name in candidates(tab)] == list("021345")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [name[0] for name in candidates(tab)] == list("431205")  # what failed stays last
    tab.page.select_option("#sort", label="hardware")
    tab.page.select_option("#order", "up")
    assert [name[0] for name in candidates(tab)] == list("234015")
    assert heading.get_attribute("aria-sort") is None
    tab.close()


def test_the_pointer_names_a_candidate(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, FEW))
    place = re.match(r"M([\d.]+) ([\d.]+)", str(tab.page.locator(".front-dots").get_attribute("d")))
    assert place is not None
    tab.page.locator("#chart svg").hover(position={"x": float(place[1]) + 2, "y": float(place[2]) - 2})
    said = tab.page.locator("#pointed").inner_text()
    assert said.startswith("Candidate 0: width 8, hardware t4, accuracy 0.5, energy 1.00 kWh, CO2e 400 g CO2e")
    tab.close()


def many(number: int) -> list[dict[str, Any]]:
    """Candidates with five arguments, of which one in a hundred fails."""
    chance = random.Random(0)
    found = []
    for index in range(number):
        width, depth = chance.choice([8, 16, 32, 64, 128]), chance.randint(5, 60)
        asked = {"width": width, "depth": depth, "lr": 10 ** chance.uniform(-4, -1), "accuracy": chance.random()}
        asked["hardware"] = chance.choice(["t4", "rtx-4090", "a100-sxm4-80gb"])
        kwh = width * depth * 10 ** chance.uniform(-3.3, -2.7)
        found.append(
            result(index, asked, error=f"net.py:5: size {width} does not match")
            if index % 100 == 0
            else result(index, asked, kwh, width**2 * depth)
        )
    return found


def test_ten_thousand_candidates_stay_small_and_fast(browser: Any, tmp_path: Path) -> None:
    path = written(tmp_path, many(10_000))
    assert path.stat().st_size < 1.5e6
    tab = Tab(browser, path)
    assert len(cells(tab)) == 50
    assert tab.page.locator("#place").inner_text() == "1 to 50 of 10,000"
    tab.page.click("#next")
    assert tab.page.locator("#place").inner_text() == "51 to 100 of 10,000"
    seconds = tab.page.evaluate(
        """() => {
          const start = performance.now();
          const set = (id, value) => {
            document.getElementById(id).value = value;
            document.getElementById(id).dispatchEvent(new Event("input"));
          };
          set("against", "3");
          set("most", "0.5");
          set("text", "t4");
          set("sort", "2");
          document.querySelector("#chart svg").getBoundingClientRect();
          return (performance.now() - start) / 1000;
        }"""
    )
    assert seconds < 4  # of four changes; 0.2 s on an idle core
    assert tab.page.locator("#place").inner_text().startswith("1 to 50 of ")
    tab.close()


# -- how it looks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long names and values, a budget, failures, and more than one page of rows."""
    long = {"a_name_of_no_end" * 4: "v" * 80, "hardware": "a100-sxm4-80gb"}
    rows = [result(index, {**long, "width": index}, 0.37 * (index + 1), 10**index % 10**9) for index in range(60)]
    rows += [result(60, {**long, "width": 60}, error="w" * 300), result(61, long, 1e6, 10**12, over_budget=True)]
    folder = tmp_path_factory.mktemp("awkward")
    return written(folder, rows, "1 kWh", command="y" * 200, candidates_from="grid " + "x" * 200)


@pytest.mark.parametrize("letters", ["as they are", "wide"])
def test_the_page_is_no_wider_than_its_window(browser: Any, awkward: Path, letters: str) -> None:
    tab = Tab(browser, awkward)
    if letters == "wide":
        tab.page.evaluate(f"() => {{ {WIDE} }}")
    for width in (320, 390, 700, 1280):
        assert tab.wider_than(width) == []
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(browser: Any, awkward: Path, scheme: str) -> None:
    tab = Tab(browser, awkward, scheme)
    found = tab.page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [pair for pair in found if pair[0] < 4.5 and pair[1] != "Previous"] == []  # a button without a use
    tab.close()


def test_it_prints_without_controls(browser: Any, awkward: Path) -> None:
    tab = Tab(browser, awkward, "dark")
    tab.page.emulate_media(media="print")
    assert not tab.page.locator("#filters").is_visible()
    assert not tab.page.locator("#pages").is_visible()
    assert [pair for pair in tab.page.evaluate(CONTRAST) if pair[0] < 4.5] == []
    tab.close()


def test_every_control_has_a_name(browser: Any, awkward: Path) -> None:
    tab = Tab(browser, awkward)
    for role, names in {
        "combobox": ("Chart: energy against", "Candidates", "Range of", "Sort by", "Order"),
        "spinbutton": ("At least", "At most"),
        "searchbox": ("Contains the text",),
        "button": ("Show all", "Previous", "Next", "energy"),
    }.items():
        for name in names:
            assert tab.page.get_by_role(role, name=name, exact=True).count() == 1, name
    assert tab.page.get_by_role("img").count() == 1
    assert tab.page.get_by_role("navigation", name="Pages of the table").count() == 1
    tab.close()


def test_hostile_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    hostile = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    odd = [result(0, {hostile: hostile}, 1.0, 1), result(1, {hostile: "b"}, error=hostile)]
    tab = Tab(browser, written(tmp_path, odd, candidates_from=hostile, command=hostile))
    tab.page.select_option("#show", "failed")
    assert tab.page.title() == "A sweep of 2 candidates"
    assert hostile in tab.page.locator("#table").inner_text()
    assert tab.page.evaluate("document.querySelectorAll('img, script:not([type]), iframe').length") == 1
    tab.close()


def test_a_cell_has_few_digits() -> None:
    plain = {"units": None}
    assert [cell_text(plain, value) for value in (64, 64.0, 0.123456, -0.5, None)] == ["64", "64", "0.1235", "-0.5", ""]
    assert cell_text({"units": "count"}, 1_234_567) == "1.235 M"
    assert cell_text({"words": ["a", "b"]}, 1) == "b"
    assert cell_text({"words": ["a", "b"]}, -1) == ""
