"""`trace`: one step of a run, read off a model without running it."""

from __future__ import annotations

import logging
import warnings as python_warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_map

from ..base.errors import JoulecastError
from .formulas import dtype_name, lookup
from .fused import FusedLayers
from .layer_table import fvcore_counts, layer_table
from .losses import main_output, training_loss
from .optimizers import optimizer_named, update_op
from .recorder import Recorder
from .workload import Op, Workload

Loss = Callable[[Any], torch.Tensor]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

# A model that only a real run can read is run for real up to this size.
MAX_REAL_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Step:
    """What to run: the model, its inputs, and how a step treats them."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    train: bool
    precision: str | None  # None: as the parameters are
    loss: Loss | None
    fix: str = ""


@dataclass(slots=True)
class _Listing:
    """What a recorded step left behind."""

    recorder: Recorder
    trained: list[tuple[str, torch.Tensor]]
    saved_bytes: int
    tracer: str
    output: Any


def trace(
    model: nn.Module,
    inputs: Any,
    *,
    train: bool = True,
    optimizer: str = "sgd",
    precision: str | None = None,
    loss: Loss | None = None,
    accumulate: int = 1,
    name: str | None = None,
    layers: bool = True,
    fix: str = "",
) -> Workload:
    """One training (or inference) step of `model` as layers and ops, without running it.

    Parameters
    ----------
    model:
        Any `nn.Module`, its weights real or on the meta device; it is left as it was.
    inputs:
        A tensor, a tuple of positional arguments or a dict of keyword arguments, batch dimension
        first. Only shapes and dtypes matter.
    train:
        Forward, loss, backward and optimizer; or the forward pass alone.
    optimizer:
        "sgd", "momentum", "adam" or "adamw".
    precision:
        None runs in the parameters' own dtype; "bfloat16" and "float16" (also "bf16", "fp16") under
        autocast, with the parameters as they are.
    loss:
        From the model's output to a scalar. The default is the model's own `loss` where its output
        has one, cross-entropy on class scores, else the mean square of the main output.
    accumulate:
        Micro-batches per optimizer step; `inputs` are one of them.
    layers:
        False leaves out the fvcore pass over one real sample that checks the per-layer FLOPs.
    fix:
        What a ModelError suggests when the model rejects its inputs.

    Raises
    ------
    ModelError
        The model's own code failed, with the reason in one line.
    JoulecastError
        An option that cannot be used, or nothing to train.
    """
    args, kwargs = _call_arguments(inputs)
    precision = _precision(precision)
    if accumulate < 1:
        raise JoulecastError(f"accumulate is {accumulate}; give 1 or more micro-batches per step")
    if train:
        optimizer_named(optimizer)
    batch_size = _batch_size(args, kwargs)
    step = _Step(model, args, kwargs, train, precision, loss, fix)
    _check_trainable(step)
    listing = _list_step(step, batch_size)
    ops = _accumulated(listing, accumulate)
    if train:
        ops += [_update(optimizer, path, parameter) for path, parameter in listing.trained]
    forward_flops = sum(op.flops for op in listing.recorder.ops if op.phase == "forward")
    counts, notes = fvcore_counts(model, args, kwargs, batch_size, forward_flops) if layers else (None, [])
    parameters = list(model.parameters())
    return Workload(
        name=name or type(model).__name__,
        framework="pytorch",
        batch_size=batch_size * accumulate,
        train=train,
        optimizer=optimizer if train else None,
        precision=_arithmetic(ops),
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        activation_bytes=listing.saved_bytes,
        layers=layer_table(model, listing.recorder, counts, batch_size),
        ops=tuple(ops),
        unsupported=dict(listing.recorder.unsupported),
        tokens_per_sample=_tokens_per_sample(args, kwargs),
        input_bytes=sum(t.numel() * t.element_size() for t in _tensor_leaves((args, kwargs))) * accumulate,
        warnings=tuple(_notes(step, listing) + notes),
        tracer=listing.tracer,
    )


# -- the options ---------------------------------------------------------------------------------


def _call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        if len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], dict):
            return inputs[0], inputs[1]
        return tuple(inputs), {}
    return (inputs,), {}


def _tensor_leaves(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor)]


def _batch_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    for tensor in _tensor_leaves((args, kwargs)):
        if tensor.dim():
            if tensor.shape[0] < 1:
                raise JoulecastError(f"the batch dimension is {tensor.shape[0]}; give a batch of 1 or more")
            return int(tensor.shape[0])
    raise JoulecastError("inputs hold no tensor with a batch dimension; give a tensor, a tuple or a dict of them")


def _tokens_per_sample(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Sequence length where the first integer input is (batch, positions); else 1."""
    for tensor in _tensor_leaves((args, kwargs)):
        if tensor.dim() == 2 and not tensor.is_floating_point():
            return int(tensor.shape[1])
    return 1


