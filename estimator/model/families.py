"""The inputs of transformers models that take several arrays which belong together: series, speech, robots, boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .input_spec import InputSpec

Inputs = tuple[list[InputSpec], tuple[str, ...]]  # and notes on what was assumed

_EPISODE_STEPS = 20  # the context length of the decision transformer's paper
_PHONEMES = 128  # a sentence of 8 s
_FRAMES_PER_PHONEME = 5  # 60 ms, with the usual 12 ms a frame
_CLASSES, _CLASS_TOKENS = 10, 8
_PROMPT_TOKENS = 48
_QUESTIONS = 4


def family_inputs(model: Any, takes: Mapping[str, Any], tokens: int, asked: int | None = None) -> Inputs | None:
    """The inputs of a model of one of these families; None for all others. Specs without a dtype take the model's.

    `tokens` is the length of a text by the config, `asked` the one that the user gave.
    """
    config = model.config
    if {"input_ids", "spectrogram_labels", "duration_labels"} <= set(takes):
        return _speech(config, asked or _PHONEMES)
    return next((inputs(config, tokens) for belongs, inputs in _FAMILIES if belongs(config, takes)), None)


def _series(config: Any, tokens: int) -> Inputs:
    """The past with its longest lag, and the future that is predicted, as the time series transformers take them."""
    horizon: int = getattr(config, "prediction_length", None) or 1
    length: int = (getattr(config, "context_length", None) or horizon) + max(config.lags_sequence)
    variates: tuple[int, ...] = () if getattr(config, "input_size", 1) == 1 else (config.input_size,)
    features = getattr(config, "num_time_features", 0) or 0
    wanted = [
        InputSpec((length, *variates), None, "past_values"),
        InputSpec((length, features), None, "past_time_features"),
        InputSpec((length, *variates), None, "past_observed_mask"),
        InputSpec((horizon, *variates), None, "future_values"),
        InputSpec((horizon, features), None, "future_time_features"),
    ]
    if count := getattr(config, "num_static_real_features", 0):
        wanted.append(InputSpec((count,), None, "static_real_features"))
    if count := getattr(config, "num_static_categorical_features", 0):
        wanted.append(InputSpec((count,), "int64", "static_categorical_features"))
    return wanted, ()


def _padded_series(config: Any, tokens: int) -> Inputs:
    """A series of the config's length with its padding and the index of its frequency, as TimesFM takes it."""
    return [
        InputSpec((config.context_length,), None, "past_values"),
        InputSpec((config.context_length,), None, "past_values_padding"),
        InputSpec((1,), "int64", "freq"),
    ], ()


def _episode(config: Any, tokens: int) -> Inputs:
    steps = _EPISODE_STEPS
    note = f"episodes of {steps} steps; give all `inputs` (states:STEPS,{config.state_dim}...) for others"
    return [
        InputSpec((steps, config.state_dim), None, "states"),
        InputSpec((steps, config.act_dim), None, "actions"),
        InputSpec((steps, 1), None, "rewards"),
        InputSpec((steps, 1), None, "returns_to_go"),
        InputSpec((steps,), "int64", "timesteps"),
    ], (note,)


def _speech(config: Any, tokens: int) -> Inputs:
    """Phonemes with the spectrogram, lengths, pitch and energy that a text-to-speech model learns."""
    own: Any = getattr(config, "model_config", config)  # inside the whole config where a vocoder follows
    frames = tokens * _FRAMES_PER_PHONEME
    return [
        InputSpec((tokens,), "int64", "input_ids"),
        InputSpec((frames, own.num_mel_bins), None, "spectrogram_labels"),
        InputSpec((tokens,), "int64", "duration_labels", (_FRAMES_PER_PHONEME,) * tokens),
        InputSpec((tokens, 1), None, "pitch_labels"),
        InputSpec((tokens, 1), None, "energy_labels"),
    ], (f"{tokens} phonemes of {_FRAMES_PER_PHONEME} frames each a sample",)


