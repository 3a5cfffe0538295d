"""The energy of a run from measure's meters; a meter that fails does not fail the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..estimator.base.errors import MeterError

if TYPE_CHECKING:
    from ..measure.meters.meter import Meter, Window
    from ..measure.meters.selection import SelectedMeter

Complain = Callable[[str, Exception], None]
"""Reports once what failed in joulecast, and why."""

_WHAT = "the energy meter"
_FIRST_UPDATE_S = 0.5  # drivers update the counters of GPUs every 20 to 100 ms


class Energy:
    """A meter and one window of it. Failures go to `complain`, and the figure is then None.

    `meter` is one of `select_meter`'s preferences, or a meter that the caller opens and closes.
    """

    def __init__(self, meter: str | Meter, complain: Complain) -> None:
        self._complain = complain
        self._window: Window | None = None
        self._own: SelectedMeter | None = None
        self._meter: Meter | None = None
        try:
            if isinstance(meter, str):
                from ..measure.meters.selection import select_meter

                self._own = select_meter(meter)
            self._meter = self._own if isinstance(meter, str) else meter
        except Exception as error:
            complain(_WHAT, error)
        self.name = "none" if self._meter is None else self._meter.name
        self.label = _label(self._meter)  # "measured", "modelled", or "missing" without a meter
        self.note = _note(self._meter)

    def start(self) -> None:
        if self._meter is None or self.label == "missing":
            return
        try:
            self._window = self._meter.open()
        except Exception as error:
            self._complain(_WHAT, error)

    def so_far_j(self) -> float | None:
        """Joules since `start`; None if they could not be read."""
        if self._window is None:
            return None
        try:
            reading = self._window.so_far()
            if reading.label == "ambiguous" and reading.seconds < _FIRST_UPDATE_S:
                return None  # the counter has not been updated since `start`
            if reading.energy_j is None:
                raise MeterError("; ".join(reading.reasons) or f"{self.name} gave no total")
            return reading.energy_j
        except Exception as error:
            self._complain(_WHAT, error)
            return None

    def close(self) -> None:
        """Ends the window, and closes the meter unless it is the caller's."""
        window, self._window = self._window, None
        try:
            if window is not None:
                window.close()
            if self._own is not None:
                self._own.close()
        except Exception as error:
            self._complain(_WHAT, error)


def _label(meter: Meter | None) -> str:
    if meter is None or meter.name == "none" or not getattr(meter, "reads_all", True):
        return "missing"
    return "modelled" if any(one.counted and one.label == "modelled" for one in meter.domains) else "measured"


def _note(meter: Meter | None) -> str:
    """The note on a modelled or missing total."""
    if meter is None or meter.name == "none":
        return "no energy meter"
    return meter.notes[-1] if meter.notes else meter.name
