"""Figures for reading: three digits, the unit that fits, never an exponent at everyday sizes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.answer import figures
from joulecast.estimator.base.interval import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (99.94, "99.9"),
        (99.96, "100"),
        (9.996, "10.0"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (9_999_999.0, "9,999,999"),
        (1e7, "1e+07"),
        (0.00123456, "0.00123"),
        (1e-9, "0.00000000100"),
        (9.9e-10, "9.9e-10"),
        (-12.345, "-12.3"),
        (-0.05, "-0.0500"),
        (0.1 + 0.2, "0.300"),  # 0.30000000000000004
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert figures.number(value) == text


@given(st.floats(1e-9, 9.9e6))
def test_numbers_keep_three_digits_and_show_no_exponent(value: float) -> None:
    text = figures.number(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (figures.seconds, 0.0, "0 us"),
        (figures.seconds, 2.5e-6, "2.50 us"),
        (figures.seconds, 0.25, "250 ms"),
        (figures.seconds, 59.0, "59.0 s"),
        (figures.seconds, 60.0, "1.00 min"),
        (figures.seconds, 3600.0, "1.00 h"),
        (figures.seconds, 172_800.0, "2.00 days"),
        (figures.energy, 1e-8, "10.0 uWh"),
        (figures.energy, 0.104, "104 Wh"),
        (figures.energy, 104.0, "104 kWh"),
        (figures.energy, 1.04e4, "10.4 MWh"),
        (figures.energy, 1.04e7, "10.4 GWh"),
        (figures.energy, 1.04e10, "10.4 TWh"),
        (figures.carbon, 0.071, "71.0 g CO2e"),
        (figures.carbon, 7100.0, "7.10 t CO2e"),
        (figures.carbon, 0.9999999999999999, "1.00 kg CO2e"),  # not 1,000 g
    ],
)
def test_units_that_fit(function, value: float, text: str) -> None:
    assert function(Interval.exact(value))[0] == text


def test_the_interval_is_in_the_unit_of_the_expected_figure() -> None:
    assert figures.energy(Interval(1.0, 0.5, 2000.0)) == ("1.00 kWh", "0.500 to 2,000 kWh")
    assert figures.seconds(Interval(90.0, 30.0, 7200.0)) == ("1.50 min", "0.500 to 120 min")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02, "0.0200 USD"), (12.5, "12.5 USD"), (2.5e6, "2.50 million USD"), (3e9, "3.00 billion USD")],
)
def test_money(value: float, text: str) -> None:
    assert figures.money(Interval.exact(value), "USD")[0] == text


@pytest.mark.parametrize(
    ("watts", "text"),
    [(0.05, "50.0 mW"), (203.0, "203 W"), (1500.0, "1.50 kW"), (1.1e7, "11.0 MW"), (2e9, "2.00 GW")],
)
def test_power(watts: float, text: str) -> None:
    assert figures.power(watts) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (5.498e6, "5.498 M"), (632.8e6, "632.8 M"), (1.5e12, "1.5 T"), (4e16, "40 P")],
)
def test_counts(value: float, text: str) -> None:
    assert figures.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1.46e9, "1.46 GB"), (2.5e3, "2.50 kB"), (8e13, "80.0 TB"), (3e15, "3.00 PB")],
)
def test_sizes(value: float, text: str) -> None:
    assert figures.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.0 %"), (0.0009, "<0.1 %"), (0.001, "0.1 %"), (0.1234, "12.3 %"), (1, "100.0 %")]
)
def test_shares(value: float, text: str) -> None:
    assert figures.share(value) == text


def test_units_fall_by_size_and_end_with_the_smallest() -> None:
    for units in (figures.TIMES, figures.ENERGIES, figures.MASSES, figures.POWERS):
        factors = [factor for factor, _ in units]
        assert factors == sorted(factors, reverse=True)
        assert figures.scale(math.nextafter(0, 1), units) == units[-1]
