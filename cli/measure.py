"""`measure`: profiles this machine, and shows what was measured."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..estimator.base.digits import counted
from .fields import with_options
from .finite import FiniteRange
from .help import HELP

if TYPE_CHECKING:
    from ..estimator.cost.profile import Profile
    from ..measure.records.records import Record
    from ..measure.records.store import Store
    from ..measure.suite.cases import Case
    from ..measure.suite.suite import Summary

QUICK_BUDGET_S = 240.0  # with loading and fitting, five minutes
FULL_BUDGET_S = 1140.0
_ANYWHERE = ("list", "show", "export")  # the commands that need no POSIX system
_SIGNAL_STATUS = {"SIGINT": 130, "SIGTERM": 143}

# Subcommands that live elsewhere are imported when they are asked for.
_ELSEWHERE = {
    "watch": (".watch", "Show CPU load and watts per domain, second by second, or while a command runs."),
    "train": (".train", "Train SimpleNet or AlexNet on CIFAR-10 under a meter."),
    "thesis": (".train", "Train both to a target accuracy and compare with the thesis."),
}


class _MeasureGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(importlib.import_module(_ELSEWHERE[cmd_name][0], __package__), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [(name, command.get_short_help_str(200)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *((name, text) for name, (_, text) in _ELSEWHERE.items())])


def _store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--store", "place", metavar="PLACE",
        help="Folder or address (s3://bucket/energy) of records and profiles. Default: $JOULECAST_STORE or the "
        "user's data folder.",
    )(command)  # fmt: skip


@click.group(
    cls=_MeasureGroup,
    invoke_without_command=True,
    context_settings=HELP,
    epilog="Exit status: 0 done, 1 failed, 2 wrong options, 130 or 143 interrupted (run it again to continue).",
)
@click.option("--quick", is_flag=True, help="At most 5 minutes instead of 20.")
@click.option("--budget-s", type=FiniteRange(min=1), metavar="SECONDS", help="Measure for this long.")
@click.option("--only", metavar="PATTERN", help="Only cases whose name or family contains this, or matches it (alex*).")
@click.option("--model", "models", multiple=True, metavar="FILE.py[:NAME]",
              help="Measure this network first, then the part of the suite that the profile needs.")  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, metavar="N", help="For --model."
)
@click.option("--optimizer", type=click.Choice(["sgd", "momentum", "adam", "adamw"]), default="sgd",
              show_default=True, help="For --model.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Measure everything again, and fit the profile without earlier records.")
@click.option("--no-fit", is_flag=True, help="Measure and write records, and do not change the profile.")
@click.option("--power-w", type=FiniteRange(min=0, min_open=True), metavar="WATTS",
              help="The machine's power while it trains, if no meter measures it.")  # fmt: skip
@click.option("--hardware", metavar="NAME", help="The CPU whose power to model if no meter measures it.")
@click.option("--meter", "preference", default="auto", show_default=True, metavar="NAME",
              help="auto, rapl, perf_event, nvml, modelled, none or replay:FILE.")  # fmt: skip
@click.option("--sysfs", type=click.Path(file_okay=False, path_type=Path), default="/sys", show_default=True,
              help="Path of sysfs, for a container that has the host's sysfs elsewhere.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Show no progress.")
@_store_option
@click.pass_context
def measure(ctx: click.Context, /, **options: Any) -> int:
    """Profile this machine: time every kind of op while small networks train.

    Without a command, the calibration suite runs within its time budget, each case is written when it is
    done, and the profile that `estimate` uses is fitted. Run it again to continue.
    """
    if ctx.invoked_subcommand not in _ANYWHERE:
        _check_system()
    if ctx.invoked_subcommand is not None:
        _hand_on(ctx, ctx.invoked_subcommand)
        return 0
    return _profile_this_machine(options)


def _check_system() -> None:
    """Signals, process groups and the energy counters are those of a POSIX system."""
    if sys.platform == "win32":
        from ..estimator.base.errors import JoulecastError

        raise JoulecastError(
            "measuring needs a POSIX system (Linux; macOS without energy counters) and this is Windows:"
            " run it in WSL 2 or on Linux; `measure list`, `show` and `export` work here too"
        )


def _hand_on(ctx: click.Context, name: str) -> None:
    """Passes the group's --store to a command that has this option; other options of the group are an error."""
    group: Any = ctx.command
    command = group.get_command(ctx, name)
    has_store = any("--store" in parameter.opts for parameter in command.params)
    for parameter in group.params:
        source = ctx.get_parameter_source(parameter.name)
        if source is ParameterSource.COMMANDLINE and not (has_store and "--store" in parameter.opts):
            option = parameter.opts[0]
            raise click.UsageError(f"{option} before `{name}` would be ignored: put options after `{name}`")
    ctx.meta["store"] = ctx.params["place"]


