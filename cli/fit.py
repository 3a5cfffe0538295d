"""`joulecast fit`: a profile from a table of a user's own runs, from one run on; or from the records of a fleet."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..estimator.base.folders import profiles_folder
from ..estimator.cost.software import SOFTWARE
from .help import HELP

if TYPE_CHECKING:
    from ..estimator.fit.observation import Observation
    from ..estimator.fit.runs import Run


@click.command(context_settings=HELP)
@click.argument("runs", required=False, type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="The profile's name; --hardware takes it afterwards.")
@click.option("--store", metavar="PLACE", help="Instead of RUNS: the folder or address that machines measure into.")
@click.option("--group", type=click.Choice(["hardware"]), help="With --store: one profile for each kind of machine.")
@click.option(
    "--machine", metavar="NODE", help="With --store: the profile of one machine, from its kind's and its own."
)
@click.option("--hardware", metavar="NAME", help="The GPU that the runs were made on (or a column of the table).")
@click.option("--software", type=click.Choice(SOFTWARE), help="What ran them (or a column of the table).")
@click.option("--model", metavar="TEXT", help="The model that ran, if the file does not state it.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Samples per step, if the file does not state it."
)
@click.option("--input", "inputs", metavar="SHAPE", help="Shape of one sample, if the file does not state it.")
@click.option("--precision", metavar="NAME", help="Precision, if the file does not state it.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Save the profile to this file.")
def fit(
    runs: Path | None,
    name: str | None,
    store: str | None,
    group: str | None,
    machine: str | None,
    hardware: str | None,
    software: str | None,
    model: str | None,
    batch_size: int | None,
    inputs: str | None,
    precision: str | None,
    output: Path | None,
) -> None:
    """Learn from runs of your own, from one run on.

    RUNS is a CSV table with a line for each run. Columns: model and batch; seconds_per_step or samples_per_second;
    watts or joules_per_step where known; precision, input, dataset, sequence_length, optimizer, hardware, software
    where they are not the defaults.

    RUNS can also be the log of one run, with --model and --batch-size: a W&B history (CSV or JSON), TensorBoard
    scalars (CSV) or its event file, or a torch.profiler trace (JSON, also .gz).
    """
    if store is not None:
        _check_unused(runs=runs, hardware=hardware, software=software, model=model, inputs=inputs, precision=precision)
        _fit_store(store, group, name=name, machine=machine, output=output)
        return
    if runs is None:
        raise click.UsageError("no runs: give a file of runs (RUNS) and --name NAME, or --store PLACE --group hardware")
    if name is None:
        raise click.UsageError("no name for the profile: give --name NAME")
    if group or machine:
        raise click.UsageError(f"{'--group' if group else '--machine'} needs --store")
    from ..estimator.cost.library import contradict
    from ..estimator.fit.fit import fit as fitted
    from ..estimator.fit.runs import read_runs

    given = {"model": model, "batch": batch_size and str(batch_size), "input": inputs, "precision": precision}
    table = read_runs(runs, {column: value for column, value in given.items() if value})
    own = table[0].options.get("hardware")
    if hardware is not None and own is not None and contradict(hardware, own):
        raise click.UsageError(f"--hardware {hardware} and the {own} of {runs} contradict: leave out --hardware")
    hardware = hardware or own
    if hardware is None:
        raise click.UsageError("the hardware is not known: give --hardware or a column `hardware`")
    if table[0].note:
        click.echo(f"{runs}: {table[0].note}")
    profile = fitted(
        [_observation(runs, run, hardware) for run in table],
        name=name,
        hardware=hardware,
        device="gpu",
        software=software or table[0].options.get("software"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = profile.save(output or profiles_folder() / f"{name}.json")
    click.echo(f"{name}: {profile.provenance.fitted_on}")
    for note in profile.provenance.notes:
        click.echo(f"  {note}")
    click.echo(
        f"  90 % of times within {profile.time_error.low:.2f} to {profile.time_error.high:.2f} of the prediction"
    )
    click.echo(f"saved to {path}; use it with: estimate --hardware {output or name}")


def _check_unused(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            option = {"runs": "RUNS", "inputs": "--input"}.get(name, f"--{name}")
            raise click.UsageError(f"{option} has no use with --store, whose records say it: leave it out")


def _fit_store(store: str, group: str | None, *, name: str | None, machine: str | None, output: Path | None) -> None:
    from .fleet import fit_fleet

    if (group is None) == (machine is None):
        raise click.UsageError("--store needs one of --group hardware and --machine NODE")
    fit_fleet(store, name=name, machine=machine, output=output)


def _observation(path: Path, run: Run, hardware: str) -> Observation:
    from ..estimator.answer.estimate import read
    from ..estimator.answer.request import PRECISIONS, Request
    from ..estimator.fit.observation import Observation as Measured

    options = run.options
    precision = options.get("precision")
    if precision not in (None, *PRECISIONS, *PRECISIONS.values()):
        from ..estimator.base.errors import FitError

        raise FitError(f"{path}:{run.line} has precision {precision!r}; give one of {', '.join(PRECISIONS)}")
    request = Request(
        model=run.model,
        batch_size=run.batch,
        precision=precision,
        inputs=options.get("input"),
        dataset=options.get("dataset"),
        sequence_length=int(options["sequence_length"]) if "sequence_length" in options else None,
        optimizer=options.get("optimizer"),
        steps=1,
    )
    return Measured(
        workload=read(request), steps=1, seconds=run.seconds, energy_j=run.joules, hardware=hardware, family=run.model
    )
