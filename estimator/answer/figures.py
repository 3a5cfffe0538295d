"""Figures for reading: three digits, a unit that fits, and the interval."""

from __future__ import annotations

import math

from ..base.interval import Interval

TIMES = ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
ENERGIES = ((1e9, "TWh"), (1e6, "GWh"), (1e3, "MWh"), (1.0, "kWh"), (1e-3, "Wh"), (1e-6, "mWh"), (1e-9, "uWh"))
MASSES = ((1e9, "Mt"), (1e6, "kt"), (1e3, "t"), (1.0, "kg"), (1e-3, "g"), (1e-6, "mg"), (1e-9, "ug"))
POWERS = ((1e9, "GW"), (1e6, "MW"), (1e3, "kW"), (1.0, "W"), (1e-3, "mW"))
_SUMS = ((1e9, "billion "), (1e6, "million "), (1.0, ""))
_COUNTS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def number(value: float) -> str:
    """Three significant digits, thousands separated; never an exponent between 1e-9 and 10 million."""
    value = _clean(value)
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e7 or size < 1e-9:
        return f"{value:.3g}"
    rounded = float(f"{size:.3g}")  # 99.96 is 100, not 100.0
    if rounded >= 100:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(rounded))
    return f"{value:.{decimals}f}"


def _clean(value: float) -> float:
    """Rounded to 12 digits, so that 0.9999999999999999 g is not shown as 1,000 mg."""
    return float(f"{value:.12g}")


def scale(value: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """The largest unit that is not larger than `value`, with its factor; otherwise the smallest unit."""
    for factor, unit in units:
        if abs(_clean(value)) >= factor:
            return factor, unit
    return units[-1]


def _in_unit(interval: Interval, units: tuple[tuple[float, str], ...], suffix: str = "") -> tuple[str, str]:
    """("1.23 kWh", "0.98 to 1.60 kWh"): both in the unit that fits the value."""
    factor, unit = scale(interval.value, units)
    unit += suffix
    low, high = (number(bound / factor) for bound in (interval.low, interval.high))
    return f"{number(interval.value / factor)} {unit}", f"{low} to {high} {unit}"


def seconds(interval: Interval) -> tuple[str, str]:
    return _in_unit(interval, TIMES)


def energy(interval: Interval) -> tuple[str, str]:
    """Of kilowatt-hours."""
    return _in_unit(interval, ENERGIES)


def carbon(interval: Interval) -> tuple[str, str]:
    """Of kilograms of CO2e."""
    return _in_unit(interval, MASSES, " CO2e")


def power(watts: float) -> str:
    factor, unit = scale(watts, POWERS)
    return f"{number(watts / factor)} {unit}"


def money(interval: Interval, currency: str) -> tuple[str, str]:
    return _in_unit(interval, money_units(currency))


def money_units(currency: str) -> tuple[tuple[float, str], ...]:
    return tuple((factor, f"{word}{currency}") for factor, word in _SUMS)


def count(value: float) -> str:
    """5.50 M, 632.8 M: for parameters and multiply-adds."""
    for factor, unit in _COUNTS:
        if abs(value) >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    factor, unit = scale(value, _BYTES)
    return f"{number(value / factor)} {unit}"


def share(value: float) -> str:
    return "<0.1 %" if 0 < value < 0.001 else f"{value * 100:.1f} %"
