"""`joulecast doctor`: it prints every section, names the fix for what is missing, and imports no framework."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from joulecast.cli.health import EXTRAS, findings

from ..report.pages import profile
from .conftest import Run

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def found(call: Run) -> dict[tuple[str, str], dict[str, str]]:
    result = call("joulecast", "doctor", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == "joulecast.doctor/1"
    return {(one["section"], one["name"]): one for one in document["findings"]}


def test_every_section_is_checked(call: Run, tmp_path: Path) -> None:
    report = found(call)
    assert {section for section, _ in report} == {"software", "machine", "meters", "profiles", "extras", "folders"}
    assert report["software", "torch"]["state"] == "ok"
    assert report["folders", "store"]["detail"].startswith(str(tmp_path / "store"))
    assert {name for section, name in report if section == "extras"} == set(EXTRAS)
    text = call("joulecast", "doctor").stdout
    for section, name in report:
        assert section.capitalize() in text
        assert name in text


def test_a_calibration_is_found_and_a_broken_one_says_what_to_do(call: Run, tmp_path: Path) -> None:
    profile().save(tmp_path / "store" / "profiles" / "mine.json")
    (tmp_path / "store" / "profiles" / "broken.json").write_text("{")
    report = found(call)
    assert "A Machine with pytorch, measured here" in report["profiles", "made-up"]["detail"]
    assert report["profiles", "made-up"]["state"] == "ok"
    assert report["profiles", "unreadable"]["fix"] == "calibrate again: measure --quick"
    assert report["folders", "store"]["detail"].endswith("0 records, 2 profiles")


def test_what_is_not_installed_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    extras = [one for one in findings() if one.section == "extras"]
    assert {one.state for one in extras} == {"optional"}
    (data,) = (one for one in extras if one.name == "data")
    assert data.fix.endswith("python -m pip install pooch") or re.search(r"python\S* -m pip install pooch$", data.fix)


def test_the_extras_are_those_of_the_project() -> None:
    declared = PROJECT["optional-dependencies"]
    for name, (_, packages, _) in EXTRAS.items():
        assert {re.match(r"[\w-]+", text)[0] for text in declared[name]} == set(packages)  # type: ignore[index]
    assert set(declared) - set(EXTRAS) == {"plots", "test"}


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from joulecast.cli.health import findings; list(findings()); "
        "print({'torch', 'tensorflow', 'keras', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
