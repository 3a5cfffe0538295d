"""The formats for papers, model cards and dashboards, read back by their own tools or by a parser of the test."""

from __future__ import annotations

import csv
import io
import re
import tomllib
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast import __version__
from joulecast.cli.estimate import estimate, read_request
from joulecast.estimator.answer.answer import Answer
from joulecast.estimator.answer.estimate import find_profile, priced
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.model.read_model import read_model
from joulecast.estimator.place.site import find_region, make_site
from joulecast.report import bibtex
from joulecast.report.codecarbon import COLUMNS
from joulecast.report.formats import render
from joulecast.report.latex import escape
from joulecast.report.wording import one_line, plain_number

ROOT = Path(__file__).parents[2]
NASTY = 'a_b/50%{x}\\& "q" #1~^$ --model -- <é> `c\' |\nline'

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.first = nn.Linear(16, width)
        self.second = nn.Linear(width, 4)

    def forward(self, x):
        return self.second(self.first(x))
"""


def answered(folder: Path, *arguments: str) -> Answer:
    """The answer of `estimate` to these options, for a network that is really traced."""
    path = folder / "net.py"
    path.write_text(NET)
    with estimate.make_context(
        "estimate", ["--model", str(path), "--input", "16", "--steps", "1000", *arguments]
    ) as asked:
        options = dict(asked.params)
    request = read_request("net.py", options)
    return priced(request, read_model(str(path), request.trace_options), find_profile(request))


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """On four T4 in France; the datasheet's figures are of the board alone."""
    folder = tmp_path_factory.mktemp("net")
    return answered(folder, "--hardware", "t4", "--devices", "4", "--region", "FR", "--pue", "1.25")


def of_hardware(answer: Answer, name: str) -> Answer:
    return replace(answer, profile=replace(answer.profile, hardware=name))


def in_region(answer: Answer, code: str) -> Answer:
    return replace(answer, site=make_site(region=code, pue=answer.site.pue))


# -- text ----------------------------------------------------------------------------------------


@given(value=st.floats(1e-12, 1e12), digits=st.integers(1, 6))
def test_plain_numbers_have_no_exponent(value: float, digits: int) -> None:
    text = plain_number(value, digits)
    assert re.fullmatch(r"\d+(\.\d+)?", text)
    assert float(text) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits) * 1.001)


@given(text=st.text())
def test_one_line_is_one_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert line == one_line(line)
    line.encode()


# -- model cards ---------------------------------------------------------------------------------


def card(answers: Sequence[Answer]) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="huggingface_hub brings PyYAML; neither is here")
    return yaml.safe_load(render("modelcard", answers))["co2_eq_emissions"]


def test_a_model_card(answer: Answer) -> None:
    assert card([answer]) == {
        "emissions": pytest.approx(answer.co2e_kg.value * 1000, rel=1e-3),
        "source": f"joulecast {__version__}, predicted before training (profile: time datasheet, power datasheet)",
        "geographical_location": "France",
        "hardware_used": "4 x " + answer.profile.hardware,
    }


def test_a_model_card_says_its_interval_in_comments(answer: Answer) -> None:
    text = render("modelcard", [answer])
    [line] = [line for line in text.splitlines() if line.startswith("  emissions:")]
    low, high = re.fullmatch(r"  emissions: \S+ # g CO2e; 90 % interval (\S+) to (\S+)", line).groups()  # type: ignore[union-attr]
    assert float(low.replace(",", "")) == pytest.approx(answer.co2e_kg.low * 1000, rel=5e-3)
    assert float(high.replace(",", "")) == pytest.approx(answer.co2e_kg.high * 1000, rel=5e-3)
    assert "FR (France)" in text
    for note in answer.estimate.warnings:
        assert f"# note: {one_line(note)}" in text


def test_hugging_face_reads_a_model_card(answer: Answer) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not here")
    front = f"---\n{render('modelcard', [answer])}---\n# Net\n"
    data = hub.ModelCard(front).data
    assert data.co2_eq_emissions == card([answer])
    again = hub.ModelCardData(**data.to_dict())
    assert again.to_dict()["co2_eq_emissions"] == card([answer])


