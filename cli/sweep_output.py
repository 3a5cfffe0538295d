"""The progress of a sweep on standard error, and its result as a table or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console
from rich.text import Text

from ..estimator.answer import figures
from ..estimator.base.digits import counted
from ..estimator.base.interval import Interval
from ..sweeps.ranking import NODES
from .fields import with_options
from .layout import Column, make_console, show, table_lines, wrapped

if TYPE_CHECKING:
    from ..sweeps.run import SweepReport

_REASONS = 5  # of failures
_LINES = 4  # of a whole sweep, where there is no terminal
_NAMES = {"energy_kwh": "energy", "seconds": "time", "co2e_kg": "CO2e", "step_flops": "step FLOPs"}
# Columns of figures that no table needs; what candidates ask is shown before them.
_SHOWN = ("energy_kwh", "seconds", "co2e_kg", "parameters")


class SweepProgress:
    """Candidates done, their rate and the time left: a bar on a terminal, a line per quarter elsewhere."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._before: int | None = None
        self._bar: Any = None
        self._task: Any = None
        self._lines = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("reading the first candidates", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int | None, failed: int) -> None:
        """Called when some candidates are done. Those of an earlier start are not part of the rate."""
        if self._before is None:
            self._before = done
        text = _progress(done, total, failed, done - self._before, time.monotonic() - self._start)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=text)
        elif total and done * _LINES >= (self._lines + 1) * total:
            self._lines = done * _LINES // total
            print(text, file=sys.stderr, flush=True)


def _progress(done: int, total: int | None, failed: int, new: int, seconds: float) -> str:
    parts = [f"{done:,} of {total:,} candidates" if total else f"{done:,} candidates"]
    if failed:
        parts.append(f"{failed:,} failed")
    if new and seconds > 0:
        rate = new / seconds
        parts.append(f"{60 * rate:,.0f} a minute")
        if total and done < total:
            parts.append(f"{figures.seconds(Interval.exact((total - done) / rate))[0]} left")
    return ", ".join(parts)


def print_report(report: SweepReport, *, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
        return
    console, command = make_console(), click.get_current_context().command
    show(console, [Text(_head(report), style="bold")])
    show(console, _totals(report, console.width))
    for verdict in report.verdicts:
        console.print(Text(f"{verdict.limit.text}: {verdict}", style="bold red" if verdict.exceeded else "green"))
    _print_rows(console, f"{len(report.top)} best ({report.top_by})", report.top)
    _print_rows(console, f"Pareto front ({', '.join(report.front_by)})", report.front)
    for error, number in report.failures[:_REASONS]:
        show(console, wrapped(with_options(f"{number:,} failed: {error}", command), console.width))
    if report.output is not None:
        console.print(f"all rows: {report.output}", soft_wrap=True)


def _head(report: SweepReport) -> str:
    parts = [counted(report.candidates, "candidate")]
    parts += [f"{report.failed:,} failed"] if report.failed else []
    parts += [f"{report.over_budget:,} over their budget"] if report.over_budget else []
    return f"{', '.join(parts)}; all of them one after another:" if report.totals else ", ".join(parts)


def _totals(report: SweepReport, width: int) -> list[Text]:
    if not report.totals:
        return []
    shown = {
        "energy": figures.energy(report.totals["energy_kwh"]),
        **({"nodes": figures.energy(report.totals[NODES])} if NODES in report.totals else {}),
        "with PUE": figures.energy(report.totals["facility_energy_kwh"]),
        "CO2e": figures.carbon(report.totals["co2e_kg"]),
        "time": figures.seconds(report.totals["seconds"]),
        "electricity": figures.money(report.totals["cost"], report.currency),
    }
    columns = [
        Column("", list(shown)),
        Column("", [value for value, _ in shown.values()], right=True),
        Column("", [bounds for _, bounds in shown.values()], style="dim"),
    ]
    note = (
        f"predicted; profiles: {', '.join(report.sources)}; 90 % intervals: the bounds of candidates are added, "
        "since they share the errors of a profile"
    )
    return [*table_lines(columns, width, headings=False, indent=2), *wrapped(note, width, indent=2, style="dim")]


def _print_rows(console: Console, title: str, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    console.print()
    console.print(Text(title, style="bold"))
    names = [name for name in _asked(rows) if name not in _SHOWN]
    columns = [Column("candidate", [str(row["candidate"]) for row in rows], right=True, keep=2)]
    columns += [Column(name, [_cell(name, row) for row in rows]) for name in names]
    columns += [
        Column(_NAMES.get(name, name), [_cell(name, row) for row in rows], right=True, keep=50 - place)
        for place, name in enumerate(_SHOWN)
    ]
    show(console, table_lines(columns, console.width, indent=2))


def _asked(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The names that the candidates set, which are those before the first figure."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in list(names)[1 : list(names).index("model")] if name != "model"] or ["model"]


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if name == "energy_kwh":
        return figures.energy(Interval.exact(value))[0]
    if name == "seconds":
        return figures.seconds(Interval.exact(value))[0]
    if name == "co2e_kg":
        return figures.carbon(Interval.exact(value))[0]
    if name in ("parameters", "step_flops"):
        return figures.count(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
