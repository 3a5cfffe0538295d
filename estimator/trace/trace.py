"""`trace`: one step of a run, read off a model without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from ..base.errors import JoulecastError
from .formulas import lookup
from .layer_table import FVCORE_MAX_PARAMETERS, fvcore_counts, layer_table
from .optimizers import optimizer_named, update_op
from .step import PRECISIONS, Listing, Loss, Step, Trained, list_step
from .untouched import untouched
from .workload import Op, Workload

_SHORT_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


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
    step = Step(model, args, kwargs, train, precision, loss, fix)
    _check_trainable(step)
    with untouched(model, args, kwargs, loss) as reached:
        listing = list_step(step, batch_size, reached)
        forward_flops = sum(op.flops for op in listing.recorder.ops if op.phase == "forward")
        counts: dict[str, int] | None = None
        notes: list[str] = []
        if layers and sum(listing.elements.values()) <= FVCORE_MAX_PARAMETERS:
            counts, notes = fvcore_counts(model, args, kwargs, batch_size, forward_flops, reached)
    ops = _accumulated(listing, accumulate)
    if train:
        ops += [_update(optimizer, trained) for trained in listing.trained]
    parameters, elements = list(model.parameters()), listing.elements
    return Workload(
        name=name or type(model).__name__,
        framework="pytorch",
        batch_size=batch_size * accumulate,
        train=train,
        optimizer=optimizer if train else None,
        precision=_arithmetic(ops),
        parameters=sum(elements.values()),
        trainable_parameters=sum(elements[id(one)] for one in parameters if one.requires_grad),
        parameter_bytes=sum(elements[id(one)] * one.dtype.itemsize for one in parameters),
        activation_bytes=listing.saved_bytes,
        layers=layer_table(model, listing, counts, batch_size),
        ops=tuple(ops),
        unsupported=dict(listing.recorder.unsupported),
        tokens_per_sample=_tokens_per_sample(args, kwargs),
        input_bytes=sum(t.numel() * t.element_size() for t in _tensor_leaves((args, kwargs))) * accumulate,
        warnings=tuple(_notes(step, listing) + notes + reached.notes),
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


def _check_trainable(step: Step) -> None:
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


# -- from the listing to the workload --------------------------------------------------------------


def _accumulated(listing: Listing, accumulate: int) -> list[Op]:
    """The ops of all micro-batches; from the second on, gradients are added to those that are there."""
    if accumulate == 1:
        return list(listing.recorder.ops)
    ops = [replace(op, count=op.count * accumulate) for op in listing.recorder.ops]
    for trained in listing.trained:
        size = trained.elements * trained.element_size
        add = Op(
            name="add_",
            kind=lookup("add_").kind,
            phase="backward",
            layer=trained.path.rpartition(".")[0],
            flops=0,
            bytes_read=2 * size,
            bytes_written=size,
            dtype=trained.dtype,
            dims={"elements_in": trained.elements, "elements_out": trained.elements},
            count=accumulate - 1,
        )
        ops.append(add)
    return ops


def _update(optimizer: str, trained: Trained) -> Op:
    layer = trained.path.rpartition(".")[0]
    return update_op(optimizer, layer, trained.elements, trained.element_size, trained.dtype)


def _arithmetic(ops: Sequence[Op]) -> str:
    """The dtype that most multiply-adds run in."""
    flops: dict[str, int] = {}
    for op in ops:
        flops[op.dtype] = flops.get(op.dtype, 0) + op.flops * op.count
    return max(flops, key=lambda dtype: flops[dtype]) if any(flops.values()) else "float32"


def _notes(step: Step, listing: Listing) -> list[str]:
    notes = []
    if listing.tracer == "real":
        notes.append("the model needs real values, so one step was run on the CPU to list its ops")
    if step.train:
        untrained = sum(p.requires_grad for p in step.model.parameters()) - len(listing.trained)
        if untrained > 0:
            notes.append(f"{untrained} trainable parameter tensors get no gradient from the loss")
        if step.loss is None and not listing.has_output:
            notes.append("the model's output has no tensor to put a loss on")
    return notes
