"""A budget as a callback of Lightning's Trainer; see `Budget`."""

from __future__ import annotations

import copy
import functools
import importlib
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric, MetricCollection

from ..estimator.base.autocast import lightning_autocast
from ..estimator.base.errors import JoulecastError
from ..estimator.trace.optimizers import optimizer_of
from ..estimator.trace.training_step import TrainingStep, step_loss, updated_by
from ..estimator.trace.workload import Workload
from .run import Length, Peers, Run
from .terms import Terms
from .tracing import read_step

# Lightning is published under two names, each with its own classes: the imported one is used.
_NAMES = ("lightning.pytorch", "pytorch_lightning")
_IN_USE = next((name for name in _NAMES if name in sys.modules), _NAMES[0])
Callback: Any = importlib.import_module(_IN_USE).Callback


class LightningBudget(Callback):
    """Applies a budget to `Trainer.fit`. One run at a time; reused, it watches the next run."""

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self._terms = terms
        self._run: Run | None = None
        self._seen_step = 0
        self._stopped = False

    # -- Lightning's hooks -----------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._run, self._seen_step, self._stopped = None, trainer.global_step, False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._run is None:
            self._begin(trainer, pl_module, batch, batch_idx)
        elif self._stopped:  # `min_epochs` or `min_steps` keep it running although it was told to stop
            self._run.settle()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Optimizer steps: when gradients accumulate, a batch is only a part of one.
        if self._run is None or trainer.global_step == self._seen_step:
            return
        self._seen_step = trainer.global_step
        if self._run.step() and not self._stopped:
            self._stopped = True
            trainer.should_stop = True
            self._run.stopped(self._saved(trainer))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self._run is not None:
            self._run.validation_begins()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._run is not None:
            self._run.validation_ends()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish()
            run.settle()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    # -- what they do ----------------------------------------------------------------------------

    def _begin(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        def log(figures: Mapping[str, float]) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(dict(figures), step=trainer.global_step)

        peers = Peers(trainer.is_global_zero, trainer.world_size, trainer.strategy.broadcast)
        every = trainer.log_every_n_steps
        self._run = Run(self._terms, lambda: _length(trainer), log=log, log_every=every, peers=peers)
        self._run.predict(lambda: _read(trainer, pl_module, batch, batch_idx))
        self._run.start()

    def _saved(self, trainer: Any) -> Path | None:
        """The path of the checkpoint; None if checkpoints are disabled and no path was given."""
        assert self._run is not None
        path, writer = self._terms.checkpoint, trainer.checkpoint_callback
        if path is None and writer is None:
            return None
        if path is None:
            path = Path(getattr(writer, "dirpath", None) or trainer.default_root_dir)
            path /= f"joulecast-step={trainer.global_step}.ckpt"
        try:
            trainer.save_checkpoint(path)
        except Exception as error:
            self._run.complain("the checkpoint", error)
            return None
        return path


def _length(trainer: Any) -> Length:
    steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    known = steps != float("inf")
    validations = 0
    if batches != float("inf") and any(trainer.num_val_batches) and trainer.check_val_every_n_epoch:
        epochs = trainer.max_epochs
        if known and trainer.max_epochs in (None, -1):
            epochs = steps * trainer.accumulate_grad_batches // batches
        validations = (epochs or 0) // trainer.check_val_every_n_epoch * int(batches // trainer.val_check_batch)
    return Length(
        steps=max(1, int(steps) - trainer.global_step) if known else None,
        accumulation=trainer.accumulate_grad_batches,
        devices=trainer.world_size,
        validations=max(0, int(validations)),
        validation_batches=int(sum(count for count in trainer.num_val_batches if count != float("inf"))),
    )


def _read(trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Workload:
    updated = [updated_by(optimizer, pl_module) for optimizer in trainer.optimizers]
    step = TrainingStep(_copied(trainer, pl_module), updated, batch_idx)
    read = functools.partial(
        read_step,
        optimizer=optimizer_of(trainer.optimizers[0]),
        precision=lightning_autocast(trainer.precision),
        accumulate=trainer.accumulate_grad_batches,
        name=type(pl_module).__name__,
    )
    try:
        return read(step, (batch,), loss=_loss)
    except JoulecastError as error:
        try:
            work = read(step.module, batch if isinstance(batch, Mapping) else (batch[0],))
        except Exception:  # the forward pass fails too: report the error of the step
            raise error from None
        note = f"training_step cannot be traced ({error}): the prediction uses its forward pass"
        return replace(work, warnings=(*work.warnings, note))


def _loss(output: Any) -> torch.Tensor:
    if output is None:
        raise JoulecastError("training_step returned None for the first batch, which skips it")
    return step_loss(output)


def _copied(trainer: Any, pl_module: Any) -> Any:
    """A copy of the module, so that metrics, logs and counters of the original do not change.

    Weights are not copied: the copy has meta tensors of their shapes. Data is shared.
    """
    shapes: dict[int, Any] = {id(trainer): trainer}
    for parameter in pl_module.parameters():
        shape = torch.empty_like(parameter, device="meta")
        shapes[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
    shapes |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in pl_module.buffers()}
    data = (Dataset, DataLoader)
    shapes |= {id(value): value for value in vars(pl_module).values() if isinstance(value, data)}
    module = copy.deepcopy(pl_module, shapes)
    module.trainer = trainer
    module._device = torch.device("cpu")  # the device of the trace
    _silence(module)
    return module


def _silence(module: Any) -> None:
    """The metrics of the copy return 0, because a trace has no values."""
    nothing = functools.partial(torch.zeros, ())
    for part in module.modules():
        if isinstance(part, Metric):
            part.__dict__.update(forward=lambda *_, **__: nothing(), update=lambda *_, **__: None, compute=nothing)
        elif isinstance(part, MetricCollection):
            part.__dict__.update(forward=lambda *_, **__: defaultdict(nothing), update=lambda *_, **__: None)
