"""`trace`: one step of a run, read off a model without running it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..base.errors import JoulecastError
from .batch import call_arguments, samples_in, tensors_in, tokens_per_sample
from .formulas import lookup
from .fp8 import FP8, as_fp8
from .fused import GROUPED, with_imbalance
from .layer_table import FVCORE_MAX_PARAMETERS, fvcore_counts, layer_table
from .masks import with_masks
from .optimizers import OPTIMIZERS, clip_op, ema_op, optimizer_name, state_bytes, update_ops
from .signature import arguments
from .step import PRECISIONS, Listing, Loss, Step, Trained, list_step
from .targets import missing_targets
from .training_step import TrainingStep
from .untouched import untouched
from .workload import Op, Workload

_HALF_BYTES = 2
_NO_FORWARD: Any = nn.Module.forward  # what a module without a forward method has
_SHORT_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": FP8}


def trace(
    model: nn.Module,
    inputs: Any,
    *,
    train: bool = True,
    optimizer: str = "sgd",
    precision: str | None = None,
    loss: Loss | None = None,
    accumulate: int = 1,
    clip_gradients: bool = False,
    ema: bool = False,
    name: str | None = None,
    layers: bool = True,
    fix: str = "",
    batch_size: int | None = None,
    expert_imbalance: float = 1.0,
) -> Workload:
    """One training (or inference) step of `model` as layers and ops, without running it.

    Parameters
    ----------
    model:
        Any `nn.Module`, its weights real or on the meta device; it is left as it was.
    inputs:
        A tensor, a tuple of positional arguments or a dict of keyword arguments, batch dimension
        first. Only shapes and dtypes matter. A dict goes whole into a model with one parameter for it.
    train:
        Forward, loss, backward and optimizer; or the forward pass alone.
    optimizer:
        One of `OPTIMIZERS`, in any spelling: "sgd", "AdamW", "adamw_8bit", "lion", "muon"...
    precision:
        None runs in the parameters' own dtype; "bfloat16" and "float16" (also "bf16", "fp16") under
        autocast, with the parameters as they are. "fp8" is bfloat16 with the products of linear layers in FP8.
    loss:
        From the model's output to a scalar; with a second parameter it gets the inputs too, or a target
        where the parameter is named so. The default is the model's own `loss` or its scalar outputs, else
        cross-entropy on class scores and the mean square of every other output.
    accumulate:
        Micro-batches per optimizer step; `inputs` are one of them.
    clip_gradients:
        Gradients are clipped by their norm before the optimizer's step.
    ema:
        A moving average of the parameters is kept.
    layers:
        False leaves out the fvcore pass over one real sample that checks the per-layer FLOPs.
    batch_size:
        Samples in `inputs`, if that is not the first dimension of their first tensor: time-first sequences,
        graphs, lists of images.
    expert_imbalance:
        Of a mixture of experts: tokens of the busiest expert over an equal share. 1 spreads them evenly; above,
        grouped products take as long as if every expert had that many.
    fix:
        What a ModelError suggests when the model rejects its inputs.

    Raises
    ------
    ModelError
        The model's own code failed, with the reason in one line.
    JoulecastError
        An option that cannot be used, or nothing to train.
    """
    args, kwargs = call_arguments(inputs, model)
    asked, precision = _precision(precision)
    _check_multiples(accumulate, expert_imbalance)
    optimizer = optimizer_name(optimizer)
    samples = samples_in((args, kwargs)) if batch_size is None else batch_size
    step = Step(model, args, kwargs, train, precision, loss, fix)
    _check_trainable(step)
    found = _passes(step, samples, layers=layers, batch_first=batch_size is None)
    listing, notes = found.listing, list(found.notes)
    ops = with_imbalance(with_masks(_accumulated(listing, accumulate), model), expert_imbalance)
    if any(op.name == GROUPED for op in ops):
        notes.append(f"experts: the busiest is taken to get {expert_imbalance:g} times an equal share of the tokens")
    kept = 0
    if train:
        for trained in listing.trained:
            ops += _update(optimizer, trained, clip_gradients, ema)
            kept += _state_bytes(optimizer, trained, ema)
        notes += [OPTIMIZERS[optimizer].note] * bool(OPTIMIZERS[optimizer].note)
    parameters, elements = list(model.parameters()), listing.elements
    work = Workload(
        name=name or type(model).__name__,
        framework="pytorch",
        batch_size=samples * accumulate,
        train=train,
        optimizer=optimizer if train else None,
        precision=_arithmetic(ops),
        parameters=sum(elements.values()),
        trainable_parameters=sum(elements[id(one)] for one in parameters if one.requires_grad),
        parameter_bytes=sum(elements[id(one)] * one.dtype.itemsize for one in parameters),
        activation_bytes=listing.saved_bytes,
        optimizer_state_bytes=kept,
        layers=layer_table(model, listing, found.counts, samples),
        ops=tuple(ops),
        unsupported=dict(listing.recorder.unsupported),
        tokens_per_sample=tokens_per_sample((args, kwargs)),
        input_bytes=sum(t.numel() * t.element_size() for t in tensors_in([args, kwargs])) * accumulate,
        warnings=tuple(_notes(step, listing) + notes + found.notes_on_state),
        tracer=listing.tracer,
        compiled=_is_compiled(model),
    )
    return as_fp8(work) if asked == FP8 else work


@dataclass(frozen=True, slots=True)
class _Found:
    """What the passes over a step found; the model is as it was again."""

    listing: Listing
    counts: dict[str, float] | None
    """fvcore's FLOPs of one sample by layer, if they were counted."""
    notes: list[str]
    notes_on_state: list[str]


