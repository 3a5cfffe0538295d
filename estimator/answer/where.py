"""Where the run takes place, from the options: its own site, and the regions to hold beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import RequestError
from ..base.interval import Interval
from ..base.units import SECONDS_PER_HOUR
from ..place.electricity_maps import is_zone, live_regions, locate
from ..place.regions import mixed_basis, region_list
from ..place.site import DEFAULT_PUE, Region, Site, make_site
from . import figures

_DAY_S = 24 * SECONDS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Where:
    """The run's own `site`, the `regions` of --regions in their order, and what is to be said of both."""

    site: Site
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()

    def notes_on(self, seconds: Interval) -> tuple[str, ...]:
        """The notes on a run of that length: one hour's intensity says little of a week's."""
        live = any(region.live for region in (self.site.region, *self.regions) if region is not None)
        if not live or seconds.value <= _DAY_S:
            return self.notes
        length = figures.seconds(seconds)[0]
        return (*self.notes, f"the live intensity is of one hour, the run takes {length}: the yearly one may be nearer")


def read_where(options: Mapping[str, Any]) -> Where:
    """The site and regions that `estimate`'s options describe, with live figures where they ask for them.

    Raises RequestError for options that contradict, JoulecastError for regions and figures of no use.
    """
    own = options["region"]
    others = region_list(options["regions"]) if options.get("regions") is not None else ()
    codes = others if own is None else (own, *others)
    _check(codes, options)
    locations = [locate(code) for code in codes]
    regions = tuple(location.region for location in locations)
    notes: tuple[str, ...] = ()
    if options.get("live"):
        regions, notes = live_regions(locations)
    own_region, beside = (None, regions) if own is None else (regions[0], regions[1:])
    site = make_site(
        region=own_region,
        carbon_g_per_kwh=options["carbon_intensity"],
        pue=DEFAULT_PUE if options["pue"] is None else options["pue"],
        price_per_kwh=options["price"],
        currency=options["currency"],
    )
    beside = tuple(dict.fromkeys(beside))  # "FR" and "France" are one place
    mixed = mixed_basis(beside)
    return Where(site, beside, (*notes, *((mixed,) if mixed else ())))


def _check(codes: tuple[str, ...], options: Mapping[str, Any]) -> None:
    if not options.get("live"):
        for code in codes:
            if is_zone(code):
                raise RequestError(f"zone {code!r} has live figures alone: add `live`")
        return
    if options["carbon_intensity"] is not None:
        raise RequestError("`live` and `carbon_intensity` contradict: give one of them")
    if not codes:
        raise RequestError("`live` needs a place: give `region` or `regions`")
