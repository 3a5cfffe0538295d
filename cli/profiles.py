"""`joulecast profiles`: what there is to predict with, and where each figure came from."""

from __future__ import annotations

from typing import Any

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def profiles(name: str | None, as_json: bool) -> None:
    """List this machine's calibrations, the shipped profiles and the hardware with a datasheet.

    With NAME, show one of them with its sources.
    """
    rows = _rows()
    if name is not None:
        rows = [row for row in rows if row["name"] == name] or _named(rows, name)
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
    else:
        _print(rows, detailed=name is not None)


def _named(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """By another name than the listed one (an alias, or as a driver prints it), or from a file."""
    from ..estimator.cost.library import load_profile

    profile = load_profile(name)
    return [row for row in rows if row["name"] == profile.name] or [_row(profile, "file")]


def _rows() -> list[dict[str, Any]]:
    from ..estimator.cost.datasheet import datasheet_profile
    from ..estimator.cost.hardware import load_hardware
    from ..estimator.cost.library import calibrations, shipped_profiles
    from ..estimator.cost.profile import read_profile

    rows = [_row(profile, "measured here") for profile in calibrations(_warn)]
    shipped = {key: read_profile(path) for key, path in shipped_profiles().items()}
    rows += [_row(profile, "shipped") for profile in shipped.values()]
    rows += [
        _row(datasheet_profile(hardware), "datasheet") for hardware in load_hardware() if hardware.key not in shipped
    ]
    return rows


def _warn(line: str) -> None:
    click.echo(f"warning: {line}", err=True)


def _row(profile: Any, kind: str) -> dict[str, Any]:
    provenance = profile.provenance
    return {
        "name": profile.name,
        "hardware": profile.hardware,
        "device": profile.device,
        "kind": kind,
        "time": provenance.time,
        "power": provenance.power,
        "boundary": provenance.boundary,
        "fitted_on": provenance.fitted_on,
        "created": provenance.created,
        "sources": list(provenance.sources),
        "notes": list(provenance.notes),
    }


def _print(rows: list[dict[str, Any]], *, detailed: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from .layout import make_console

    console = make_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("profile", "hardware", "kind", "time", "power"):
        table.add_column(column, no_wrap=column == "profile", overflow="fold")
    table.add_column("source", overflow="fold", style="dim")
    for row in rows:
        source = (row["fitted_on"] or row["sources"][0]).split(", http")[0]
        table.add_row(Text(row["name"], style="bold"), row["hardware"], row["kind"], row["time"], row["power"], source)
    console.print(table)
    if detailed:
        for row in rows:
            for label in ("boundary", "fitted_on", "created"):
                if row[label]:
                    console.print(f"{label.replace('_', ' ')}: {row[label]}", markup=False)
            for source in row["sources"]:
                console.print(f"source: {source}", markup=False)
            for note in row["notes"]:
                console.print(f"note: {note}", markup=False)
