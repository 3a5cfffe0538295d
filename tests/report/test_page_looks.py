"""The page in a headless Chromium: any window, light and dark, printed, without scripts, with hostile names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .pages import LENGTH, PLACE, RUN, answers, made_up, workload
from .tabs import Tab, same, written


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, nets: dict[str, str]) -> dict[str, Path]:
    """One model, several, and one with names that try a layout."""
    folder = tmp_path_factory.mktemp("pages")
    long = "a_name_of_no_end." * 12
    awkward = replace(workload("x" * 90, layers=("conv", long.strip("."))), warnings=("w" * 300,))
    limits = ("--budget", "40gCO2e", "--budget", "1h")
    both = answers("--model", nets["small"], "--model", nets["large"], *RUN, "--epochs", "3", "--budget", "2Wh")
    made = (made_up(*LENGTH, *PLACE, *limits, work=awkward),)
    return {
        "one": written(folder, (made_up(*LENGTH, *PLACE, "--budget", "1kgCO2e"),), "one"),
        "exceeded": written(folder, made, "exceeded", command=f"estimate --model {'y' * 200}"),
        "several": written(folder, both, "several", accuracies=(70.0, 90.0)),
    }


# Half as wide again as the fonts here: whatever the reader's fonts, they are narrower.
WIDE = "document.body.style.letterSpacing = '0.25em'"


@pytest.mark.parametrize("letters", ["as they are", "wide"])
@pytest.mark.parametrize("name", ["one", "exceeded", "several"])
def test_no_page_is_wider_than_its_window(browser: Any, pages: dict[str, Path], name: str, letters: str) -> None:
    tab = Tab(browser, pages[name])
    if letters == "wide":
        tab.page.evaluate(f"() => {{ {WIDE} }}")
    tab.page.evaluate("() => document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    for width in (320, 390, 700, 1280):
        assert tab.wider_than(width) == []
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
    """An injected attribute does not run: the browser blocks it and logs that."""
    path = written(tmp_path, (made_up(*LENGTH, *PLACE),))
    text = path.read_text(encoding="utf-8")
    bad = '<img src="data:image/gif;base64,x" onerror="document.title = 1"><script>document.title = 2</script></main>'
    path.write_text(text.replace("</main>", bad), encoding="utf-8")
    tab = Tab(browser, path)
    tab.page.wait_for_function("document.querySelector('img').complete")
    assert tab.page.title() == "Training net on A Machine"
    assert len([message for message in tab.heard if "Content Security Policy" in message]) == 2
    tab.page.close()
