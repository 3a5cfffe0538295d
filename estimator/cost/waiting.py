"""What a run takes in addition to its own work: slow data, evaluation and checkpoints, and interruptions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..base.digits import short
from ..base.interval import Interval
from ..base.notes import Note, Topic, Weight
from ..base.units import JOULES_PER_KWH, SECONDS_PER_HOUR
from .estimate import Estimate, shares, with_parts

DATA, OTHER_WORK, INTERRUPTIONS = "data loading", "evaluation and checkpoints", "interruptions"
PRACTICE = "long runs in practice"

OVERHEAD = 0.11
"""What long runs take in addition to their steps, relative to those: of BLOOM, 1,082,990 device hours (Luccioni et al.
2022) against 87,261 steps of 104.5 s on 384 devices (chronicles of its training)."""
_SHORT_S = 24 * SECONDS_PER_HOUR

PER_DEVICE_HOUR = 419 / (54 * 24 * 16_384)
"""Unexpected interruptions of Llama 3 405B's training, one in 50,700 device hours (Grattafiori et al. 2024, arXiv
2407.21783, section 3.3.4). BLOOM's training had one or two failures a week on 384 devices, one in 43,000 (Workshop et
al. 2022, arXiv 2211.05100)."""
LOST_HOURS = 0.1 * 54 * 24 / 419
"""At most, of the same training: more than 90 % of the 54 days were effective."""
_WORST = 3.0  # times the lost hours, at the upper end: BLOOM saved every three hours
_WORTH_A_NOTE = 0.01


@dataclass(frozen=True, slots=True)
class Interruptions:
    """How many to expect, and the hours that each costs: the work since the last checkpoint, and the restart."""

    count: float
    hours_each: float

    @property
    def seconds(self) -> float:
        return self.count * self.hours_each * SECONDS_PER_HOUR

    def to_json(self) -> dict[str, float]:
        return {"count": self.count, "hours_each": self.hours_each, "seconds": self.seconds}


def with_slow_data(estimate: Estimate, data_s: float, waiting_w: float) -> Estimate:
    """`estimate` where the data of the whole run takes `data_s` to arrive. A device that waits draws `waiting_w`."""
    own, kwh = estimate.seconds, estimate.energy_kwh
    wait_s, longest_s, least_s = (max(data_s - bound, 0.0) for bound in (own.value, own.low, own.high))
    per_s = waiting_w * estimate.devices / JOULES_PER_KWH
    found = replace(
        estimate,
        seconds=Interval(own.value + wait_s, own.low + longest_s, own.high + least_s),
        energy_kwh=_around(kwh.value + wait_s * per_s, kwh.low + longest_s * per_s, kwh.high + least_s * per_s),
    )
    if not wait_s:
        return found
    share = wait_s / found.seconds.value
    note = Note(f"devices wait for data {share:.0%} of the time (`input_bound`)", Topic.SCHEDULE, Weight.ACT)
    waited = shares({DATA: wait_s * estimate.devices}, {DATA: wait_s * per_s})
    return replace(found, breakdown=with_parts(estimate.breakdown, waited), warnings=(*estimate.warnings, note))


def _around(value: float, low: float, high: float) -> Interval:
    return Interval(value, min(low, value), max(high, value))


def overhead(seconds: float, most: float = OVERHEAD) -> float:
    """The share of `seconds` that a run takes in addition to its steps: `most` of what is beyond one day."""
    return most * max(1.0 - _SHORT_S / seconds, 0.0) if seconds else 0.0


def with_overhead(estimate: Estimate, given: float | None = None, practice: float | None = None) -> Estimate:
    """`estimate` with what a run adds to its steps, at its mean power: a `given` share, or `overhead`.

    `practice` is the most that published runs like this one add, None where only evaluation and checkpoints are known.
    A share that is not given has a note.
    """
    most = OVERHEAD if practice is None else practice
    share = overhead(estimate.seconds.value, most) if given is None else given
    if not share:
        return estimate
    own_s, kwh = estimate.seconds.value * estimate.devices, estimate.energy_kwh.value
    name = OTHER_WORK if practice is None or given is not None else PRACTICE
    parts = shares({name: own_s * share}, {name: kwh * share})
    text = (
        f"evaluation and checkpoints are expected to add {share:.1%} to the steps, as in BLOOM's training "
        "(`overhead` sets another share)"
        if practice is None
        else f"published pre-trainings took longer than their fastest steps (other splits and software, evaluation, "
        f"checkpoints): {share:.1%} is added (`overhead` sets another share)"
    )
    notes = (Note(text, Topic.SCHEDULE, Weight.ROUGH),) if given is None and share > _WORTH_A_NOTE else ()
    return replace(
        estimate,
        seconds=estimate.seconds * (1 + share),
        energy_kwh=estimate.energy_kwh * (1 + share),
        breakdown=with_parts(estimate.breakdown, parts),
        warnings=(*estimate.warnings, *notes),
    )


def with_interruptions(estimate: Estimate, hours_each: float) -> tuple[Estimate, Interruptions]:
    """`estimate` with the time that interruptions cost, in proportion to devices and hours, at the run's mean power.

    The interval reaches from none to three times as much.
    """
    lost = PER_DEVICE_HOUR * hours_each * estimate.devices  # per second of the run
    found = Interruptions(PER_DEVICE_HOUR * estimate.devices * estimate.seconds.value / SECONDS_PER_HOUR, hours_each)
    if not lost:
        return estimate, found

    def longer(interval: Interval) -> Interval:
        return Interval(interval.value * (1 + lost), interval.low, interval.high * (1 + _WORST * lost))

    again = shares({INTERRUPTIONS: found.seconds * estimate.devices}, {INTERRUPTIONS: estimate.energy_kwh.value * lost})
    warnings = estimate.warnings
    if lost > _WORTH_A_NOTE:
        text = (
            f"about {found.count:,.0f} interruptions are expected, {short(hours_each)} h each: {lost:.1%} more time "
            "(failure rate of Llama 3 405B's training; `restart_hours` changes the hours)"
        )
        warnings = (*warnings, Note(text, Topic.SCHEDULE, Weight.ROUGH))
    return (
        replace(
            estimate,
            seconds=longer(estimate.seconds),
            energy_kwh=longer(estimate.energy_kwh),
            breakdown=with_parts(estimate.breakdown, again),
            warnings=warnings,
        ),
        found,
    )
