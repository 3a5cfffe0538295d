"""`joulecast explain`: what a profile charges for what, what it was fitted on, and how wrong it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..estimator.cost.explain import Fact


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("profile", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def explain(profile: str | None, as_json: bool) -> None:
    """Show the weights w_i and P_s of eq. 2.2.1 in watts, prices by op kind, the evidence and the errors.

    PROFILE is a name or a file; without it this machine's.
    """
    from ..estimator.cost.explain import explain as facts_of
    from ..estimator.cost.library import load_profile

    facts = facts_of(load_profile(profile))
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps([asdict(fact) for fact in facts], indent=2))
    else:
        _print(facts)


def _print(facts: tuple[Fact, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..estimator.answer.figures import number
    from .layout import make_console

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    section = ""
    for fact in facts:
        shown = fact.value if isinstance(fact.value, str) else number(fact.value)
        table.add_row(fact.section if fact.section != section else "", fact.name, Text(f"{shown} {fact.unit}".strip()))
        section = fact.section
    make_console().print(table)
