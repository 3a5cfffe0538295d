"""The sliders in a real headless Chromium: what the page says is what Python computes."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.answer.answer import Answer
from joulecast.estimator.answer.figures import number
from joulecast.estimator.place.comparisons import familiar
from joulecast.report.document import FIGURES, figure, shown

from .pages import LENGTH, PLACE, RUN, answers, made_up, workload
from .tabs import Tab, same, written

BUDGETS = ("--budget", "2Wh", "--budget", "0.9gCO2e", "--budget", "30s", "--budget-at", "expected")
SETTINGS = [
    {"length": "3", "pue": "1.58", "region": "FR", "price": "0.1249"},
    {"length": "250", "pue": "1.1", "region": "PL", "price": "0.31"},
    {"length": "0.07", "pue": "1", "region": "SE", "price": "0"},
    {"length": "2.5", "pue": "2.375", "region": "gcp:us-west1", "price": "12.25"},
    {"length": "123456", "pue": "1.2", "region": "CF", "price": "0.125"},
]


def asked(settings: dict[str, str]) -> tuple[str, ...]:
    options = {"length": "--epochs", "pue": "--pue", "region": "--region", "price": "--price"}
    return tuple(word for key, value in settings.items() for word in (options[key], value))


@pytest.mark.parametrize(("models", "tried"), [(("small",), SETTINGS[1:]), (("small", "large"), SETTINGS[1:3])])
def test_the_sliders_recompute_what_python_computes(
    browser: Any,
    scriptless: Any,
    tmp_path: Path,
    nets: dict[str, str],
    models: tuple[str, ...],
    tried: list[dict[str, str]],
) -> None:
    """One page is moved to each setting and compared with the page that Python makes for it, without scripts."""
    base = (*(word for model in models for word in ("--model", nets[model])), *RUN, *BUDGETS)
    moved = Tab(browser, written(tmp_path, answers(*base, *asked(SETTINGS[0]))))
    at_first = moved.state()
    for index, settings in enumerate(tried):
        answered = answers(*base, *asked(settings))
        moved.set(**settings)
        there = Tab(scriptless, written(tmp_path, answered, f"there-{index}"))
        same(moved.state(), there.state())
        assert moved.state() != at_first
        there.close()
        for model, answer in enumerate(answered):
            _check_figures(moved, model, answer)
    moved.page.click("#reset")
    same(moved.state(), at_first)
    moved.close()


def _check_figures(tab: Tab, model: int, answer: Answer) -> None:
    """The figures of the page must be those of the Estimate."""
    for name in FIGURES:
        node = tab.page.locator(f'data[data-model="{model}"][data-figure="{name}"]')
        if not node.count():
            continue
        assert float(node.get_attribute("value")) == pytest.approx(figure(answer, name).value, rel=1e-12)
        assert node.inner_text() == shown(answer, name)[0]
        bounds = tab.page.locator(f'[data-model="{model}"][data-bounds="{name}"]')
        if bounds.count():
            assert float(bounds.get_attribute("data-low")) == pytest.approx(figure(answer, name).low, rel=1e-12)
            assert float(bounds.get_attribute("data-high")) == pytest.approx(figure(answer, name).high, rel=1e-12)
            assert bounds.inner_text() == shown(answer, name)[1]


def test_a_run_told_in_steps(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, (made_up("--steps", "500", *PLACE),)))
    assert tab.page.locator("label[for=length]").inner_text() == "Steps"
    tab.set(length="1234")
    there = Tab(browser, written(tmp_path, (made_up("--steps", "1234", *PLACE),), "there"))
    same(tab.state(), there.state())
    tab.set(length="12.5")  # no such run: the figures stay
    same(tab.state(), there.state())
    there.close()
    tab.close()


def test_models_of_different_lengths_keep_them(browser: Any, tmp_path: Path) -> None:
    pair = tuple(
        made_up("--steps", steps, *PLACE, work=workload(name)) for name, steps in (("short", "10"), ("long", "99"))
    )
    tab = Tab(browser, written(tmp_path, pair))
    assert tab.page.locator("#length").count() == 0
    tab.set(pue="1.2", price="0.2")
    place = ("--pue", "1.2", "--carbon-intensity", "400", "--price", "0.2")
    for model, (answer, steps) in enumerate(zip(pair, ("10", "99"), strict=True)):
        _check_figures(tab, model, made_up("--steps", steps, *place, work=answer.workload))
    tab.close()


def test_the_keyboard_moves_a_slider_from_stop_to_stop(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, (made_up(*LENGTH, *PLACE),)))
    stops = tab.page.evaluate('JSON.parse(document.getElementById("report-data").textContent).stops.length')
    tab.page.focus("#length-slider")
    for _ in range(2):
        tab.page.keyboard.press("ArrowRight")
    wanted = stops[stops.index("100") + 2]
    assert tab.page.input_value("#length") == wanted
    assert tab.page.get_attribute("#length-slider", "aria-valuetext") == wanted
    _check_figures(tab, 0, made_up("--epochs", wanted, "--samples", "320", *PLACE))
    tab.page.keyboard.press("Home")
    assert tab.page.input_value("#length") == stops[0]
    tab.close()


def test_values_of_no_use_are_marked_and_change_nothing(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, (made_up(*LENGTH, *PLACE),)))
    before = tab.state()
    for key, value in (("pue", "0.9"), ("price", "-1"), ("length", "0"), ("length", ""), ("pue", "")):
        tab.set(**{key: value})
        assert tab.page.get_attribute(f"#{key}", "aria-invalid") == "true"
        same(tab.state(), before)
        tab.page.click("#reset")
        assert tab.page.get_attribute(f"#{key}", "aria-invalid") == "false"
    same(tab.state(), before)
    tab.close()


def test_numbers_are_written_as_python_writes_them(browser: Any, tmp_path: Path) -> None:
    """Ties go to the even digit, small and large numbers have exponents; prices of many sizes cover all cases."""
    draw = random.Random(5)
    values = [0.0, 0.125, 0.0625, 2.5, 12.25, 100.5, 101.5, 99.95, 99.96, 9.995, 999.5, 1e7, 12345678.0, 12350000.0]
    values += [0.001, 0.0009995, 0.00099951, 0.00012345, 1e-5, 1.2345e-12, 1e21, 1.5e22, 123456.5, 1e15 + 0.5]
    values += [10 ** draw.uniform(-9, 12) for _ in range(150)]
    tab = Tab(browser, written(tmp_path, (made_up(*LENGTH, *PLACE),)))
    texts = tab.page.evaluate(
        """(values) => values.map((value) => {
          const field = document.getElementById("price");
          field.value = String(value);
          field.dispatchEvent(new Event("input"));
          return document.querySelector("[data-setting=price]").textContent;
        })""",
        values,
    )
    assert texts == [number(value) for value in values]
    tab.close()


def test_every_size_of_run_has_its_units_and_its_familiar_things(browser: Any, tmp_path: Path) -> None:
    """From milliwatt-hours to gigawatt-hours, in steps of a third: units, comparisons and headlines as Python's."""
    lengths = list(dict.fromkeys(max(1, round(1.33**power)) for power in range(80)))
    tab = Tab(browser, written(tmp_path, (made_up(*LENGTH, *PLACE),)))
    found = tab.page.evaluate(
        """(lengths) => lengths.map((length) => {
          const field = document.getElementById("length");
          field.value = String(length);
          field.dispatchEvent(new Event("input"));
          const lines = [...document.querySelectorAll("#familiar li")].map((line) => line.textContent);
          return [document.getElementById("headline").textContent, ...lines];
        })""",
        lengths,
    )
    for length, (headline, *lines) in zip(lengths, found, strict=True):
        answer = made_up("--epochs", str(length), "--samples", "320", *PLACE)
        energy, gas, money, time = (
            shown(answer, name)[0] for name in ("facility_energy_kwh", "co2e_kg", "cost", "seconds")
        )
        assert headline == f"{energy} of electricity, {gas} and {money}, in {time}"
        comparisons = familiar(answer.facility_energy_kwh.value, answer.co2e_kg.value)
        assert [line.partition(" (")[0] for line in lines] == [str(comparison) for comparison in comparisons]
    assert len({line.split(" ", 2)[2] for _, *lines in found for line in lines}) >= 6
    tab.close()