def test_a_model_card_guesses_nothing(answer: Answer) -> None:
    nowhere = card([replace(answer, site=make_site())])
    assert "geographical_location" not in nowhere
    assert "geographical_location" not in card([in_region(answer, "WORLD")])
    assert "training_type" not in nowhere
    frozen = replace(answer, workload=replace(answer.workload, trainable_parameters=answer.workload.parameters - 1))
    assert card([frozen])["training_type"] == "fine-tuning"


@pytest.mark.parametrize(
    ("code", "where"),
    [
        ("US-CA", "California, United States"),
        ("gcp:europe-west9", "Paris, France (gcp:europe-west9)"),
        ("SE", "Sweden"),
        ("EU", "European Union"),
    ],
)
def test_a_model_card_says_where(answer: Answer, code: str, where: str) -> None:
    assert card([in_region(answer, code)])["geographical_location"] == where


@given(name=st.text(), kilograms=st.floats(1e-9, 1e9))
def test_any_name_and_mass_survive_yaml(answer: Answer, name: str, kilograms: float) -> None:
    scale = kilograms / answer.co2e_kg.value
    scaled = replace(
        answer, estimate=replace(answer.estimate, energy_kwh=answer.estimate.energy_kwh * scale, devices=1)
    )
    read = card([replace(of_hardware(scaled, name), model=name)])
    assert read["hardware_used"] == one_line(name)
    assert read["emissions"] == pytest.approx(kilograms * 1000, rel=6e-4)


def test_several_models_are_several_documents(answer: Answer) -> None:
    yaml = pytest.importorskip("yaml", reason="huggingface_hub brings PyYAML; neither is here")
    documents = list(yaml.safe_load_all(render("modelcard", [answer, of_hardware(answer, "other")])))
    assert [document["co2_eq_emissions"]["hardware_used"] for document in documents] == [
        f"4 x {answer.profile.hardware}",
        "4 x other",
    ]


# -- LaTeX ---------------------------------------------------------------------------------------

_NAMES = {
    "textbackslash": "\\",
    "textbraceleft": "{",
    "textbraceright": "}",
    "textasciicircum": "^",
    "textasciitilde": "~",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textasciigrave": "`",
    "textquotesingle": "'",
    "char34": '"',
}
_TOKEN = re.compile(
    r"\\(?P<name>[a-z]+(?:34)?)\{\}|\\(?P<char>[$&#%_])|(?P<dash>-)\{\}|(?P<plain>[^\\{}$&#%_^~<>|`'\"-])"
)


def set_by_latex(source: str) -> str:
    """The characters that LaTeX would set for `source`; fails for anything but plain text."""
    text, position = "", 0
    while position < len(source):
        token = _TOKEN.match(source, position)
        assert token, f"not plain text at {source[position:]!r}"
        text += _NAMES[token["name"]] if token["name"] else token["char"] or token["dash"] or token["plain"]
        position = token.end()
    return text


def table_rows(source: str) -> list[list[str]]:
    """The cells of each row between the rules of a `tabular`."""
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    assert lines[0] == r"\begin{tabular}{lrrrr}"
    assert lines[-1] == r"\end{tabular}"
    body = lines[1:-1]
    assert (body[0], body[3], body[-1]) == (r"\toprule", r"\midrule", r"\bottomrule")
    rows = [*body[1:3], *body[4:-1]]
    assert all(row.endswith(r" \\") for row in rows)
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", row[: -len(r" \\")])] for row in rows]


@given(text=st.text() | st.text(alphabet="\\{}$&#%_^~<>|`'\"- ab\n"))
def test_escaped_text_is_set_as_it_stands(text: str) -> None:
    assert set_by_latex(escape(text)) == one_line(text)


def test_a_table(answer: Answer) -> None:
    other = replace(
        answer, model=NASTY, estimate=replace(answer.estimate, energy_kwh=answer.estimate.energy_kwh * 1000)
    )
    source = render("latex", [answer, other])
    head, units, first, second = table_rows(source)
    assert head == ["Model", "Time", "Energy", "With PUE", "CO$_2$e"]
    assert {len(row) for row in (head, units, first, second)} == {5}
    assert set_by_latex(second[0]) == one_line(NASTY)
    factors = {"(GWh)": 1e6, "(MWh)": 1e3, "(kWh)": 1.0, "(Wh)": 1e-3, "(mWh)": 1e-6}
    for row, expected in ((first, answer), (second, other)):
        value, low, high = re.fullmatch(r"(\S+) \((\S+)--(\S+)\)", row[2]).groups()  # type: ignore[union-attr]
        energy, factor = expected.estimate.energy_kwh, factors[units[2]]
        for text, figure in ((value, energy.value), (low, energy.low), (high, energy.high)):
            assert float(text.replace(",", "")) * factor == pytest.approx(figure, rel=6e-3)


