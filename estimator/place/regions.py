"""The same run in several regions: the energy is the same, the CO2e differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import JoulecastError
from ..base.interval import Interval
from .budget import BudgetVerdict, End, Limit, verdict_of
from .site import Region, Site, co2e_kg


@dataclass(frozen=True, slots=True)
class Place:
    """A run's CO2e in one of several compared regions.

    `ratio` is relative to the first region's CO2e, None if that is 0. `verdicts` are those of CO2e limits; others do
    not depend on the region.
    """

    region: Region
    co2e_kg: Interval
    ratio: float | None
    cleanest: bool
    verdicts: tuple[BudgetVerdict, ...] = ()

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "region": self.region.code,
            "name": self.region.name,
            "carbon_g_per_kwh": self.region.carbon_g_per_kwh,
            "basis": self.region.basis,
            "year": self.region.year,
            "source": self.region.source,
            "live": self.region.live,
            "co2e_kg": self.co2e_kg.to_json(),
            "ratio_to_first": self.ratio,
            "cleanest": self.cleanest,
        }
        if self.verdicts:
            document["budget"] = [verdict.to_json() for verdict in self.verdicts]
        return document


def compare_regions(
    facility_energy_kwh: Interval, regions: Sequence[Region], limits: Sequence[Limit] = (), at: End = "high"
) -> tuple[Place, ...]:
    """One place per region, in the given order, for the energy of one run with PUE.

    The cleanest is the first with the lowest intensity above 0: no grid's electricity is free of emissions, even if
    its statistics say so.
    """
    least = min((region.carbon_g_per_kwh for region in regions if region.carbon_g_per_kwh > 0), default=None)
    cleanest = next((region for region in regions if region.carbon_g_per_kwh == least), None)
    on_co2e = [limit for limit in limits if limit.quantity == "co2e"]
    places = []
    for region in regions:
        gas_kg = co2e_kg(facility_energy_kwh, Site(carbon_g_per_kwh=region.carbon_g_per_kwh))
        first_g_per_kwh = regions[0].carbon_g_per_kwh
        places.append(
            Place(
                region=region,
                co2e_kg=gas_kg,
                ratio=region.carbon_g_per_kwh / first_g_per_kwh if first_g_per_kwh else None,
                cleanest=region is cleanest,
                verdicts=tuple(verdict_of(limit, gas_kg, at) for limit in on_co2e),
            )
        )
    return tuple(places)


def mixed_basis(regions: Sequence[Region]) -> str | None:
    """The note on regions whose figures have different bases; None if they have the same."""
    codes: dict[str, list[str]] = {}
    for region in regions:
        codes.setdefault(region.basis, []).append(region.code)
    if len(codes) < 2:
        return None
    named = "; ".join(f"{basis}: {', '.join(members)}" for basis, members in codes.items())
    return f"the regions' figures have different bases ({named}); direct ones leave out fuel supply and construction"


def region_list(codes: str | Sequence[str]) -> tuple[str, ...]:
    """The codes of a list such as "FR, SE, US-CA" or ["FR", "SE"]. Raises JoulecastError for a text without any."""
    if not isinstance(codes, str):
        return tuple(codes)
    found = tuple(code.strip() for code in codes.split(",") if code.strip())
    if not found:
        raise JoulecastError(f"`regions` {codes!r} names no region: give codes such as FR,SE,US-CA")
    return found
