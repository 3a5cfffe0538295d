"""One step of a script that trains several models: an iteration of its loop, as the forward of a module.

The script's own code runs: forward passes, backward passes and updates in its order. Its optimizers are replaced, as
in a `training_step`, by ones that update nothing and note which parameters they would update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..sandbox.loop_body import LoopBody, with_count
from ..sandbox.no_writes import nothing_written
from .training_step import NotOneStepError, StandInOptimizer, TrainingStep, Update, updated_by
from .workload import Workload

# A loop that updates more often in one iteration is one over epochs.
_MOST_UPDATES = 200


class _StepEndedError(RuntimeError):
    """Too many updates for one step."""


@dataclass(slots=True)
class Ending:
    """The error that ended an iteration after its last update. A trace restores what is an attribute of the module."""

    error: str = ""


class ScriptStep(TrainingStep):
    """An iteration of `body`, on `models` by name. All of `optimizers` must update some of their parameters in it."""

    def __init__(
        self, body: LoopBody, models: Mapping[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        nn.Module.__init__(self)
        self.module = nn.Module()
        for name, model in models.items():
            self.module.add_module(name, model)
        self.updates: dict[str, Update] = {}
        self.body = body
        self.count: int | None = 1  # of a loop that counts: 0 often saves samples or evaluates as well
        self.ending = Ending()
        self._real = [(one, updated_by(one, self.module)) for one in optimizers]

    def forward(self, item: Any) -> None:
        self.updates, self.ending.error = {}, ""
        if self.count is not None and self.body.counter:
            item = with_count(item, self.count)
        stepped: list[int] = []
        with self._counting(stepped):
            try:
                with nothing_written():
                    self.body.run(item)
            except _StepEndedError:
                raise NotOneStepError(f"{self._loop} updates parameters more than {_MOST_UPDATES} times") from None
            except Exception as error:
                if len(set(stepped)) < len(self._real):
                    raise
                # What follows the last update saves samples, or evaluates.
                self.ending.error = f"{type(error).__name__}: {error}"
        if len(set(stepped)) < len(self._real):
            raise NotOneStepError(f"{self._loop} calls {len(set(stepped))} of {len(self._real)} optimizers")

    def without_idle(self, work: Workload) -> bool:
        """Drops the models that the step neither calls nor updates; whether there were some."""
        used = {".".join(op.layer.split(".")[:2]) for op in work.ops}
        idle = [name for name in self.module._modules if f"module.{name}" not in used]
        for name in idle:
            del self.module._modules[name]
        return bool(idle)

    @property
    def _loop(self) -> str:
        return f"an iteration of the loop in line {self.body.line}"

    @contextmanager
    def _counting(self, stepped: list[int]) -> Iterator[None]:
        """The optimizers update nothing, and each update adds to `stepped`."""
        before = [dict(vars(optimizer)) for optimizer, _ in self._real]

        def counted(index: int, step: Any) -> Any:
            def one(*args: Any, **kwargs: Any) -> Any:
                if len(stepped) >= _MOST_UPDATES:
                    raise _StepEndedError
                stepped.append(index)
                return step(*args, **kwargs)

            return one

        try:
            for index, (optimizer, paths) in enumerate(self._real):
                stand_in = StandInOptimizer(self, paths)
                vars(optimizer)["step"] = counted(index, stand_in.step)
                vars(optimizer)["zero_grad"] = stand_in.zero_grad
            yield
        finally:
            for (optimizer, _), own in zip(self._real, before, strict=True):
                for name in ("step", "zero_grad"):
                    if name in own:
                        vars(optimizer)[name] = own[name]
                    else:
                        vars(optimizer).pop(name, None)
