"""Numbers in sentences."""

from __future__ import annotations


def short(value: float) -> str:
    """Three significant digits, without an exponent between 0.001 and 10 million: 0.25, 12.3, 1,590."""
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e7 else f"{value:.3g}"
