"""The report's sentences. Python fills them here, and the page's script fills the same templates in the browser."""

from __future__ import annotations

from collections.abc import Sequence

from ..estimator.answer.answer import Answer
from ..estimator.answer.figures import number
from ..estimator.place.budget import BudgetVerdict

LIMITED = {"energy": "facility_energy_kwh", "co2e": "co2e_kg", "time": "seconds", "cost": "cost"}
"""The figure that a limit of each quantity is compared with."""

FAR_PERCENT = 1000  # from here on an excess is shown as a multiple

TEMPLATES = {
    "figures": "{facility_energy_kwh} of electricity, {co2e_kg} and {cost}, in {seconds}",
    "fits": "Within budget: {percent} % below {text}",
    "exceeds": "Over budget: {percent} % above {text}",
    "exceeds_far": "Over budget: {times} times {text}",
    "all_fit": "All {count} models fit {limits}",
    "none_fits": "None of the {count} models fits {limits}",
    "some_fit": "{fitting} of {count} models fit {limits}: {names}",
    "least": "{least} needs the least energy, {energy}; {most} needs {factor} times as much",
    "kept": "{quantity} {figure} {unit} {end}, {excess} {unit} below the budget ({percent} %)",
    "exceeded": "{quantity} {figure} {unit} {end}, {excess} {unit} above the budget ({percent} %)",
    "short_kept": "within budget, {percent} % below {text}",
    "short_exceeded": "over budget, {percent} % above {text}",
    "length_fits": "{text}: {length} {unit} would fit",
    "regions_fit": "{text}: would fit in {count} regions ({basis} figures), the cleanest {names}",
    "familiar": "about {count} {plural} ({source})",
    "steps": "{steps} steps",
    "high": "at the upper end of the interval",
    "expected": "as expected",
    "energy": "Energy with PUE",
    "co2e": "CO2e",
    "time": "Time",
    "cost": "Cost",
    "as_given": "as given",
    "this_run": "this run",
}


def fill(template: str, **values: str) -> str:
    return TEMPLATES[template].format(**values)


def verdict_sentence(verdict: BudgetVerdict) -> str:
    """One limit, the figure that it is compared with, and the distance between them."""
    limit = verdict.limit
    return fill(
        "exceeded" if verdict.exceeded else "kept",
        quantity=TEMPLATES[limit.quantity],
        figure=number(verdict.figure / limit.units_per_given),
        unit=limit.given_unit,
        end=TEMPLATES[verdict.at],
        excess=number(abs(verdict.excess) / limit.units_per_given),
        percent=_percent(verdict),
    )


def verdict_headline(answer: Answer) -> str:
    """The limit that is exceeded most, or that leaves the least room."""
    return headline_of(answer.verdicts)


def headline_of(verdicts: Sequence[BudgetVerdict]) -> str:
    """The same for any verdicts."""
    worst = max(verdicts, key=lambda verdict: verdict.excess_percent)
    template = "exceeds" if worst.exceeded else "fits"
    if worst.excess_percent >= FAR_PERCENT:
        template = "exceeds_far"
    times = number(worst.figure / worst.limit.amount)
    return fill(template, percent=_percent(worst), times=times, text=worst.limit.text)


def verdict_note(answer: Answer) -> str:
    """The same for a cell of a table."""
    worst = max(answer.verdicts, key=lambda verdict: verdict.excess_percent)
    return fill("short_exceeded" if worst.exceeded else "short_kept", percent=_percent(worst), text=worst.limit.text)


def _percent(verdict: BudgetVerdict) -> str:
    return number(abs(verdict.excess_percent))


def comparison_headline(answers: Sequence[Answer], names: Sequence[str], energies: Sequence[str]) -> str:
    """Of several models: which fit; without limits, which needs the least energy and how much more the most needs."""
    if answers[0].verdicts:
        fitting = [name for answer, name in zip(answers, names, strict=True) if not answer.exceeded]
        template = "all_fit" if len(fitting) == len(answers) else "some_fit" if fitting else "none_fits"
        limits = " and ".join(verdict.limit.text for verdict in answers[0].verdicts)
        counts = {"count": str(len(answers)), "fitting": str(len(fitting))}
        return fill(template, **counts, names=", ".join(fitting), limits=limits)
    amounts = [answer.facility_energy_kwh.value for answer in answers]
    least, most = amounts.index(min(amounts)), amounts.index(max(amounts))
    factor = number(amounts[most] / amounts[least])
    return fill("least", least=names[least], most=names[most], energy=energies[least], factor=factor)
