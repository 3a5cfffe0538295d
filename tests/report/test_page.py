"""The page as text: its contents, that no name or path can break it, and that it needs no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.answer.forecast import forecast
from joulecast.estimator.place.site import find_region, make_site
from joulecast.report.document import ranked_grids
from joulecast.report.markup import environment, printable
from joulecast.report.page import render
from joulecast.report.parts import MOST, component_parts, layer_parts
from joulecast.report.script import growth, script_data, stops

from .pages import LENGTH, PLACE, made_up, profile, report, workload

VOID = {"meta", "link", "input", "br", "hr"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x' <!-- \x1b]8;; \ud800 $x$"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text; fails on a tag that closes what is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, str] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self._open[-1] if self._open else ""
        if where in ("script", "style"):
            key = "data" if where == "script" and "script" not in self.content and "data" not in self.content else where
            self.content[key] = self.content.get(key, "") + data
        elif data.strip():
            self.words.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page(*arguments: str, **values: object) -> Page:
    return Page(render(report([made_up(*LENGTH, *PLACE, *arguments)], **values)))


# -- what it says --------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_equations() -> None:
    """1000 steps of 1 s and 150 J: 41.7 Wh, times 1.5 62.5 Wh, times 400 g/kWh 25 g, times 0.2 USD 0.0125 USD."""
    shown = page()
    figures = {one["data-figure"]: float(str(one["value"])) for one in shown.all("data") if one.get("data-figure")}
    assert figures["seconds"] == pytest.approx(1000)
    assert figures["energy_kwh"] == pytest.approx(150_000 / 3.6e6)
    assert figures["facility_energy_kwh"] == pytest.approx(0.0625)
    assert figures["co2e_kg"] == pytest.approx(0.025)
    assert figures["cost"] == pytest.approx(0.0125)
    assert figures["power_w"] == pytest.approx(150)
    bounds = {one["data-bounds"]: one for one in shown.all("span") if one.get("data-bounds")}
    assert float(str(bounds["co2e_kg"]["data-low"])) == pytest.approx(0.0125)
    assert float(str(bounds["co2e_kg"]["data-high"])) == pytest.approx(0.05)
    for words in ("62.5", "31.2 to 125 Wh", "25.0", "g CO2e", "13.3 to 20.8 min", "0.00625 to 0.0250 USD"):
        assert words in shown.text, words


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((), "62.5 Wh of electricity, 25.0 g CO2e and 0.0125 USD, in 16.7 min"),
        (("100gCO2e",), "Within budget: 50.0 % below 100gCO2e"),
        (("40gCO2e",), "Over budget: 25.0 % above 40gCO2e"),
        (("40gCO2e", "10h"), "Over budget: 25.0 % above 40gCO2e"),
        (("40gCO2e", "10s"), "Over budget: 125 times 10s"),
        (("100gCO2e", "10h"), "Within budget: 50.0 % below 100gCO2e"),
    ],
)
def test_the_verdict_comes_first(limits: tuple[str, ...], words: str) -> None:
    shown = page(*(word for limit in limits for word in ("--budget", limit)))
    headings = [name for name, _ in shown.elements if re.fullmatch("h[1-6]", name)]
    assert headings[:2] == ["h1", "h2"]
    position = shown.words.index(words)
    assert shown.words[position - 2].startswith("Training net on A Machine") or position < 6


def test_each_limit_says_what_was_held_against_it_and_what_would_fit() -> None:
    text = page("--budget", "40gCO2e", "--budget", "1h").text
    assert "CO2e 50.0 gCO2e at the upper end of the interval, 10.0 gCO2e above the budget (25.0 %)" in text
    assert "Time 0.347 h at the upper end of the interval, 0.653 h below the budget (65.3 %)" in text
    assert "40gCO2e: 80 epochs would fit" in text
    assert "40gCO2e: would fit in" in text


def test_everything_that_made_it_is_in_it() -> None:
    text = page(command="estimate --model 'a net.py' --epochs 100").text
    for words in (
        *("estimate --model 'a net.py' --epochs 100", "joulecast 1.2.3", "23 November 2026", "a source, 2026"),
        *("the whole machine", "measured", "modelled", "A Machine with pytorch", "given"),
    ):
        assert words in text, words


def test_several_models_are_held_side_by_side() -> None:
    small, large = (made_up(*LENGTH, *PLACE, work=workload(name, flops=size)) for name, size in SIZES.items())
    shown = Page(render(report([small, large], accuracies=(70.0, 76.5))))
    assert "small needs the least energy, 62.5 Wh; large needs 4.00 times as much" in shown.text
    assert "76.5" in shown.text
    assert sum("Scatter plot" in str(one.get("aria-label")) for one in shown.all("svg")) == 3
    limited = [made_up(*LENGTH, *PLACE, "--budget", "200Wh", work=one.workload) for one in (small, large)]
    text = Page(render(report(limited))).text
    assert "1 of 2 models fit 200Wh: small" in text
    assert "150 % above 200Wh" in text


SIZES = {"small": 10**9, "large": 4 * 10**9}


def test_models_of_one_name_go_by_what_they_were_given_as() -> None:
    answered = [replace(made_up(*LENGTH, *PLACE), model=model) for model in ("a/net.py", "b/net.py")]
    assert report(answered).names == ("a/net.py", "b/net.py")


# -- that it needs nothing else, and can be spoilt by nothing --------------------------------------


def test_it_needs_nothing_but_itself() -> None:
    text = render(report([made_up(*LENGTH, *PLACE)]))
    shown = Page(text)
    assert len(text) < 300_000
    addresses = [
        value
        for _, attributes in shown.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "poster", "srcset")
    ]
    assert addresses == ["data:,"]
    assert not re.search(r"url\(|@import", shown.content["style"])
    assert not re.search(r"fetch|XMLHttp|import\(|eval|innerHTML|document\.write", shown.content["script"])


def test_the_policy_lets_its_own_style_and_script_run_and_nothing_else() -> None:
    shown = page()
    (policy,) = (one["content"] for one in shown.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(shown.content[name].encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert all("style" not in attributes for _, attributes in shown.elements)


def test_hostile_names_are_text() -> None:
    work = replace(workload(HOSTILE, layers=("conv", f"conv.{HOSTILE.replace('.', '')}")), warnings=(HOSTILE,))
    answered = made_up(*LENGTH, *PLACE, "--budget", "40gCO2e", work=work)
    hostile = Page(render(report([answered, answered], command=HOSTILE, version=HOSTILE)))
    plain_works = [replace(workload(name, layers=("conv", "conv.a")), warnings=("w",)) for name in ("a", "b")]
    plain = Page(render(report([made_up(*LENGTH, *PLACE, "--budget", "40gCO2e", work=work) for work in plain_works])))
    assert [name for name, _ in hostile.elements] == [name for name, _ in plain.elements]
    assert not [key for _, attributes in hostile.elements for key in attributes if key.startswith("on")]
    assert json.loads(hostile.content["data"])["models"][0]["name"] == HOSTILE
    assert "<img src=x onerror=alert(2)>" in hostile.text


@given(st.text(), st.text())
def test_text_and_attributes_come_back_as_they_were(text: str, value: str) -> None:
    made = environment().from_string('<p title="{{ value }}">{{ text }}</p>').render(text=text, value=value)
    ((_, attributes),) = Page(made).elements
    # Parsers may take a carriage return for a line break.
    assert (attributes["title"] or "").replace("\r", "\n") == printable(value).replace("\r", "\n")
    assert made.count("<") == 2
    encoded = made.encode()  # no lone surrogate is left
    assert b"\x00" not in encoded


def test_ids_are_single_charts_and_fields_are_named_and_headings_in_order() -> None:
    answered = [made_up(*LENGTH, *PLACE, work=workload(name, flops=size)) for name, size in SIZES.items()]
    shown = Page(render(report(answered)))
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in shown.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and svg.get("aria-label"))
    labels = {one["for"] for one in shown.all("label")}
    for field in shown.all("input") + shown.all("select"):
        assert field["id"] in labels or field.get("aria-label")
    assert all(one.get("scope") for one in shown.all("th"))
    levels = [int(name[1]) for name, _ in shown.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_same_report_gives_the_same_page() -> None:
    assert render(report([made_up(*LENGTH, *PLACE)])) == render(report([made_up(*LENGTH, *PLACE)]))


def test_the_sliders_are_hidden_until_the_script_shows_them() -> None:
    (section,) = (one for one in page().all("section") if one.get("id") == "what-if")
    assert "hidden" in section


# -- what its script computes with -----------------------------------------------------------------


@given(st.integers(1, 10**6), st.integers(0, 10**5))
def test_two_runs_tell_every_other(steps: int, passes: int) -> None:
    answer = made_up(*LENGTH, *PLACE, "--val-samples", "64", startup_s=12.0)
    for name, lines in growth(answer).items():
        schedule = replace(answer.schedule, steps=steps, validation_steps=passes)
        whole = getattr(forecast(profile(startup_s=12.0), answer.workload, schedule), name)
        for bound, (start, per_step, validation_start, per_pass) in lines.items():
            grown = start + per_step * steps + (validation_start + per_pass * passes if passes else 0)
            assert grown == pytest.approx(getattr(whole, bound), rel=1e-9)


@given(st.floats(0.01, 1e6), st.floats(1.0, 20.0), st.one_of(st.just(0.0), st.floats(1e-6, 1e4)))
def test_the_sliders_stop_at_round_values_and_at_the_runs_own(epochs: float, pue: float, price: float) -> None:
    place = ("--pue", str(pue), "--price", str(price))
    answer = made_up("--epochs", str(epochs), "--samples", "320", *place)
    for name, own in (("length", answer.schedule.epochs), ("pue", pue), ("price", price)):
        texts = stops([answer])[name]
        values = [float(text) for text in texts]
        assert own in values
        assert values == sorted(set(values))
        assert 2 < len(values) < 120
        assert all(len(text) < 12 for text, value in zip(texts, values, strict=True) if value != own)


def test_a_run_told_in_steps_is_changed_in_steps() -> None:
    data = script_data(report([made_up("--steps", "500", *PLACE)]))
    assert (data["length_unit"], data["settings"]["length"]) == ("steps", "500")
    # 333 steps of 10 an epoch are 33.3 epochs, which would be 333 steps again; 1/3 of one would not be 4.
    awkward = made_up("--steps", "7", "--samples", "96", *PLACE)
    data = script_data(report([awkward]))
    assert data["settings"]["length"] in ("7", str(awkward.schedule.epochs))


# -- where the energy goes, and other grids ----------------------------------------------------------

BLOCKS = [f"model.layers.{block}.{part}" for block in range(80) for part in ("attention.q", "attention.v", "mlp.up")]
NETWORKS = {
    "one": ["conv"],
    "flat": [f"features.{index}" for index in range(40)],
    "residual": [
        "conv1",
        *(f"layer{n}.{block}.conv{k}" for n in (1, 2, 3, 4) for block in (0, 1) for k in (1, 2)),
        "fc",
    ],
    "transformer": ["model.embed", *BLOCKS, "model.norm", "head"],
    "own work between": ["a", "a.0", "a.0.b", "a.1", "", "start-up"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_dozen_lines_hold_all_the_energy_in_the_networks_order(name: str) -> None:
    paths = NETWORKS[name]
    answer = made_up(*LENGTH, *PLACE, work=workload(layers=paths, flops=2 ** (len(paths) + 20)))
    parts = layer_parts(answer)
    assert 1 <= len(parts) <= MOST
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.energy_kwh for part in parts) == pytest.approx(answer.estimate.energy_kwh.value)
    assert len({part.name for part in parts}) == len(parts)


def test_the_blocks_of_a_long_list_count_together() -> None:
    answer = made_up(*LENGTH, *PLACE, work=workload(layers=NETWORKS["transformer"], flops=2**260))
    names = [part.name for part in layer_parts(answer)]
    assert names == [
        *("model.embed", "model.layers.*.attention.q", "model.layers.*.attention.v", "model.layers.*.mlp.up"),
        *("model.norm", "head"),
    ]


def test_layers_stand_in_the_order_of_the_network() -> None:
    answer = made_up(*LENGTH, *PLACE, work=workload(layers=["head", "body", "tail"]), startup_s=5.0)
    assert [part.name for part in layer_parts(answer)] == ["head", "body", "tail", "start-up"]


def test_components_are_those_of_the_equation() -> None:
    """150 W, of which 50 W are static: a third."""
    shares = {part.name: part.share for part in component_parts(made_up(*LENGTH, *PLACE))}
    assert shares == {"compute": pytest.approx(2 / 3), "static": pytest.approx(1 / 3)}


def test_grids_are_ranked_and_the_runs_own_is_marked() -> None:
    given_ = ranked_grids(made_up(*LENGTH, *PLACE))
    assert [grid.carbon_g_per_kwh for grid in given_] == sorted(grid.carbon_g_per_kwh for grid in given_)
    assert [(grid.name, grid.carbon_g_per_kwh) for grid in given_ if grid.own] == [("as given", 400.0)]
    for code in ("FR", "US-WY"):
        ranked = ranked_grids(made_up(*LENGTH, "--region", code))
        assert [grid.code for grid in ranked if grid.own] == [code]
        assert len({grid.code for grid in ranked}) == len(ranked)
    asked = ranked_grids(made_up(*LENGTH, "--region", "FR", "--regions", "IS,US-WY"))
    assert {"IS", "US-WY", "FR", "SE", "ZA"} <= {grid.code for grid in asked}


def test_a_grid_of_this_hour_stands_in_for_its_yearly_row() -> None:
    live = replace(find_region("FR"), carbon_g_per_kwh=3.5, live=True)
    answer = replace(made_up(*LENGTH), site=make_site(region=live))
    (own,) = (grid for grid in ranked_grids(answer) if grid.own)
    assert (own.code, own.carbon_g_per_kwh, own.note) == ("FR", 3.5, "this hour")
    data = script_data(report([answer]))
    assert {code: grams for code, _, grams, _ in data["grids"]}["FR"] == 3.5


def test_the_page_of_a_real_network(tmp_path: Path) -> None:
    from .pages import RUN, answers, write_nets

    nets = write_nets(tmp_path, mynet=8)
    shown = Page(render(report(answers("--model", nets["mynet"], *RUN, "--epochs", "3"))))
    for words in ("mynet", "first · Linear", "second · Linear", "start-up", "Quadro RTX 6000", "EC-NAS"):
        assert words in shown.text, words
