"""Where a run takes place: from the machine's energy to the facility's, to CO2e and money.

Equations 3.5.2 and 3.5.3 of the thesis (Hsueh 2020, "Carbon Footprint of Machine Learning
Algorithms"): p_t = 1.58 t (p_c + p_r) / 1000 and CO2 = 0.954 p_t. Its Table 4.0.1 follows from
these with the powers it prints (49.49 W for SimpleNet, 27.77 W for AlexNet). Its text gives
SimpleNet 46.73 W + 3.06 W = 49.79 W instead: both powers print .039 kWh, but 49.79 W gives
.0375 lb, which rounds to .038, so the printed .037 lb follows from 49.49 W only.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from functools import cache

from ..base.errors import JoulecastError
from ..base.interval import Interval
from ..base.suggest import clipped
from ..base.tables import read_table
from ..base.units import GRAMS_PER_KG, pounds_to_grams
from .region_names import named_otherwise

DEFAULT_PUE = 1.58  # eq. 3.5.2: the worldwide average of data centres, Uptime Institute 2018
DEFAULT_PUE_SOURCE = "worldwide average of data centres, Uptime Institute 2018"
DEFAULT_CARBON_G_PER_KWH = pounds_to_grams(0.954)  # eq. 3.5.3
DEFAULT_CARBON_SOURCE = "the thesis's US figure (EPA 2018)"
DEFAULT_PRICE_PER_KWH = 0.1249  # USD
DEFAULT_PRICE_SOURCE = "US retail average of all sectors 2022 (EIA, Electric Power Monthly, Table 5.6.B)"


@dataclass(frozen=True, slots=True)
class Region:
    """One row of `datasets/carbon_intensity.csv`, or that row with the figure of this hour (`live`)."""

    code: str
    name: str
    kind: str  # "country", "state", "province", "cloud region" or "world"
    iso3: str  # ISO 3166-1 alpha-3 of its country; empty for the world
    carbon_g_per_kwh: float
    basis: str  # "life cycle", or "direct": the power stations alone
    year: int
    source: str
    live: bool = False

    @property
    def label(self) -> str:
        """Where the figure comes from, in one line."""
        when = "" if self.live else f"{self.year}, "
        return f"{self.code} ({self.name}), {when}{self.source}, {self.basis}"


@dataclass(frozen=True, slots=True)
class Site:
    """The PUE of a place, and what a kWh emits and costs there.

    `region` is None for the default carbon intensity and for one that the user gave. Raises JoulecastError for a PUE
    below 1 and for an intensity or price that is negative or not finite.
    """

    pue: float = DEFAULT_PUE
    carbon_g_per_kwh: float = DEFAULT_CARBON_G_PER_KWH
    carbon_source: str = DEFAULT_CARBON_SOURCE
    price_per_kwh: float = DEFAULT_PRICE_PER_KWH
    currency: str = "USD"
    price_source: str = DEFAULT_PRICE_SOURCE
    region: Region | None = None
    pue_source: str = DEFAULT_PUE_SOURCE

    def __post_init__(self) -> None:
        _check("PUE", self.pue, 1.0, "the building's energy over the machines', 1 or more")
        _check("carbon intensity", self.carbon_g_per_kwh, 0.0, "g CO2e per kWh, 0 or more")
        _check("price", self.price_per_kwh, 0.0, f"{self.currency} per kWh, 0 or more")


def _check(what: str, value: float, least: float, rule: str) -> None:
    if not (math.isfinite(value) and value >= least):
        raise JoulecastError(f"{what} {value} cannot be used: give {rule}")


def make_site(
    *,
    region: str | Region | None = None,
    carbon_g_per_kwh: float | None = None,
    pue: float = DEFAULT_PUE,
    price_per_kwh: float | None = None,
    currency: str = "USD",
    pue_source: str | None = None,
) -> Site:
    """The site of these fields; with neither region nor intensity, the thesis's figure.

    A price is in `currency`; the default is the US average, in USD.
    """
    if price_per_kwh is None and currency != "USD":
        raise JoulecastError(f"`currency` {currency} without a `price`: give the price per kWh in {currency}")
    where = find_region(region) if isinstance(region, str) else region
    if where is not None and carbon_g_per_kwh is not None:
        raise JoulecastError(
            f"`region` {where.code!r} and `carbon_intensity` {carbon_g_per_kwh} g/kWh contradict: give one of them"
        )
    carbon, source = DEFAULT_CARBON_G_PER_KWH, DEFAULT_CARBON_SOURCE
    if where is not None:
        carbon, source = where.carbon_g_per_kwh, where.label
    elif carbon_g_per_kwh is not None:
        carbon, source = carbon_g_per_kwh, "given"
    basis = pue_source or (DEFAULT_PUE_SOURCE if pue == DEFAULT_PUE else "given")
    if price_per_kwh is None:
        return Site(pue, carbon, source, region=where, pue_source=basis)
    return Site(pue, carbon, source, price_per_kwh, currency, "given", where, basis)


def fleet_pue(place: str) -> tuple[float, str] | None:
    """The PUE that the provider of a cloud region ("gcp:europe-west9") publishes for all its data centres, and its
    source; None for other places."""
    provider = place.strip().casefold().partition(":")[0]
    for row in read_table("pue.csv"):
        if row["provider"] == provider:
            return float(row["pue"]), f"{row['source']} ({row['year']})"
    return None


def facility_energy_kwh(energy_kwh: Interval, site: Site) -> Interval:
    """The machine's energy times PUE, in kWh (eq. 3.5.2)."""
    return energy_kwh * site.pue


