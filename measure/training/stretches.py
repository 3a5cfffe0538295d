"""The stretches of a training run: which steps, when to test, and their sums."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..meters.meter import Meter
from ..meters.reading import WORST_FIRST, DomainReading, Label, PowerTrace, Reading, TracePoint
from ..records.records import MeasuredWindow
from ..signals import StopSignals
from .cifar10 import ImageArray, Images, LabelArray
from .progress import Snapshot, TrainingListener
from .recipe import Order, augmented, drawn_test_images
from .trainer import Trainer

if TYPE_CHECKING:
    from .training import TrainingPlan

_TEST_BATCH = 500


@dataclass(frozen=True, slots=True)
class Position:
    """The progress of a run: `step` steps done, the last of them in `epoch` (counted from 1)."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive steps of one epoch, the last of which is `step`."""

    epoch: int
    step: int
    losses: tuple[float, ...]
    learning_rate: float
    training: Reading

    @property
    def last_loss(self) -> float:
        return self.losses[-1]

    def window(self, flags: tuple[str, ...]) -> MeasuredWindow:
        """The window for the record; a test after it adds `Tested.figures`."""
        figures: dict[str, float] = {"epoch": self.epoch, "step": self.step}
        loss = sum(self.losses) / len(self.losses)
        if math.isfinite(loss):
            figures["loss"] = loss
        first = self.step - len(self.losses) + 1
        name = f"epoch {self.epoch}, steps {first} to {self.step}"
        return MeasuredWindow(name, len(self.losses), self.training.seconds, self.training, flags, figures)


@dataclass(frozen=True, slots=True)
class Tested:
    """The accuracy on `images` test images. If a sample reached the target first, `readings` includes its reading."""

    accuracy: float
    images: int
    readings: tuple[Reading, ...]

    def figures(self) -> dict[str, float]:
        seconds = sum(reading.seconds for reading in self.readings)
        figures = {"accuracy": self.accuracy, "tested": self.images, "test_seconds": seconds}
        energies = [reading.energy_j for reading in self.readings]
        known = [energy for energy in energies if energy is not None]
        if len(known) == len(energies):
            figures["test_energy_j"] = sum(known)
        return figures


