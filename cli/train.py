"""`measure train` and `measure thesis`: training under a meter, and the comparison with the thesis."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .fields import with_options
from .finite import FiniteRange

if TYPE_CHECKING:
    from ..measure.records.records import Record
    from ..measure.training.recipe import Recipe
    from ..measure.training.thesis import ThesisRow
    from ..measure.training.training import TrainingPlan

NETWORKS = ("simplenet", "alexnet")
FRAMEWORKS = ("pytorch", "tensorflow")
_METER_INTERVAL_S = 1.0  # trainings last for hours; counters that wrap faster are read faster anyway
_SIGNAL_STATUS = {"SIGINT": 130, "SIGTERM": 143}

Command = Callable[..., Any]


def _shared_options(command: Command) -> Command:
    """The options that `train` and `thesis` have in common."""
    options = (
        click.option("--data", type=click.Path(path_type=Path), metavar="PATH",
                     help="cifar-10-batches-py or cifar-10-python.tar.gz. Default: download it and verify its digest."),
        click.option("--synthetic", type=click.IntRange(min=1), metavar="N",
                     help="Use N random images instead: times are real, accuracy has no meaning."),
        click.option("--width", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True,
                     metavar="X", help="Scales the channels of every layer."),
        click.option("--evaluate-every", type=click.IntRange(min=1), metavar="N",
                     help="Also test after every N steps of an epoch, on the same 2,000 test images."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                     help="Seed of weights, order and crops."),
        click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True),
        click.option("--meter", "preference", default="auto", show_default=True, metavar="NAME",
                     help="auto, rapl, perf_event, nvml, modelled, none or replay:FILE."),
        click.option("--hardware", metavar="NAME",
                     help="The CPU to model if no meter measures. Default: the one in /proc/cpuinfo."),
        click.option("--quiet", is_flag=True, help="Show no progress."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command(epilog="Exit status: 0 done, 1 failed, 2 wrong options, 130 or 143 interrupted (it can continue).")
@click.argument("network", type=click.Choice(NETWORKS))
@click.option("--framework", type=click.Choice(FRAMEWORKS), help="Default, as in the thesis: simplenet in pytorch,"
              " alexnet in tensorflow.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), metavar="N",
              help="Passes over the training set, at most (default 1).")  # fmt: skip
@click.option("--target", type=FiniteRange(0, 100, min_open=True), metavar="PERCENT",
              help="Stop when the test set is classified with this accuracy.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Default: the network's recipe.")
@click.option("--learning-rate", type=FiniteRange(min=0, min_open=True), metavar="X",
              help="Default: the network's recipe.")  # fmt: skip
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), help="Default: the network's recipe.")
@click.option("--augment/--no-augment", default=None, help="Shift and flip images. Default: the recipe.")
@click.option("--checkpoint-minutes", type=FiniteRange(min=0, min_open=True), default=5.0,
              show_default=True, metavar="X", help="The most training time that a kill can lose.")  # fmt: skip
@click.option("--run", "run_id", metavar="ID", help="Continue this run, or start it under this name.")
@click.option("--store", metavar="PLACE",
              help="Folder of records and checkpoints. Default: $JOULECAST_STORE, or the user's.")  # fmt: skip
@_shared_options
@click.pass_context
def train(
    context: click.Context,
    /,
    network: str,
    framework: str | None,
    store: str | None,
    run_id: str | None,
    data: Path | None,
    synthetic: int | None,
    preference: str,
    hardware: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Train SimpleNet or AlexNet on CIFAR-10 under a meter, and keep the record.

    After Ctrl-C, a kill or a failure, the same command with --run ID continues the run.
    """
    from ..measure.meters.selection import select_meter
    from ..measure.records.shared import open_store
    from ..measure.training.cifar10 import open_images
    from ..measure.training.progress import TrainingBar
    from ..measure.training.training import earlier_run
    from ..measure.training.training import train as train_under_meter

    place = open_store(store or context.meta.get("store"))
    framework = framework or ("pytorch" if network == "simplenet" else "tensorflow")
    run_id = place.new_id(f"{network}-{framework}") if run_id is None else _checked_id(run_id)
    before = earlier_run(place, run_id)
    plan = _plan(network, framework, options, {} if before is None else before.settings.get("plan", {}))
    images = open_images(data, synthetic=synthetic, seed=plan.seed)
    bar = None if quiet else TrainingBar(network)
    with select_meter(preference, hardware=hardware, interval_s=_METER_INTERVAL_S) as meter:
        if not quiet:
            click.echo(f"run {run_id}: {network} in {framework}, {plan.recipe}; {images.source}", err=True)
            for note in meter.notes:
                click.echo(with_options(f"meter {meter.name}: {note}", context.command), err=True)
        record = train_under_meter(plan, images, meter, place, run_id=run_id, progress=bar)
    _print_epochs(record)
    if record.status == "interrupted":
        click.echo(f"{record.flags[-1]}; continue with the same command and --run {run_id}", err=True)
        context.exit(next(status for name, status in _SIGNAL_STATUS.items() if name in record.flags[-1]))