def co2e_kg(facility_energy_kwh: Interval, site: Site) -> Interval:
    """The emissions of the facility's energy, in kg CO2e (eq. 3.5.3)."""
    return facility_energy_kwh * (site.carbon_g_per_kwh / GRAMS_PER_KG)


def cost(facility_energy_kwh: Interval, site: Site) -> Interval:
    """The price of the facility's energy, in `site.currency`."""
    return facility_energy_kwh * site.price_per_kwh


@cache
def load_regions() -> tuple[Region, ...]:
    """All regions, in the order of the table."""
    return tuple(
        Region(
            code=row["region"],
            name=row["name"],
            kind=row["kind"],
            iso3=row["iso3"],
            carbon_g_per_kwh=float(row["carbon_g_per_kwh"]),
            basis=row["basis"],
            year=int(row["year"]),
            source=row["source"],
        )
        for row in read_table("carbon_intensity.csv")
    )


def country_name(region: Region) -> str | None:
    """The name of the country of `region`; None for the world."""
    return _country_names().get(region.iso3)


@cache
def _country_names() -> dict[str, str]:
    return {region.iso3: region.name for region in load_regions() if region.kind == "country" and len(region.code) == 2}


def find_region(code_or_name: str) -> Region:
    """The region with that code ("FR", "US-CA", "gcp:europe-west9") or name, ignoring case.

    A cloud region is also found without its prefix. Codes take precedence over names, and both over other spellings
    and places (`region_names`). Raises JoulecastError for an unknown region, and for a name that several regions
    share.
    """
    wanted = code_or_name.strip().casefold()
    regions = load_regions()
    found = [region for region in regions if region.code.casefold() == wanted]
    found = found or [
        region for region in regions if wanted in (region.name.casefold(), region.code.casefold().partition(":")[2])
    ]
    if len(found) > 1:  # Hong Kong is a country's code and a cloud region's place
        found = [region for region in found if region.kind != "cloud region"] or found
    if wanted and len(found) == 1:
        return found[0]
    if wanted and found:
        codes = " or ".join(region.code for region in found)
        raise JoulecastError(f"region {code_or_name!r} names several regions: give {codes}")
    if wanted and (other := named_otherwise(wanted, regions)):
        return other
    near = ", ".join(_near(wanted))
    hint = f"near names are {near}; " if near else ""
    raise JoulecastError(
        f"unknown region {clipped(code_or_name)!r}: {hint}give a code of the table "
        "such as FR, US-CA, aws:us-east-1 or gcp:europe-west9, or the carbon intensity in g/kWh"
    )


def _near(wanted: str) -> list[str]:
    by_name = {name: region for region in load_regions() for name in (region.name.casefold(), region.code.casefold())}
    close = difflib.get_close_matches(wanted, by_name, n=4, cutoff=0.6)
    return list(dict.fromkeys(f"{by_name[name].code} ({by_name[name].name})" for name in close))
