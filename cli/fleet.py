"""`joulecast fit --store`: one profile for each kind of machine of a shared store."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from .layout import Column, make_console, show, table_lines

if TYPE_CHECKING:
    from ..measure.suite.fleet import Kind, Machine

_SHOWN = 20  # machines of a kind, the most unusual first


def fit_fleet(place: str, *, name: str | None, machine: str | None, output: Path | None) -> None:
    """Fits and saves the profile of each kind, and prints how its machines differ."""
    from ..estimator.base.errors import FitError
    from ..estimator.base.folders import profiles_folder
    from ..measure.records.shared import open_store
    from ..measure.suite.fleet import fit_kind, kinds_of, machine_of

    store = open_store(place)
    records = list(store.records(lambda line: click.echo(f"warning: {line}", err=True)))
    if machine is not None:
        kinds = [kind for kind in kinds_of(records) if any(machine_of(record) == machine for record in kind)]
        if not kinds:
            known = ", ".join(sorted({machine_of(record) for record in records})[:10]) or "none"
            raise FitError(f"`machine` {machine!r} has no records in {place}; known are {known}")
    else:
        kinds = kinds_of(record for record in records if record.kind == "case")
    if not kinds:
        raise FitError(f"there are no records in {place}: run `measure` with that `store` on the machines")
    if len(kinds) > 1 and output is not None:
        raise click.UsageError(f"--output is one file and {place} has {len(kinds)} kinds of machines: leave it out")
    for records_of_kind in kinds:
        kind = fit_kind(records_of_kind, machine=machine)
        called = _name(kind, name, machine, several=len(kinds) > 1)
        path = replace(kind.profile, name=called).save(output or profiles_folder() / f"{called}.json")
        _print(kind)
        click.echo(f"saved to {path}; use it with: estimate --hardware {output or called}\n")


def _name(kind: Kind, name: str | None, machine: str | None, *, several: bool) -> str:
    own = re.sub(r"[^a-z0-9]+", "-", (machine or kind.hardware).lower()).strip("-")
    return own if name is None else f"{name}-{own}" if several else name


def _print(kind: Kind) -> None:
    console = make_console()
    count = len(kind.machines)
    head = f"{kind.hardware}: {count} machine{'' if count == 1 else 's'}, {kind.spread:.1%} apart in time"
    if any(machine.energy_factor is not None for machine in kind.machines):
        head += f", {kind.energy_spread:.1%} in energy"
    show(console, [Text(f"{head} (standard deviation)", style="bold")])
    rows = sorted(kind.machines, key=lambda one: -abs(one.factor - 1))[:_SHOWN]
    show(console, table_lines(_columns(rows), console.width, indent=2))
    if count > _SHOWN:
        console.print(Text(f"  and {count - _SHOWN} more that are closer to the typical machine", style="dim"))
    for machine in kind.outlying:
        console.print(f"  {machine.name} is not counted: {_oddness(machine)}", soft_wrap=True)


def _oddness(machine: Machine) -> str:
    """How an outlying machine differs most, and what to look at."""
    time, energy = machine.factor, machine.energy_factor or machine.factor
    if abs(math.log(energy)) > abs(math.log(time)):
        side = "more" if energy > 1 else "less"
        return f"it takes {abs(energy - 1):.0%} {side} energy than the others; look at its power limit and its meter"
    slower = time > 1
    return (
        f"{'slower' if slower else 'faster'} than the others by {abs(time - 1):.0%}; "
        f"look at its {'cooling, clocks and ' if slower else ''}power limit"
    )


def _columns(rows: Sequence[Machine]) -> list[Column]:
    return [
        Column("machine", [one.name for one in rows]),
        Column("cases", [str(one.cases) for one in rows], right=True),
        Column("time / typical", [f"{one.factor:.3f}" for one in rows], right=True),
        Column(
            "energy / typical",
            ["" if one.energy_factor is None else f"{one.energy_factor:.3f}" for one in rows],
            right=True,
        ),
        Column("", ["outlying" if one.outlying else "" for one in rows], style="bold red"),
    ]
