"""The answers as a table for a paper: plain LaTeX with the rules of `booktabs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..estimator.answer import figures
from .wording import carbon_of, hardware, one_line, origin

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer
    from ..estimator.base.interval import Interval

_COLUMNS: tuple[tuple[str, tuple[tuple[float, str], ...], Callable[[Answer], Interval]], ...] = (
    ("Time", figures.TIMES, lambda answer: answer.estimate.seconds),
    ("Energy", figures.ENERGIES, lambda answer: answer.estimate.energy_kwh),
    ("With PUE", figures.ENERGIES, lambda answer: answer.facility_energy_kwh),
    ("CO$_2$e", figures.MASSES, lambda answer: answer.co2e_kg),
)
# Braces by name: BibTeX counts `\{` as an opening brace.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': r"\char34{}",
    "-": r"-{}",
    **{char: "\\" + char for char in "$&#%_"},
}


def escape(text: str) -> str:
    """`text` as LaTeX sets it character by character: no command, no comment, no ligature."""
    return "".join(_SPECIAL.get(char, char) for char in one_line(text))


def table(answers: Sequence[Answer]) -> str:
    """A `tabular` with a header and a row per model; each column in one unit, intervals in brackets."""
    first = answers[0]
    cells = [_column(units, [figure(answer) for answer in answers]) for _, units, figure in _COLUMNS]
    rows = zip(answers, *(values for _, values in cells), strict=True)
    lines = [
        f"% {origin(first)}",
        f"% On {hardware(first)}, PUE {figures.number(first.site.pue)}, {carbon_of(first)}; 90 % intervals in brackets",
        *(f"% Note: {one_line(note)}" for note in dict.fromkeys(_notes(answers))),
        r"% Needs \usepackage{booktabs}",
        r"\begin{tabular}{l" + "r" * len(_COLUMNS) + "}",
        r"\toprule",
        _row(["Model", *(name for name, _, _ in _COLUMNS)]),
        _row(["", *(f"({unit})" for unit, _ in cells)]),
        r"\midrule",
        *(_row([escape(answer.model), *values]) for answer, *values in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _notes(answers: Sequence[Answer]) -> list[str]:
    return [note for answer in answers for note in answer.estimate.warnings]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _column(units: tuple[tuple[float, str], ...], intervals: Sequence[Interval]) -> tuple[str, list[str]]:
    """The unit that fits the largest, and each figure in it with its interval."""
    factor, unit = figures.scale(max(interval.value for interval in intervals), units)
    return unit, [_cell(interval * (1 / factor)) for interval in intervals]


def _cell(interval: Interval) -> str:
    value, low, high = (figures.number(end) for end in (interval.value, interval.low, interval.high))
    return f"{value} ({low}--{high})"
