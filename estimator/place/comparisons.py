"""Familiar quantities to compare a prediction with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from ..base.tables import read_table

_READABLE = 20.0  # counts near this one are the easiest to picture
_LEAST, _MOST = 0.1, 10_000.0


@dataclass(frozen=True, slots=True)
class Yardstick:
    """One row of `datasets/comparisons.csv`: the kWh or kg CO2e of one such thing."""

    key: str
    quantity: str  # "energy" or "co2e"
    amount: float
    singular: str
    plural: str
    year: int
    source: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prediction as a `count` of a familiar thing."""

    count: float
    yardstick: Yardstick

    def __str__(self) -> str:
        count = float(
            f"{self.count:.12g}"
        )  # 1.38 kWh are exactly 115 charges of 0.012 kWh in decimals, but not in binary
        number = f"{count:.2g}" if count < 10 else f"{float(f'{count:.2g}'):,.0f}"
        return f"about {number} {self.yardstick.plural}"


@cache
def load_yardsticks() -> tuple[Yardstick, ...]:
    return tuple(
        Yardstick(
            key=row["key"],
            quantity=row["quantity"],
            amount=float(row["amount"]),
            singular=row["singular"],
            plural=row["plural"],
            year=int(row["year"]),
            source=row["source"],
        )
        for row in read_table("comparisons.csv")
    )


def familiar(energy_kwh: float, co2e_kg: float) -> tuple[Comparison, ...]:
    """At most one comparison for the energy and one for the CO2e, those easiest to picture.

    None for a figure below a tenth of the smallest yardstick or above 10,000 of the largest.
    """
    best = (_best("energy", energy_kwh), _best("co2e", co2e_kg))
    return tuple(comparison for comparison in best if comparison is not None)


def _best(quantity: str, amount: float) -> Comparison | None:
    options = [Comparison(amount / row.amount, row) for row in load_yardsticks() if row.quantity == quantity]
    in_reach = [option for option in options if _LEAST <= option.count <= _MOST]
    return min(in_reach, key=lambda option: abs(math.log(option.count / _READABLE)), default=None)
