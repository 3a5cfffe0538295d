"""Watching your own training loop: a context manager, and a decorator made from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import nn

from ..estimator.base.errors import JoulecastError
from ..estimator.cost.estimate import Estimate
from ..estimator.place.schedule import whole_number
from ..estimator.trace.optimizers import optimizer_of
from ..estimator.trace.workload import Workload
from .forecast import Forecast
from .run import Length, Run
from .terms import Terms
from .tracing import FirstBatch, autocast_precision, bare, read_step

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How a loop trains, logs and saves, as `Budget.watch` takes it."""

    optimizer: Any = "sgd"
    loss: Callable[[Any], torch.Tensor] | None = None
    precision: str | None = None
    log: Callable[[Mapping[str, float]], None] | None = None
    save: Callable[[], object] | None = None


class Watch:
    """What `Budget.watch` gives: `with watch as run`, or `@watch` on a function that takes the run first."""

    def __init__(self, terms: Terms, model: Any, inputs: Any, length: Length, options: LoopOptions) -> None:
        if not isinstance(model, nn.Module):
            raise JoulecastError(f"the model to watch is a {type(model).__name__}; give a torch.nn.Module")
        whole_number("steps", length.steps or 0)
        self._make = functools.partial(Loop, terms, model, inputs, length, options)
        self._loop: Loop | None = None

    def __enter__(self) -> Loop:
        self._loop = self._make()
        return self._loop.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.__exit__(kind, error, frames)

    def __call__(self, function: Callable[Concatenate[Loop, P], T]) -> Callable[P, T]:
        @functools.wraps(function)
        def watched(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._make() as loop:
                return function(loop, *args, **kwargs)

        return watched


class Loop:
    """A training loop under watch. Call `step` after every optimizer step."""

    def __init__(self, terms: Terms, model: nn.Module, inputs: Any, length: Length, options: LoopOptions) -> None:
        self._run = Run(terms, length, log=options.log)
        self.should_stop = False
        self._model, self._inputs, self._options = bare(model), inputs, options
        self._first_batch: FirstBatch | None = None

    @property
    def estimate(self) -> Estimate | None:
        """What was predicted before the first step; None before that, and if the prediction failed."""
        return self._run.estimate

    @property
    def forecast(self) -> Forecast | None:
        """The newest forecast; at the end, what the run took."""
        return self._run.forecast

    def step(self, steps: int = 1) -> None:
        """Counts `steps` more steps. If the forecast exceeds the budget, the training is saved (`save`, `checkpoint`)
        and BudgetExceeded is raised; if the budget only warns, `should_stop` is True from then on.
        """
        if self._run.step(steps) and not self.should_stop:
            self.should_stop = True
            self._run.stopped(self._saved())
            self._run.settle()

    @contextmanager
    def validation(self) -> Iterator[None]:
        """Around each validation, so that its time does not count as a step's."""
        self._run.validation_begins()
        yield
        self._run.validation_ends()

    def __enter__(self) -> Self:
        if self._inputs is None:
            self._first_batch = FirstBatch(self._model, self._begin)
        else:
            self._begin(self._inputs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if self._first_batch is not None:
            self._first_batch.forget()
        self._run.finish()

    def _begin(self, inputs: Any) -> None:
        precision = self._options.precision or autocast_precision(self._model)
        self._run.predict(lambda: self._read(inputs, precision))
        self._run.start()

    def _read(self, inputs: Any, precision: str | None) -> Workload:
        return read_step(
            self._model,
            inputs,
            optimizer=optimizer_of(self._options.optimizer),
            precision=precision,
            loss=self._options.loss,
            accumulate=self._run.length.accumulation,
        )

    def _saved(self) -> object | None:
        """Where the state was saved; None if no way to save it was given."""
        try:
            if self._options.save is not None:
                return self._options.save() or "you saved it"
            path = self._run.terms.checkpoint
            if path is None:
                return None
            state = {"model": self._model.state_dict()}
            if hasattr(self._options.optimizer, "state_dict"):
                state["optimizer"] = self._options.optimizer.state_dict()
            torch.save(state, path)
            return path
        except Exception as error:
            self._run.complain("the checkpoint", error)
            return None
