"""Tables and paragraphs at any width, compared character by character."""

from __future__ import annotations

import pytest

from joulecast.cli.layout import (
    PIPE_WIDTH,
    Column,
    as_many_as_fit,
    first_that_fits,
    make_console,
    table_lines,
    wrapped,
)

COLUMNS = [
    Column("model", ["net.py", "a_long_name.py"]),
    Column("time", ["5 s", "12 min"], right=True, keep=1),
    Column("cost", ["1 USD", "2 USD"], right=True, keep=2),
    Column("energy", ["3 Wh", "456 Wh"], right=True),
]


def shown(width: int) -> list[str]:
    return [line.plain for line in table_lines(COLUMNS, width)]


def test_a_table_that_fits_is_whole() -> None:
    assert shown(37) == [
        "model             time   cost  energy",
        "net.py             5 s  1 USD    3 Wh",
        "a_long_name.py  12 min  2 USD  456 Wh",
    ]


def test_the_columns_that_matter_least_leave_first_and_are_named() -> None:
    assert shown(36)[:2] == ["model            cost  energy", "net.py          1 USD    3 Wh"]
    assert shown(36)[-1] == "not shown in 36 columns: time"
    assert shown(28)[0] == "model           energy"
    assert shown(28)[-2:] == ["not shown in 28 columns:", "time, cost"]


def test_names_are_on_lines_of_their_own_where_nothing_else_fits() -> None:
    lines = shown(21)
    assert lines[:4] == ["net.py", "  energy 3 Wh", "a_long_name.py", "  energy 456 Wh"]
    assert " ".join(lines[4:]) == "not shown in 21 columns: time, cost"


def test_text_breaks_between_words_only() -> None:
    lines = [line.plain for line in wrapped("a path/to-a/file.py:name and more", 20, indent=2, bullet="- ")]
    assert lines == ["  - a", "    path/to-a/file.py:name", "    and more"]


def test_what_fits_in_a_line() -> None:
    assert first_that_fits(["long text", "text", "t"], 4) == "text"
    assert first_that_fits(["long text", "text"], 3) == "text"
    assert as_many_as_fit(["one", "two", "three"], ", ", 8) == "one, two"
    assert as_many_as_fit(["a long one", "two"], ", ", 5) == "a long one"


@pytest.mark.parametrize(
    ("columns", "width"), [(None, PIPE_WIDTH), ("72", 72), ("wide", PIPE_WIDTH), ("0", PIPE_WIDTH)]
)
def test_the_width_of_a_pipe(columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert make_console().width == width
