"""The inputs that a transformers model takes, from its config and from the processor's file in the same folder.

`implied.py` has the rules for texts, images, videos and audio; here are the processor's sizes and the models that take
several arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from .implied import UnknownShape, implied_inputs
from .input_spec import HOW_TO_GIVE_INPUTS, InputSpec

if TYPE_CHECKING:
    from torch import nn

# Tokens of a language model whose config allows more: configs allow up to millions.
_MAX_DEFAULT_TOKENS = 2048
_EPISODE_STEPS = 20  # the context length of the decision transformer's paper
Wanted = tuple[list[InputSpec], tuple[str, ...]]


def main_input(model: nn.Module) -> str:
    """The name of a transformers model's main input, "" for any other model."""
    name = getattr(model, "main_input_name", "")
    return name if isinstance(name, str) and hasattr(model, "config") else ""


def vocab_size(model: nn.Module) -> int | None:
    """Tokens that the model's embedding has, for a transformers model."""
    if not main_input(model):
        return None
    size = getattr(_text_config(model.config), "vocab_size", None)
    return size if isinstance(size, int) else None


def from_config(
    model: Any, sequence_length: int | None, label: str, dtype: str | None, processor: Mapping[str, Any] | None = None
) -> Wanted:
    """The inputs that a transformers model's config implies; encoder-decoders get as many target tokens."""
    config, main = model.config, main_input(model)
    if main == "past_values" and getattr(config, "lags_sequence", None):
        return _series(config, dtype), ()
    if main == "states" and hasattr(config, "state_dim"):
        return _episode(config, dtype, label)
    tokens, token_notes = _tokens(_text_config(config), sequence_length)
    try:
        size = _processor_size(processor or {})
        implied, assumed = implied_inputs(model, tokens, size)
    except UnknownShape as unknown:
        raise JoulecastError(
            f"{label} takes {unknown}, whose shape is not in its config; {HOW_TO_GIVE_INPUTS}"
        ) from None
    notes = [f"{label}: {note}" for note in assumed if not (size and note.startswith("images of"))]
    names = {spec.name for spec in implied}
    if any(name.endswith("input_ids") for name in names):
        notes = [*token_notes, *notes]
    parts = [part for part in ("vision", "audio") if getattr(config, f"{part}_config", None) is not None]
    if main == "input_ids" and len(names) == 1 and parts:
        notes.append(f"{label}: costed on text alone, without its {' and '.join(parts)} inputs")
    return [spec if spec.dtype else replace(spec, dtype=dtype) for spec in implied], tuple(notes)


def _text_config(config: Any) -> Any:
    return getattr(config, "text_config", None) or config


def _tokens(config: Any, sequence_length: int | None) -> tuple[int, tuple[str, ...]]:
    longest = next(
        (
            getattr(config, name)
            for name in ("max_position_embeddings", "n_positions", "max_target_positions")
            if isinstance(getattr(config, name, None), int) and getattr(config, name) > 0
        ),
        None,
    )
    if sequence_length is not None:
        beyond = longest is not None and sequence_length > longest
        note = f"{sequence_length} tokens a sample are more than the config's {longest}"
        return sequence_length, ((note,) if beyond else ())
    if longest is not None and longest <= _MAX_DEFAULT_TOKENS:
        return longest, (f"{longest} tokens a sample, the config's longest; set the sequence length for another",)
    tokens = _MAX_DEFAULT_TOKENS if longest is not None else 512
    limit = f"the config allows {longest}" if longest is not None else "the config has no length"
    return tokens, (f"{tokens} tokens a sample ({limit}); set the sequence length for another",)


def _processor_size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size that the processor crops images to, otherwise the size that it resizes them to."""
    crop = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    return _sides(crop) or _sides(processor.get("size"))


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width from what configs and processors write: 224, [224, 224], {"height": ..., "width": ...}."""
    if isinstance(value, Mapping):
        shortest = value.get("shortest_edge")
        value = (value.get("height", shortest), value.get("width", shortest))
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if isinstance(value, Sequence) and len(value) >= 2 and all(isinstance(side, int) and side > 0 for side in value):
        return int(value[-2]), int(value[-1])
    return None


def _series(config: Any, dtype: str | None) -> list[InputSpec]:
    """The past with its longest lag, and the future that is predicted, as the time series transformers take them."""
    horizon: int = getattr(config, "prediction_length", None) or 1
    length: int = (getattr(config, "context_length", None) or horizon) + max(config.lags_sequence)
    variates: tuple[int, ...] = () if getattr(config, "input_size", 1) == 1 else (config.input_size,)
    features = getattr(config, "num_time_features", 0) or 0
    wanted = [
        InputSpec((length, *variates), dtype, "past_values"),
        InputSpec((length, features), dtype, "past_time_features"),
        InputSpec((length, *variates), dtype, "past_observed_mask"),
        InputSpec((horizon, *variates), dtype, "future_values"),
        InputSpec((horizon, features), dtype, "future_time_features"),
    ]
    if count := getattr(config, "num_static_real_features", 0):
        wanted.append(InputSpec((count,), dtype, "static_real_features"))
    if count := getattr(config, "num_static_categorical_features", 0):
        wanted.append(InputSpec((count,), "int64", "static_categorical_features"))
    return wanted


def _episode(config: Any, dtype: str | None, label: str) -> Wanted:
    steps = _EPISODE_STEPS
    note = f"{label}: episodes of {steps} steps; give all `inputs` (states:STEPS,{config.state_dim}...) for others"
    return [
        InputSpec((steps, config.state_dim), dtype, "states"),
        InputSpec((steps, config.act_dim), dtype, "actions"),
        InputSpec((steps, 1), dtype, "rewards"),
        InputSpec((steps, 1), dtype, "returns_to_go"),
        InputSpec((steps,), "int64", "timesteps"),
    ], (note,)
