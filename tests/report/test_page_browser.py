"""The page in a real headless Chromium: what its sliders say is what Python computes, and it asks nobody anything."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joulecast.cli.answer import Answer
from joulecast.cli.figures import number
from joulecast.estimator.comparisons import familiar
from joulecast.report.document import FIGURES, figure, shown
from joulecast.report.page import render

from .pages import LENGTH, PLACE, RUN, answers, made_up, report, workload, write_nets

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
_QUIET = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")

# Everything on a page that depends on the sliders, as it is read and as it is kept.
STATE = """() => {
  const texts = (selector) => [...document.querySelectorAll(selector)].map((node) => node.textContent);
  const numbers = (selector, key) => [...document.querySelectorAll(selector)].map((node) => Number(key(node)));
  return {
    texts: ["#headline", "[data-limit]", "#would-fit li", "[data-verdict]", "#familiar li", "[data-setting]",
      "data[data-figure]", "[data-bounds]", "#grids tbody tr"].map(texts),
    states: [...document.querySelectorAll("[data-state]")].map((node) => node.dataset.state),
    own: [...document.querySelectorAll("[aria-current]")].map((node) => node.dataset.region),
    numbers: [
      ...numbers("data", (node) => node.value),
      ...numbers("[data-bounds]", (node) => node.dataset.low),
      ...numbers("[data-bounds]", (node) => node.dataset.high),
    ],
  };
}"""


class Tab:
    """A page of the report, open in the browser; `heard` is what it logged, `asked` what it requested."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        self.page = browser.new_page()
        self.page.emulate_media(color_scheme=scheme)
        self.heard: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.address = path.as_uri()
        self.page.goto(self.address)

    def set(self, **settings: str) -> None:
        """Types the settings as a reader would, the region by its code."""
        for key, value in settings.items():
            if key == "region":
                self.page.select_option("#region", value)
            else:
                self.page.fill(f"#{key}", value)

    def state(self) -> dict[str, Any]:
        return dict(self.page.evaluate(STATE))

    def close(self) -> None:
        self.page.close()
        assert self.heard == []
        assert [url for url in self.asked if not url.startswith("data:")] == [self.address]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in _QUIET)]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Any:
    return chromium.new_context()


@pytest.fixture(scope="module")
def scriptless(chromium: Any) -> Any:
    return chromium.new_context(java_script_enabled=False)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_nets(tmp_path_factory.mktemp("nets"), small=8, large=512)


def written(folder: Path, answered: tuple[Answer, ...], name: str = "page", **values: object) -> Path:
    path = folder / f"{name}.html"
    path.write_text(render(report(answered, **values)), encoding="utf-8")
    return path


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Texts to the letter, numbers but for the last bits of their floats."""
    assert one["texts"] == other["texts"]
    assert (one["states"], one["own"]) == (other["states"], other["own"])
    assert one["numbers"] == pytest.approx(other["numbers"], rel=1e-12)


# -- the sliders ---------------------------------------------------------------------------------

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
    """One page moved to each setting, beside the page that Python makes for that setting, its script off."""
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
    """The figures of the page against the Estimate itself, whatever else the page says."""
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
        _check_figures(tab, model, made_up("--steps", steps, *place, work=answer.work))
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
    """Ties go to the even digit, small and large ones have exponents; prices of many sizes try them all."""
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
    """From milliwatt-hours to gigawatt-hours, in steps of a third: units, comparisons and headlines are Python's."""
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
        sayings = familiar(answer.facility_energy_kwh.value, answer.co2e_kg.value)
        assert [line.partition(" (")[0] for line in lines] == [str(saying) for saying in sayings]
    assert len({line.split(" ", 2)[2] for _, *lines in found for line in lines}) >= 6
    tab.close()


# -- how it looks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, nets: dict[str, str]) -> dict[str, Path]:
    """One model, several, and one with names that try a layout."""
    folder = tmp_path_factory.mktemp("pages")
    long = "a_name_of_no_end." * 12
    awkward = replace(workload("x" * 90, layers=("conv", long.strip("."))), warnings=("w" * 300,))
    limits = ("--budget", "40gCO2e", "--budget", "1h")
    both = answers("--model", nets["small"], "--model", nets["large"], *RUN, "--epochs", "3", *BUDGETS)
    made = (made_up(*LENGTH, *PLACE, *limits, work=awkward),)
    return {
        "one": written(folder, (made_up(*LENGTH, *PLACE, "--budget", "1kgCO2e"),), "one"),
        "exceeded": written(folder, made, "exceeded", command=f"estimate --model {'y' * 200}"),
        "several": written(folder, both, "several", accuracies=(70.0, 90.0)),
    }