class Stretches:
    """Trains and tests a plan step by step. The state of the run is in its windows, not here."""

    def __init__(self, plan: TrainingPlan, images: Images) -> None:
        self._plan, self._images = plan, images
        self._order = Order(len(images.train_labels), plan.recipe.batch_size, plan.seed)
        self._sample = drawn_test_images(images, plan.evaluate_images, plan.seed)
        self.steps_per_epoch = self._order.steps_per_epoch
        self.steps = self.steps_per_epoch * plan.epochs

    def position(self, windows: Sequence[MeasuredWindow]) -> Position:
        step = int(windows[-1].figures["step"]) if windows else 0
        return Position(max(1, -(-step // self.steps_per_epoch)), step)

    def finished(self, windows: Sequence[MeasuredWindow]) -> bool:
        """All epochs done and tested, or the target reached on the whole test set."""
        if self.position(windows).step >= self.steps and not self.owes_test(windows):
            return True
        target = self._plan.target
        return target is not None and any(
            window.figures.get("tested") == len(self._images.test_labels) and window.figures["accuracy"] >= target
            for window in windows[-1:]
        )

    def train(
        self,
        trainer: Trainer,
        meter: Meter,
        windows: Sequence[MeasuredWindow],
        progress: TrainingListener,
        stop: StopSignals,
    ) -> Stretch:
        """Trains from the end of `windows`, at least one step. A loss that is not finite ends the stretch."""
        step = self.position(windows).step
        epoch = step // self.steps_per_epoch
        order, losses = self._order.epoch_order(epoch), list[float]()
        learning_rate = 0.0
        window = meter.open()
        began_s = time.monotonic()
        try:
            while not losses or not self._ends(step, losses[-1], began_s, stop):
                pixels, labels = self._batch(order, step)
                learning_rate = self._plan.recipe.learning_rate_at(step)
                losses.append(trainer.step(pixels, labels, learning_rate))
                step += 1
                if progress.wants_update():
                    progress.update(self._snapshot_within(windows, step, losses, window.so_far()))
        finally:
            reading = window.close()
        return Stretch(epoch + 1, step, tuple(losses), learning_rate, reading)

    def _ends(self, step: int, loss: float, began_s: float, stop: StopSignals) -> bool:
        return (
            self._is_test(step)
            or not math.isfinite(loss)
            or stop.received is not None
            or time.monotonic() - began_s >= self._plan.checkpoint_s
        )

    def _is_test(self, step: int) -> bool:
        in_epoch, every = step % self.steps_per_epoch, self._plan.evaluate_every
        return in_epoch == 0 or (every is not None and in_epoch % every == 0)

    def owes_test(self, windows: Sequence[MeasuredWindow]) -> bool:
        """Whether the test after the latest step is missing, because a signal came in between."""
        return bool(windows) and "accuracy" not in windows[-1].figures and self._is_test(self.position(windows).step)

    def test(self, trainer: Trainer, meter: Meter, step: int) -> Tested:
        """The test after `step`: on a sample, or on all images at an epoch's end or if that reaches the target."""
        sampled: tuple[Reading, ...] = ()
        if step % self.steps_per_epoch:
            accuracy, reading = self._accuracy(trainer, meter, *self._sample)
            sampled, target, images = (reading,), self._plan.target, len(self._sample[1])
            if target is None or accuracy < target or images == len(self._images.test_labels):
                return Tested(accuracy, images, sampled)
        accuracy, reading = self._accuracy(trainer, meter, self._images.test_images, self._images.test_labels)
        return Tested(accuracy, len(self._images.test_labels), (*sampled, reading))

    def _accuracy(
        self, trainer: Trainer, meter: Meter, pixels: ImageArray, labels: LabelArray
    ) -> tuple[float, Reading]:
        window = meter.open()
        try:
            correct = sum(
                trainer.count_correct(pixels[at : at + _TEST_BATCH], labels[at : at + _TEST_BATCH])
                for at in range(0, len(labels), _TEST_BATCH)
            )
        finally:
            reading = window.close()
        return correct / len(labels), reading

    def _batch(self, order: np.ndarray[Any, np.dtype[np.int64]], step: int) -> tuple[ImageArray, LabelArray]:
        rows = self._order.rows(order, step)
        pixels = self._images.train_images[rows]
        if self._plan.recipe.augment:
            pixels = augmented(pixels, self._plan.seed, step)
        return pixels, self._images.train_labels[rows]

    def snapshot(self, windows: Sequence[MeasuredWindow]) -> Snapshot:
        loss = windows[-1].figures.get("loss") if windows else None
        return self._snapshot(windows, self.position(windows).step, loss, None)

    def _snapshot_within(
        self, windows: Sequence[MeasuredWindow], step: int, losses: Sequence[float], now: Reading
    ) -> Snapshot:
        return self._snapshot(windows, step, sum(losses) / len(losses), now)

    def _snapshot(
        self, windows: Sequence[MeasuredWindow], step: int, loss: float | None, now: Reading | None
    ) -> Snapshot:
        readings = [window.reading for window in windows if window.reading is not None]
        readings += [] if now is None else [now]
        energies = [reading.energy_j for reading in readings]
        energies += [one.figures.get("test_energy_j") for one in windows if "accuracy" in one.figures]
        known = [energy for energy in energies if energy is not None]
        tested = [window.figures["accuracy"] for window in windows if "accuracy" in window.figures]
        test_s = sum(window.figures.get("test_seconds", 0.0) for window in windows)
        return Snapshot(
            step=step,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self._plan.epochs,
            loss=loss,
            accuracy=tested[-1] if tested else None,
            seconds=sum(reading.seconds for reading in readings) + test_s,
            energy_j=sum(known) if known and len(known) == len(energies) else None,
            label=worst_label([reading.label for reading in readings]),
        )


# -- sums ----------------------------------------------------------------------------------------


def worst_label(labels: Sequence[Label]) -> Label:
    """The label of a sum; "missing" for no labels."""
    return next((label for label in WORST_FIRST if label in labels), "missing")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training set, or the part of it that was run.

    `seconds` and `reading` cover the training steps only. `accuracy` is from the last test, on `tested` images; `loss`
    is the mean over the steps.
    """

    number: int
    steps: int
    loss: float | None
    accuracy: float | None
    tested: int
    seconds: float
    reading: Reading | None


def epochs_of(windows: Sequence[MeasuredWindow]) -> tuple[Epoch, ...]:
    """The windows of a training record, summed by epoch."""
    numbers = sorted({int(window.figures["epoch"]) for window in windows})
    return tuple(
        _epoch(number, [window for window in windows if window.figures["epoch"] == number]) for number in numbers
    )


def _epoch(number: int, windows: Sequence[MeasuredWindow]) -> Epoch:
    steps = sum(window.steps for window in windows)
    has_loss = all("loss" in window.figures for window in windows)
    loss = sum(window.figures["loss"] * window.steps for window in windows) / steps if has_loss else None
    tested = [window.figures for window in windows if "accuracy" in window.figures]
    accuracy, count = (tested[-1]["accuracy"], int(tested[-1]["tested"])) if tested else (None, 0)
    readings = [window.reading for window in windows if window.reading is not None]
    total = summed(readings) if len(readings) == len(windows) else None
    return Epoch(number, steps, loss, accuracy, count, sum(one.seconds for one in windows), total)


def summed(readings: Sequence[Reading]) -> Reading:
    """The sum of readings of one meter, domain by domain; a domain that one of them lacks has no sum."""
    names = dict.fromkeys(domain.domain for reading in readings for domain in reading.domains)
    domains = tuple(_summed_domain(name, readings) for name in names)
    return Reading(readings[0].meter, sum(reading.seconds for reading in readings), domains)


def _summed_domain(name: str, readings: Sequence[Reading]) -> DomainReading:
    found = [domain for reading in readings for domain in reading.domains if domain.domain == name]
    reasons = dict.fromkeys(domain.reason for domain in found if domain.reason)
    energies = [domain.energy_uj for domain in found if domain.energy_uj is not None]
    if len(found) < len(readings):
        return replace(found[0], label="missing", energy_uj=None, reason="not read in every window")
    label = worst_label([domain.label for domain in found])
    total = None if label in ("missing", "ambiguous") else sum(energies)
    counted = any(domain.counted for domain in found)
    return replace(found[0], label=label, energy_uj=total, counted=counted, reason="; ".join(reasons))


def joined_traces(before: PowerTrace | None, after: PowerTrace) -> PowerTrace | None:
    """Joins two traces: times and energies of the second continue from the end of the first.

    None if neither has any energy. A domain without a value at the end of the first has none after it, because its
    energy is unknown. Both must have the same domains. The second decides which of them count, because mirrored
    counters may be detected late.
    """
    if len(after.points) < 2 or not any(uj is not None for point in after.points for uj in point.energy_uj):
        return before
    if before is None:
        return after
    last = before.points[-1]
    shifted = tuple(
        TracePoint(
            last.seconds + point.seconds,
            tuple(
                None if first is None or uj is None else first + uj
                for first, uj in zip(last.energy_uj, point.energy_uj, strict=True)
            ),
        )
        for point in after.points
        if point.seconds > 0
    )
    return replace(before, counted=after.counted, points=(*before.points, *shifted))
