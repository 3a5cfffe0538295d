"""What a watched run says in the log: one line before its first step, one at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..estimator.answer import figures
from ..estimator.base.interval import Interval
from ..estimator.base.units import JOULES_PER_KWH
from ..estimator.cost.estimate import Estimate
from ..estimator.place.site import co2e_kg, facility_energy_kwh
from .energy import Energy
from .forecast import Forecast
from .terms import Terms

if TYPE_CHECKING:
    from ..estimator.cost.profile import Profile
    from ..estimator.trace.workload import Workload

_METERS = {
    "measured": "energy is measured by {}",
    "modelled": "energy is {}",
    "missing": "{}: energy is modelled with the prediction's watts",
}


def foretold(steps: int, work: Workload, profile: Profile, estimate: Estimate, terms: Terms, energy: Energy) -> str:
    """The prediction, its verdicts, and how it will be metered."""
    carbon = co2e_kg(facility_energy_kwh(estimate.energy_kwh, terms.site), terms.site)
    parts = [
        f"{steps:,} steps of {work.name} (batch {work.batch_size}, {work.optimizer}, {work.precision}) on "
        f"{profile.name} will take {_spread(figures.energy(estimate.energy_kwh))}, "
        f"{_spread(figures.seconds(estimate.seconds))}, {_spread(figures.carbon(carbon))}",
        *map(str, terms.verdicts(estimate.seconds, estimate.energy_kwh, terms.at)),
        _METERS[energy.label].format(energy.name if energy.label == "measured" else energy.note),
    ]
    return "; ".join(parts)


def taken(forecast: Forecast, estimate: Estimate | None, terms: Terms) -> str:
    """What was used, beside what was predicted where the run went to its end."""
    whole = estimate if forecast.steps == forecast.total_steps else None
    time = _beside(figures.seconds, Interval.exact(forecast.so_far_s), whole.seconds if whole else None)
    if forecast.energy_so_far_j is None:
        return f"{forecast.steps:,} steps took {time}; their energy is not known"
    energy_kwh = Interval.exact(forecast.energy_so_far_j / JOULES_PER_KWH)
    carbon = co2e_kg(facility_energy_kwh(energy_kwh, terms.site), terms.site)
    energy = _beside(figures.energy, energy_kwh, whole.energy_kwh if whole else None)
    return (
        f"{forecast.steps:,} steps took {time}; {energy}, {forecast.energy_label}; "
        f"{figures.carbon(carbon)[0]} with the building's share"
    )


def _spread(texts: tuple[str, str]) -> str:
    return f"{texts[0]} ({texts[1]})"


def _beside(say: Callable[[Interval], tuple[str, str]], used: Interval, predicted: Interval | None) -> str:
    return say(used)[0] + (f" (predicted {say(predicted)[1]})" if predicted else "")
