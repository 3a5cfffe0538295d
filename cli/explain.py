"""`joulecast explain`: the weights and prices of a profile, its evidence and its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..estimator.cost.explain import Fact


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("profile", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def explain(profile: str | None, as_json: bool) -> None:
    """Show the weights w_i and P_s of eq. 2.2.1 in watts, the prices of op kinds, the evidence and the errors.

    PROFILE is a name or a file. Default: the profile that `estimate` uses for this machine.
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
    from ..estimator.answer.figures import number
    from .layout import Column, make_console, show, table_lines

    sections = [
        "" if index and facts[index - 1].section == fact.section else fact.section for index, fact in enumerate(facts)
    ]
    values = [fact.value if isinstance(fact.value, str) else number(fact.value) for fact in facts]
    columns = [
        Column("", sections, style="dim"),
        Column("", [fact.name for fact in facts]),
        Column("", [f"{value} {fact.unit}".strip() for value, fact in zip(values, facts, strict=True)]),
    ]
    console = make_console()
    show(console, table_lines(columns, max(console.width, sum(column.width + 2 for column in columns)), headings=False))