@pytest.mark.parametrize("name", ["one", "exceeded", "several"])
def test_no_page_is_wider_than_its_window(browser: Any, pages: dict[str, Path], name: str) -> None:
    tab = Tab(browser, pages[name])
    tab.page.evaluate("() => document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    for width in (320, 390, 700, 1280):
        tab.page.set_viewport_size({"width": width, "height": 640})
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        beyond = tab.page.evaluate(
            """(width) => [...document.querySelectorAll("main *:not(svg *)")].filter((node) => {
              const box = node.getBoundingClientRect();
              return box.width > 1 && (box.right > width + 0.5 || box.left < -0.5);
            }).map((node) => node.outerHTML.slice(0, 80))""",
            width,
        )
        assert beyond == []
    tab.close()


# The contrast of every text with what lies behind it (WCAG 2), and how large the text is.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = (node) => {
    if (!node) return [1, 1, 1];
    const colour = rgba(getComputedStyle(node).backgroundColor);
    return colour[3] === 1 ? colour : over(colour, behind(node.parentElement));
  };
  const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.getClientRects().length || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const below = behind(node instanceof SVGElement ? node.closest("svg").parentElement : node);
    const above = over(rgba(node instanceof SVGElement ? style.fill : style.color), below);
    const [one, other] = [light(above), light(below)].sort((a, b) => b - a);
    found.push([(one + 0.05) / (other + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["exceeded", "several"])
def test_text_stands_out_in_light_and_dark(browser: Any, pages: dict[str, Path], scheme: str, name: str) -> None:
    tab = Tab(browser, pages[name], scheme)
    found = tab.page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [pair for pair in found if pair[0] < 4.5] == []
    dark = tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 24)"
    assert dark == (scheme == "dark")
    tab.close()


def test_charts_take_the_pages_colours(browser: Any, pages: dict[str, Path]) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        tab = Tab(browser, pages["several"], scheme)
        query = "[...new Set([...document.querySelectorAll('.chart *')].map((node) => getComputedStyle(node).fill))]"
        colours[scheme] = set(tab.page.evaluate(query)) - {"none", "rgb(0, 0, 0)"}
        tab.close()
    assert colours["light"]
    assert not colours["light"] & colours["dark"]


def test_without_scripts_every_figure_stands_and_no_slider_does(
    browser: Any, scriptless: Any, pages: dict[str, Path]
) -> None:
    for name, path in pages.items():
        off, on = Tab(scriptless, path), Tab(browser, path)
        same(off.state(), on.state())
        assert not off.page.locator("#what-if").is_visible()
        assert on.page.locator("#what-if").is_visible()
        assert off.page.locator("#headline").is_visible()
        assert name == "several" or off.page.locator(".card .big").count() == 4
        off.close()
        on.close()


def test_on_paper_it_is_light_without_controls(browser: Any, pages: dict[str, Path]) -> None:
    tab = Tab(browser, pages["exceeded"], "dark")
    tab.page.emulate_media(media="print")
    assert not tab.page.locator("#what-if").is_visible()
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [pair for pair in tab.page.evaluate(CONTRAST) if pair[0] < 4.5] == []
    paper = tab.page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert 1 <= paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") + paper.count(b"/Type /Page/") <= 6
    tab.close()


def test_every_control_and_chart_has_a_name(browser: Any, pages: dict[str, Path]) -> None:
    tab = Tab(browser, pages["several"])
    for role, count in (("slider", 3), ("spinbutton", 3), ("combobox", 1), ("button", 1), ("img", 7)):
        tab.page.evaluate("() => document.querySelectorAll('details').forEach((node) => { node.open = true; })")
        assert tab.page.get_by_role(role).count() >= count, role
    for name in ("Epochs", "PUE", "Price, USD per kWh"):
        assert tab.page.get_by_role("slider", name=name).count() == 1
        assert tab.page.get_by_role("spinbutton", name=name).count() == 1
    assert tab.page.get_by_role("combobox", name="Region").count() == 1
    tab.close()


def test_hostile_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    hostile = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    work = replace(workload(hostile), warnings=(hostile,))
    pair = (made_up(*LENGTH, *PLACE, work=work), made_up(*LENGTH, *PLACE, work=workload("plain", flops=10**8)))
    tab = Tab(browser, written(tmp_path, pair, command=hostile, version=hostile))
    tab.set(pue="1.2")
    assert tab.page.title() == "Training 2 models on A Machine"
    assert hostile in tab.page.locator("#headline").inner_text()
    assert tab.page.evaluate("document.querySelectorAll('img, script:not([type]), iframe').length") == 1
    tab.close()


def test_the_policy_stops_what_is_not_the_pages_own(browser: Any, tmp_path: Path) -> None:
    """An attribute that got in would still not run: the browser itself refuses, and says so."""
    path = written(tmp_path, (made_up(*LENGTH, *PLACE),))
    text = path.read_text(encoding="utf-8")
    bad = '<img src="data:image/gif;base64,x" onerror="document.title = 1"><script>document.title = 2</script></main>'
    path.write_text(text.replace("</main>", bad), encoding="utf-8")
    tab = Tab(browser, path)
    tab.page.wait_for_function("document.querySelector('img').complete")
    assert tab.page.title() == "Training net on A Machine"
    assert len([message for message in tab.heard if "Content Security Policy" in message]) == 2
    tab.page.close()


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


def test_the_data_of_the_page_is_json(browser: Any, pages: dict[str, Path]) -> None:
    tab = Tab(browser, pages["one"])
    data = json.loads(tab.page.locator("#report-data").text_content())
    assert data["schema"] == "joulecast.report/1"
    assert math.isclose(data["models"][0]["growth"]["seconds"]["value"][1], 1.0)
    tab.close()
