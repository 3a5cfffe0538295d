"""Tables and paragraphs that fit the width of a terminal, as lines of text without trailing spaces."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 110  # of output that is not a terminal, unless COLUMNS says otherwise
_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. In a narrow window, the columns with the lowest `keep` are left out first."""

    heading: str
    cells: Sequence[str | Text]
    right: bool = False
    style: str = ""
    keep: int = 99
    """Columns of 99 are always shown."""

    @property
    def width(self) -> int:
        return max(cell_len(str(text)) for text in (self.heading, *self.cells))


def make_console(*, stderr: bool = False) -> Console:
    """Colours and the window's width on a terminal; plain text of a fixed width in a pipe or file."""
    console = Console(highlight=False, stderr=stderr)
    if console.is_terminal:
        return console
    columns = os.environ.get("COLUMNS", "")
    return Console(
        highlight=False, stderr=stderr, width=int(columns) if columns.isdecimal() and int(columns) else PIPE_WIDTH
    )


def show(console: Console, lines: Iterator[Text] | Sequence[Text]) -> None:
    """Prints each line unchanged: a word longer than the window is not broken."""
    for line in lines:
        console.print(line, soft_wrap=True)


def table_lines(columns: Sequence[Column], width: int, *, headings: bool = True, indent: int = 0) -> list[Text]:
    """The rows of a table. Cells are never broken: columns that do not fit are left out, and the last line names them.

    Where not even the columns to keep fit, each row is the first cell, with others on a line below it.
    """
    shown = _fitting(columns, width - indent)
    if _width(shown) > width - indent and len(shown) > 1:
        shown, lines = _stacked(columns, width - indent, indent)
    else:
        sizes = [column.width for column in shown]
        head = [[Text(column.heading, style="dim") for column in shown]] if headings else []
        rows = [*head, *([_styled(column, row) for column in shown] for row in range(len(shown[0].cells)))]
        lines = [_aligned(shown, sizes, row, indent) for row in rows]
    if left_out := [column.heading for column in columns if column not in shown]:
        lines += wrapped(f"not shown in {width} columns: {', '.join(left_out)}", width, indent=indent, style="dim")
    return lines


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
    shown = list(columns)
    while _width(shown) > width and min(column.keep for column in shown) < 99:
        shown.remove(min(shown, key=lambda column: column.keep))
    return shown


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _styled(column: Column, row: int) -> Text:
    cell = column.cells[row]
    return cell if isinstance(cell, Text) else Text(cell, style=column.style)


def _aligned(columns: Sequence[Column], sizes: Sequence[int], cells: Sequence[Text], indent: int) -> Text:
    line = Text(" " * indent)
    for index, (column, size, cell) in enumerate(zip(columns, sizes, cells, strict=True)):
        room = " " * (size - cell.cell_len)
        line.append(" " * _GAP if index else "")
        line = line.append(room).append_text(cell) if column.right else line.append_text(cell).append(room)
    line.rstrip()
    return line


def _stacked(columns: Sequence[Column], width: int, indent: int) -> tuple[list[Column], list[Text]]:
    """Each row's first cell on its own line, and below it the most important columns that fit."""
    first, *others = columns
    shown: list[Column] = []
    for column in sorted(others, key=lambda column: -column.keep):
        if sum(len(one.heading) + one.width + 3 for one in (*shown, column)) <= width:
            shown.append(column)
    shown = [column for column in others if column in shown]
    lines = []
    for row in range(len(first.cells)):
        lines.append(Text(" " * indent).append_text(_styled(first, row)))
        below = Text(" " * (indent + 2))
        for column in shown:
            below.append(f"{column.heading} ", style="dim").append_text(_styled(column, row)).append("  ")
        below.rstrip()
        lines.append(below)
    return [first, *shown], lines


def wrapped(text: str, width: int, *, indent: int = 0, bullet: str = "", style: str = "") -> list[Text]:
    """`text` in lines of at most `width`, broken only between words."""
    lines = textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=" " * indent + bullet,
        subsequent_indent=" " * (indent + len(bullet)),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [Text(line, style=style) for line in lines]


def first_that_fits(choices: Sequence[str], width: int) -> str:
    """The first of `choices`, longest first, that fits; otherwise the last."""
    return next((choice for choice in choices if cell_len(choice) <= width), choices[-1])


def as_many_as_fit(parts: Sequence[str], separator: str, width: int) -> str:
    """The first parts that fit in one line, joined; at least one."""
    line = ""
    for part in parts:
        longer = f"{line}{separator}{part}" if line else part
        if line and cell_len(longer) > width:
            return line
        line = longer
    return line
