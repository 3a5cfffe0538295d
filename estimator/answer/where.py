"""Where a run takes place: its own site, and the regions to compare with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base.errors import RequestError
from ..base.interval import Interval
from ..base.notes import Note, Topic, Weight
from ..base.units import SECONDS_PER_HOUR
from ..place.electricity_maps import is_zone, live_regions, locate
from ..place.regions import mixed_basis, region_list
from ..place.site import DEFAULT_PUE, Region, Site, fleet_pue, make_site
from . import figures

if TYPE_CHECKING:
    from .request import Request

_DAY_S = 24 * SECONDS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Where:
    """The run's own `site`, the `regions` to compare with it, in their order, and the notes on both."""

    site: Site
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()

    def notes_on(self, seconds: Interval) -> tuple[Note, ...]:
        """The notes on a run of that length: the intensity of one hour is a poor guide for a week."""
        notes = list(self.notes)
        if seconds.value > _DAY_S and any(region.live for region in (self.site.region, *self.regions) if region):
            length = figures.seconds(seconds)[0]
            notes.append(f"the live intensity is of one hour, the run takes {length}: the yearly figure may be closer")
        return tuple(Note(note, Topic.SITE, Weight.ROUGH) for note in notes)


def read_where(request: Request, *, live: bool = True) -> Where:
    """The site and regions that `request` describes, with this hour's intensities where it asks for them.

    `live=False` keeps the yearly ones. Raises RequestError for fields that contradict, JoulecastError for regions and
    figures that cannot be used.
    """
    own, others = request.region, region_list(request.regions)
    codes = others if own is None else (own, *others)
    _check(codes, request)
    locations = [locate(code) for code in codes]
    regions = tuple(location.region for location in locations)
    notes: tuple[str, ...] = ()
    if request.live and live:
        regions, notes = live_regions(locations)
    own_region, beside = (None, regions) if own is None else (regions[0], regions[1:])
    pue, pue_source = _pue(request)
    site = make_site(
        region=own_region,
        carbon_g_per_kwh=request.carbon_intensity,
        pue=pue,
        pue_source=pue_source,
        price_per_kwh=request.price,
        currency=request.currency,
    )
    beside = tuple(dict.fromkeys(beside))  # "FR" and "France" are one place
    mixed = mixed_basis(beside)
    return Where(site, beside, (*notes, *((mixed,) if mixed else ())))


def _pue(request: Request) -> tuple[float, str | None]:
    """The given PUE, otherwise that of the cloud provider's fleet, otherwise the default."""
    if request.pue is not None:
        return request.pue, "given"
    return fleet_pue(request.region or "") or (DEFAULT_PUE, None)


def _check(codes: tuple[str, ...], request: Request) -> None:
    if not request.live:
        for code in codes:
            if is_zone(code):
                raise RequestError(f"zone {code!r} has live figures only: add `live`")
        return
    if request.carbon_intensity is not None:
        raise RequestError("`live` and `carbon_intensity` contradict: give one of them")
    if not codes:
        raise RequestError("`live` needs a place: give `region` or `regions`")
