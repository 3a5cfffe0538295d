"""`joulecast check`: compares a project's models with their budgets, in CI or before a commit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .help import HELP

if TYPE_CHECKING:
    from rich.text import Text

    from ..check.run import CheckReport, Outcome
    from .layout import Column

_STYLES = {"exceeded": "bold red", "kept": "bold green", "failed": "bold red", "none": "dim"}
_WORDS = {"exceeded": "exceeded", "kept": "within", "failed": "failed", "none": "no budget"}


@click.command(
    context_settings=HELP,
    epilog="Exit status: 0 all within budget, 1 a model failed, 2 wrong options or configuration, 3 a budget is "
    "exceeded (even if a model failed too).",
)
@click.argument("names", nargs=-1)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file (default: joulecast.toml or [tool.joulecast] in pyproject.toml, here or in a folder above).",
)
@click.option("--base", metavar="REF", help="Compare with the figures of this branch, tag or commit.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write a Markdown summary.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that read models (default: one per core).",
)
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the cache of traced models."
)
@click.option("--no-cache", is_flag=True, help="Trace every model, and store nothing.")
@click.option("--traceback", is_flag=True, help="Show the frames of the models' own code if they fail.")
def check(
    names: tuple[str, ...],
    config: Path | None,
    base: str | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
    jobs: int | None,
    cache_dir: Path | None,
    no_cache: bool,
    traceback: bool,
) -> int:
    """Compare all models of the project, or those in NAMES, with their budgets.

    \b
    joulecast check
    joulecast check classifier --base main --junit energy.xml --markdown energy.md
    """
    if no_cache and cache_dir:
        raise click.UsageError(f"--no-cache and --cache-dir {cache_dir} contradict: give one of them")
    for path in (junit, markdown):
        if path is not None and path.is_dir():
            raise click.UsageError(f"{path} is a folder: give the name of a file in it")
    report = _report(names, config, base, jobs, cache_dir, no_cache)
    _print(report, as_json)
    if traceback:
        _print_frames(report)
    _write(report, junit, markdown)
    return report.status


def _report(
    names: tuple[str, ...], path: Path | None, base: str | None, jobs: int | None, folder: Path | None, no_cache: bool
) -> CheckReport:
    import tempfile

    from ..check.cache import Cache
    from ..check.config import find_config, read_config
    from ..check.run import check as check_
    from ..estimator.base.folders import cache_folder

    config = read_config(path.absolute() if path else find_config(Path.cwd()))
    if not no_cache:
        return check_(config, Cache(folder or cache_folder() / "check"), names=names, base=base, jobs=jobs)
    with tempfile.TemporaryDirectory(prefix="joulecast-cache-") as kept:  # the base may still share unchanged models
        return check_(config, Cache(Path(kept)), names=names, base=base, jobs=jobs)


# -- output --------------------------------------------------------------------------------------


def _write(report: CheckReport, junit: Path | None, markdown: Path | None) -> None:
    from ..check.junit import junit as as_junit
    from ..check.markdown import markdown as as_markdown
    from ..estimator.base.errors import JoulecastError
    from ..estimator.base.files import write_text

    for path, render in ((junit, as_junit), (markdown, as_markdown)):
        if path is not None:
            try:
                write_text(path, render(report))
            except OSError as error:
                raise JoulecastError(f"{path} cannot be written ({error.strerror}): name another file") from error


def _print(report: CheckReport, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
        return
    from rich.text import Text

    from ..check.wording import notes, verdict_line
    from .layout import make_console, show, table_lines, wrapped

    console = make_console()
    width = console.width
    show(console, table_lines(_columns(report), width))
    show(console, [Text(""), *wrapped(verdict_line(report), width, style=_STYLES[_worst(report)])])
    for outcome in report.outcomes:
        show(console, _outcome_lines(outcome, width))
    for name in report.removed:
        show(console, wrapped(f"{name}: removed since {report.base}", width))
    if lines := notes(report):
        console.print(Text("\nNotes", style="bold"))
        for note in lines:
            show(console, wrapped(note, width, bullet="- ", style="yellow"))


def _worst(report: CheckReport) -> str:
    return next(verdict for verdict in ("exceeded", "failed", "kept", "none") if report.count(verdict))


def _columns(report: CheckReport) -> list[Column]:
    from rich.text import Text

    from ..check.wording import row_figures
    from .layout import Column

    outcomes = report.outcomes
    rows = [row_figures(outcome) for outcome in outcomes]
    verdicts = [Text(_WORDS[outcome.verdict], _STYLES[outcome.verdict]) for outcome in outcomes]
    keep = {"with PUE": 99, "90 % interval": 4, "CO2e": 3, "time": 2, "cost": 1}
    columns = [
        Column("model", [outcome.name for outcome in outcomes], style="bold"),
        *(
            Column(heading, [row[index] for row in rows], right=True, keep=rank)
            for index, (heading, rank) in enumerate(keep.items())
        ),
        Column("budget", verdicts),
    ]
    if not report.base:
        return columns
    changes = [one.change.headline if one.change else "new" if one.is_new else "" for one in outcomes]
    return [*columns, Column(f"against {report.base}", changes)]


def _outcome_lines(outcome: Outcome, width: int) -> list[Text]:
    """Why the model does not pass, and what changed; nothing for an unchanged model within its budgets."""
    from ..check.wording import reasons
    from .layout import wrapped

    lines = []
    for reason in reasons(outcome):
        lines += wrapped(f"{outcome.name}: {reason}", width, style="red")
    if outcome.change and outcome.change.headline != "unchanged":
        lines += wrapped(f"{outcome.name}: {outcome.change}", width)
        for layer in outcome.change.named:
            lines += wrapped(str(layer), width, indent=2, style="dim")
    return lines


def _print_frames(report: CheckReport) -> None:
    for outcome in report.outcomes:
        if outcome.failure and outcome.failure.frames:
            click.echo(f"{outcome.name}:\n{outcome.failure.frames.rstrip()}", err=True)
