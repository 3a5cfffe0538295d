"""The input of a model without a config, from its first layer: taken where only one shape fits, otherwise suggested."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..base.errors import UndeclaredInputsError
from ..trace.signature import arguments
from .clips import NoLayout, first_taken
from .config_inputs import MAX_DEFAULT_TOKENS
from .input_spec import HOW_TO_GIVE_INPUTS, InputSpec, how_to_give_inputs

# Sides of the images in common use. A model that takes exactly one of them has layers for that size.
_SIDES = (28, 32, 64, 96, 128, 160, 192, 224, 256, 299, 384, 448, 512)
_LENGTH = re.compile(
    r"(max_?)?(seq|sequence|context|ctx|block|text)_?(len|length|size)|n_(ctx|positions)|max_(len|length|position_embeddings)"
)
_SETTINGS = ("config", "cfg", "args", "hparams", "params", "opt", "options")
_CONVOLUTIONS = {nn.Conv1d: "16000", nn.Conv2d: "224,224", nn.Conv3d: "16,112,112"}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.RMSNorm)
_OF_VECTORS = (nn.Linear, nn.BatchNorm1d, nn.PReLU)  # attention has other norms


@dataclass(frozen=True, slots=True)
class Guess:
    """What the first layer says of one sample: a shape that must be right, or an example for the user."""

    example: str
    certain: InputSpec | None = None
    note: str = ""


def input_of_first_layer(model: nn.Module, label: str) -> tuple[list[InputSpec], tuple[str, ...]]:
    """The one input that fits the model, with a note. Raises UndeclaredInputsError that suggests one for this model."""
    takes = arguments(model)
    needed = [name for name, one in takes.items() if one.default is inspect.Parameter.empty]
    if len(needed) > 1:
        each = " ".join(f"`inputs` {name}:SHAPE" for name in needed)
        raise UndeclaredInputsError(f"{label} takes {', '.join(needed)}; give {each}, or define example_inputs")
    name = next(iter(needed or takes), "")
    guess = _guess(model, name) if name else None
    if guess is None:
        raise UndeclaredInputsError(f"{label} does not declare its inputs; {HOW_TO_GIVE_INPUTS}")
    if guess.certain is None:
        raise UndeclaredInputsError(f"{label} does not declare its inputs; {how_to_give_inputs(guess.example)}")
    return [guess.certain], (f"{label}: {guess.note}",)


def _guess(model: nn.Module, name: str) -> Guess | None:
    leaves = [one for one in model.modules() if any(True for _ in one.parameters()) and not any(one.children())]
    first = next((one for one in leaves if not isinstance(one, _NORMS)), None)
    match first:
        case nn.Embedding():
            return _text(model, name)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return _picture(model, name, first)
        case nn.RNNBase():
            return Guess(f"128,{first.input_size}")
        case nn.Linear():
            return _vector(model, name, first, leaves)
    return None


def _vector(model: nn.Module, name: str, first: nn.Linear, leaves: list[nn.Module]) -> Guess:
    """One vector, where no layer can look at several; otherwise they may come as a sequence."""
    spec = InputSpec((first.in_features,), None, name)
    if not all(isinstance(one, _OF_VECTORS) for one in leaves) or not _takes(model, spec):
        return Guess(f"128,{first.in_features}")
    return Guess(f"{first.in_features}", spec, f"a sample is {first.in_features} numbers, the width of its first layer")


def _picture(model: nn.Module, name: str, first: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Guess:
    channels = first.in_channels
    example = f"{channels},{next(size for kind, size in _CONVOLUTIONS.items() if isinstance(first, kind))}"
    if not isinstance(first, nn.Conv2d):
        return Guess(example)
    images = (InputSpec((channels, side, side), None, name) for side in _SIDES)
    fitting = list(itertools.islice((spec for spec in images if _takes(model, spec)), 2))
    if len(fitting) != 1:
        return Guess(example)
    shape = "x".join(map(str, fitting[0].shape))
    return Guess(example, fitting[0], f"images of {shape}, of the usual sizes the only one that its layers take")


def _text(model: nn.Module, name: str) -> Guess:
    found = next(_lengths(model), None)
    if found is None:
        return Guess(f"{name}:int64:128")
    setting, longest = found
    tokens = min(longest, MAX_DEFAULT_TOKENS)
    spec = InputSpec((tokens,), "int64", name)
    if not _takes(model, spec):
        return Guess(f"{name}:int64:{tokens}")
    note = f"{tokens} tokens a sample ({setting} is {longest}); give `inputs` for another length"
    return Guess(f"{name}:int64:{tokens}", spec, note)


def _lengths(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The longest text by the model's own attributes or settings, with their names."""
    for owner in (model, *(getattr(model, name, None) for name in _SETTINGS)):
        for name in filter(_LENGTH.fullmatch, owner if isinstance(owner, dict) else dir(owner)):
            value: Any = owner[name] if isinstance(owner, dict) else getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 1:
                yield name, value


def _takes(model: nn.Module, spec: InputSpec) -> bool:
    try:
        first_taken(model, model.forward, [[spec]])
    except NoLayout:
        return False
    return True
