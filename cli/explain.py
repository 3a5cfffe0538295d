"""`joulecast explain`: the weights and prices of a profile, its evidence and its errors."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from .help import HELP

if TYPE_CHECKING:
    from ..estimator.cost.explain import Fact


@click.command(context_settings=HELP)
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
    from rich.text import Text

    from .layout import make_console, show, wrapped

    console = make_console()
    margin = max(len(fact.section) for fact in facts) + 2
    for section, members in groupby(facts, key=lambda fact: fact.section):
        head, rows = section, list(members)
        indent = margin + max(len(fact.name) for fact in rows) + 2
        for fact in rows:
            first, *rest = wrapped(_value(fact), console.width, indent=indent)
            line = Text(head.ljust(margin), style="dim").append(fact.name.ljust(indent - margin), style="not dim")
            show(console, [line.append(first.plain.lstrip(), style="not dim"), *rest])
            head = ""


def _value(fact: Fact) -> str:
    from ..estimator.answer.figures import number

    if isinstance(fact.value, str):
        return fact.value
    whole = not fact.unit and fact.value.is_integer()  # a count
    return f"{fact.value:,.0f}" if whole else f"{number(fact.value)} {fact.unit}".strip()