@given(name=st.text())
def test_any_name_keeps_the_table_whole(answer: Answer, name: str) -> None:
    rows = table_rows(render("latex", [replace(of_hardware(answer, name), model=name), answer]))
    assert [len(row) for row in rows] == [5, 5, 5, 5]
    assert set_by_latex(rows[2][0]) == one_line(name)


def test_a_table_says_where_its_figures_come_from(answer: Answer) -> None:
    comments = [line for line in render("latex", [answer]).splitlines() if line.startswith("%")]
    said = "\n".join(comments)
    for fact in (f"joulecast {__version__}", "predicted before training", "FR (France)", "PUE 1.25", "booktabs"):
        assert fact in said


# -- BibTeX --------------------------------------------------------------------------------------


def entries(source: str) -> dict[str, dict[str, str]]:
    """The fields of each entry, by its key; braces are counted as BibTeX counts them."""
    found: dict[str, dict[str, str]] = {}
    rest = source
    while rest.strip():
        start = re.match(r"\s*@misc\{(\w+),\n", rest)
        assert start, rest[:80]
        fields, rest = {}, rest[start.end() :]
        while not rest.startswith("}"):
            name = re.match(r"  (\w+) = ", rest)
            assert name, rest[:80]
            rest = rest[name.end() :]
            depth, end = 0, 0
            while not (depth == 0 and rest[end] == ","):
                depth += {"{": 1, "}": -1}.get(rest[end], 0)
                assert depth >= 0
                end += 1
            fields[name[1]] = rest[:end].removeprefix("{").removesuffix("}")
            rest = rest[end + 2 :]
        found[start[1]], rest = fields, rest[2:]
    return found


def test_the_citation_is_that_of_citation_cff(answer: Answer) -> None:
    yaml = pytest.importorskip("yaml", reason="huggingface_hub brings PyYAML; neither is here")
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    found = entries(render("bibtex", [answer]))
    mine, thesis = found["joulecast"], found["hsueh2020carbon"]
    released = datetime.fromisoformat(facts["date-released"])
    assert set_by_latex(mine["title"].strip("{}")) == facts["title"]
    assert mine["author"].strip("{}") == facts["authors"][0]["name"]
    assert mine["version"] == facts["version"] == __version__
    assert (mine["year"], mine["month"]) == (str(released.year), released.strftime("%b").lower())
    assert mine["url"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    [source] = facts["references"]
    assert thesis["title"].strip("{}") == source["title"]
    assert thesis["author"] == f"{source['authors'][0]['family-names']}, {source['authors'][0]['given-names']}"
    assert (thesis["year"], thesis["url"]) == (str(source["year"]), source["url"])
    assert source["institution"]["name"] in thesis["howpublished"]
    assert bibtex.AUTHORS in mine["author"]


def test_the_note_has_the_figures(answer: Answer) -> None:
    note = set_by_latex(entries(render("bibtex", [answer, replace(answer, model=NASTY)]))["joulecast"]["note"])
    assert note.startswith("net.py: time ")
    assert f"; {one_line(NASTY)}: time " in note
    assert note.count("CO2e (") == 2
    assert "FR (France)" in note
    assert "predicted before training" in note


@given(name=st.text() | st.text(alphabet='{}\\,@"%'))
def test_any_name_keeps_the_entries_whole(answer: Answer, name: str) -> None:
    found = entries(render("bibtex", [replace(answer, model=name)]))
    assert list(found) == ["joulecast", "hsueh2020carbon"]
    assert set_by_latex(found["joulecast"]["note"]).startswith(f"{one_line(name)}: time ")


# -- CodeCarbon ----------------------------------------------------------------------------------


def rows(answers: Sequence[Answer]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render("codecarbon", answers))))


