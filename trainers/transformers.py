"""A budget as a callback of transformers' Trainer; see `Budget`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ..estimator.base.autocast import transformers_autocast
from ..estimator.trace.optimizers import optimizer_of
from ..estimator.trace.workload import Workload
from .frames import running
from .run import Length, Peers, Run
from .terms import Terms
from .tracing import FirstBatch, bare, read_step


class TransformersBudget(TrainerCallback):
    """Applies a budget to `Trainer.train`. One run at a time; reused, it watches the next run."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._run: Run | None = None
        self._first_batch: FirstBatch | None = None
        self._validates = self._stopped = False

    # -- the Trainer's hooks ---------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        above = running("train", Trainer)
        trainer = above["self"] if above else None

        def log(figures: Mapping[str, float]) -> None:
            if trainer is not None:
                due = trainer.control.should_log  # logging resets it, and the trainer must still log its own figures
                trainer.log(dict(figures))
                trainer.control.should_log = due

        self._forget()
        self._validates = self._stopped = False
        peers = Peers(state.is_world_process_zero, args.world_size, _from_first)
        length, every = (lambda: _length(args, state, trainer)), _log_every(args, state)
        self._run = run = Run(self._terms, length, log=log, log_every=every, peers=peers)
        model, optimizer = bare(kwargs["model"]), kwargs.get("optimizer")

        def begin(inputs: Any) -> None:
            run.predict(lambda: _read(model, inputs, optimizer, args))
            run.start()

        self._first_batch = FirstBatch(model, begin)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._validates = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if self._run is not None and self._run.step() and not self._stopped:
            self._stopped = True
            control.should_save = control.should_training_stop = True
        self._validation_may_begin(control)
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._validation_may_begin(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._run is not None and self._validates:  # once per dataset
            self._run.validation_ends()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._run is not None and self._stopped:
            self._run.stopped(f"{args.output_dir}/checkpoint-{state.global_step}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self._run is not None and logs is not None and "train_runtime" in logs:  # what `train` returns
            figures = self._run.finish(log=False)
            logs.update(figures)
            state.log_history[-1].update(figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self._run
        self._forget()
        if run is not None:
            run.settle()

    # -- what they do ----------------------------------------------------------------------------

    def _forget(self) -> None:
        """Ends the run, also one that failed."""
        if self._first_batch is not None:
            self._first_batch.forget()
        if self._run is not None:
            self._run.finish()
        self._run = self._first_batch = None

    def _validation_may_begin(self, control: Any) -> None:
        """The Trainer reports the end of a validation, not its beginning: it begins as soon as it is due."""
        if self._run is not None and control.should_evaluate:
            self._validates = True
            self._run.validation_begins()


def _from_first(value: Any) -> Any:
    """The value of the first process."""
    if not torch.distributed.is_initialized():
        return value
    shared = [value]
    torch.distributed.broadcast_object_list(shared)
    return shared[0]


def _log_every(args: Any, state: Any) -> int:
    """The Trainer's own steps between two logs; without them, one per epoch or only the last step."""
    strategy = str(getattr(args.logging_strategy, "value", args.logging_strategy))
    per_epoch = state.max_steps // max(1, state.num_train_epochs)
    return max(1, int({"steps": state.logging_steps, "epoch": per_epoch}.get(strategy, state.max_steps)))


def _length(args: Any, state: Any, trainer: Any) -> Length:
    steps = state.max_steps - state.global_step
    validations = batches = 0
    strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
    data: Any = getattr(trainer, "eval_dataset", None)
    sets = list(data.values()) if isinstance(data, Mapping) else [data]
    if strategy != "no" and all(hasattr(one, "__len__") for one in sets):
        samples = math.ceil(sum(len(one) for one in sets) / len(sets))
        batches = math.ceil(samples / (args.per_device_eval_batch_size * max(1, args.world_size)))
        times = steps // max(1, int(state.eval_steps or 1)) if strategy == "steps" else state.num_train_epochs
        validations = times * len(sets)
    return Length(
        steps=steps if state.max_steps > 0 else None,
        accumulation=args.gradient_accumulation_steps,
        devices=max(1, args.world_size) * max(1, args.n_gpu),
        validations=int(validations),
        validation_batches=batches,
    )


def _read(model: Any, inputs: Any, optimizer: Any, args: Any) -> Workload:
    return read_step(
        model,
        inputs,
        optimizer=optimizer_of(optimizer if optimizer is not None else "adamw"),
        precision=transformers_autocast(args),
        accumulate=args.gradient_accumulation_steps,
    )
