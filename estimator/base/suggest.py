"""Did you mean ...?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str]) -> str:
    """The tail `; did you mean ...?`, or nothing where no known word is near."""
    matches = difflib.get_close_matches(word, list(known), n=3)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
