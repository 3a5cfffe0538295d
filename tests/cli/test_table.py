"""The table of `estimate` at widths from 60 to 200 columns and in a pipe, compared character by character.

After an intended change of the layout, write the files with JOULECAST_GOLDEN=write and read the difference.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from joulecast.cli.table import print_answers
from joulecast.estimator.answer.answer import Answer

from ..report.pages import LENGTH, PLACE, made_up, workload

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (60, 80, 110, 200)
SIZES = {"small": 10**9, "a_directory/of_models/with_a_long_name.py:build_the_network": 4 * 10**9}


def one() -> tuple[Answer, ...]:
    notes = tuple(f"note {number} about the model, long enough to need two lines at 60" for number in range(4))
    return (made_up(*LENGTH, *PLACE, "--budget", "1kgCO2e", work=replace(workload(), warnings=notes)),)


def several() -> tuple[Answer, ...]:
    limits = ("--budget", "100Wh", "--regions", "FR,PL")
    return tuple(made_up(*LENGTH, *PLACE, *limits, work=workload(name, flops=size)) for name, size in SIZES.items())


CASES = {
    "one": (one, {}),
    "one-verbose": (one, {"verbose": True}),
    "several": (several, {}),
    "layers": (one, {"layers": True}),
}


@pytest.mark.parametrize("width", [*WIDTHS, None], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_table_at_every_width(
    case: str, width: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if width is None:  # a pipe
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    make, options = CASES[case]
    print_answers(make(), **{"layers": False, **options})
    text = capsys.readouterr().out
    path = GOLDEN / f"{case}-{width or 'pipe'}.txt"
    if os.environ.get("JOULECAST_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", range(60, 201, 7))
def test_no_line_is_too_long_and_no_name_is_broken(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_answers(several(), layers=True, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    longest = max(SIZES, key=len)
    assert [line for line in lines if len(line) > width and longest not in line] == []
    assert [line for line in lines if line != line.rstrip()] == []
    assert any(longest in line and "Layers" not in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 110, 200])
def test_one_model_takes_at_most_fifteen_lines_before_its_notes(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_answers(one(), layers=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines.index(next(line for line in lines if line.startswith("Notes"))) <= 16  # a blank line among them
    assert sum(line.startswith("  - ") for line in lines) == 3


def test_units_take_prefixes_and_not_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    """12 MW, not 1.2e+07 W: the made-up machine draws 150 W, and 80,000 of them draw 12 MW."""
    print_answers((made_up(*LENGTH, *PLACE, "--devices", "80000"),), layers=False, verbose=True)
    text = capsys.readouterr().out
    assert "mean power 12.0 MW" in text
    assert "e+0" not in text
