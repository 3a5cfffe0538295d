"""`joulecast sweep`: the cost of many candidates, alone and together, before any of them trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..sweeps.engine import ENGINES
from .estimate import SECTIONS, estimate, read_request
from .help import HELP, Sections

if TYPE_CHECKING:
    from ..estimator.answer.request import Request
    from ..sweeps.candidates import Candidates
    from ..sweeps.run import SweepReport

BUDGET_EXCEEDED = 3
# Options of `estimate` that describe one run; the others have no use here or another meaning.
_OTHER = frozenset(
    [
        *("models", "as_json", "as_csv", "format_", "report", "figure", "accuracies", "layers", "verbose", "traceback"),
        *("regions", "live", "budgets"),
    ]
)


@click.command(
    cls=Sections,
    sections={"models": "Candidates", "output": "Results", "budgets": "Budgets", "engine": "Engine"}
    | {name: heading for name, heading in SECTIONS.items() if name not in ("models", "budgets")}
    | {"model_args": SECTIONS["models"], "budget_at": "Budgets", "as_json": "Results"},
    context_settings=HELP,
    epilog="Exit status: 0 done, 1 an input that cannot be used, 2 wrong options, 3 the sweep exceeds a budget, "
    "130 interrupted (the same command resumes it).",
)
@click.option("--model", "models", multiple=True, metavar="MODEL", help="As in estimate; several are an axis.")
@click.option("--set", "axes", multiple=True, metavar="NAME=A,B", help="An axis of the grid: width=64,128.")
@click.option("--from", "source", metavar="SOURCE", help="FILE.jsonl (an object a line) or FILE.py:NAME.")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="A name that sets nothing, as an accuracy.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="All rows: .csv, .parquet or .jsonl.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page that works offline.")
@click.option(
    "--top", type=click.IntRange(0, 1000), default=5, show_default=True, metavar="N", help="Best candidates to show."
)
@click.option("--by", default="energy", show_default=True, metavar="COLUMN", help="What is best: co2e, accuracy:max.")
@click.option("--pareto", metavar="COLUMNS", help="Show the Pareto front: energy,parameters or energy,accuracy.")
@click.option("--budget", "budgets", multiple=True, metavar="LIMIT", help="Limit of the whole sweep: 84kWh, 30kgCO2e.")
@click.option("--each-budget", multiple=True, metavar="LIMIT", help="Limit of each candidate.")
@click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True, help="What runs them.")
@click.option("--address", metavar="ADDRESS", help="Of the Dask scheduler (tcp://host:8786) or Ray cluster.")
@click.option("--jobs", type=click.IntRange(1, 10_000), metavar="N", help="Processes (default: one per core).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sweep(
    models: tuple[str, ...],
    axes: tuple[str, ...],
    source: str | None,
    columns: tuple[str, ...],
    each_budget: tuple[str, ...],
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Predict the cost of every candidate of a sweep, and of the whole sweep, before it starts.

    Candidates are a grid (--set) or come from a file (--from). A name that is an option of estimate sets it; any other
    is an argument of the model. All options of estimate can be given for what the candidates have in common.

    \b
    joulecast sweep --model net.py:Net --set width=64,128,256 --set batch_size=32,64 --epochs 10
                    --hardware a100-sxm4-80gb --pareto energy,parameters --budget 84kWh --output sweep.csv
    """
    from ..sweeps.run import sweep as run
    from .sweep_output import SweepProgress, print_report
    from .sweep_report import page_writer

    base = _base(models, each_budget, options)
    candidates = _candidates(models, axes, source)
    page = page_writer(report)
    with SweepProgress() as progress, _kept_on_interrupt(options["output"]):
        found = run(
            candidates,
            base,
            output=options["output"],
            top=options["top"],
            by=options["by"],
            pareto=options["pareto"],
            columns=columns,
            budget=options["budgets"],
            budget_at=options["budget_at"],
            engine=options["engine"],
            address=options["address"],
            jobs=options["jobs"],
            watch=progress.show,
            each=page.table.add if page else None,
        )
    print_report(found, as_json=as_json)
    if page:
        page.write(found, candidates.name, options["pareto"])
    return _status(found)


sweep.params += [option for option in estimate.params if option.name not in _OTHER]


@contextlib.contextmanager
def _kept_on_interrupt(output: Path | None) -> Iterator[None]:
    """Says what an interrupted sweep leaves behind."""
    try:
        yield
    except KeyboardInterrupt:
        if output is not None:
            click.echo(f"{output}.partial keeps the candidates that are done; the same command resumes it", err=True)
        raise


def _status(report: SweepReport) -> int:
    if report.exceeded:
        return BUDGET_EXCEEDED
    return 1 if report.failed == report.candidates else 0


def _base(models: tuple[str, ...], each_budget: tuple[str, ...], options: dict[str, Any]) -> Request:
    """What the candidates have in common. The model is part of it where only one is given."""
    from dataclasses import replace

    own = {"layers": False, "regions": None, "live": False, "budgets": each_budget}
    template = replace(read_request(None, {**options, **own}), layers=False)
    return replace(template, model=models[0]) if len(models) == 1 else template


def _candidates(models: tuple[str, ...], axes: tuple[str, ...], source: str | None) -> Candidates:
    from ..sweeps.candidates import grid, parse_axes, read_candidates

    several = {"model": list(models)} if len(models) > 1 else {}
    if source is None:
        if not axes and not several:
            raise click.UsageError("no candidates: give --set NAME=A,B (a grid) or --from FILE")
        return grid({**several, **parse_axes(axes)})
    if axes or several:
        raise click.UsageError(f"--from {source} and {'--set' if axes else 'several --model'} contradict: give one")
    return read_candidates(source)