def _checked_id(run_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_id):
        raise click.UsageError(f"--run {run_id!r}: give letters, digits, dots, dashes and underscores")
    return run_id


def _plan(network: str, framework: str, options: dict[str, Any], before: Mapping[str, Any]) -> TrainingPlan:
    """The plan from the options; a continued run keeps its earlier end (`before`) unless they change it."""
    from ..measure.training.training import TrainingPlan

    target = options["target"]
    return TrainingPlan(
        network=network,
        framework=framework,
        recipe=_recipe(network, options),
        epochs=options["epochs"] or before.get("epochs", 1),
        width=options["width"],
        seed=options["seed"],
        device=options["device"],
        target=before.get("target") if target is None else target / 100,
        evaluate_every=options["evaluate_every"] or before.get("evaluate_every"),
        checkpoint_s=options["checkpoint_minutes"] * 60,
    )


def _recipe(network: str, options: dict[str, Any]) -> Recipe:
    from dataclasses import replace

    from ..measure.training.recipe import DEFAULT_RECIPES

    names = ("optimizer", "learning_rate", "batch_size", "augment")
    return replace(DEFAULT_RECIPES[network], **{name: options[name] for name in names if options[name] is not None})


def _print_epochs(record: Record) -> None:
    from rich.text import Text

    from ..measure.training.stretches import epochs_of
    from .layout import Column, make_console, show, table_lines, wrapped

    epochs = epochs_of(record.windows)
    losses = ["-" if epoch.loss is None else f"{epoch.loss:.3f}" for epoch in epochs]
    accuracies = ["-" if epoch.accuracy is None else f"{100 * epoch.accuracy:.1f} %" for epoch in epochs]
    columns = [
        Column("epoch", [str(epoch.number) for epoch in epochs], right=True),
        Column("steps", [str(epoch.steps) for epoch in epochs], right=True, keep=2),
        Column("loss", losses, right=True, keep=3),
        Column("accuracy", accuracies, right=True),
        Column("tested on", [f"{one.tested} images" if one.tested else "-" for one in epochs], right=True, keep=1),
        Column("seconds", [f"{epoch.seconds:.1f}" for epoch in epochs], right=True),
        Column("energy by domain", [_domains(epoch.reading) for epoch in epochs], keep=4),
    ]
    console = make_console()
    show(console, [Text(f"{record.name}, run {record.id}: {record.status}", style="bold")])
    if epochs:
        show(console, table_lines(columns, console.width))
    for flag in record.flags:
        show(console, wrapped(flag, console.width, indent=2))


def _domains(reading: Any) -> str:
    """ "package-0 812 J measured, core 640 J measured (not counted)"."""
    from ..measure.training.progress import energy

    if reading is None:
        return "missing"
    parts = []
    for domain in reading.domains:
        figure = "" if domain.energy_uj is None else f"{energy(domain.energy_uj / 1e6)} "
        parts.append(f"{domain.domain} {figure}{domain.label}{'' if domain.counted else ' (not counted)'}")
    return ", ".join(parts) or "missing"


