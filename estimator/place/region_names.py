"""Regions by the names people use: ISO codes, synonyms, provinces, cities, cloud regions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from ..base.tables import read_table

if TYPE_CHECKING:
    from .site import Region

_CLOUDS = ("aws", "azure", "gcp", "oci", "lambda", "nebius", "scaleway", "ovh", "hetzner", "alibaba")
_ISO_3166_2 = re.compile(r"([a-z]{2})-[a-z0-9]{1,3}")


def named_otherwise(text: str, regions: Sequence[Region]) -> Region | None:
    """The region that `text` means though no row has it as its code or name; None if there is none.

    A place inside of a region ("aws:us-east-1", "AU-NSW") has that region's figure, and its source
    says so.
    """
    by_code = {region.code.casefold(): region for region in regions}
    by_code |= {code.partition(":")[2]: region for code, region in by_code.items() if ":" in code}
    by_code = {code[3:]: region for code, region in by_code.items() if re.match("(?:us|ca)-..$", code)} | by_code
    for form in _forms(text):
        if form in by_code:
            return by_code[form]
        if found := _in_the_table(form, by_code.get):
            return found
        if iso3 := [region for region in regions if region.kind == "country" and region.iso3.casefold() == form]:
            return iso3[0]
        named = [region for region in regions if _bare(form) and _bare(region.name) == _bare(form)]
        if len(named) == 1:
            return named[0]
    return _inside_a_country(text, regions) or _part_of(text.strip(), by_code)


def _forms(text: str) -> Iterator[str]:
    """`text` in the spellings that tables use: "US_CA" as "us-ca", "us-east-1a" as "us-east-1"."""
    # RunPod's data centres, such as US-TX-3 and EU-SE-1, have the codes of states and countries.
    plain = text.strip().casefold()
    cloud = re.sub(rf"^({'|'.join(_CLOUDS)}|google|amazon|microsoft|oracle)[\s/_-]+", r"\1:", plain)
    cloud = cloud.replace("google:", "gcp:").replace("amazon:", "aws:").replace("microsoft:", "azure:")
    cloud = cloud.replace("oracle:", "oci:")
    dashed = re.sub(r"[\s_/]+", "-", cloud)
    zone = re.sub(r"(?<=\d)-?[a-f]$", "", dashed)  # an availability zone
    data_centre = re.sub(r"^(?:runpod-)?(?:eur?-([a-z]{2})|([a-z]{2}-[a-z]{2,3}))-\d+$", r"\1\2", dashed)
    yield from dict.fromkeys((plain, cloud, dashed, zone, dashed.replace("-", ""), data_centre))


def _in_the_table(form: str, region_of: Callable[[str], Region | None]) -> Region | None:
    rows = _rows()
    row = rows.get(form) or rows.get(_bare(form)) if ":" not in form else rows.get(form) or rows.get(_joined(form))
    region = region_of(row["region"].casefold()) if row else None
    if row is None or region is None or not row["place"]:
        return region
    return _within(region, row["name"], row["place"], "cloud region" if ":" in row["name"] else region.kind)


@cache
def _rows() -> dict[str, dict[str, str]]:
    """The rows of `region_names.csv` by each spelling; a cloud region also without its cloud."""
    rows: dict[str, dict[str, str]] = {}
    for row in read_table("region_names.csv"):
        name = row["name"].casefold()
        for form in (name, name.partition(":")[2]) if ":" in name else (name, _bare(name)):
            rows.setdefault(form, row)
    return rows


def _within(region: Region, code: str, place: str, kind: str) -> Region:
    source = f"{region.source}, the figure of {region.name} ({region.code})"
    return replace(region, code=code, name=place, kind=kind, source=source)


def _inside_a_country(text: str, regions: Sequence[Region]) -> Region | None:
    """The region of "California, USA", "Georgia (US)": one name in the country that the other names."""
    parts = [part.strip() for part in re.split(r"[,()]", text) if part.strip()]
    if len(parts) != 2:
        return None
    country = next((one for one in regions if one.code.casefold() == parts[1].casefold()), None)
    country = country or named_otherwise(parts[1], regions)
    if country is None:
        return None
    inside = [region for region in regions if region.iso3 == country.iso3]
    wanted = _bare(parts[0])
    for region in inside:
        if wanted in (_bare(region.name), _bare(region.code), _bare(region.code.partition("-")[2])):
            return region
    return _within(country, text.strip(), parts[0], country.kind)


def _part_of(text: str, by_code: dict[str, Region]) -> Region | None:
    """The country of an ISO 3166-2 code, where the table has no row for its part."""
    matched = _ISO_3166_2.fullmatch(text.casefold())
    country = by_code.get(matched[1]) if matched else None
    return _within(country, text.upper(), f"part of {country.name}", country.kind) if country else None


def _bare(name: str) -> str:
    """Letters and digits without accents."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", name.casefold()))


def _joined(form: str) -> str:
    cloud, _, name = form.partition(":")
    return f"{cloud}:{_bare(name)}"