def test_a_row_of_codecarbon(answer: Answer) -> None:
    [row] = rows([answer])
    assert tuple(row) == COLUMNS
    assert float(row["duration"]) == answer.estimate.seconds.value  # s
    assert float(row["energy_consumed"]) == pytest.approx(1.25 * answer.estimate.energy_kwh.value)  # kWh, with PUE
    assert float(row["emissions"]) == pytest.approx(
        1.25 * answer.estimate.energy_kwh.value * find_region("FR").carbon_g_per_kwh / 1000
    )  # kg
    assert float(row["emissions_rate"]) == pytest.approx(answer.co2e_kg.value / answer.estimate.seconds.value)  # kg/s
    assert float(row["gpu_power"]) == pytest.approx(
        1.25 * answer.estimate.energy_kwh.value * 3_600_000 / answer.estimate.seconds.value
    )  # W, with PUE as its energy
    assert row["gpu_energy"] == row["energy_consumed"]
    assert (row["gpu_count"], row["gpu_model"]) == ("4", f"4 x {answer.profile.hardware}")
    assert (row["country_name"], row["country_iso_code"], row["region"]) == ("France", "FRA", "")
    assert (row["project_name"], row["tracking_mode"]) == ("net.py (predicted)", "predicted")
    assert row["codecarbon_version"] == f"joulecast {__version__}"
    assert float(row["pue"]) == 1.25
    assert datetime.fromisoformat(row["timestamp"])


def test_what_is_not_known_is_empty(answer: Answer) -> None:
    [row] = rows([replace(answer, site=make_site())])
    unknown = {name for name, value in row.items() if value == ""}
    assert unknown == {
        *("experiment_id", "cpu_power", "ram_power", "cpu_energy", "ram_energy", "water_consumed", "country_name"),
        *("country_iso_code", "region", "cloud_provider", "cloud_region", "os", "python_version", "cpu_count"),
        *("cpu_model", "longitude", "latitude", "ram_total_size", "cpu_utilization_percent", "on_cloud", "wue"),
        *("gpu_utilization_percent", "ram_utilization_percent", "ram_used_gb"),
    }


def test_the_part_is_said_only_where_the_figure_is_its_own(answer: Answer) -> None:
    """A meter over boards and packages gives one sum, which is not the GPU's."""
    both = replace(answer.profile.provenance, boundary="GPU board and both CPU packages, without PUE")
    [row] = rows([replace(answer, profile=replace(answer.profile, provenance=both))])
    assert (row["gpu_power"], row["gpu_energy"]) == ("", "")
    assert row["energy_consumed"] != ""
    processor = replace(answer, profile=load_profile("i7-4770"))
    [row] = rows([processor])
    assert row["cpu_model"].endswith(processor.profile.hardware)
    assert float(row["cpu_energy"]) == pytest.approx(processor.facility_energy_kwh.value)
    assert (row["gpu_model"], row["gpu_count"], row["gpu_energy"]) == ("", "", "")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("US-CA", {"country_name": "United States", "country_iso_code": "USA", "region": "california", "on_cloud": ""}),
        (
            "gcp:europe-west9",
            {"country_iso_code": "FRA", "cloud_provider": "gcp", "cloud_region": "europe-west9", "on_cloud": "Y"},
        ),
        ("WORLD", {"country_name": "", "country_iso_code": ""}),
    ],
)
def test_places_in_codecarbon_s_words(answer: Answer, code: str, expected: dict[str, str]) -> None:
    [row] = rows([in_region(answer, code)])
    assert {name: row[name] for name in expected} == expected


def test_each_row_is_a_run_of_its_own(answer: Answer) -> None:
    first, second = rows([answer, replace(answer, model=NASTY)])
    assert uuid.UUID(first["run_id"]) != uuid.UUID(second["run_id"])
    assert second["project_name"] == f"{one_line(NASTY)} (predicted)"


def test_a_dashboard_reads_numbers(answer: Answer) -> None:
    """With pandas, as CodeCarbon's own dashboard does: sums, and gaps instead of zeros."""
    import pandas as pd

    frame = pd.read_csv(io.StringIO(render("codecarbon", [answer, answer])))
    assert frame["emissions"].sum() == pytest.approx(2 * answer.co2e_kg.value)
    assert frame["cpu_energy"].isna().all()


def test_the_columns_are_codecarbon_s() -> None:
    codecarbon = pytest.importorskip("codecarbon.output_methods.emissions_data", reason="CodeCarbon is not here")
    assert tuple(codecarbon.EmissionsData.__dataclass_fields__) == COLUMNS