def _precision(precision: str | None) -> str | None:
    if precision is None:
        return None
    precision = _SHORT_PRECISIONS.get(precision, precision)
    if precision not in PRECISIONS:
        raise JoulecastError(f"precision {precision!r} is not known; choose float32, bfloat16 or float16")
    return precision


def _check_trainable(step: _Step) -> None:
    name, parameters = type(step.model).__name__, list(step.model.parameters())
    if not step.train:
        return
    if not parameters:
        raise JoulecastError(f"{name} has no parameters: nothing to train; name another model, or ask for inference")
    if not any(parameter.requires_grad for parameter in parameters):
        raise JoulecastError(
            f"{name} has all {len(parameters)} parameter tensors frozen: nothing to train; "
            "unfreeze some (requires_grad), or ask for inference"
        )


# -- the step ------------------------------------------------------------------------------------


def _list_step(step: _Step, batch_size: int) -> _Listing:
    """The step on meta tensors; where the model needs more, on fake ones; else for real.

    Meta tensors know no values and no autocast, fake ones know constants, real ones everything. When
    even the real run fails, the model's own code is at fault and its error is the one to show.
    """
    if step.precision not in ("bfloat16", "float16"):
        try:
            return _run(step, "meta")
        except Exception:
            pass
    try:
        return _run(step, "fake")
    except Exception as error:
        if not _can_run_for_real(step.model):
            raise _model_error(step, error) from error
    try:
        if batch_size > 2:  # a mistake in shapes shows on two samples as well as on a thousand
            _run(_with_batch(step, batch_size, 2), "real")
        return _run(step, "real")
    except Exception as error:
        raise _model_error(step, error) from error


def _can_run_for_real(model: nn.Module) -> bool:
    """Small enough, and with values: zeros in place of what a model computed at birth would mislead."""
    state = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() for tensor in state) <= MAX_REAL_PARAMETERS and not any(t.is_meta for t in state)


def _with_batch(step: _Step, batch_size: int, new: int) -> _Step:
    def cut(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == batch_size:
            return value[:new]
        return value

    args, kwargs = tree_map(cut, (step.args, dict(step.kwargs)))
    return replace(step, args=args, kwargs=kwargs)


def _model_error(step: _Step, error: Exception) -> JoulecastError:
    if isinstance(error, JoulecastError):
        return error
    from ..sandbox.user_code import model_error

    if "Expected more than 1 value per channel when training" in str(error):
        fix = "BatchNorm cannot train on one value per channel: give a batch size of 2 or more"
    else:
        fix = step.fix
    return model_error(error, what=type(step.model).__name__, fix=fix)


def _run(step: _Step, tracer: str) -> _Listing:
    recorder = Recorder(step.model)
    sizes = _SavedBytes()
    with ExitStack() as stack:
        stack.enter_context(python_warnings.catch_warnings())
        python_warnings.simplefilter("ignore")
        stack.enter_context(_modes_restored(step.model, step.train))
        if tracer == "fake":
            stack.enter_context(_quiet(logging.getLogger("torch._subclasses.fake_tensor")))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if tracer == "real":
            stack.enter_context(torch.random.fork_rng(devices=[]))
        stand_in = _stand_in(tracer)
        tensors = _stand_in_state(step.model, stand_in)
        args, kwargs = tree_map(stand_in, (step.args, dict(step.kwargs)))
        stack.enter_context(torch.device("meta" if tracer == "meta" else "cpu"))
        stack.enter_context(recorder.watching_modules())
        stack.enter_context(torch.set_grad_enabled(step.train))
        with ExitStack() as forward:
            if tracer != "real":
                forward.enter_context(FusedLayers(recorder))
            forward.enter_context(recorder)
            if step.precision in ("bfloat16", "float16"):
                forward.enter_context(torch.autocast("cpu", dtype=PRECISIONS[step.precision]))
            if step.train:
                forward.enter_context(torch.autograd.graph.saved_tensors_hooks(sizes.add, lambda tensor: tensor))
            output = torch.func.functional_call(step.model, tensors, args, kwargs, tie_weights=False)
            loss = training_loss(step.loss, output, (args, kwargs)) if step.train else None
        if loss is not None:
            recorder.phase = "backward"
            with recorder:
                loss.backward()
    leaves: dict[int, tuple[str, torch.Tensor]] = {}
    for path, tensor in tensors.items():
        leaves.setdefault(id(tensor), (path, tensor))  # tied ones by their first name
    trained = [(path, leaf) for path, leaf in leaves.values() if leaf.requires_grad and leaf.grad is not None]
    activations = sizes.total_besides(tensors.values())
    return _Listing(recorder, trained, activations, tracer, output)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """What fails on fake tensors is tried again with real ones: no matter for a log."""
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _stand_in(tracer: str) -> Callable[[Any], Any]:
    """From a value to what stands for it in the trace; everything but tensors stays as it is."""

    def make(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if tracer == "real":  # an input may still be a meta tensor: any value of its shape will do
            zeros = torch.zeros(value.shape, dtype=value.dtype) if value.is_meta else value
            return zeros.detach().to("cpu")
        device = "meta" if tracer == "meta" else "cpu"
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)

    return make


def _stand_in_state(model: nn.Module, stand_in: Callable[[Any], Any]) -> dict[str, torch.Tensor]:
    """Fresh leaves for parameters and buffers, so that the model itself is never touched; tied ones share a leaf.

    Each module is named once, wherever else it hangs: swapped in twice, a stand-in would be put back as the original.
    """
    state: dict[str, torch.Tensor] = {}
    leaves: dict[int, torch.Tensor] = {}
    for prefix, module in model.named_modules():
        at = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) not in leaves:
                leaves[id(parameter)] = stand_in(parameter).requires_grad_(parameter.requires_grad)
            state[at + name] = leaves[id(parameter)]
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if id(buffer) not in leaves:
                fresh = stand_in(buffer)
                leaves[id(buffer)] = fresh.clone() if fresh.device.type == "cpu" else fresh
            state[at + name] = leaves[id(buffer)]
    return state


