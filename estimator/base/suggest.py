"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 80


def clipped(text: str) -> str:
    """`text` as an error shows it: cut where it is too long to be a name."""
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def near(word: str, known: Iterable[str]) -> str:
    """The ending `; did you mean ...?` of a message, or an empty text if no known word is similar."""
    if len(word) > _LONGEST_NAME:
        return ""
    matches = difflib.get_close_matches(word, list(known), n=3)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
