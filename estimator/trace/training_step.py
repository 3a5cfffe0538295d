"""`training_step` of a LightningModule, or of any module that defines one, as the forward of a module.

A step may return its loss; run its optimizers itself (`manual_backward`, `optimizer.step()`), as GANs do; or be called
once for each optimizer (`optimizer_idx`). Its optimizers are replaced by ones that update nothing and note which
parameters they would update.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..base.errors import JoulecastError
from .batch import tensors_in
from .formulas import numel

_MOST_OPTIMIZERS = 100  # longer lists are data
_NO_LOSS = "training_step returned no loss and ran no backward pass; return the loss, or define forward"


class NotOneStepError(JoulecastError):
    """An iteration of a script's loop is not one step of all its optimizers."""


def has_training_step(model: nn.Module) -> bool:
    """True for a module whose work is in `training_step`, not in `forward`."""
    return callable(getattr(model, "training_step", None))


class TrainingStep(nn.Module):
    """`training_step` of a module, which logs nothing and updates nothing while it is traced.

    `optimizers` are the paths of the parameters that each optimizer updates, in order; by default those of
    `configure_optimizers`.
    """

    def __init__(
        self, module: nn.Module, optimizers: Sequence[Sequence[str]] | None = None, batch_index: int = 0
    ) -> None:
        super().__init__()
        self.module = module
        self.updates: dict[str, Update] = {}
        parameters = inspect.signature(module.training_step).parameters  # type: ignore[arg-type]
        self._per_optimizer = "optimizer_idx" in parameters
        self._index = (batch_index,) if len(parameters) > 1 else ()
        paths = [updated_by(one, module) for one in configured(module)] if optimizers is None else optimizers
        self._optimizers = [StandInOptimizer(self, one) for one in paths]
        self._own = {
            name: [StandInOptimizer(self, updated_by(one, module)) for one in found]
            for name, value in vars(module).items()
            if (found := _optimizers_in(value))
        }

    def forward(self, batch: Any) -> Any:
        """What `training_step` returns; None if it ran its backward passes itself."""
        self.updates = {}
        with self._replaced():
            if not self._per_optimizer:
                return self.module.training_step(batch, *self._index)  # type: ignore[operator]
            for index, optimizer in enumerate(self._optimizers):
                with optimizer.toggle_model():
                    step_loss(self.module.training_step(batch, *self._index, index)).backward()  # type: ignore[operator]
                    optimizer.step()
                    optimizer.zero_grad()
            return None

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        """The module's methods that need a trainer, and its optimizers, are stand-ins."""
        names = vars(self.module)
        stand_ins: dict[str, Any] = {
            "log": _nothing,
            "log_dict": _nothing,
            "optimizers": lambda *_, **__: self._optimizers[0] if len(self._optimizers) == 1 else self._optimizers,
            "lr_schedulers": lambda *_: _Schedule(),
            "manual_backward": lambda loss, *args, **kwargs: loss.backward(*args, **kwargs),
            "clip_gradients": _nothing,
            "toggle_optimizer": lambda optimizer, *_: optimizer.toggle(),
            "untoggle_optimizer": lambda optimizer, *_: optimizer.untoggle(),
        }
        for name, own in self._own.items():
            stand_ins[name] = own[0] if isinstance(names[name], torch.optim.Optimizer) else _like(names[name], own)
        before = {name: names[name] for name in stand_ins if name in names}
        names.update(stand_ins)
        try:
            yield
        finally:
            for name in stand_ins:
                del names[name]
            names.update(before)


class Update:
    """How often a parameter is updated in a step, and the elements of its gradient."""

    __slots__ = ("count", "elements")

    def __init__(self, elements: int) -> None:
        self.count, self.elements = 0, elements


