"""The length of a run: from epochs, steps, samples or tokens to optimizer steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from ..base.errors import JoulecastError
from ..base.interval import Interval

Number = float | int | str
_MOST_STEPS = 10**15  # a step a microsecond for 30 years
Quantity = TypeVar("Quantity", float, Interval)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The length of a run.

    A *pass* runs `batch_size` samples forward (and, in training, backward) on one device; a *step* is one optimizer
    update: `accumulation` passes on each of `devices`. `steps` are those of the whole run, `validation_steps` all
    forward passes over the validation set, per device. `steps_per_epoch`, `samples` (the training set) and `epochs`
    are None if unknown.
    """

    steps: int
    batch_size: int
    accumulation: int = 1
    devices: int = 1
    samples: int | None = None
    steps_per_epoch: int | None = None
    epochs: float | None = None
    validation_steps: int = 0
    global_batch: int | None = None  # samples of a step on all devices, where they are given so

    @property
    def samples_per_step(self) -> int:
        return self.global_batch or self.batch_size * self.accumulation * self.devices

    @property
    def last_step_samples(self) -> int | None:
        """Samples in the last step of an epoch; None if the epoch's length is unknown."""
        if self.samples is None or self.steps_per_epoch is None:
            return None
        return self.samples - (self.steps_per_epoch - 1) * self.samples_per_step

    @property
    def note(self) -> str | None:
        """The note on a last step that is not full."""
        last = self.last_step_samples
        if last is None or last == self.samples_per_step:
            return None
        return f"the last step of each epoch has {last} of {self.samples_per_step} samples, costed as a full step"


def make_schedule(
    *,
    batch_size: Number,
    epochs: Number | None = None,
    steps: Number | None = None,
    samples: Number | None = None,
    tokens: Number | None = None,
    val_samples: Number | None = None,
    dataset_samples: int | None = None,
    tokens_per_sample: int = 1,
    accumulation: Number = 1,
    devices: Number = 1,
    global_batch: int | None = None,
) -> Schedule:
    """The schedule of these fields, each a number or its text.

    One of `epochs`, `steps` and `tokens` gives the length; `samples`, or else the dataset, gives the size of the
    training set. `samples` alone is one epoch. `epochs` may be a fraction. Partial last batches count as steps.
    Raises JoulecastError for values that cannot be used and for combinations that give no length.
    """
    if tokens is not None and tokens_per_sample <= 1:
        raise JoulecastError(f"`tokens` {tokens} needs a model that reads sequences: give `samples` or `steps`")
    batch, passes = whole_number("batch_size", batch_size), whole_number("accumulate", accumulation)
    parallel = whole_number("devices", devices)
    per_step = global_batch or batch * passes * parallel
    training = whole_number("samples", samples) if samples is not None else dataset_samples
    per_epoch = None if training is None else _ceil_divide(training, per_step)
    total = _total_steps(epochs, steps, tokens, samples, tokens_per_sample, per_step, per_epoch)
    if total > _MOST_STEPS:
        raise JoulecastError(f"the run has more than {_MOST_STEPS:,} steps: give a shorter one")
    if epochs is not None:
        run_epochs: float | None = positive_number("epochs", epochs)
    else:
        run_epochs = None if per_epoch is None else total / per_epoch
    return Schedule(
        steps=total,
        batch_size=batch,
        accumulation=passes,
        devices=parallel,
        samples=training,
        steps_per_epoch=per_epoch,
        epochs=run_epochs,
        validation_steps=_validation_steps(val_samples, batch * parallel, run_epochs),
        global_batch=global_batch,
    )


def _total_steps(
    epochs: Number | None,
    steps: Number | None,
    tokens: Number | None,
    samples: Number | None,
    tokens_per_sample: int,
    per_step: int,
    per_epoch: int | None,
) -> int:
    lengths = {"epochs": epochs, "steps": steps, "tokens": tokens}
    given = [f"`{name}` {value}" for name, value in lengths.items() if value is not None]
    if len(given) > 1:
        raise JoulecastError(f"{' and '.join(given)} contradict: give one of them")
    if steps is not None:
        return whole_number("steps", steps)
    if tokens is not None:
        return _ceil_divide(whole_number("tokens", tokens), tokens_per_sample * per_step)
    if epochs is not None:
        number = positive_number("epochs", epochs)
        if per_epoch is None:
            raise JoulecastError(f"`epochs` {epochs} needs the size of the training set: give `samples` or `dataset`")
        # In decimals, as written: 0.07 epochs of 100 steps are 7; in binary fractions they would round up to 8.
        return math.ceil(Fraction(str(number)) * per_epoch)
    if samples is None or per_epoch is None:
        raise JoulecastError("run length missing: give `epochs`, `steps`, `samples` or `tokens`")
    return per_epoch


def _validation_steps(val_samples: Number | None, samples_per_pass: int, epochs: float | None) -> int:
    if val_samples is None:
        return 0
    number = whole_number("val_samples", val_samples)
    if epochs is None:
        raise JoulecastError(
            f"`val_samples` {val_samples} needs the number of epochs: also give `samples` or `dataset`"
        )
    return _ceil_divide(number, samples_per_pass) * math.ceil(epochs)


def _ceil_divide(amount: int, size: int) -> int:
    return -(-amount // size)


def _written_out(text: str) -> str:
    """ "50000" for 50k or 50,000: how a number with a suffix or with separators is given; "" for other texts."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbt]?)", text.strip().lower().replace(",", "").replace(" ", ""))
    if found is None or not float(found[1]):
        return ""
    exponent = {"": 0, "k": 3, "m": 6, "b": 9, "t": 12}[found[2]]
    return f"{found[1]}e{exponent}" if exponent else found[1]


def positive_number(field: str, value: Number) -> float:
    """`value` as a number above 0; JoulecastError names the field and the value."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        written = _written_out(str(value))
        example = f", such as {written}" if written else ""
        raise JoulecastError(f"`{field}` {value} cannot be used: give a number above 0{example}")
    return number


def whole_number(field: str, value: Number) -> int:
    """`value` as a whole number above 0; JoulecastError names the field and the value."""
    number = positive_number(field, value)
    if number != int(number):
        raise JoulecastError(f"`{field}` {value} cannot be used: give a whole number")
    return int(number)


def time_left(epoch_average: Quantity, epochs_total: float, epoch_current: float) -> Quantity:
    """Eq. 3.5.1: the rest of a run, in the unit of `epoch_average` (seconds, kWh, ...).

    `epoch_current` is the number of epochs done. Raises JoulecastError outside 0..`epochs_total`.
    """
    if not 0 <= epoch_current <= epochs_total < math.inf:
        raise JoulecastError(
            f"epoch {epoch_current} of {epochs_total} cannot be used: give the epochs done, at most the total"
        )
    return epoch_average * (epochs_total - epoch_current)
