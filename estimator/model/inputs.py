"""The inputs of a model: given shapes, the file's `example_inputs`, a dataset, or what the model implies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from ..base.suggest import near
from ..trace.signature import arguments, takes_any_name
from .config_inputs import from_config, main_input, vocab_size
from .input_spec import InputSpec, make_inputs, parse_input
from .presets import DatasetPreset

__all__ = ["InputSpec", "ModelInputs", "describe_inputs", "make_inputs", "model_inputs", "parse_input"]

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .load import LoadedModel


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """Arguments for one call of the model, batch first, and where they came from."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: str
    notes: tuple[str, ...] = field(default=())
    batch_size: int | None = None  # None: the first dimension of every tensor
    are_whole: bool = False  # all that a training step gives the model


# -- which inputs --------------------------------------------------------------------------------


def model_inputs(
    loaded: LoadedModel,
    batch_size: int,
    *,
    specs: Sequence[InputSpec] = (),
    preset: DatasetPreset | None = None,
    sequence_length: int | None = None,
    device: str | None = None,
    own_batch: bool = False,
) -> ModelInputs:
    """The inputs of `loaded` (of framework "pytorch"), `batch_size` samples on `device` (its own by default).

    With `own_batch`, those of a training that was stopped keep the samples that its first batch has.

    They come from the first of: `specs` (`--input`); the file's `example_inputs`; the dataset's `preset`; the
    call that was stopped in the file's training; the model's own config (transformers, timm's `default_cfg`). If none
    gives inputs, raises a JoulecastError that lists these ways.
    """
    model, device = loaded.model, device or loaded.device
    assert model is not None
    if sequence_length is not None and sequence_length < 1:
        raise JoulecastError(f"sequence length is {sequence_length}; give 1 or more")
    if sequence_length is not None and (specs or preset or loaded.example_inputs is not None or not main_input(model)):
        raise JoulecastError(
            f"`sequence_length` {sequence_length} has no use here; it is for a transformers model "
            "without `inputs`, `dataset` or example_inputs"
        )
    notes: tuple[str, ...] = ()
    if specs:
        source, wanted = "inputs", _typed(specs, model)
    elif loaded.example_inputs is not None:
        with loaded.running():
            return _examples(loaded.example_inputs, "example_inputs", batch_size, device, model)
    elif preset is not None:
        source, wanted = (
            preset.name,
            [InputSpec(preset.input_shape, _float_dtype(model) or preset.input_dtype)],
        )
    elif (call := _call(loaded)) is not None:
        loading = loaded.training.loading if own_batch and loaded.training else None
        return _as_called(call, batch_size, loading.batch_size if loading else None, device, model)
    else:
        with loaded.running():
            source, wanted, notes = _from_model(model, sequence_length, loaded.name, loaded.processor)
    args, kwargs = make_inputs(wanted, batch_size, vocab_size=vocab_size(model), device=device)
    if specs:
        args, kwargs = _as_taken(model, args, kwargs)
    packed = any(spec.packed_axis is not None for spec in wanted)  # the first dimension is not that of the samples
    return ModelInputs(args, kwargs, source, notes, batch_size if packed else None)


def describe_inputs(args: Any, kwargs: Mapping[str, Any]) -> str:
    """The fix for a model that rejects its inputs: it describes them and says how to give others."""
    import torch

    parts = [_described("", value) for value in args if isinstance(value, torch.Tensor)]
    parts += [_described(f"{name} ", value) for name, value in kwargs.items() if isinstance(value, torch.Tensor)]
    shown = ", ".join(parts) or "no tensors"
    return f"the inputs were {shown} (batch first): give one sample's shape as `inputs` if they are wrong"


def _described(name: str, tensor: torch.Tensor) -> str:
    return f"{name}{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape))}"


