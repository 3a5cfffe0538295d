"""`joulecast profiles`: the profiles and hardware that predictions can use, with their sources."""

from __future__ import annotations

from typing import Any

import click

from .help import HELP

_HARDWARE_WIDTH = 32


@click.command(context_settings=HELP)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def profiles(name: str | None, as_json: bool) -> None:
    """List this machine's calibrations, the shipped profiles and the hardware of the datasheet table.

    With NAME, show one of them with all its sources and notes.
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
    """The profile of an alias, of a name as drivers print it, or of a file."""
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
    from .layout import Column, make_console, show, table_lines, wrapped

    console = make_console()
    columns = [Column("profile", [row["name"] for row in rows], style="bold")]
    columns.append(Column("hardware", [_shortened(row["hardware"], _HARDWARE_WIDTH) for row in rows]))
    for name, keep in (("kind", 97), ("time", 95), ("power", 96)):
        columns.append(Column(name, [row[name] for row in rows], keep=keep))
    # The source takes the room that is left.
    room = console.width - sum(column.width + 2 for column in columns)
    sources = [_shortened((row["fitted_on"] or row["sources"][0]).split(", http")[0], room) for row in rows]
    show(console, table_lines([*columns, Column("source", sources, style="dim", keep=1)], console.width))
    if not detailed:
        return
    for row in rows:
        facts = [(label, row[label.replace(" ", "_")]) for label in ("boundary", "fitted on", "created")]
        facts += [("source", source) for source in row["sources"]] + [("note", note) for note in row["notes"]]
        for label, fact in facts:
            if fact:
                show(console, wrapped(f"{label}: {fact}", console.width))


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= max(room, 20) else f"{text[: max(room, 20) - 1]}…"
