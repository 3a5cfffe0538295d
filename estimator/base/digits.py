"""Numbers: which values are one, and how sentences show them."""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(value: float) -> str:
    """Three significant digits, without an exponent between 0.001 and 10 million: 0.25, 12.3, 1,590."""
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e7 else f"{value:.3g}"


def counted(number: int, what: str) -> str:
    """A number and its noun, whose plural takes an s: 1 step, 1,590 steps."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
