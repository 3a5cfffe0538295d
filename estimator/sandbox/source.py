"""The Python source of a model file: a script as it is, a notebook as its code cells."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import JoulecastError
from ..base.files import read_bytes, read_text

SOURCE_SUFFIXES = (".py", ".ipynb")

# Lines that only IPython understands: `!pip install x`, `%matplotlib inline`, `?help`, `help?`.
_MAGIC_LINE = re.compile(r"^\s*([!%?]|\S+\?\s*$)")
_GUARD = re.compile(rb"""^if\s+__name__\s*==\s*["']__main__["']""", re.M)
_SHELL_VALUE = re.compile(r"^(\s*)\w[\w, ]*=\s*[!%]")


@dataclass(frozen=True, slots=True)
class Cell:
    """One code cell: its number in the notebook, counted from 1 over the code cells, and its Python."""

    number: int
    source: str


def is_source(path: str | Path) -> bool:
    return str(path).endswith(SOURCE_SUFFIXES)


def python_source(path: Path) -> bytes:
    """The Python of a script or notebook, as `ast.parse` takes it. Raises OSError and JoulecastError."""
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in notebook_cells(path)).encode()
    return read_bytes(path)


def has_main_block(path: Path) -> bool:
    """Whether the file has code for `python FILE` alone."""
    try:
        return bool(_GUARD.search(python_source(path)))
    except (OSError, JoulecastError):
        return False


def parsed_source(path: Path) -> ast.Module | None:
    """The syntax tree of the file, or None for a file that is not Python: running it reports why."""
    try:
        return ast.parse(python_source(path))
    except (OSError, SyntaxError, ValueError, JoulecastError):
        return None


def notebook_cells(path: Path) -> list[Cell]:
    """The code cells without IPython's magics; cells that run another language (`%%bash`) are left out."""
    try:
        document = json.loads(read_text(path))
        rows = [row for row in document["cells"] if row["cell_type"] == "code"]
        sources = ["".join(row["source"]) for row in rows]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise JoulecastError(
            f"{path} cannot be read as a notebook ({type(error).__name__}: {error}); "
            "convert it with `jupyter nbconvert --to script`"
        ) from None
    return [Cell(number, _without_magics(source)) for number, source in enumerate(sources, 1)]


def _without_magics(source: str) -> str:
    """Magics become `pass` in place, so that line numbers stay and a block keeps a body."""
    first = source.lstrip().partition("\n")[0]
    if first.startswith("%%") and not first.startswith(("%%time", "%%capture")):
        return ""
    try:
        ast.parse(source)
    except SyntaxError:
        return "\n".join(_plain_lines(source))
    return source


def _plain_lines(source: str) -> Iterator[str]:
    """Changes the magics among lines that start a statement; inside brackets, `%` is the operator."""
    depth = 0
    for line in source.split("\n"):
        line = line if depth > 0 else _plain(line)
        yield line
        depth += sum(line.count(bracket) for bracket in "([{") - sum(line.count(bracket) for bracket in ")]}")


def _plain(line: str) -> str:
    if _MAGIC_LINE.match(line):
        return line[: len(line) - len(line.lstrip())] + "pass"
    if match := _SHELL_VALUE.match(line):
        return f"{line[: match.end() - 1].rstrip()} None"
    return line
