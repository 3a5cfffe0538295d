"""The cost of a whole run: training steps and validation passes, with one start-up."""

from __future__ import annotations

from dataclasses import replace

from ..cost.estimate import Estimate
from ..cost.profile import Profile
from ..place.schedule import Schedule
from ..trace.workload import Workload


def forecast(profile: Profile, work: Workload, schedule: Schedule) -> Estimate:
    """The cost of `schedule`'s steps of `work`, validation included, on `profile`'s hardware."""
    training = profile.predict(work, steps=schedule.steps, devices=schedule.devices)
    if not schedule.validation_steps:
        return training
    running = replace(profile, startup_s=0.0)  # validation has no start-up of its own
    one_pass = _one_pass(work, schedule.accumulation)
    validation = running.predict(one_pass, steps=schedule.validation_steps, devices=schedule.devices)
    return training + _as_sure_as(training, validation)


def _one_pass(work: Workload, accumulation: int) -> Workload:
    """A forward pass over one of the `accumulation` batches of a step."""
    whole = work.forward_only()
    if accumulation == 1:
        return whole
    ops = tuple(replace(op, count=op.count // accumulation) for op in whole.ops)
    return replace(whole, batch_size=whole.batch_size // accumulation, ops=ops)


def _as_sure_as(training: Estimate, validation: Estimate) -> Estimate:
    """`validation` with the relative bounds of `training` and without notes.

    A forward pass alone is outside the ranges of a profile that was fitted on whole steps, but it is the same network.
    """
    return replace(
        validation,
        seconds=training.seconds * (validation.seconds.value / training.seconds.value),
        energy_kwh=training.energy_kwh * (validation.energy_kwh.value / training.energy_kwh.value),
        warnings=(),
    )