def _profile_this_machine(options: dict[str, Any]) -> int:
    from ..measure.meters.selection import select_meter
    from ..measure.suite.calibrate import modelled_power
    from ..measure.suite.cases import machine_cases, user_case
    from ..measure.suite.suite import run_suite, usable
    from .suite_progress import SuiteProgress

    store, host = _opened(options["place"]), _host()
    if options["power_w"] is not None or options["hardware"] is not None:  # find mistakes before the suite runs
        modelled_power(host, power_w=options["power_w"], hardware=options["hardware"])
    must = [user_case(spec, options["batch_size"], options["optimizer"]) for spec in options["models"]]
    cases = machine_cases(host, options["only"])
    with (
        store.measuring(lambda holder: click.echo(f"waiting: process {holder} is measuring here", err=True)),
        select_meter(options["preference"], sysfs=options["sysfs"], hardware=options["hardware"]) as meter,
    ):
        budget_s = options["budget_s"] or (QUICK_BUDGET_S if options["quick"] else FULL_BUDGET_S)
        bench = _bench(meter, host, quick=budget_s < FULL_BUDGET_S / 2)
        before = (
            []
            if options["fresh"]
            else [record for record in store.records(_warn) if usable(record, bench) and _own(record, host)]
        )
        if must and options["only"] is None and (options["no_fit"] or _enough(before, must)):
            cases = []
        with SuiteProgress(quiet=options["quiet"]) as progress:
            progress.say(_opening(store, bench, len(cases) + len(must), budget_s))
            summary = run_suite(cases, store, bench, budget_s=budget_s, earlier=before, progress=progress, must=must)
    _report(summary)
    if summary.interrupted is not None:
        click.echo(f"measure: interrupted by {summary.interrupted}; run it again to continue", err=True)
        return _SIGNAL_STATUS[summary.interrupted]
    if options["no_fit"]:
        return 0
    return _fit_and_tell(store, [*before, *summary.records], options)


def _opened(place: str | None) -> Store:
    from ..measure.records.shared import SharedStore, open_store

    store = open_store(place)
    if isinstance(store, SharedStore):
        store.on_problem = _warn
    return store


def _own(record: Record, host: dict[str, Any]) -> bool:
    """Whether a record is this machine's own; a shared store has those of others of its kind."""
    return record.host.get("node") in (None, host["node"])


def _enough(before: Sequence[Record], must: Sequence[Case]) -> bool:
    """Whether a profile can be fitted on `must` and what was measured `before`, without the suite."""
    from ..estimator.fit.evidence import LEAST_NETWORKS, network_of

    names = {case.name for case in must}
    others = [record.observation() for record in before if record.kind == "case" and record.name not in names]
    return len(names) + len({network_of(one) for one in others if one is not None}) >= LEAST_NETWORKS


def _host() -> dict[str, Any]:
    import torch

    from ..measure.records.records import describe_host

    return describe_host(torch.get_num_threads(), "gpu" if torch.cuda.is_available() else "cpu")


def _bench(meter: Any, host: dict[str, Any], *, quick: bool) -> Any:
    from ..measure.meters.contamination import SystemCounters, oversubscription
    from ..measure.records.store import Store
    from ..measure.suite.drift import Reference
    from ..measure.suite.op_timing import stopwatch_overhead_s
    from ..measure.suite.rounds import FULL, QUICK, Bench, metered

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Bench(
        meter,
        SystemCounters(),
        host,
        metered(QUICK if quick else FULL, meter.name),
        stopwatch_overhead_s(str(host["device"])),
        Store.new_id("suite"),
        oversubscription(host["threads"], processors),
        Reference(str(host["device"])),
    )


def _opening(store: Store, bench: Any, cases: int, budget_s: float) -> str:
    from ..measure.records.records import hardware_name
    from ..measure.training.progress import duration

    lines = [
        f"measuring {hardware_name(bench.host)}: up to {counted(cases, 'case')} in {duration(budget_s)}",
        f"records and profile go to {store.folder}",
        f"meter: {bench.meter.name}" + "".join(f"\n  {note}" for note in bench.meter.notes),
    ]
    for flag in bench.flags:
        lines.append(f"warning: {flag}: they slow each other down; set OMP_NUM_THREADS")
    return with_options("\n".join(lines), measure)


def _report(summary: Summary) -> None:
    parts = [f"{counted(len(summary.measured), 'case')} measured"]
    if summary.kept:
        parts.append(f"{len(summary.kept)} kept from before")
    if summary.skipped:
        parts.append(f"{len(summary.skipped)} not measured within the time ({summary.skipped[0]}, ...)")
    click.echo("; ".join(parts))
    for name, reason in summary.failed.items():
        click.echo(f"failed: {name}: {reason}", err=True)
    disturbed = [record for record in summary.measured if record.disturbed]
    if disturbed:
        flags = ", ".join(disturbed[0].flags)
        _warn(
            f"{counted(len(disturbed), 'disturbed case')} ({disturbed[0].name}: {flags}); "
            "run `measure` again on a quiet machine"
        )


