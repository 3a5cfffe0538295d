"""`--report` and `--figure`: their paths are checked before a model is read; the files are written after it."""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..estimator.base.errors import JoulecastError

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer


@dataclass(frozen=True, slots=True)
class ReportOutput:
    """The files to write, and the accuracies to show in them; without files nothing is done."""

    report: Path | None
    figure: Path | None
    accuracies: tuple[float, ...]

    def write(self, answers: Sequence[Answer]) -> None:
        """Writes each file atomically. Raises JoulecastError if one cannot be written."""
        if self.report is None and self.figure is None:
            return
        from datetime import datetime

        from joulecast import __version__

        from ..report.document import Report

        today = datetime.now().astimezone().date()
        report = Report(tuple(answers), command_line(), __version__, today, self.accuracies)
        if self.report is not None:
            from ..report.page import render

            write_file("--report", self.report, render(report).encode())
        if self.figure is not None:
            from ..report.figure import figure_bytes, figure_format

            write_file("--figure", self.figure, figure_bytes(report, figure_format(self.figure)))


def read_report_output(models: Sequence[str], options: Mapping[str, Any]) -> ReportOutput:
    """What `--report`, `--figure` and `--accuracy` ask for.

    Raises JoulecastError for an unusable path, format or accuracy, UsageError for options that
    contradict, both before a model is loaded.
    """
    report, figure = options["report"], options["figure"]
    if report is None and figure is None and options["accuracies"]:
        raise click.UsageError("--accuracy is shown in a report or a figure: add --report FILE or --figure FILE")
    if report is None and figure is None:
        return ReportOutput(None, None, ())
    if figure is not None:
        from ..report.figure import figure_format

        figure_format(figure)
    accuracies = _accuracies(options["accuracies"], models)
    for option, path in (("--report", report), ("--figure", figure)):
        if path is not None:
            check_writable(option, path)
    return ReportOutput(report, figure, accuracies)


def check_writable(option: str, path: Path) -> None:
    """Raises JoulecastError when `path` cannot be written, as far as its folder shows, or names another format."""
    if option == "--report" and path.suffix.lower() not in ("", ".html", ".htm"):
        raise JoulecastError(
            f"--report {path} has the suffix {path.suffix!r}: a report is HTML, as in {path.with_suffix('.html')}; "
            "--figure writes .png, .svg and .pdf"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(option, path, error) from error


def write_file(option: str, path: Path, content: bytes) -> None:
    from ..estimator.base.files import write_bytes

    try:
        write_bytes(path, content)
    except OSError as error:
        raise _unwritable(option, path, error) from error
    click.echo(f"wrote {path}", err=True)


def _unwritable(option: str, path: Path, error: OSError) -> JoulecastError:
    return JoulecastError(
        f"{option} {path} cannot be written ({error.strerror}): name a file in a folder that you can write to"
    )


def command_line() -> str:
    """The current command line, quoted for a shell."""
    program = click.get_current_context().find_root().info_name or "estimate"
    return shlex.join([program, *sys.argv[1:]])


# -- accuracies ----------------------------------------------------------------------------------


def _accuracies(texts: Sequence[str], models: Sequence[str]) -> tuple[float, ...]:
    """One accuracy per model, in the models' order, or an empty tuple."""
    given: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not (name and equals):
            raise click.UsageError(f"--accuracy {text!r} is not MODEL=VALUE")
        model = _named(name, models)
        if model in given:
            raise JoulecastError(f"--accuracy {text!r}: {model} has {given[model]:g} already; give one per model")
        given[model] = _accuracy(text, value)
    missing = [model for model in models if model not in given]
    if given and missing:
        raise JoulecastError(f"--accuracy lacks {', '.join(missing)}: give one for every model")
    return tuple(given[model] for model in models) if given else ()


def _accuracy(text: str, value: str) -> float:
    try:
        number = float(value.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise JoulecastError(f"--accuracy {text!r} cannot be used: give a number of 0 or more")
    return number


def _named(name: str, models: Sequence[str]) -> str:
    """The model of that name: as given, or by the name of its file or builder if only one model has it."""
    if name in models:
        return name
    found = [model for model in models if name in _short_names(model)]
    if len(found) == 1:
        return found[0]
    raise JoulecastError(f"--accuracy names {name!r}, the models are {', '.join(models)}: give one of these")


def _short_names(model: str) -> tuple[str, ...]:
    file, _, builder = model.partition(":")
    return (Path(file).stem, builder)