@contextmanager
def _modes_restored(model: nn.Module, train: bool) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.train(train)
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _SavedBytes:
    """Bytes of the tensors that autograd keeps for backward, each storage once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage.nbytes()
        return tensor

    def total_besides(self, state: Any) -> int:
        own = {tensor.untyped_storage()._cdata for tensor in state}
        return sum(size for key, size in self._storages.items() if key not in own)


# -- from the listing to the workload --------------------------------------------------------------


def _accumulated(listing: _Listing, accumulate: int) -> list[Op]:
    """The ops of all micro-batches; from the second on, gradients are added to those that are there."""
    if accumulate == 1:
        return list(listing.recorder.ops)
    ops = [replace(op, count=op.count * accumulate) for op in listing.recorder.ops]
    for path, parameter in listing.trained:
        size = parameter.numel() * parameter.element_size()
        add = Op(
            name="add_",
            kind=lookup("add_").kind,
            phase="backward",
            layer=path.rpartition(".")[0],
            flops=0,
            bytes_read=2 * size,
            bytes_written=size,
            dtype=dtype_name(parameter.dtype),
            dims={"elements_in": parameter.numel(), "elements_out": parameter.numel()},
            count=accumulate - 1,
        )
        ops.append(add)
    return ops


def _update(optimizer: str, path: str, parameter: torch.Tensor) -> Op:
    layer = path.rpartition(".")[0]
    return update_op(optimizer, layer, parameter.numel(), parameter.element_size(), dtype_name(parameter.dtype))


def _arithmetic(ops: Sequence[Op]) -> str:
    """The dtype that most multiply-adds run in."""
    flops: dict[str, int] = {}
    for op in ops:
        flops[op.dtype] = flops.get(op.dtype, 0) + op.flops * op.count
    return max(flops, key=lambda dtype: flops[dtype]) if any(flops.values()) else "float32"


def _notes(step: _Step, listing: _Listing) -> list[str]:
    notes = []
    if listing.tracer == "real":
        notes.append("the model needs real values, so one step was run on the CPU to list its ops")
    if step.train:
        untrained = sum(p.requires_grad for p in step.model.parameters()) - len(listing.trained)
        if untrained > 0:
            notes.append(f"{untrained} trainable parameter tensors get no gradient from the loss")
        if step.loss is None and main_output(listing.output) is None:
            notes.append("the model's output has no tensor to put a loss on")
    return notes
