"""Numbers in sentences."""

from __future__ import annotations

import pytest

from joulecast.estimator.base.digits import counted, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123456, "0.00123"),
        (0.25, "0.25"),
        (12.345, "12.3"),
        (999.4, "999"),
        (999.6, "1,000"),
        (1588.2, "1,588"),
        (-2834.9, "-2,835"),
        (9_999_999, "9,999,999"),
        (12_345_678, "1.23e+07"),
    ],
)
def test_three_digits_without_an_exponent_where_people_read_none(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1590, "1,590 steps")])
def test_one_has_no_plural(number: int, text: str) -> None:
    assert counted(number, "step") == text
