"""The regions of --regions side by side, as a table made for reading."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from ..estimator.regions import Place
from . import figures
from .answer import Answer


def region_table(answer: Answer) -> Table:
    """One row a region, in the order given: the CO2e of the same energy, its ratio to the first region's."""
    table = Table(box=None, pad_edge=False, padding=(0, 2), show_edge=False)
    table.add_column("region", style="bold", overflow="fold")
    for name in ("CO2e", "90 % interval", "g/kWh", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from", style="dim", overflow="fold")
    for place in answer.places:
        gas, bounds = figures.carbon(place.co2e_kg)
        style = "bold green" if place.cleanest else "bold cyan"
        table.add_row(
            f"{place.region.name} ({place.region.code})" + (", cleanest" if place.cleanest else ""),
            Text(gas, style=style),
            bounds,
            figures.number(place.region.carbon_g_per_kwh),
            "-" if place.ratio is None else f"x {figures.number(place.ratio)}",
            _source(place),
        )
    return table


def region_verdicts(answer: Answer) -> list[Text]:
    """One line a region and budget on CO2e."""
    return [
        Text(f"  {place.region.code}: {verdict}", style="red" if verdict.exceeded else "green")
        for place in answer.places
        for verdict in place.verdicts
    ]


def _source(place: Place) -> str:
    region = place.region
    when = "" if region.live else f"{region.year}, "
    return f"{when}{region.basis}, {region.source}"
