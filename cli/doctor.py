"""`joulecast doctor`: what this machine has for joulecast, what is missing, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from .help import HELP

if TYPE_CHECKING:
    from .health import Finding

_STYLES = {"ok": "green", "missing": "bold red", "optional": "yellow", "": ""}
_FIX = "fix: "


@click.command(context_settings=HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Check this machine: meters, GPUs, profiles, extras and caches, and how to get what is missing."""
    from .health import SCHEMA, findings

    found = list(findings())
    if as_json:
        import json

        click.echo(json.dumps({"schema": SCHEMA, "findings": [one.to_json() for one in found]}, indent=2))
    else:
        _print(found)


def _print(found: Iterable[Finding]) -> None:
    from rich.text import Text

    from .layout import make_console, show, wrapped

    console = make_console()
    found = list(found)
    names = max(len(one.name) for one in found)
    states = max(map(len, _STYLES))
    indent = 2 + states + 2 + names + 2
    section = ""
    for one in found:
        if one.section != section:
            console.print(Text(f"{chr(10) if section else ''}{one.section.capitalize()}", style="bold"))
            section = one.section
        first, *rest = wrapped(one.detail, console.width, indent=indent)
        head = Text("  ").append(one.state.ljust(states), _STYLES[one.state]).append(f"  {one.name.ljust(names)}  ")
        show(console, [head.append(first.plain.lstrip()), *rest])
        if one.fix:
            show(console, [Text(f"{' ' * indent}{_FIX}{one.fix}", style="cyan")])  # in one line, to be copied