def _typed(specs: Sequence[InputSpec], model: nn.Module) -> list[InputSpec]:
    """The specs with dtypes: the model's own, or token ids for the first input of a language model."""
    own = _float_dtype(model) or "float32"
    if len(specs) == 1 and not specs[0].name and specs[0].dtype is None and main_input(model) == "input_ids":
        return [InputSpec(specs[0].shape, "int64", "input_ids")]
    return [replace(spec, dtype=spec.dtype or own) for spec in specs]


def _as_taken(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs under names that `forward` does not have: one input by position, several as one batch."""
    from ..trace.batch import call_arguments
    from ..trace.training_step import has_training_step

    takes = arguments(model)
    unknown = [name for name in kwargs if name not in takes]
    if not unknown or not takes or has_training_step(model) or takes_any_name(model):
        return args, kwargs
    needed = [name for name, one in takes.items() if one.default is one.empty]
    if not args and len(kwargs) == 1 and len(needed) <= 1:
        return tuple(kwargs.values()), {}
    if not args and len(needed) <= 1:
        return call_arguments(kwargs, model)
    raise JoulecastError(
        f"`inputs` {unknown[0]}: {type(model).__name__} takes {', '.join(takes)}; give one of these names"
        f"{near(unknown[0], takes)}"
    )


def _float_dtype(model: nn.Module) -> str | None:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return str(parameter.dtype).removeprefix("torch.")
    return None


# -- example_inputs ------------------------------------------------------------------------------


def _call(loaded: LoadedModel) -> tuple[Any, Any] | None:
    """The arguments of the training's call, if there are tensors in them."""
    from ..trace.batch import tensors_in

    call = loaded.training.called_with if loaded.training else None
    return call if any(True for _ in tensors_in(call)) else None


def _as_called(call: tuple[Any, Any], batch_size: int, own: int | None, device: str, model: nn.Module) -> ModelInputs:
    """The arguments of the script's own call, with `batch_size` samples; its own ones if its loader gives `own`."""
    from torch.utils._pytree import tree_map

    from ..trace.batch import tensors_in

    tensors = list(tensors_in(call))
    shown = ", ".join(_described("", tensor) for tensor in tensors)
    notes: tuple[str, ...]
    if all(tensor.dim() == 1 and tensor.is_floating_point() for tensor in tensors):  # a step of an environment
        call, notes = tree_map(_as_one_sample, call), (f"inputs as in the training's call, of one sample: {shown}",)
    else:
        notes = (f"inputs as in the training's call, its first dimension as the batch: {shown}",)
        if own is not None and {tensor.shape[0] for tensor in tensors if tensor.dim()} == {own}:
            batch_size = own
            notes = (*notes, f"batch size {own}: the training's own; `batch_size` sets another")
    inputs = _examples(call, "the batch of the training", batch_size, device, model)
    return replace(inputs, notes=(*notes, *inputs.notes))


def rebatched_item(item: Any, batch_size: int | None, device: str) -> tuple[Any, int | None]:
    """What a script's loop takes, with `batch_size` samples (None: its own), and the samples that it had.

    None for an item without tensors, or with tensors of several lengths, which is used unchanged.
    """
    from torch.utils._pytree import tree_map

    from ..trace.batch import tensors_in

    leads = {tensor.shape[0] for tensor in tensors_in([item]) if tensor.dim()}
    own = leads.pop() if len(leads) == 1 else None
    if own and batch_size not in (None, own):
        item = tree_map(lambda leaf: _resized(leaf, batch_size), item)
    return _on_device(item, device), own


def _as_one_sample(leaf: Any) -> Any:
    import torch

    return leaf.unsqueeze(0) if isinstance(leaf, torch.Tensor) else leaf


def _examples(value: Any, name: str, batch_size: int, device: str, model: nn.Module) -> ModelInputs:
    """Examples of inputs as arguments: a tensor, a tuple of positional ones, or a dict by keyword.

    The result of a function of `batch_size` is used unchanged. Any other value with another batch size is repeated or
    cut to this one, list by list or along the first dimension.
    """
    from ..trace.batch import call_arguments, tensors_in

    made = callable(value) and "batch_size" in inspect.signature(value).parameters
    if callable(value):
        value = _called(value, batch_size, device, made)
    args, kwargs = call_arguments(value, model)
    if not any(True for _ in tensors_in([args, kwargs])):
        raise JoulecastError(
            f"{name} is a {type(value).__name__} without tensors; give a tensor, a tuple or a dict of them"
        )
    notes: tuple[str, ...] = ()
    if not made:
        (args, kwargs), notes = _rebatched((args, kwargs), name, batch_size)
    args, kwargs = _on_device((args, kwargs), device)
    return ModelInputs(args, kwargs, name, notes, batch_size, are_whole=True)


def _called(function: Callable[..., Any], batch_size: int, device: str, takes_batch_size: bool) -> Any:
    import torch

    from ..trace.values import made_on_meta

    arguments = {"batch_size": batch_size} if takes_batch_size else {}
    try:
        if device == "meta":  # a large batch costs nothing there
            return made_on_meta(lambda: function(**arguments))
        with torch.device(device):
            return function(**arguments)
    except Exception:
        return function(**arguments)


def _rebatched(arguments: tuple[Any, Any], name: str, batch_size: int) -> tuple[tuple[Any, Any], tuple[str, ...]]:
    """The arguments with `batch_size` samples, and a note if their batch cannot be changed."""
    from torch.utils._pytree import tree_map

    from ..trace.batch import is_list_of_samples, tensors_in

    args, kwargs = arguments
    values = [*args, *kwargs.values()]
    lists = [value for value in values if isinstance(value, list) and value and is_list_of_samples(value)]
    if lists:
        lengths = {len(value) for value in values if isinstance(value, list)}
        if len(lengths) == 1:
            return tree_map(
                lambda value: _cycled(value, batch_size) if isinstance(value, list) else value,
                arguments,
                is_leaf=lambda value: isinstance(value, list),
            ), ()
    leads = [tensor.shape[0] for tensor in tensors_in([args, kwargs]) if tensor.dim()]
    if leads and leads[0] == batch_size:
        return arguments, ()
    if len(set(leads)) == 1 and leads[0]:
        return tree_map(lambda leaf: _resized(leaf, batch_size), arguments), ()
    shown = ", ".join(map(str, leads)) or "none"
    return arguments, (
        f"{name} (first dimensions {shown}) is used as one batch of {batch_size} samples; "
        "make it a function of batch_size if it is not",
    )


def _cycled(values: list[Any], batch_size: int) -> list[Any]:
    return [values[index % len(values)] for index in range(batch_size)]


def _resized(leaf: Any, batch_size: int) -> Any:
    import torch

    if not isinstance(leaf, torch.Tensor) or not leaf.dim():
        return leaf
    copies = -(-batch_size // leaf.shape[0])
    return leaf.repeat(copies, *[1] * (leaf.dim() - 1))[:batch_size]


def _on_device(arguments: Any, device: str) -> Any:
    """The arguments without meta tensors, for a model with real tensors; real ones keep their values."""
    import torch
    from torch.utils._pytree import tree_map

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_meta or device == "meta":
            return leaf
        return torch.zeros_like(leaf, device=device)

    return tree_map(moved, arguments)


# -- what the model implies ------------------------------------------------------------------


def _from_model(
    model: nn.Module, sequence_length: int | None, label: str, processor: Mapping[str, Any]
) -> tuple[str, list[InputSpec], tuple[str, ...]]:
    if main_input(model):
        wanted, notes = from_config(model, sequence_length, label, _float_dtype(model), processor)
        return "config", wanted, notes
    timm_config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = timm_config.get("input_size") if isinstance(timm_config, Mapping) else None
    if size:
        return "default_cfg", [InputSpec(tuple(size), _float_dtype(model))], ()
    from .first_layer import input_of_first_layer

    wanted, notes = input_of_first_layer(model, label)
    return "layers", [replace(spec, dtype=spec.dtype or _float_dtype(model)) for spec in wanted], notes
