"""Exact unit conversions, each defined once."""

from __future__ import annotations

JOULES_PER_KWH = 3_600_000
GRAMS_PER_KG = 1000
GRAMS_PER_LB = 453.59237  # international avoirdupois pound
SECONDS_PER_HOUR = 3600


def joules_to_kwh(energy_j: float) -> float:
    return energy_j / JOULES_PER_KWH


def pounds_to_grams(mass_lb: float) -> float:
    return mass_lb * GRAMS_PER_LB
