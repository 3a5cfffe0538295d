"""The regions of --regions side by side, as a table made for reading."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ..estimator.answer import figures
from ..estimator.place.regions import Place


def region_table(places: Sequence[Place]) -> Table:
    """One row a region, in the order given: the CO2e of the same energy, its ratio to the first region's."""
    table = Table(box=None, pad_edge=False, padding=(0, 2), show_edge=False)
    table.add_column("", style="bold", overflow="fold")
    for name in ("CO2e", "90 % interval", "g/kWh", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("counts", style="dim", overflow="fold")
    for place in places:
        region, (gas, bounds) = place.region, figures.carbon(place.co2e_kg)
        table.add_row(
            f"{region.name} ({region.code})" + (", cleanest" if place.cleanest else ""),
            Text(gas, style="bold green" if place.cleanest else "bold cyan"),
            bounds,
            figures.number(region.carbon_g_per_kwh),
            "-" if place.ratio is None else f"x {figures.number(place.ratio)}",
            f"{region.basis}, {'this hour' if region.live else region.year}",
        )
    return table


def region_lines(places: Sequence[Place]) -> list[Text]:
    """Below the table: whose figures these are, and the budgets on CO2e in each region."""
    codes: dict[str, list[str]] = {}
    for place in places:
        codes.setdefault(place.region.source, []).append(place.region.code)
    sources = [Text(f"  {', '.join(members)}: {source}", style="dim") for source, members in codes.items()]
    verdicts = [
        Text(f"  {place.region.code}: {verdict}", style="red" if verdict.exceeded else "green")
        for place in places
        for verdict in place.verdicts
    ]
    return [*sources, *verdicts]
