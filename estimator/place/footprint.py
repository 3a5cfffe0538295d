"""What hardware costs in addition to its electricity: rent by the hour, and the footprint of making it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..base.interval import Interval
from ..base.tables import read_table
from ..base.units import SECONDS_PER_HOUR

LIFE_HOURS = 6 * 365.25 * 24 * 0.85
"""Six years in use 85 % of the time, the amortisation of Luccioni et al. 2022 (arXiv 2211.02001)."""


@dataclass(frozen=True, slots=True)
class Rent:
    """The price of one accelerator for an hour. `given` is False for a list price."""

    per_device_hour: float
    currency: str
    source: str
    given: bool

    def bill(self, seconds: Interval, devices: int) -> Interval:
        return seconds * (devices * self.per_device_hour / SECONDS_PER_HOUR)


@lru_cache(maxsize=256)  # a service may be asked for any text
def list_price(hardware: str) -> Rent | None:
    """The list price of hardware by its key in `datasets/rent.csv`; None where it has none."""
    for row in read_table("rent.csv"):
        if row["hardware"] == hardware:
            return Rent(float(row["usd_per_hour"]), "USD", f"{row['source']} ({row['year']})", given=False)
    return None


@dataclass(frozen=True, slots=True)
class Embodied:
    """kg CO2e of making the hardware that the run uses, in proportion to its hours of use."""

    kg: Interval
    sources: tuple[str, ...]


def embodied_kg(hardware: str, seconds: Interval, devices: int, nodes: int) -> Embodied:
    """Of `devices` accelerators (by their key) and `nodes` servers around them; 0 servers for one device alone."""
    rows = {row["part"]: row for row in read_table("embodied.csv")}
    part = rows.get(hardware) or next((row for name, row in rows.items() if hardware.startswith(f"{name}-")), None)
    part = part or rows["accelerator"]
    used = [(part, devices)] + ([(rows["server"], nodes)] if nodes else [])
    kg = sum(float(row["kg_co2e"]) * count for row, count in used)
    sources = tuple(f"{row['source']} ({row['year']})" for row, _ in used)
    return Embodied(seconds * (kg / SECONDS_PER_HOUR / LIFE_HOURS), sources)