@click.command(epilog="Exit status: 0 done, 1 failed, 2 wrong options, 130 or 143 interrupted (it can continue).")
@click.option("--target", type=FiniteRange(0, 100, min_open=True), default=60.0, show_default=True,
              metavar="PERCENT", help="Test accuracy to train to.")  # fmt: skip
@click.option("--max-epochs", type=click.IntRange(min=1), default=30, show_default=True, metavar="N",
              help="Stop after this many passes over the training set.")  # fmt: skip
@click.option("--only", type=click.Choice(NETWORKS), help="Train only this one; the other is shown if it was trained.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="thesis", show_default=True,
              metavar="DIR", help="Folder for outcome.json, the figures, records and checkpoints.")  # fmt: skip
@_shared_options
@click.pass_context
def thesis(
    context: click.Context, /, target: float, max_epochs: int, only: str | None, out: Path, **options: Any
) -> None:
    """Train SimpleNet (PyTorch) and AlexNet (TensorFlow) to 60 % as the thesis did, and compare.

    Prints Table 4.0.1 of the thesis with this machine's figures, and draws Figures 4.0.1 and 4.0.2. The same
    command continues trainings that were interrupted, and repeats none that is done.
    """
    from ..estimator.base.errors import JoulecastError
    from ..measure.training.thesis import notes_of, read_runs, row_of, run_trainings, write_outcome
    from ..measure.training.thesis_figures import draw_figures

    arguments = [f"--target={target:g}", f"--epochs={max_epochs}", *_passed_on(options)]
    status = run_trainings([only] if only else list(NETWORKS), arguments, out)
    runs = read_runs(out)
    if runs:
        _print_comparison([row_of(record, target / 100) for record in runs.values()], target, notes_of(runs))
        written = [write_outcome(out, runs, target / 100)]
        try:
            written += draw_figures(runs, target / 100, out)
        except JoulecastError as error:
            click.echo(f"measure thesis: {error}", err=True)
        click.echo("written: " + ", ".join(map(str, written)), err=True)
    if status:
        click.echo(f"measure thesis: a training ended with status {status}; run the same command to continue", err=True)
        context.exit(status)


def _passed_on(options: dict[str, Any]) -> list[str]:
    """The shared options as the command line of `train` has them."""
    names = {"preference": "meter"}
    given = {**options, "evaluate_every": options["evaluate_every"] or 100}
    quiet = ["--quiet"] if given.pop("quiet") else []
    pairs = [(names.get(name, name).replace("_", "-"), value) for name, value in given.items() if value is not None]
    return [f"--{name}={value}" for name, value in pairs] + quiet


def _print_comparison(rows: list[ThesisRow], target: float, notes: list[str]) -> None:
    from rich.text import Text

    from ..estimator.answer.figures import number
    from ..measure.training.thesis import THESIS_ROWS
    from .layout import Column, make_console, show, table_lines, wrapped

    shown: list[tuple[ThesisRow, str]] = []
    for old in THESIS_ROWS:
        shown.append((old, "thesis (to 60 %)"))
        shown += [(row, "this machine") for row in rows if row.model == old.model]

    def figures(heading: str, values: list[float | None], keep: int = 99) -> Column:
        return Column(heading, ["-" if value is None else number(value) for value in values], right=True, keep=keep)

    columns = [
        Column("model", [row.model for row, _ in shown]),
        Column("where", [where for _, where in shown]),
        figures("power (W)", [row.power_w for row, _ in shown], keep=1),
        figures("hours", [row.hours for row, _ in shown]),
        figures("kWh-PUE", [row.kwh_pue for row, _ in shown]),
        figures("CO2 (lb)", [row.co2_lb for row, _ in shown], keep=2),
        Column("energy is", [row.label for row, _ in shown]),
    ]
    console = make_console()
    show(console, [Text(f"Table 4.0.1: to {target:g} % accuracy on CIFAR-10", style="bold")])
    show(console, table_lines(columns, console.width))
    for line in [f"{row.model}: {row.note}" for row in rows if row.note] + notes:
        show(console, wrapped(line, console.width, indent=2))


if __name__ == "__main__":
    from .main import run

    run(click.Group("measure", commands=[train, thesis]), "measure")
