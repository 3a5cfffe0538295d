"""The model and the first batch of a training that a trainer's `fit` or `train` starts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PRECISIONS = {"bf16-mixed": "bfloat16", "bf16-true": "bfloat16", "16-mixed": "float16", "16-true": "float16"}


@dataclass(frozen=True, slots=True)
class Batch:
    """`model` as the trainer calls it with `args` and `kwargs`; both are empty where its data cannot be read."""

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    autocast: torch.dtype | None = None
    optimizers: tuple[Any, ...] = ()


def first_batch(call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch | None:
    """What the call of that name would begin with; None for calls and trainers that are not known here."""
    if read := _READERS.get(call):
        with contextlib.suppress(Exception):  # other versions of the trainer may lack what is read
            return read(*args, **kwargs)
    return None


def _of_lightning(trainer: Any, model: Any = None, train_dataloaders: Any = None, *args: Any, **kwargs: Any) -> Batch:
    batch = _first(lambda: train_dataloaders)
    data: tuple[Any, ...] = () if batch is None else (tuple(batch) if isinstance(batch, list) else batch,)
    return Batch(model, data, autocast=_dtype(_PRECISIONS.get(str(trainer.precision))))


def _of_transformers(trainer: Any, *args: Any, **kwargs: Any) -> Batch:
    options = trainer.args
    precision = "bfloat16" if options.bf16 else "float16" if options.fp16 else None
    batch = _first(trainer.get_train_dataloader)
    inputs = dict(batch) if isinstance(batch, Mapping) else {}
    return Batch(trainer.model, (), inputs, _dtype(precision), (str(getattr(options.optim, "value", options.optim)),))


_READERS: Mapping[str, Callable[..., Batch]] = {"Trainer.fit": _of_lightning, "Trainer.train": _of_transformers}


def _first(loader: Callable[[], Any]) -> Any:
    """The first batch, on the CPU; None where the data cannot be read."""
    import torch

    with torch.device("cpu"), contextlib.suppress(Exception):
        return next(iter(loader()))
    return None


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    return None if name is None else getattr(torch, name)
