"""The log lines of a watched run: one before its first step, one at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..estimator.answer import figures
from ..estimator.base.digits import counted
from ..estimator.base.interval import Interval
from ..estimator.base.units import JOULES_PER_KWH
from ..estimator.cost.estimate import Estimate
from ..estimator.place.site import co2e_kg, facility_energy_kwh
from .energy import Energy
from .forecast import Forecast
from .terms import Terms

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer

_METERS = {
    "measured": "energy is measured by {}",
    "modelled": "energy is {}",
    "missing": "{}: energy is modelled with the predicted watts",
}


def prediction_line(answer: Answer, energy: Energy) -> str:
    """The prediction, its verdicts, and how the run is metered."""
    work = answer.workload
    parts = [
        f"{counted(answer.schedule.steps, 'step')} of {work.name} "
        f"(batch {work.batch_size}, {work.optimizer}, {work.precision}) "
        f"on {answer.profile.name} will take {_spread(figures.energy(answer.energy_kwh))}, "
        f"{_spread(figures.seconds(answer.seconds))}, {_spread(figures.carbon(answer.co2e_kg))}",
        *map(str, answer.verdicts),
        _METERS[energy.label].format(energy.name if energy.label == "measured" else energy.note),
    ]
    return "; ".join(parts)


def result_line(forecast: Forecast, estimate: Estimate | None, terms: Terms) -> str:
    """What the run used; if it was completed, also what was predicted."""
    whole = estimate if forecast.steps == forecast.total_steps else None
    time = _beside(figures.seconds, Interval.exact(forecast.so_far_s), whole.seconds if whole else None)
    if forecast.energy_so_far_j is None:
        return f"{counted(forecast.steps, 'step')} took {time}; energy unknown"
    energy_kwh = Interval.exact(forecast.energy_so_far_j / JOULES_PER_KWH)
    carbon = co2e_kg(facility_energy_kwh(energy_kwh, terms.site), terms.site)
    energy = _beside(figures.energy, energy_kwh, whole.energy_kwh if whole else None)
    used = f"{energy}, {forecast.energy_label}; {figures.carbon(carbon)[0]} with PUE"
    return f"{counted(forecast.steps, 'step')} took {time}; {used}"


def _spread(texts: tuple[str, str]) -> str:
    return f"{texts[0]} ({texts[1]})"


def _beside(say: Callable[[Interval], tuple[str, str]], used: Interval, predicted: Interval | None) -> str:
    return say(used)[0] + (f" (predicted {say(predicted)[1]})" if predicted else "")
