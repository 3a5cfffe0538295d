"""Texts of a check that the terminal and Markdown share."""

from __future__ import annotations

from ..estimator.answer import figures
from .run import CheckReport, Outcome

_COUNTED = {"exceeded": "over budget", "failed": "failed", "kept": "within budget", "none": "without a budget"}


def verdict_line(report: CheckReport) -> str:
    """The check in one sentence: "3 models: 1 over budget, 2 within budget"."""
    said = [f"{report.count(verdict)} {words}" for verdict, words in _COUNTED.items() if report.count(verdict)]
    models = len(report.outcomes)
    return f"{models} model{'s' if models > 1 else ''}: {', '.join(said)}"


def row_figures(outcome: Outcome) -> list[str]:
    """Energy with PUE and its interval, CO2e, time, cost; empty if there is no answer."""
    answer = outcome.answer
    if answer is None:
        return [""] * 5
    energy, bounds = figures.energy(answer.facility_energy_kwh)
    others = (
        figures.carbon(answer.co2e_kg),
        figures.seconds(answer.estimate.seconds),
        figures.money(answer.cost, answer.site.currency),
    )
    return [energy, bounds, *(value for value, _ in others)]


def reasons(outcome: Outcome) -> list[str]:
    """Why a model does not pass, and what would; empty if it passes."""
    if outcome.failure:
        return [outcome.failure.message]
    if outcome.answer is None:
        return []
    return [*(str(verdict) for verdict in outcome.answer.verdicts if verdict.exceeded), *outcome.answer.fits]


def notes(report: CheckReport) -> list[str]:
    """What the check could not do, and the estimates' notes, each with its models unless it concerns all."""
    about: dict[str, dict[str, None]] = {}
    answers = [(outcome.name, outcome.answer) for outcome in report.outcomes if outcome.answer]
    for name, answer in answers:
        for note in answer.notes:
            about.setdefault(note, {})[name] = None
    of_some = {note: f" ({', '.join(names)})" if len(names) < len(answers) else "" for note, names in about.items()}
    return [*report.notes, *(f"{note}{names}" for note, names in of_some.items())]