def _passes(step: Step, samples: int, *, layers: bool, batch_first: bool) -> _Found:
    """The step's ops, and fvcore's counts where they are asked for and the model is small enough."""
    counts: dict[str, float] | None = None
    notes: list[str] = []
    with untouched(step.model, step.args, step.kwargs, step.loss) as reached:
        listing = list_step(step, samples, reached)
        if layers and sum(listing.elements.values()) <= FVCORE_MAX_PARAMETERS:
            forward_flops = sum(op.flops for op in listing.recorder.ops if op.phase == "forward")
            counts, notes = fvcore_counts(step, samples, forward_flops, reached, batch_first=batch_first)
    return _Found(listing, counts, notes, reached.notes)


def _is_compiled(model: nn.Module) -> bool:
    """True for what `torch.compile(model)` returns, and after `model.compile()`."""
    inner = model.module if isinstance(model, TrainingStep) else model
    return "_orig_mod" in inner._modules or getattr(inner, "_compiled_call_impl", None) is not None


# -- the options ---------------------------------------------------------------------------------


def _precision(precision: str | None) -> tuple[str | None, str | None]:
    """What was asked for, and what the step is read in: FP8 is read in bfloat16."""
    if precision is None:
        return None, None
    asked = _SHORT_PRECISIONS.get(precision, precision)
    read = "bfloat16" if asked == FP8 else asked
    if read not in PRECISIONS:
        raise JoulecastError(f"precision {precision!r} is not known; choose float32, bfloat16, float16 or fp8")
    return asked, read


def half_of(precision: str | None) -> torch.dtype | None:
    """The 16 bits that a step in `precision` is read in; None for other precisions."""
    dtype = PRECISIONS[_precision(precision)[1] or "float32"]
    return dtype if dtype.itemsize == _HALF_BYTES else None


def _check_multiples(accumulate: int, expert_imbalance: float) -> None:
    if accumulate < 1:
        raise JoulecastError(f"accumulate is {accumulate}; give 1 or more micro-batches per step")
    if not expert_imbalance >= 1:
        raise JoulecastError(f"expert_imbalance is {expert_imbalance}; give 1 (equal shares) or more")


def _check_trainable(step: Step) -> None:
    name, parameters = type(step.model).__name__, list(step.model.parameters())
    if getattr(step.model.forward, "__func__", None) is _NO_FORWARD:
        raise JoulecastError(
            f"{name} has no forward pass of its own: other code calls its parts; name a class that has a forward method"
        )
    if not step.train:
        return
    if not parameters:
        raise JoulecastError(f"{name} has no parameters: nothing to train; name another model, or ask for inference")
    if not any(parameter.requires_grad for parameter in parameters):
        raise JoulecastError(
            f"{name} has all {len(parameters)} parameter tensors frozen: nothing to train; "
            "unfreeze some (requires_grad), or ask for inference"
        )


# Models of more optional inputs are not meant to get all of them.
_FEW_INPUTS = 2


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


def _update(optimizer: str, trained: Trained, clip_gradients: bool, ema: bool) -> list[Op]:
    layer, size, dtype = trained.path.rpartition(".")[0], trained.element_size, trained.dtype
    before = [clip_op(layer, trained.elements, size, dtype)] if clip_gradients else []
    after = [ema_op(layer, math.prod(trained.shape), size, dtype)] if ema else []
    ops = before + update_ops(optimizer, layer, trained.shape, size, dtype, trained.elements) + after
    return [replace(op, count=op.count * trained.updates) for op in ops]


def _state_bytes(optimizer: str, trained: Trained, ema: bool) -> int:
    """Of the optimizer and of the moving average, for one parameter."""
    average = math.prod(trained.shape) * trained.element_size * ema
    return state_bytes(optimizer, trained.shape, trained.element_size) + average


def _arithmetic(ops: Sequence[Op]) -> str:
    """The dtype that most multiply-adds run in."""
    flops: dict[str, int] = {}
    for op in ops:
        flops[op.dtype] = flops.get(op.dtype, 0) + op.flops * op.count
    return max(flops, key=lambda dtype: flops[dtype]) if any(flops.values()) else "float32"


def _not_given(step: Step) -> str:
    """The optional inputs that a model with few of them was called without: the text of one for images and texts."""
    if isinstance(step.model, TrainingStep):
        return ""
    behind = list(arguments(step.model).items())[len(step.args) :]
    others = [name for name, one in behind if one.default is None and name not in step.kwargs]
    if not 0 < len(others) <= _FEW_INPUTS:
        return ""
    return f"; the model was called without {' and '.join(others)}: give all of its `inputs` by name"


def _notes(step: Step, listing: Listing) -> list[str]:
    notes = []
    if listing.values_drawn:
        notes.append(
            f"{listing.values_drawn} values that the model reads depend on its activations, "
            "or on weights without values: random numbers were used in their place"
        )
    if listing.has_transforms:
        notes.append("what torch.func keeps for its gradients is not counted in the memory of the activations")
    if listing.tracer == "real":
        notes.append("the model needs real values, so one step was run on the CPU to list its ops")
    if step.train:
        untrained = sum(p.requires_grad for p in step.model.parameters()) - len(listing.trained)
        if untrained > 0:
            notes.append(f"{untrained} trainable parameter tensors get no gradient from the loss{_not_given(step)}")
        if step.loss is None and (targets := missing_targets(step.model, step.args, step.kwargs)):
            notes.append(f"the model was called without `{targets}`: what it computes from them is not counted")
        if step.loss is None and not listing.has_output:
            notes.append("the model's output has no tensor to put a loss on")
    return notes