def _named_boxes(config: Any, tokens: int) -> Inputs:
    """An image, the names of the classes to find in it, and the task in words, as OmDet-Turbo takes them."""
    names = (_CLASSES, _CLASS_TOKENS)
    return [
        InputSpec((3, config.image_size, config.image_size), None, "pixel_values"),
        InputSpec(names, "int64", "classes_input_ids", packed_axis=0),
        InputSpec(names, "int64", "classes_attention_mask", packed_axis=0),
        InputSpec((tokens,), "int64", "tasks_input_ids"),
        InputSpec((tokens,), "int64", "tasks_attention_mask", (1,) * tokens),
        InputSpec((), "int64", "classes_structure", (_CLASSES,)),
    ], (f"{_CLASSES} classes of {_CLASS_TOKENS} tokens an image",)


def _robot(config: Any, tokens: int) -> Inputs:
    """The image of one camera, an instruction, and the robot's state with a chunk of its actions, as pi0 takes them."""
    vision = config.vlm_config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    row = (config.vlm_config.image_token_id,) * patches + (3,) * _PROMPT_TOKENS
    return [
        InputSpec((config.chunk_size + 1, config.dit_config.hidden_size), None, "action_embeds"),
        InputSpec((len(row),), "int64", "input_ids", row),
        InputSpec((1, 3, vision.image_size, vision.image_size), None, "pixel_values"),
        InputSpec((1,), "bool", "pixel_attention_mask", (1,)),
    ], (f"one camera and an instruction of {_PROMPT_TOKENS} tokens a sample",)


def _interleaved(config: Any, tokens: int) -> Inputs:
    """A text with one image, which all tokens see, as Idefics takes them."""
    side = config.vision_config.image_size
    return [
        InputSpec((tokens,), "int64", "input_ids"),
        InputSpec((1, 3, side, side), None, "pixel_values"),
        InputSpec((tokens, 1), "int64", "image_attention_mask", (1,) * tokens),
    ], ()


def _placed_image(config: Any, tokens: int) -> Inputs:
    """A text whose first tokens stand for an image, with a mask that says so, as Kosmos-2 takes them."""
    side, count = config.vision_config.image_size, config.latent_query_num
    mask = (1,) * count + (0,) * (tokens - count)
    return [
        InputSpec((tokens,), "int64", "input_ids"),
        InputSpec((3, side, side), None, "pixel_values"),
        InputSpec((tokens,), "int64", "image_embeds_position_mask", mask),
    ], (f"{count} of the {tokens} tokens stand for image",)


def _questions(config: Any, tokens: int) -> Inputs:
    """A prompt and where the questions in it end, as Jev takes them; it scores the first prompt of a batch."""
    return [
        InputSpec((tokens,), "int64", "input_ids"),
        *(InputSpec((_QUESTIONS,), "int64", name, (1,) * _QUESTIONS) for name in ("marks", "num_options")),
        InputSpec((_QUESTIONS,), "int64", "question_type_ids", (0,) * _QUESTIONS),
    ], (f"{_QUESTIONS} questions a prompt",)


def _takes(*names: str) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda config, takes: all(name in takes for name in names)


def _is_placed(config: Any, takes: Mapping[str, Any]) -> bool:
    sized = hasattr(getattr(config, "vision_config", None), "image_size") and hasattr(config, "latent_query_num")
    return sized and {"input_ids", "pixel_values", "image_embeds_position_mask"} <= set(takes)


_FAMILIES: tuple[tuple[Callable[[Any, Mapping[str, Any]], bool], Callable[[Any, int], Inputs]], ...] = (
    (lambda config, takes: "past_values" in takes and bool(getattr(config, "lags_sequence", None)), _series),
    (lambda config, takes: "states" in takes and hasattr(config, "state_dim"), _episode),
    (_takes("past_values", "past_values_padding", "freq"), _padded_series),
    (_takes("classes_input_ids", "tasks_input_ids", "classes_structure"), _named_boxes),
    (_takes("action_embeds", "input_ids", "pixel_values"), _robot),
    (_takes("input_ids", "pixel_values", "image_attention_mask", "image_encoder_embeddings"), _interleaved),
    (_is_placed, _placed_image),
    (_takes("input_ids", "marks", "num_options", "question_type_ids"), _questions),
)
