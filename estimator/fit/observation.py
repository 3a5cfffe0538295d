"""One measured window: what ran, its time and its energy. `fit` reads these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import FitError
from ..trace.workload import Workload

SCHEMA = "joulecast.observation/1"
CALLER = "caller"
"""The meter of energies that are handed over in Python without a word on where they come from."""


@dataclass(frozen=True, slots=True)
class Observation:
    """`steps` steps of `workload`, measured as one window of `seconds` s and `energy_j` J.

    Parameters
    ----------
    workload:
        One step, as `trace` gives it.
    steps:
        Steps in the window.
    seconds:
        Wall time of the window.
    energy_j:
        Joules of the window over the boundary that the meter covers; None where nothing measured
        them (the fit then has times alone).
    op_seconds:
        Seconds of each record of `workload.ops` in one step (its count included), None where an op
        was not timed; or None altogether.
    meter:
        What read `energy_j` ("rapl", "nvml+rapl", ...). Left out, the energies are the caller's own
        measurement and the fitted profile says so; None or "" cannot be fitted.
    hardware, framework:
        What ran it; all observations of one fit must agree.
    family:
        Networks that resemble each other share one: errors are measured on families left out.
    host:
        Facts of the machine, kept with the profile.
    flags:
        Doubts about the window ("throttled", "modelled-power", ...).
    """

    workload: Workload
    steps: int
    seconds: float
    energy_j: float | None = None
    op_seconds: tuple[float | None, ...] | None = None
    meter: str | None = CALLER
    hardware: str | None = None
    framework: str | None = None
    family: str = ""
    host: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @property
    def step_seconds(self) -> float:
        return self.seconds / self.steps

    @property
    def power_w(self) -> float | None:
        """Mean power of the window."""
        return None if self.energy_j is None else self.energy_j / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "workload": self.workload.to_json(),
            "steps": self.steps,
            "seconds": self.seconds,
            "energy_j": self.energy_j,
            "op_seconds": None if self.op_seconds is None else list(self.op_seconds),
            "meter": self.meter,
            "hardware": self.hardware,
            "framework": self.framework,
            "family": self.family,
            "host": dict(self.host),
            "flags": list(self.flags),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Observation:
        """Raises FitError when the document is not an observation, or has energy but no meter."""
        if (schema := document.get("schema")) != SCHEMA:
            raise FitError(f"observation has schema {schema!r}, this version reads {SCHEMA!r}; measure again")
        try:
            values = {key: value for key, value in document.items() if key != "schema"}
            values["workload"] = Workload.from_json(values["workload"])
            values["flags"] = tuple(values.get("flags", ()))
            if values.get("op_seconds") is not None:
                values["op_seconds"] = tuple(values["op_seconds"])
            values["meter"] = values.get("meter")
            observation = cls(**values)
        except (TypeError, KeyError, AttributeError) as error:
            raise FitError(f"observation is corrupt ({error!r}); measure again") from error
        if observation.energy_j is not None and not observation.meter:
            raise FitError(
                f"observation of {observation.workload.name} has {observation.energy_j} J but names no meter; "
                "write the meter that read it"
            )
        return observation
