"""The model and the first batch of a training that a trainer's `fit` or `train` starts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base.autocast import lightning_autocast, transformers_autocast

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Batch:
    """`model` as the trainer calls it with `args` and `kwargs`; where both are empty, `problem` says why."""

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    autocast: torch.dtype | None = None
    optimizers: tuple[Any, ...] = ()
    problem: str = ""
    accumulated: int = 1
    """Batches of one update, as the trainer was told."""


def first_batch(call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch | None:
    """What the call of that name would begin with; None for calls and trainers that are not known here."""
    if read := _READERS.get(call):
        with contextlib.suppress(Exception):  # other versions of the trainer may lack what is read
            return read(*args, **kwargs)
    return None


def _of_lightning(trainer: Any, model: Any = None, train_dataloaders: Any = None, *args: Any, **kwargs: Any) -> Batch:
    batch, problem = _first(lambda: train_dataloaders)
    data = () if batch is None else (tuple(batch) if isinstance(batch, list) else batch,)
    precision = getattr(getattr(trainer, "_accelerator_connector", None), "asked_precision", None) or trainer.precision
    accumulated = getattr(trainer, "accumulate_grad_batches", 1)
    return Batch(model, data, autocast=_dtype(lightning_autocast(precision)), problem=problem, accumulated=accumulated)


def _of_transformers(trainer: Any, *args: Any, **kwargs: Any) -> Batch:
    batch, problem = _first(trainer.get_train_dataloader)
    inputs = batch if isinstance(batch, dict) else {}
    options = trainer.args
    optimizer = str(getattr(options.optim, "value", options.optim))
    _prepare(trainer.model, options)
    accumulated = getattr(options, "gradient_accumulation_steps", 1)
    return Batch(trainer.model, (), inputs, _dtype(transformers_autocast(options)), (optimizer,), problem, accumulated)


def _prepare(model: Any, options: Any) -> None:
    """What `Trainer.train` does with the model before its first batch."""
    if getattr(options, "activation_checkpointing", None) or getattr(options, "gradient_checkpointing", None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers 5 has another name for it
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if getattr(options, "torch_compile", False):
        model.compile()


_READERS: Mapping[str, Callable[..., Batch]] = {"Trainer.fit": _of_lightning, "Trainer.train": _of_transformers}


def _first(loader: Callable[[], Any]) -> tuple[Any, str]:
    """The first batch, on the CPU; or None, and why there is none."""
    import torch
    from torch.utils._pytree import tree_leaves

    with torch.device("cpu"):
        try:
            batch = _plain(next(iter(loader())))
        except Exception as error:  # the user's data
            return None, f"{type(error).__name__}: {' '.join(str(error).split())}"
    if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(batch)):
        return None, f"it is a {type(batch).__name__} without tensors"
    return batch, ""


def _plain(batch: Any) -> Any:
    """A batch of a tokenizer's own mapping type (transformers' BatchEncoding) as a dictionary."""
    return dict(batch) if isinstance(batch, Mapping) else batch


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    return None if name is None else getattr(torch, name)
