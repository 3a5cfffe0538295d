"""The regions of --regions side by side, as a table to read on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..estimator.answer import figures
from ..estimator.place.regions import Place
from .layout import Column, table_lines, wrapped


def region_table(places: Sequence[Place], width: int) -> list[Text]:
    """One row per region, in the order given: the CO2e of the same energy, and its ratio to the first region's."""
    regions = [place.region for place in places]
    pairs = [figures.carbon(place.co2e_kg) for place in places]
    styles = ["bold green" if place.cleanest else "bold cyan" for place in places]
    ratios = ["-" if place.ratio is None else f"x {figures.number(place.ratio)}" for place in places]
    columns = [
        Column(
            "region",
            [
                f"{region.name} ({region.code}){', cleanest' if place.cleanest else ''}"
                for place, region in zip(places, regions, strict=True)
            ],
            style="bold",
        ),
        Column("CO2e", [Text(gas, style) for (gas, _), style in zip(pairs, styles, strict=True)], right=True),
        Column("90 % interval", [bounds for _, bounds in pairs], right=True, keep=3),
        Column("g/kWh", [figures.number(region.carbon_g_per_kwh) for region in regions], right=True, keep=2),
        Column("ratio", ratios, right=True),
        Column(
            "basis",
            [f"{region.basis}, {'this hour' if region.live else region.year}" for region in regions],
            style="dim",
            keep=1,
        ),
    ]
    return table_lines(columns, width)


def region_lines(places: Sequence[Place], width: int) -> list[Text]:
    """Below the table: the sources, and the verdict of each CO2e budget in each region."""
    codes: dict[str, list[str]] = {}
    for place in places:
        codes.setdefault(place.region.source, []).append(place.region.code)
    lines = []
    for source, members in codes.items():
        lines += wrapped(f"{', '.join(members)}: {source}", width, indent=2, style="dim")
    for place in places:
        for verdict in place.verdicts:
            style = "red" if verdict.exceeded else "green"
            lines += wrapped(f"{place.region.code}: {verdict}", width, indent=2, style=style)
    return lines
