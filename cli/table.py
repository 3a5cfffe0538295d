"""The answer as a table to read on a terminal, at any width. Colours and bars need a terminal and no NO_COLOR."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer
from ..estimator.base.digits import counted
from ..estimator.cost.estimate import Share
from ..estimator.place.comparisons import Comparison, familiar
from .layout import Column, as_many_as_fit, first_that_fits, make_console, show, table_lines, wrapped
from .note_lines import note_lines
from .region_table import region_lines, region_table

_BAR_WIDTH = 28
_PARTS = 8
_UNITS_FROM = 80  # columns: narrower windows show the interval without its unit


def print_answers(answers: Sequence[Answer], *, layers: bool, verbose: bool = False) -> None:
    """One model in at most 15 lines and then its notes, or several side by side; `verbose` leaves nothing out."""
    console = make_console()
    if len(answers) == 1:
        _print_one(console, answers[0], verbose)
    else:
        _print_comparison(console, answers)
    _print_verdicts(console, answers)
    show(console, note_lines(answers, console.width, verbose=verbose))
    if layers:
        for answer in answers:
            _print_layers(console, answer)


# -- one model -----------------------------------------------------------------------------------


def _print_one(console: Console, answer: Answer, verbose: bool) -> None:
    width = console.width
    show(console, _head(answer, width, verbose))
    console.print()
    show(console, _figures(answer, width))
    below = [f"about {_comparison(one, verbose)}" for one in familiar_to(answer)]
    if verbose:
        show(console, [Text(f"  {line}", style="dim") for line in below])
        console.print()
        console.print(Text("Energy by component (expected)", style="bold"))
        show(console, _bars(answer.estimate.breakdown))
    else:
        if below:
            console.print(Text(as_many_as_fit(below, ", ", width), style="dim"), soft_wrap=True)
        parts = [f"{part.name} {figures.share(part.share)}" for part in _shown(answer.estimate.breakdown)]
        console.print(as_many_as_fit([f"energy by component: {parts[0]}", *parts[1:]], ", ", width), soft_wrap=True)
    _print_regions(console, answer, "")


def familiar_to(answer: Answer) -> tuple[Comparison, ...]:
    return familiar(answer.facility_energy_kwh.value, answer.co2e_kg.value)


def _comparison(one: Comparison, verbose: bool) -> str:
    text = str(one).removeprefix("about ")
    return f"{text} ({one.yardstick.source.split(',')[0]}, {one.yardstick.year})" if verbose else text


def _head(answer: Answer, width: int, verbose: bool) -> list[Text]:
    work, estimate = answer.workload, answer.estimate
    title = Text(work.name, style="bold").append(
        f" on {answer.profile.hardware}, predicted before training", style="not bold"
    )
    length = answer.length.split(", ")  # thousands have no space after their comma
    facts = [
        f"{figures.count(work.parameters)} parameters",
        f"{figures.count(work.forward_flops / work.batch_size)} multiply-adds per sample",
        f"{'training' if work.train else 'inference'} in {work.precision}"
        + (f" with {work.optimizer}" if work.optimizer else ""),
        f"mean power {figures.power(estimate.power_w)}",
    ]
    if verbose:
        return [title, *(line for parts in (length, facts) for line in wrapped(", ".join(parts), width))]
    return [title, *(Text(as_many_as_fit(parts, ", ", width)) for parts in (length, facts))]


def _figures(answer: Answer, width: int) -> list[Text]:
    lines = _lines(answer)
    names, pairs = [line[0] for line in lines], [line[1] for line in lines]
    bounds = [text for _, text in pairs]
    if width < _UNITS_FROM:  # the unit is that of the expected figure next to it
        bounds = [text.removesuffix(expected.partition(" ")[2]).rstrip() for expected, text in pairs]
    columns = [
        Column("", names, style="bold"),
        Column("expected", [expected for expected, _ in pairs], right=True, style="bold cyan"),
        Column("90 % interval", bounds, right=width >= _UNITS_FROM),
    ]
    room = width - sum(column.width + 2 for column in columns)
    sources = [first_that_fits(line[2], room) for line in lines]
    return table_lines([*columns, Column("from", sources, style="dim")], width)


def _lines(answer: Answer) -> list[tuple[str, tuple[str, str], list[str]]]:
    """Name, value and interval of each figure, and where it comes from: the long form first, then shorter ones."""
    estimate, site = answer.estimate, answer.site
    sources = _sources(answer)
    lines = [
        ("Time", figures.seconds(estimate.seconds), sources[0]),
        ("Energy", figures.energy(estimate.energy_kwh), sources[1]),
        ("with PUE", figures.energy(answer.facility_energy_kwh), sources[2]),
        ("CO2e", figures.carbon(answer.co2e_kg), sources[3]),
        ("Cost", figures.money(answer.cost, site.currency), sources[4]),
    ]
    if answer.node_energy_kwh is not None:
        basis = ["modelled; whole nodes: CPUs, memory, network, fans, power supplies", "modelled; whole nodes"]
        lines.insert(2, ("Nodes", figures.energy(answer.node_energy_kwh), basis))
    if answer.split and answer.shared_energy_kwh is not None:
        split = answer.split
        spare = (
            f"{counted(split.idle_hosts, 'idle host')} at {figures.power(split.idle_node_w)}"
            if split.idle_hosts
            else ""
        )
        storage = f"storage at {figures.power(split.storage_w)}" if split.storage_w else ""
        parts = ", ".join(filter(None, (spare, storage)))
        lines.insert(3, ("Shared", figures.energy(answer.shared_energy_kwh), [parts, "idle hosts, storage"]))
    if answer.rent and answer.bill:
        lines[-1] = ("Electricity", *lines[-1][1:])
        rate = f"{figures.number(answer.rent.per_device_hour)} {answer.rent.currency} a device and hour"
        basis = [f"{rate}, {answer.rent.source}", rate]
        lines.append(("Rent", figures.money(answer.bill, answer.rent.currency), basis))
    if answer.embodied:
        basis = ["making the hardware, by hours of use; not part of CO2e", "making the hardware"]
        lines.append(("Embodied", figures.carbon(answer.embodied.kg), basis))
    return lines


def _sources(answer: Answer) -> list[list[str]]:
    """Where each figure comes from: the long form first, then shorter ones for narrow windows."""
    estimate, site = answer.estimate, answer.site
    boundary = answer.profile.provenance.boundary.removesuffix(", without PUE")
    carbon = f"{figures.number(site.carbon_g_per_kwh)} g/kWh"
    price = f"{figures.number(site.price_per_kwh)} {site.currency}/kWh"
    power = f"{estimate.power_source} watts" if answer.time_replaced else estimate.power_source
    energy = _predicted(answer.energy_bases, power)
    whose = (
        "machine's" if answer.split is None else "nodes'" if answer.shared_energy_kwh is None else "nodes' and shared"
    )
    return [
        _predicted(answer.time_bases, estimate.time_source),
        [*(f"{text}; {boundary}" for text in energy[:2] if boundary), *energy],
        [f"{whose} energy x {figures.number(site.pue)}", f"x {figures.number(site.pue)}"],
        _shortened(f"{carbon}, {site.carbon_source}"),
        _shortened(f"{price}, {site.price_source}"),
    ]


def _predicted(bases: tuple[str, str], source: str) -> list[str]:
    long, short = bases
    return [f"predicted; {long}", f"predicted; {short}", short, source]


def _shortened(source: str) -> list[str]:
    """The text, then what is before each of its commas and brackets from the right, brackets closed."""
    ends = [match.start() for match in re.finditer(r", | \(", source)]
    choices = [source, *(source[:end] for end in reversed(ends))]
    return [choice for choice in choices if choice.count("(") == choice.count(")")]


def _shown(parts: Sequence[Share]) -> list[Share]:
    return [part for part in parts if part.share > 0][:_PARTS]


def _bars(parts: Sequence[Share]) -> list[Text]:
    shown = _shown(parts)
    rest = 1 - sum(part.share for part in shown)
    names = [*(part.name for part in shown), *(["other"] if rest > 0.0005 else [])]
    shares = [*(part.share for part in shown), rest][: len(names)]
    columns = [
        Column("", names),
        Column("", ["█" * round(share * _BAR_WIDTH) or "▏" for share in shares], style="cyan"),
        Column("", [figures.share(share) for share in shares], right=True),
    ]
    return table_lines(columns, _BAR_WIDTH + 60, headings=False, indent=2)


def _print_regions(console: Console, answer: Answer, whose: str) -> None:
    if answer.places:
        console.print(Text(f"\nThe same energy, by region{whose}", style="bold"), soft_wrap=True)
        show(console, [*region_table(answer.places, console.width), *region_lines(answer.places, console.width)])


def _print_verdicts(console: Console, answers: Sequence[Answer]) -> None:
    if any(answer.verdicts for answer in answers):
        console.print()
    for answer in answers:
        before = f"{answer.model}: " if len(answers) > 1 else ""
        for verdict in answer.verdicts:
            style = "bold red" if verdict.exceeded else "bold green"
            show(console, wrapped(f"{before}{verdict}", console.width, style=style))
        for line in answer.fits:
            show(console, wrapped(f"{before}{line}", console.width, indent=2))


# -- several models ------------------------------------------------------------------------------


def _print_comparison(console: Console, answers: Sequence[Answer]) -> None:
    first, site = answers[0], answers[0].site
    show(console, [Text(f"{len(answers)} models", style="bold").append(f" on {first.profile.hardware}", "not bold")])
    show(console, wrapped(first.length, console.width))
    console.print()
    show(console, table_lines(_comparison_columns(answers), console.width))
    console.print()
    time, power = first.time_bases[0], first.power_basis.removeprefix("predicted; ")
    basis = f"time and power: {time}" if time == power else f"time: {time}; power: {power}"
    text = (
        f"predicted; {basis}; PUE {figures.number(site.pue)}; "
        f"{figures.number(site.carbon_g_per_kwh)} g CO2e/kWh ({site.carbon_source}); "
        f"{figures.number(site.price_per_kwh)} {site.currency}/kWh ({site.price_source})"
    )
    show(console, wrapped(text, console.width, style="dim"))
    for answer in answers:
        _print_regions(console, answer, f" for {answer.model}")


def _comparison_columns(answers: Sequence[Answer]) -> list[Column]:
    works = [answer.workload for answer in answers]
    energies = [figures.energy(answer.facility_energy_kwh) for answer in answers]
    machine = [figures.energy(answer.estimate.energy_kwh)[0] for answer in answers]
    multiply_adds = [figures.count(work.forward_flops / work.batch_size) for work in works]
    costs = [figures.money(answer.cost, answer.site.currency)[0] for answer in answers]
    return [
        Column("model", [answer.model for answer in answers], style="bold"),
        Column("parameters", [figures.count(work.parameters) for work in works], right=True, keep=2),
        Column("MACs/sample", multiply_adds, right=True, keep=1),
        Column("time", [figures.seconds(answer.estimate.seconds)[0] for answer in answers], right=True, keep=5),
        Column("energy", machine, right=True, keep=3),
        Column("with PUE", [value for value, _ in energies], right=True, style="bold cyan"),
        Column("90 % interval", [bounds for _, bounds in energies], right=True, keep=6),
        Column("CO2e", [figures.carbon(answer.co2e_kg)[0] for answer in answers], right=True),
        Column("cost", costs, right=True, keep=4),
    ]


# -- layers --------------------------------------------------------------------------------------


def _print_layers(console: Console, answer: Answer) -> None:
    title = Text(f"\nLayers of {answer.workload.name}", style="bold").append(
        " (one step, forward)", style="not bold dim"
    )
    rows = answer.layer_rows()
    names = ["  " * max(row["depth"] - 1, 0) + (row["path"].rpartition(".")[2] or "(all)") for row in rows]
    columns = [
        Column("layer", names),
        Column("kind", [row["kind"] for row in rows], keep=4),
        Column("output", ["x".join(map(str, row["output_shape"])) for row in rows], keep=3),
        Column("multiply-adds", [figures.count(row["forward_flops"]) for row in rows], right=True),
        Column("parameters", [figures.count(row["parameters"]) for row in rows], right=True, keep=2),
        Column("counted by", [row["source"] for row in rows], right=True, keep=1),
        Column("energy", [figures.share(row["energy_share"]) for row in rows], right=True),
    ]
    show(console, [title, *table_lines(columns, console.width)])
