"""A check as Markdown, for the summary of a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from .compare import ROOT, Change, signed_energies
from .run import CheckReport, Outcome
from .wording import notes, reasons, row_figures, verdict_line

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")
_VERDICTS = {"exceeded": "**exceeded**", "kept": "within", "failed": "**failed**", "none": "no budget"}
_MOST_LAYERS = 10


def markdown(report: CheckReport) -> str:
    """The verdict, one row per model, then exceeded budgets, failures and changed layers."""
    head = ["## Training cost", "", f"**{verdict_line(report)}**", ""]
    return "\n".join([*head, *_table(report), *_broken(report), *_changes(report), *_notes(report)]) + "\n"


def _table(report: CheckReport) -> Iterator[str]:
    against = [f"against {_plain(report.base)}"] if report.base else []
    yield _row(["model", "energy with PUE", "90 % interval", "CO2e", "time", "cost", "budget", *against])
    yield _row(["---", *["--:"] * 5, "---", *["---" for _ in against]])
    for outcome in report.outcomes:
        cells = [_plain(outcome.name), *row_figures(outcome), _VERDICTS[outcome.verdict]]
        yield _row([*cells, *([_plain(_since(outcome))] if report.base else [])])
    for name in report.removed:
        yield _row([_plain(name), *[""] * 6, "removed"])


def _since(outcome: Outcome) -> str:
    if outcome.is_new:
        return "new"
    return str(outcome.change) if outcome.change else ""


def _broken(report: CheckReport) -> list[str]:
    lines = [f"- {_plain(f'{outcome.name}: {line}')}" for outcome in report.outcomes for line in reasons(outcome)]
    return ["", *lines] if lines else []


def _changes(report: CheckReport) -> Iterator[str]:
    for outcome in report.outcomes:
        if outcome.change and outcome.change.layers:
            title = f"{outcome.name}: {outcome.change.headline}, by layer"
            yield from _folded(title, _layers(outcome.change))


def _layers(change: Change) -> Iterator[str]:
    yield _row(["layer", "what", "energy over the run", "parameters", "multiply-adds per sample"])
    yield _row(["---", "---", "--:", "--:", "--:"])
    shown = change.layers[:_MOST_LAYERS]
    energies = signed_energies([layer.energy_kwh for layer in shown])
    for layer, energy in zip(shown, energies, strict=True):
        yield _row([_plain(layer.path or ROOT), _plain(layer.what), energy, *layer.sizes])
    if rest := len(change.layers) - len(shown):
        yield from ("", f"{rest} more layers with smaller changes.")


def _notes(report: CheckReport) -> Iterator[str]:
    if lines := notes(report):
        yield from _folded("Notes", (f"- {_plain(line)}" for line in lines))


def _folded(title: str, lines: Iterator[str]) -> Iterator[str]:
    """Blank lines end the HTML, so that the text between them is Markdown."""
    yield from ("", f"<details><summary>{escape(title)}</summary>", "")
    yield from lines
    yield from ("", "</details>")


def _plain(text: str) -> str:
    """Text with Markdown's special characters escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