def test_bars_end_where_their_figures_do(browser: Any, tmp_path: Path) -> None:
    """25 g CO2e, 12.5 to 50, limit 100: the band from 12.5 % to 50 %, the limit at the end."""
    tab = Tab(browser, written(tmp_path, (made_up(*LENGTH, *PLACE, "--budget", "100gCO2e"),)))

    def places() -> dict[str, float]:
        parts = {"x": ".band", "width": ".band", "mark": ".mark", "limit": ".limit"}
        bar = tab.page.locator('[data-bar="co2e_kg"]')
        found = {
            name: bar.locator(part).get_attribute(name if name == "width" else "x") for name, part in parts.items()
        }
        return {name: float(text.rstrip("%")) for name, text in found.items()}

    assert places() == pytest.approx({"x": 12.5, "width": 37.5, "mark": 25, "limit": 100}, abs=0.01)
    tab.set(length="400")  # four times as long: 50 to 200 g, and the axis grows
    assert places() == pytest.approx({"x": 25, "width": 75, "mark": 50, "limit": 50}, abs=0.01)
    tab.close()


def test_the_data_of_the_page_is_json(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, written(tmp_path, (made_up(*LENGTH, *PLACE),)))
    data = json.loads(tab.page.locator("#report-data").text_content())
    assert data["schema"] == "joulecast.report/1"
    assert math.isclose(data["models"][0]["growth"]["seconds"]["value"][1], 1.0)
    tab.close()
