"""The CSV tables in `datasets/`, read as rows of text."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files


@cache
def read_table(name: str) -> tuple[dict[str, str], ...]:
    """The rows of `datasets/<name>`, each by column name."""
    text = files("joulecast.datasets").joinpath(name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
