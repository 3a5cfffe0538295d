"""The notes of answers, grouped by topic: the three that matter most, or all of them."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.text import Text

from ..estimator.answer.answer import Answer
from ..estimator.base.notes import Note, Topic, Weight
from .fields import with_options
from .layout import wrapped

MOST = 3
_STYLES = {Weight.STOP: "bold red", Weight.ACT: "yellow", Weight.ROUGH: "yellow", Weight.DETAIL: ""}


def notes_of(answers: Sequence[Answer]) -> list[Note]:
    """Each note once, the most important first; with several models, a note about some of them names these."""
    about: dict[Note, list[str]] = {}
    for answer in answers:
        for note in _notes(answer):
            about.setdefault(note, []).append(answer.model)
    named = [
        note if len(models) == len(answers) else Note(f"{', '.join(models)}: {note}", note.topic, note.weight)
        for note, models in about.items()
    ]
    return sorted(named, key=lambda note: -note.weight)


def _notes(answer: Answer) -> list[Note]:
    """The notes of one answer; those that do not name their topic have that of where they come from."""
    provenance, site, model = answer.profile.provenance, answer.site, set(answer.workload.warnings)
    notes = [Note.of(note, Topic.MODEL if note in model else Topic.SCHEDULE) for note in answer.estimate.warnings]
    if answer.schedule.note:
        notes.append(Note(answer.schedule.note, Topic.SCHEDULE))
    notes += [Note.of(note, Topic.PROFILE) for note in provenance.notes]
    if provenance.boundary:
        notes.append(Note(f"energy boundary: {provenance.boundary}", Topic.PROFILE))
    sources = (*provenance.sources, f"carbon intensity: {site.carbon_source}", f"price: {site.price_source}")
    notes += [Note(source, Topic.SOURCES) for source in sources]
    return list(dict.fromkeys(notes))


def _with_options(note: Note) -> str:
    """The note with the options of the command that runs, if any, instead of the core's fields."""
    context = click.get_current_context(silent=True)
    return with_options(note, context.command) if context else note


def note_lines(answers: Sequence[Answer], width: int, *, verbose: bool) -> list[Text]:
    """The notes by topic, a blank line before them."""
    notes = notes_of(answers)
    shown = notes if verbose else notes[:MOST]
    if not shown:
        return []
    rest = f" ({len(shown)} of {len(notes)}; --verbose shows all)" if len(shown) < len(notes) else ""
    lines = [Text(""), Text("Notes", style="bold").append(rest, style="not bold dim")]
    by_topic: dict[Topic, list[Note]] = {}
    for note in shown:
        by_topic.setdefault(note.topic, []).append(note)
    for topic, members in by_topic.items():
        lines.append(Text(f"  {topic}", style="dim"))
        for note in members:
            lines += wrapped(_with_options(note), width, indent=2, bullet="- ", style=_STYLES[note.weight])
    return lines
