"""`estimate` with --format, --regions and --live."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from joulecast.estimator.place.site import find_region

from .conftest import Run

NET = """
from torch import nn

def build(width: int = 8):
    return nn.Linear(16, width)
"""
TOKEN = "s3cret-t0ken"


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    (tmp_path / "net.py").write_text(NET)
    return ["--model", "net.py:build", "--input", "16", "--steps", "1000", "--hardware", "t4", "--pue", "1"]


def document(call: Run, *arguments: Any) -> dict[str, Any]:
    result = call("estimate", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


# -- formats -------------------------------------------------------------------------------------


def test_formats_are_the_old_flags(call: Run, base: list[str]) -> None:
    for flag, name in (("--json", "json"), ("--csv", "csv")):
        old, new = call("estimate", *base, flag), call("estimate", *base, "--format", name)
        assert old.stdout == new.stdout == call("estimate", *base, flag, "--format", name).stdout
    assert call("estimate", *base).stdout == call("estimate", *base, "--format", "table").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--json", "--format", "csv"], "--json and --format csv contradict"),
        (["--csv", "--format", "table"], "--csv and --format table contradict"),
        (["--json", "--csv"], "--json and --csv contradict"),
        (["--format", "latex", "--regions", "FR"], "--regions is not part of latex"),
        (["--format", "bibtex", "--layers"], "--layers is not part of bibtex"),
        (["--csv", "--layers", "--regions", "FR"], "two tables"),
        (["--format", "modelcard", "--inference"], "emissions of training"),
        (["--format", "yaml"], "'yaml' is not one of"),
        (["--live"], "--live needs a place"),
        (["--live", "--region", "FR", "--carbon-intensity", "50"], "--live and --carbon-intensity contradict"),
        (["--region", "em:SE-SE3"], "add --live"),
        (["--regions", "FR,em:SE-SE3"], "add --live"),
    ],
)
def test_options_that_contradict(call: Run, base: list[str], arguments: list[str], reason: str) -> None:
    result = call("estimate", *base, *arguments)
    assert result.returncode == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["modelcard", "bibtex", "latex", "codecarbon"])
def test_notes_stand_on_stderr_and_a_budget_still_counts(call: Run, base: list[str], name: str) -> None:
    result = call("estimate", *base, "--format", name, "--budget", "1J", "--region", "FR", "--live")
    assert result.returncode == 3
    assert "note: no live carbon intensity for FR: ELECTRICITYMAPS_API_TOKEN is not set" in result.stderr
    assert "t4" in result.stdout.casefold()


# -- regions -------------------------------------------------------------------------------------


def test_regions_side_by_side(call: Run, base: list[str]) -> None:
    answer = document(call, *base, "--region", "DE", "--regions", "fr, Sweden,US-CA,France")
    assert [place["region"] for place in answer["regions"]] == ["FR", "SE", "US-CA"]  # as given, each once
    assert answer["site"]["region"] == "DE"
    energy = answer["facility_energy_kwh"]
    for place in answer["regions"]:
        row = find_region(place["region"])
        assert (place["name"], place["year"], place["basis"], place["source"]) == (
            row.name,
            row.year,
            row.basis,
            row.source,
        )
        for end in ("value", "low", "high"):
            assert place["co2e_kg"][end] == pytest.approx(energy[end] * row.carbon_g_per_kwh / 1000)
    assert [place["cleanest"] for place in answer["regions"]] == [False, True, False]
    assert answer["regions"][0]["ratio_to_first"] == 1
    assert answer["regions"][2]["ratio_to_first"] == pytest.approx(179.1 / 44.2)
    assert any("life cycle: FR, SE; direct: US-CA" in note for note in answer["warnings"])
    assert answer["co2e_kg"]["value"] == pytest.approx(energy["value"] * find_region("DE").carbon_g_per_kwh / 1000)


def test_a_row_a_model_and_region(call: Run, base: list[str]) -> None:
    result = call("estimate", *base, "--model", "net.py:build", "--regions", "FR,SE", "--csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["model"], row["region"]) for row in rows] == [("net.py:build", "FR"), ("net.py:build", "SE")] * 2
    for row in rows:
        expected = float(row["facility_energy_kwh"]) * float(row["carbon_g_per_kwh"]) / 1000
        assert float(row["co2e_kg"]) == pytest.approx(expected)
        assert row["carbon_source"].startswith(f"{row['region']} (")
    assert rows[0]["co2e_kg"] != rows[1]["co2e_kg"]


def test_the_table_of_regions(call: Run, base: list[str]) -> None:
    result = call("estimate", *base, "--regions", "FR,SE,WORLD")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert any("France (FR)" in line and "x 1.00" in line for line in lines)
    assert any("Sweden (SE), cleanest" in line for line in lines)
    assert any("World average (WORLD)" in line and "475" in line for line in lines)
    assert any("Sweden" in line and "life cycle, 2024" in line for line in lines)
    assert "FR, SE: Our World in Data" in " ".join(result.stdout.split())
    several = call("estimate", *base, "--model", "net.py:build", "--regions", "FR,SE")
    assert several.stdout.count("Sweden (SE), cleanest") == 2


def test_a_region_of_no_emissions_is_never_the_cleanest(call: Run, base: list[str]) -> None:
    places = document(call, *base, "--regions", "CF,FR")["regions"]
    assert [(place["cleanest"], place["ratio_to_first"]) for place in places] == [(False, None), (True, None)]


def test_only_the_run_s_own_region_breaks_the_budget(call: Run, base: list[str]) -> None:
    at_home = document(call, *base, "--region", "FR")["co2e_kg"]["high"] * 1000
    limit = f"{at_home * 2:.9f}gCO2e"
    kept = call("estimate", *base, "--region", "FR", "--regions", "FR,PL", "--budget", limit, "--json")
    assert kept.returncode == 0
    verdicts = [place["budget"][0]["exceeded"] for place in json.loads(kept.stdout)["regions"]]
    assert verdicts == [False, True]
    broken = call("estimate", *base, "--region", "PL", "--regions", "FR,PL", "--budget", limit)
    assert broken.returncode == 3
    assert "FR: within budget" in broken.stdout
    assert "PL: over budget" in broken.stdout


@pytest.mark.parametrize(
    ("regions", "reason"),
    [("FR,Frence", "near names are FR (France)"), (" , ", "names no region"), ("", "names no region")],
)
def test_regions_that_cannot_be_used(call: Run, base: list[str], regions: str, reason: str) -> None:
    result = call("estimate", *base, "--regions", regions)
    assert result.returncode == 1
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


# -- live ----------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A local Electricity Maps: 10 g/kWh in Sweden, HTTP 500 elsewhere. Yields the zones that were requested."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            zone = parse_qs(urlsplit(self.path).query)["zone"][0]
            asked.append(zone)
            body = {"zone": zone, "carbonIntensity": 10, "emissionFactorType": "lifecycle", "isEstimated": True}
            self.send_response(200 if zone == "SE" and self.headers["auth-token"] == TOKEN else 500)
            self.end_headers()
            self.wfile.write(json.dumps({**body, "datetime": datetime.now(UTC).isoformat()}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("JOULECAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ELECTRICITYMAPS_API_TOKEN", TOKEN)
    monkeypatch.setenv("ELECTRICITYMAPS_API_URL", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    server.server_close()


def test_a_live_figure_and_its_label(call: Run, base: list[str], api: list[str], tmp_path: Path) -> None:
    answer = document(call, *base, "--region", "SE", "--live")
    assert answer["site"]["carbon_g_per_kwh"] == 10
    assert answer["site"]["carbon_source"].startswith("SE (Sweden), live, Electricity Maps, zone SE, 20")
    assert answer["site"]["carbon_source"].endswith("Z, estimated, life cycle")
    assert answer["co2e_kg"]["value"] == pytest.approx(answer["facility_energy_kwh"]["value"] * 0.01)
    table = call("estimate", *base, "--region", "SE", "--live").stdout
    assert "10.0 g/kWh, SE (Sweden), live, Electricity Maps" in table
    for format_ in ("table", "csv", "modelcard", "bibtex", "latex"):
        result = call("estimate", *base, "--region", "SE", "--live", "--verbose", "--format", format_)
        assert "live, Electricity Maps, zone SE" in " ".join(result.stdout.replace("-{}", "-").split()), format_
        assert TOKEN not in result.stdout + result.stderr
    assert api == ["SE"]  # the others from the cache
    assert all(TOKEN not in path.read_text() for path in tmp_path.rglob("*.json"))


def test_what_is_not_live_is_said(call: Run, base: list[str], api: list[str]) -> None:
    answer = document(call, *base, "--regions", "SE,FR", "--live")
    sweden, france = answer["regions"]
    assert (sweden["live"], sweden["carbon_g_per_kwh"], sweden["year"]) == (True, 10, datetime.now(UTC).year)
    assert (france["live"], france["carbon_g_per_kwh"]) == (False, 44.2)
    assert (
        "no live carbon intensity for FR: HTTP 500; the figure is the yearly one of FR (France), 2024"
        in (answer["warnings"])
    )
    assert sorted(api) == ["FR", "FR", "SE"]


def test_an_hour_says_little_of_a_week(call: Run, base: list[str], api: list[str]) -> None:
    def noted(steps: str) -> bool:
        answer = document(call, *base, "--steps", steps, "--region", "SE", "--live")
        return any("is of one hour" in note for note in answer["warnings"])

    assert noted("100_000_000_000")
    assert not noted("10")


def test_a_closed_port_does_not_stop_the_estimate(
    call: Run, base: list[str], api: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELECTRICITYMAPS_API_URL", "http://127.0.0.1:1")
    result = call("estimate", *base, "--region", "FR", "--live")
    assert result.returncode == 0
    assert "the connection failed (Connection refused)" in " ".join(result.stdout.split())
    assert TOKEN not in result.stdout + result.stderr