class StandInOptimizer:
    """Stands for an optimizer of the step, whose parameters are given by their paths."""

    def __init__(self, step: TrainingStep, paths: Iterable[str]) -> None:
        self._step, self._paths = step, tuple(paths)
        self._toggled: list[nn.Parameter] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._parameters().values()), "lr": 0.001}]

    @property
    def optimizer(self) -> StandInOptimizer:
        return self

    def step(self, closure: Callable[[], Any] | None = None, **_: Any) -> Any:
        result = closure() if closure is not None else None
        for path, parameter in self._parameters().items():
            if parameter.grad is not None:
                update = self._step.updates.setdefault(f"module.{path}", Update(numel(parameter.grad)))
                update.count += 1
        return result

    def zero_grad(self, *_: Any, **__: Any) -> None:
        for parameter in self._parameters().values():
            parameter.grad = None

    @contextmanager
    def toggle_model(self, *_: Any, **__: Any) -> Iterator[None]:
        self.toggle()
        try:
            yield
        finally:
            self.untoggle()

    def toggle(self) -> None:
        """Only the parameters of this optimizer get gradients."""
        own = {id(parameter) for parameter in self._parameters().values()}
        for parameter in self._step.module.parameters():
            if parameter.requires_grad and id(parameter) not in own:
                self._toggled.append(parameter)
                parameter.requires_grad_(False)

    def untoggle(self) -> None:
        while self._toggled:
            self._toggled.pop().requires_grad_()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def _parameters(self) -> dict[str, nn.Parameter]:
        """The parameters as they are now: stand-ins, while the step is traced."""
        return {path: self._step.module.get_parameter(path) for path in self._paths}


class _Schedule:
    """Stands for a schedule of learning rates, which a trace does not need."""

    def step(self, *_: Any, **__: Any) -> None:
        pass

    def get_last_lr(self) -> list[float]:
        return [0.001]


# -- optimizers of a module ------------------------------------------------------------------------


def configured(module: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers of `configure_optimizers`; one with all parameters if the method needs a trainer."""
    configure = getattr(module, "configure_optimizers", None)
    try:
        return _optimizers_in(configure()) if callable(configure) else []
    except Exception:  # of the user's code, which may ask its trainer: one optimizer then has all parameters
        return [torch.optim.SGD(module.parameters())]


def _optimizers_in(value: Any) -> list[torch.optim.Optimizer]:
    """The optimizers in what `configure_optimizers` may return: one, lists of them, dictionaries with schedulers."""
    if isinstance(value, torch.optim.Optimizer):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and len(value) <= _MOST_OPTIMIZERS:
        return [found for one in value for found in _optimizers_in(one)]
    return []


def updated_by(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    """The paths of the parameters of `module` that `optimizer` updates."""
    known = {id(parameter): path for path, parameter in module.named_parameters()}
    return [known[id(one)] for group in optimizer.param_groups for one in group["params"] if id(one) in known]


def _like(value: Any, optimizers: Sequence[StandInOptimizer]) -> Any:
    """`value`, a list or dictionary of optimizers, with stand-ins."""
    if isinstance(value, Mapping) and len(value) == len(optimizers):
        return dict(zip(value, optimizers, strict=True))
    return list(optimizers)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for `self.log`."""


# -- what a step takes and returns -----------------------------------------------------------------


def step_loss(output: Any) -> torch.Tensor:
    """What `training_step` may return: the loss, a dictionary that contains it, or several losses."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if isinstance(loss, torch.Tensor):
        return loss
    losses = [one for one in tensors_in(output) if one.numel() == 1 and one.requires_grad]
    if not losses:
        raise JoulecastError(_NO_LOSS)
    return sum(losses[1:], losses[0])


def possible_batches(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch_size: int) -> Iterator[Any]:
    """Forms of a batch that `training_step` may take, if the inputs are those of one sample's data alone."""
    data = args[0] if len(args) == 1 and not kwargs else None
    if not isinstance(data, torch.Tensor):
        yield dict(kwargs) if kwargs else (args[0] if len(args) == 1 else args)
        return
    yield data, torch.zeros(batch_size, dtype=torch.int64, device=data.device)
    yield data
    yield data, data
