"""The cost of a whole run: training steps and validation passes, with one start-up."""

from __future__ import annotations

from dataclasses import replace

from ..cost.estimate import Estimate
from ..cost.parallel.step import waiting_w
from ..cost.profile import Profile
from ..cost.waiting import with_slow_data
from ..place.schedule import Schedule
from ..trace.workload import Workload


def forecast(profile: Profile, work: Workload, schedule: Schedule, *, data_s: float = 0.0) -> Estimate:
    """The cost of `schedule`'s steps of `work`, validation included, on `profile`'s hardware.

    The data of a step takes `data_s` to arrive.
    """
    idle_w = waiting_w(profile.for_precision(work.precision).power)
    training = profile.predict(work, steps=schedule.steps, devices=schedule.devices)
    fed = with_slow_data(training, data_s * schedule.steps, idle_w)
    if not schedule.validation_steps:
        return fed
    running = replace(profile, startup_s=0.0)  # validation has no start-up of its own
    one_pass = _one_pass(work, schedule.accumulation)
    validation = running.predict(one_pass, steps=schedule.validation_steps, devices=schedule.devices)
    pass_s = data_s / schedule.accumulation
    return fed + with_slow_data(_as_sure_as(training, validation), pass_s * schedule.validation_steps, idle_w)


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
