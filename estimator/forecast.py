"""What a whole run costs: its training steps and its validation passes, started once."""

from __future__ import annotations

from dataclasses import replace

from .estimate import Estimate
from .profile import Profile
from .schedule import Schedule
from .workload import Workload


def forecast(profile: Profile, work: Workload, schedule: Schedule) -> Estimate:
    """The cost of `schedule`'s steps of `work`, validation included, on `profile`'s hardware."""
    training = profile.predict(work, steps=schedule.steps, devices=schedule.devices)
    if not schedule.validation_steps:
        return training
    running = replace(profile, startup_s=0.0)  # validation runs within the training that has started
    validation = running.predict(work.forward_only(), steps=schedule.validation_steps, devices=schedule.devices)
    return training + validation