def _fit_and_tell(store: Store, records: list[Record], options: dict[str, Any]) -> int:
    from ..measure.suite.calibrate import fit_profile, modelled_power

    profile = fit_profile(
        records,
        power=lambda: modelled_power(records[-1].host, power_w=options["power_w"], hardware=options["hardware"]),
    )
    path = store.save_profile(profile)
    click.echo(f"profile {path}")
    error = profile.scores.get("time_mean_error")
    if error is not None:
        click.echo(
            f"error of predicted step times on networks left out of the fit: mean {error:.1%}, "
            f"median {profile.scores['time_median_error']:.1%}"
        )
    for line in (
        f"power, {profile.provenance.power}: {profile.provenance.sources[-1]}",
        *(f"note: {note}" for note in profile.provenance.notes),
    ):
        click.echo(with_options(line, measure))
    click.echo(_what_estimate_says(profile, path))
    return 0


def _what_estimate_says(profile: Profile, path: Path) -> str:
    """The estimate for SimpleNet, 100 epochs of CIFAR-10 as in the thesis; `path` is the profile's file."""
    import torch

    from ..estimator.answer import figures
    from ..estimator.base.folders import profiles_folder
    from ..estimator.trace.trace import trace
    from ..models.simplenet import SimpleNet

    batch, epochs, images = 128, 100, 50_000
    with torch.device("meta"):
        work = trace(SimpleNet(), torch.empty(batch, 3, 32, 32), name="SimpleNet", layers=False)
    answer = profile.predict(work, steps=epochs * -(-images // batch))
    seconds, energy = figures.seconds(answer.seconds), figures.energy(answer.energy_kwh)
    asked = "`estimate`"
    if path.parent.resolve() != profiles_folder().resolve():
        asked = f"`estimate --hardware {shlex.quote(str(path.absolute()))}`"
    return (
        f"{asked} now predicts for SimpleNet, {epochs} epochs of CIFAR-10 at batch {batch}: "
        f"{seconds[0]} ({seconds[1]}; {answer.time_source}), {energy[0]} ({energy[1]}; power {answer.power_source})"
    )


def _warn(line: str) -> None:
    click.echo(f"warning: {line}", err=True)


# -- looking at records ----------------------------------------------------------------------------


@measure.command("list")
@click.option("--all", "every", is_flag=True, help="Show each case of the suite on its own line.")
@_store_option
@click.pass_context
def list_records(ctx: click.Context, every: bool, place: str | None) -> None:
    """List the runs, oldest first."""
    store = _opened(place or ctx.meta.get("store"))
    runs: dict[str, list[Record]] = {}
    for record in store.records(_warn):
        runs.setdefault(record.id if every or not record.run else record.run, []).append(record)
    for run, records in runs.items():
        click.echo(_run_line(run, records))
    if not runs:
        click.echo(f"no records in {store.records_folder}; run `measure` to make some", err=True)


def _run_line(run: str, records: list[Record]) -> str:
    from ..measure.records.records import hardware_name

    first = records[0]
    what = f"{first.kind} {first.name}" if len(records) == 1 else f"{len(records)} cases"
    seconds = sum(record.seconds for record in records)
    disturbed = sum(record.disturbed for record in records)
    labels = "/".join(sorted({record.label for record in records}))
    parts = [run, first.created[:19], what, hardware_name(first.host), f"{seconds:.1f} s", f"energy {labels}"]
    if any(record.status != "complete" for record in records):
        parts.append(next(record.status for record in records if record.status != "complete"))
    if disturbed:
        parts.append(f"{disturbed} disturbed")
    return "  ".join(parts)


@measure.command()
@click.argument("record_id")
@_store_option
@click.pass_context
def show(ctx: click.Context, record_id: str, place: str | None) -> None:
    """Show one record: where it ran, its windows, its slowest ops. RECORD_ID may be shortened."""
    from .record_text import record_lines

    store = _opened(place or ctx.meta.get("store"))
    record = store.read(record_id)
    for line in record_lines(record, store.trace_path(record)):
        click.echo(line)


@measure.command()
@click.argument("record_ids", nargs=-1)
@click.option("--format", "form", type=click.Choice(["csv", "json", "parquet"]), default="csv", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Default: standard output. Required for Parquet.")  # fmt: skip
@_store_option
@click.pass_context
def export(ctx: click.Context, record_ids: tuple[str, ...], form: str, output: Path | None, place: str | None) -> None:
    """Write records, all or those named: CSV and Parquet have a row for each window, JSON has everything."""
    from ..estimator.base.errors import JoulecastError
    from ..estimator.base.files import write_bytes
    from ..measure.records.export import exported

    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet writes a binary file: give --output FILE")
    store = _opened(place or ctx.meta.get("store"))
    records = [store.read(name) for name in record_ids] if record_ids else list(store.records(_warn))
    content = exported(records, form)
    if output is None:
        sys.stdout.write(content.decode())
        return
    try:
        write_bytes(output, content)
    except OSError as error:
        raise JoulecastError(f"cannot write {output} ({error.strerror}); name another --output") from error
