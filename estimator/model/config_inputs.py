"""The inputs that a transformers model takes, from its config and from the processor's file in the same folder.

`implied.py` has the rules for texts, images, videos and audio, `families.py` the models that take several arrays that
belong together; here are the processor's sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from ..trace.signature import arguments
from .families import family_inputs
from .implied import UnknownShape, implied_inputs, named_input
from .input_spec import HOW_TO_GIVE_INPUTS, InputSpec

if TYPE_CHECKING:
    from torch import nn

# Tokens of a language model whose config allows more: configs allow up to millions.
MAX_DEFAULT_TOKENS = 2048
Wanted = tuple[list[InputSpec], tuple[str, ...]]


def main_input(model: nn.Module) -> str:
    """The name of a transformers model's main input, "" for any other model."""
    return named_input(model) if hasattr(model, "config") else ""


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
    tokens, token_notes = _tokens(_text_config(config), sequence_length)
    if family := family_inputs(model, arguments(model), tokens, sequence_length):
        return [replace(spec, dtype=spec.dtype or dtype) for spec in family[0]], tuple(
            f"{label}: {n}" for n in family[1]
        )
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


def longest_text(model: Any) -> int | None:
    """The tokens of a default text, if that is the longest that the config of a transformers model allows."""
    longest = _longest(_text_config(model.config)) if main_input(model) else None
    return longest if longest is not None and longest <= MAX_DEFAULT_TOKENS else None


_LONGEST = ("max_position_embeddings", "n_positions", "max_target_positions", "max_text_positions", "max_seq_len")


def _longest(config: Any) -> int | None:
    sizes = (getattr(config, name, None) for name in _LONGEST)
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def _tokens(config: Any, sequence_length: int | None) -> tuple[int, tuple[str, ...]]:
    longest = _longest(config)
    if sequence_length is not None:
        beyond = longest is not None and sequence_length > longest
        note = f"{sequence_length} tokens a sample are more than the config's {longest}"
        return sequence_length, ((note,) if beyond else ())
    if getattr(config, "axial_pos_embds", False):  # trained on the whole grid of positions only
        tokens = math.prod(config.axial_pos_shape)
        return tokens, (f"{tokens} tokens a sample, as many as the config has axial positions",)
    if longest is not None and longest <= MAX_DEFAULT_TOKENS:
        return longest, (f"{longest} tokens a sample, the config's longest; `sequence_length` sets another",)
    tokens = MAX_DEFAULT_TOKENS if longest is not None else 512
    limit = f"the config allows {longest}" if longest is not None else "the config has no length"
    return tokens, (f"{tokens} tokens a sample ({limit}); `sequence_length` sets another",)


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
