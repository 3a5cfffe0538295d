"""The workload of a script that trains several models: one iteration of its loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from ..trace.training_step import NotOneStepError, step_loss
from ..trace.workload import Workload
from .inputs import rebatched_item

if TYPE_CHECKING:
    from ..trace.script_step import ScriptStep
    from .load import LoadedModel

Read = Callable[..., Workload]


def read_script(read: Read, loaded: LoadedModel, batch_size: int | None) -> Workload:
    """The first of the training's loops of which an iteration is a step of all optimizers.

    `batch_size` None is the script's own. Of a loop that counts, the second iteration is read; the first where only
    that one updates all models.
    """
    assert loaded.training is not None
    step: Any = loaded.model
    problem: JoulecastError | None = None
    for loop in loaded.training.loops:
        step.body = loop
        for count in (1, 0) if loop.counter else (None,):
            step.count = count
            try:
                return _read(read, step, loaded, batch_size)
            except NotOneStepError as error:
                problem = problem or error
    raise JoulecastError(
        f"{loaded.training.name} are trained together, and no loop is one step of all of them ({problem}); "
        "name the class of one, or of a module whose training_step(batch) trains them all"
    ) from problem


def read_with_others(read: Read, loaded: LoadedModel, batch_size: int | None) -> tuple[Workload | None, str]:
    """The training of one model where its step calls others too (a teacher, an encoder), without a gradient.

    None where it calls no other, or cannot be run as a whole, with the note that says so.
    """
    alone = loaded.training
    training = alone.with_others if alone else None
    if alone is None or training is None:
        return None, ""
    step: Any = training.model
    try:
        work = read_script(read, replace(loaded, model=step, training=training), batch_size)
    except JoulecastError as error:
        why = error.__cause__ if isinstance(error.__cause__, NotOneStepError) else error
        return None, f"of {training.name}, {alone.name} alone is costed: the whole step cannot be read ({why})"
    return (work, "") if len(step.module._modules) > 1 else (None, "")


def _read(read: Read, step: ScriptStep, loaded: LoadedModel, batch_size: int | None) -> Workload:
    training = loaded.training
    assert training is not None
    item, own = rebatched_item(step.body.item, batch_size, loaded.device)
    samples = own if own and batch_size is None else batch_size
    if own is None:  # the loop takes numbers, and its code makes the batch
        samples = training.samples or 1
        if batch_size not in (None, samples):
            raise JoulecastError(
                f"`batch_size` {batch_size} cannot be set: {loaded.name} makes its own batches, of {samples} samples; "
                "give it as an argument of the script in `model`"
            )
    work = read(step, ((item,), {}), batch_size=samples, loss=step_loss)
    if step.without_idle(work):
        work = read(step, ((item,), {}), batch_size=samples, loss=step_loss)
    count = len(training.optimizers)
    notes = [
        f"one step is an iteration of the loop in line {step.body.line}, "
        f"with {'its optimizer' if count == 1 else f'all {count} optimizers'}"
    ]
    if batch_size is None:
        notes.append(f"batch size {samples}: the script's own" + ("; `batch_size` sets another" if own else ""))
    if step.count == 0:
        notes.append("not every step updates all models: the first one, which does, is costed for all")
    if step.ending.error:
        notes.append(f"what follows the last update is left out ({step.ending.error})")
    return replace(work, warnings=(*work.warnings, *notes))
