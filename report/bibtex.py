"""BibTeX entries to cite joulecast, with the figures in the note. The facts are those of CITATION.cff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from joulecast import __version__

from .latex import escape
from .wording import carbon_of, hardware, one_line, origin, summary

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer

TITLE = "joulecast: the energy, CO2e, time and cost of a training run, before its first step"
AUTHORS = "The joulecast developers"
YEAR, MONTH = 2026, "nov"
URL = "https://github.com/joulecast/joulecast"
THESIS = {
    "author": "Hsueh, Gigi",
    "title": "{Carbon Footprint of Machine Learning Algorithms}",
    "howpublished": "Senior project, Bard College",
    "year": "2020",
    "url": "https://digitalcommons.bard.edu/senproj_s2020/296",
}


def bibliography(answers: Sequence[Answer]) -> str:
    """Entries of joulecast and of the thesis that it is based on, as `@misc`, which every style has."""
    first = answers[0]
    notes = [f"{one_line(answer.model)}: {summary(answer)}" for answer in answers]
    notes.append(f"{origin(first)} on {hardware(first)}, {carbon_of(first)}; 90 % intervals in brackets")
    joulecast = {
        "author": f"{{{AUTHORS}}}",
        "title": f"{{{escape(TITLE)}}}",
        "year": str(YEAR),
        "month": MONTH,
        "version": __version__,
        "url": URL,
        "note": escape("; ".join(notes)),
    }
    return _entry("joulecast", joulecast) + "\n" + _entry("hsueh2020carbon", THESIS)


def _entry(key: str, fields: Mapping[str, str]) -> str:
    # Months are the macros of BibTeX's styles, which take no braces.
    lines = [f"  {name} = {value if name == 'month' else f'{{{value}}}'},\n" for name, value in fields.items()]
    return f"@misc{{{key},\n{''.join(lines)}}}\n"
