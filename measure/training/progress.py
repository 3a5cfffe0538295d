"""Progress of a training: loss, accuracy, power, and the time and energy left (eq. 3.5.1)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from ...estimator.base.units import JOULES_PER_KWH
from ...estimator.place.schedule import time_left


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A training at one moment. `seconds` and `energy_j` cover the whole run so far, tests included.

    `energy_j` is None and `label` is "missing" if the energy is unknown.
    """

    step: int
    steps_per_epoch: int
    epochs: int
    loss: float | None
    accuracy: float | None
    seconds: float
    energy_j: float | None
    label: str

    @property
    def epochs_done(self) -> float:
        return min(self.epochs, self.step / self.steps_per_epoch)

    @property
    def seconds_left(self) -> float | None:
        """Eq. 3.5.1; None before the first step."""
        return self._left(self.seconds)

    @property
    def energy_left_j(self) -> float | None:
        """Eq. 3.5.1 in joules; None before the first step and if the energy is unknown."""
        return None if self.energy_j is None else self._left(self.energy_j)

    @property
    def power_w(self) -> float | None:
        return None if self.energy_j is None or self.seconds <= 0 else self.energy_j / self.seconds

    def _left(self, so_far: float) -> float | None:
        if self.step == 0:
            return None
        return float(time_left(so_far / self.epochs_done, self.epochs, self.epochs_done))


class TrainingListener(Protocol):
    """Gets the progress of a training."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None: ...
    def wants_update(self) -> bool:
        """Whether the next `update` is due; called after every step."""
        ...

    def update(self, snapshot: Snapshot) -> None: ...
    def milestone(self, snapshot: Snapshot) -> None:
        """The network was tested, or an epoch ended."""
        ...


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def wants_update(self) -> bool:
        return False

    def update(self, snapshot: Snapshot) -> None:
        """Not shown."""

    def milestone(self, snapshot: Snapshot) -> None:
        """Not shown."""


class TrainingBar:
    """A progress bar on a terminal, and one line for each milestone everywhere."""

    def __init__(self, name: str, console: Any = None, *, interval_s: float = 1.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._name = name
        self._console = Console(stderr=True) if console is None else console
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(name, total=1.0, text="")
        self._interval_s = interval_s
        self._shown_s = float("-inf")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def wants_update(self) -> bool:
        return self._console.is_terminal and time.monotonic() - self._shown_s >= self._interval_s

    def update(self, snapshot: Snapshot) -> None:
        self._shown_s = time.monotonic()
        share = snapshot.epochs_done / snapshot.epochs
        self._bar.update(self._task, completed=share, text=describe(snapshot))

    def milestone(self, snapshot: Snapshot) -> None:
        self._bar.print(f"{self._name}  {describe(snapshot)}", highlight=False, soft_wrap=True)


def describe(snapshot: Snapshot) -> str:
    """ "epoch 1.26/10  loss 1.412  accuracy 48.9 %  27.8 W modelled  left 2 h 05 min, 58.2 kJ modelled"."""
    parts = [f"epoch {snapshot.epochs_done:.2f}/{snapshot.epochs}"]
    if snapshot.loss is not None:
        parts.append(f"loss {snapshot.loss:.3f}")
    if snapshot.accuracy is not None:
        parts.append(f"accuracy {snapshot.accuracy:.1%}".replace("%", " %"))
    if snapshot.power_w is not None:
        parts.append(f"{snapshot.power_w:.1f} W {snapshot.label}")
    if snapshot.seconds_left is not None:
        parts.append(f"left {duration(snapshot.seconds_left)}, {_energy(snapshot)}")
    return "  ".join(parts)


def _energy(snapshot: Snapshot) -> str:
    if snapshot.energy_left_j is None:
        return f"energy {snapshot.label}"
    return f"{energy(snapshot.energy_left_j)} {snapshot.label}"


def energy(joules: float) -> str:
    """ "812 J", "8.12 kJ", "0.58 kWh": in a unit that suits the size."""
    if joules < 1e3:
        return f"{joules:.3g} J"
    return f"{joules / 1e3:.3g} kJ" if joules < 1e5 else f"{joules / JOULES_PER_KWH:.3g} kWh"


def duration(seconds: float) -> str:
    """ "2 h 05 min", "12 min 30 s", "9 s"."""
    total = round(seconds)
    if total >= 3600:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 60} min {total % 60:02d} s" if total >= 60 else f"{total} s"
