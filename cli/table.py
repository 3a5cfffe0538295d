"""The answer as a table made for reading. Colours and bars leave with NO_COLOR and pipes (rich sees to it)."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer
from ..estimator.cost.estimate import Share
from ..estimator.place.comparisons import familiar
from .region_table import region_lines, region_table

_BAR_WIDTH = 28
_PIPE_WIDTH = 110  # where nobody tells the width
_PARTS = 8


def print_answers(answers: Sequence[Answer], *, layers: bool) -> None:
    console = make_console()
    if len(answers) == 1:
        _print_one(console, answers[0])
    else:
        _print_comparison(console, answers)
    for answer in answers:
        if layers:
            _print_layers(console, answer)


def make_console() -> Console:
    """Colours and the window's width on a terminal; plain text of a fixed width in a pipe or file."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


# -- one model -----------------------------------------------------------------------------------


def _print_one(console: Console, answer: Answer) -> None:
    _print_head(console, answer)
    console.print(_figures(answer))
    if sayings := familiar(answer.facility_energy_kwh.value, answer.co2e_kg.value):
        for saying in sayings:
            console.print(
                Text(
                    f"  {saying} ({saying.yardstick.source.split(',')[0]}, {saying.yardstick.year})",
                    style="dim",
                )
            )
    console.print(Text("\nWhere the energy goes", style="bold"), Text("(expected)", style="dim"))
    console.print(_bars(answer.estimate.breakdown))
    _print_regions(console, answer, "")
    _print_tail(console, [answer])


def _print_head(console: Console, answer: Answer) -> None:
    work, estimate = answer.work, answer.estimate
    console.print(Text(work.name, style="bold"), Text(f"on {answer.profile.hardware}"))
    what = "training" if work.train else "inference"
    console.print(
        f"  {figures.count(work.parameters)} parameters, {figures.count(work.forward_flops / work.batch_size)} "
        f"multiply-adds a sample forward, {what} in {work.precision}"
        + (f" with {work.optimizer}" if work.optimizer else ""),
    )
    console.print(f"  {answer.length}")
    console.print(
        f"  profile {answer.profile.name}: time {estimate.time_source}, power {estimate.power_source}, "
        f"mean {figures.number(estimate.power_w)} W\n"
    )


def _figures(answer: Answer) -> Table:
    estimate, site = answer.estimate, answer.site
    power, time = estimate.power_source, estimate.time_source
    rows = [
        ("Time", figures.seconds(estimate.seconds), time),
        (
            "Energy",
            figures.energy(estimate.energy_kwh),
            f"{power}; {answer.profile.provenance.boundary}".rstrip("; "),
        ),
        ("  with PUE", figures.energy(answer.facility_energy_kwh), f"x {figures.number(site.pue)}"),
        (
            "CO2e",
            figures.carbon(answer.co2e_kg),
            f"{figures.number(site.carbon_g_per_kwh)} g/kWh, {site.carbon_source}",
        ),
        (
            "Cost",
            figures.money(answer.cost, site.currency),
            f"{figures.number(site.price_per_kwh)} {site.currency}/kWh, {site.price_source}",
        ),
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2), show_edge=False)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("expected", justify="right", no_wrap=True)
    table.add_column("90 % interval", justify="right", no_wrap=True)
    table.add_column("from", style="dim", overflow="fold")
    for name, (value, bounds), source in rows:
        table.add_row(name, Text(value, style="bold cyan"), bounds, source)
    return table


def _bars(parts: Sequence[Share]) -> Table:
    shown = [part for part in parts if part.share > 0][:_PARTS]
    rest = 1 - sum(part.share for part in shown)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for part in shown:
        bar = "█" * round(part.share * _BAR_WIDTH) or "▏"
        table.add_row(f"  {part.name}", Text(bar, style="cyan"), figures.share(part.share))
    if rest > 0.0005:
        table.add_row("  other", "", figures.share(rest))
    return table


def _print_regions(console: Console, answer: Answer, whose: str) -> None:
    if answer.places:
        console.print(Text(f"\nThe same energy, by region{whose}", style="bold"))
        console.print(region_table(answer.places), *region_lines(answer.places), sep="\n")


def _print_tail(console: Console, answers: Sequence[Answer]) -> None:
    if any(answer.verdicts for answer in answers):
        console.print()
    for answer in answers:
        before = f"{answer.model}: " if len(answers) > 1 else ""
        for verdict in answer.verdicts:
            style = "bold red" if verdict.exceeded else "bold green"
            console.print(Text(f"{before}{verdict}", style=style))
        for line in answer.fits:
            console.print(Text(f"  {before}{line}"))
    warnings = list(dict.fromkeys(note for answer in answers for note in answer.notes))
    if warnings:
        console.print(Text("\nNotes", style="bold"))
        for note in warnings:
            console.print(Padding(Text(f"- {note}", style="yellow"), (0, 2), expand=False))
    sources = list(dict.fromkeys(source for answer in answers for source in answer.profile.provenance.sources))
    console.print(Text("\nSources: " + "; ".join(sources), style="dim"))


# -- several models ------------------------------------------------------------------------------


def _print_comparison(console: Console, answers: Sequence[Answer]) -> None:
    first = answers[0]
    console.print(
        Text(f"{len(answers)} models", style="bold"),
        Text(f"on {first.profile.hardware} (profile {first.profile.name}), {first.length}\n"),
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("model", style="bold", overflow="fold")
    for name in ("parameters", "MACs/sample", "time", "energy", "90 % interval", "with PUE", "CO2e", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for answer in answers:
        energy, bounds = figures.energy(answer.estimate.energy_kwh)
        work = answer.work
        table.add_row(
            answer.model,
            figures.count(work.parameters),
            figures.count(work.forward_flops / work.batch_size),
            figures.seconds(answer.estimate.seconds)[0],
            Text(energy, style="bold cyan"),
            bounds,
            figures.energy(answer.facility_energy_kwh)[0],
            figures.carbon(answer.co2e_kg)[0],
            figures.money(answer.cost, answer.site.currency)[0],
        )
    console.print(table)
    console.print(
        Text(
            f"\ntime {first.estimate.time_source}, power {first.estimate.power_source}; PUE "
            f"{figures.number(first.site.pue)}; {figures.number(first.site.carbon_g_per_kwh)} g CO2e/kWh "
            f"({first.site.carbon_source}); {figures.number(first.site.price_per_kwh)} "
            f"{first.site.currency}/kWh ({first.site.price_source})",
            style="dim",
        )
    )
    for answer in answers:
        _print_regions(console, answer, f" for {answer.model}")
    _print_tail(console, answers)


# -- layers --------------------------------------------------------------------------------------


def _print_layers(console: Console, answer: Answer) -> None:
    console.print(Text(f"\nLayers of {answer.work.name}", style="bold"), Text("(a step, forward)", style="dim"))
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="fold")
    table.add_column("output")
    for name in ("multiply-adds", "parameters", "from", "energy"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in answer.layer_rows():
        table.add_row(
            "  " * max(row["depth"] - 1, 0) + (row["path"].rpartition(".")[2] or "(all)"),
            row["kind"],
            "x".join(map(str, row["output_shape"])),
            figures.count(row["forward_flops"]),
            figures.count(row["parameters"]),
            row["source"],
            figures.share(row["energy_share"]),
        )
    console.print(table)
