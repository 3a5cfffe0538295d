"""The shapes of a transformers model's inputs, from its config and the arguments of its forward pass.

Where the config does not say a size, a usual one is taken and a note says which.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

Shape = tuple[int, ...]
Implied = tuple[str, Shape, str | None]
"""Name, shape of one sample and dtype; None is the model's own floating-point type."""

_AUDIO_SAMPLES = 16_000
_AUDIO_FRAMES = 1_000  # 10 s of 10 ms
_IMAGE_SIDE, _DETECTION_SIDE = 224, 640
_MEL_BINS = 80
_SERIES_STEPS = 512
_PATCHES = 2_048  # of Pix2Struct's processor
_AUDIO_CHANNELS_FIRST = ("audio_channels", "upsampling_ratios", "downsampling_ratios", "codebook_size")


class UnknownShape(Exception):  # noqa: N818 - a question that the config leaves open
    """The config does not imply the shape of the input named by the message."""


def implied_inputs(model: Any, tokens: int) -> tuple[list[Implied], list[str]]:
    """The inputs of one call, main input first, and notes on what was assumed.

    `tokens` is the length of each text. Raises UnknownShape with the name of an input.
    """
    takes = _arguments(model)
    main = _main(model, takes)
    contrastive = main == "input_ids" and hasattr(model, "logit_scale")  # CLIP and its like compare texts with images
    names = [main]
    names += [name for name in takes if _required(takes[name]) and name != main]
    if contrastive and "pixel_values" in takes and "pixel_values" not in names:
        names.insert(1, "pixel_values")
    decodes = bool(getattr(model.config, "is_encoder_decoder", False))
    if decodes and "decoder_input_ids" in (takes or {"decoder_input_ids"}) and "decoder_input_ids" not in names:
        names.append("decoder_input_ids")
    notes: list[str] = []
    wanted: list[Implied] = []
    for name in names:
        if name.endswith("_mask") and wanted:  # for the positions of the main input
            wanted.append((name, wanted[0][1][:1], "bool"))
            continue
        shape, dtype = _shape(model, name, tokens, notes)
        wanted.append((name, shape, dtype))
    return wanted, notes


def _arguments(model: Any) -> dict[str, inspect.Parameter]:
    """The named arguments of the forward pass, behind whatever decorates it."""
    try:
        parameters = inspect.signature(inspect.unwrap(type(model).forward)).parameters
    except (TypeError, ValueError):
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: value for name, value in parameters.items() if value.kind in kinds and name != "self"}


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


_KNOWN = ("input_ids", "pixel_values", "pixel_values_videos", "input_features", "input_values", "past_values")


def _main(model: Any, takes: Any) -> str:
    """The main input that the model names, if its forward pass takes it."""
    named = str(model.main_input_name)
    if not takes or named in takes:
        return named
    return next((name for name in _KNOWN if name in takes), named)


def _shape(model: Any, name: str, tokens: int, notes: list[str]) -> tuple[Shape, str | None]:
    config = model.config
    if name.endswith("input_ids"):
        return (tokens,), "int64"
    if name in ("pixel_values", "pixel_values_videos"):
        return _image(model, notes), None
    if name == "input_features":
        return _audio_features(config, notes), None
    if name in ("input_values", "audio_values"):
        return _audio(config, notes), None
    if name == "past_values":
        steps = _find(config, ("context_length",)) or _SERIES_STEPS
        return (steps, _find(config, ("num_input_channels",)) or 1), None
    if name == "flattened_patches":
        side = _find(config, ("patch_size",)) or 16
        notes.append(f"{_PATCHES} patches a sample, the processor's usual number")
        return (_PATCHES, 2 + 3 * side * side), None
    if name == "inputs" and (width := _find(config, ("d_model",))):
        notes.append(f"{tokens} positions a sample")
        return (tokens, width), None
    raise UnknownShape(name)


def _configs(config: Any) -> Iterator[Any]:
    """The config and the configs inside it, those of images first."""
    yield config
    inner = [value for value in vars(config).values() if hasattr(value, "to_dict") and hasattr(value, "model_type")]
    for value in sorted(inner, key=lambda one: "vision" not in str(one.model_type)):
        yield from _configs(value)


def _find(config: Any, names: Sequence[str]) -> int | None:
    """The first whole number above 0 under one of these names, in the config or one inside it."""
    for one in _configs(config):
        for name in names:
            value = getattr(one, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _image(model: Any, notes: list[str]) -> Shape:
    """(channels, height, width), with the frames first for a model of videos."""
    config = model.config
    size = _image_size(config)
    if size is None:
        name = type(model).__name__
        finds = any(word in name for word in ("Detection", "Detr", "DETR", "Grounding", "Segmentation"))
        side = _DETECTION_SIDE if finds else _IMAGE_SIDE
        size = (side, side)
        notes.append(f"images of {side} x {side}: the config says no size; set the inputs for another")
    channels = next((value for one in _configs(config) if (value := _channels(one))), 3)
    frames = _find(config, ("num_frames", "frames_per_clip"))
    return (frames, channels, *size) if frames and frames > 1 else (channels, *size)


def _channels(config: Any) -> int | None:
    value = getattr(config, "num_channels", None) or getattr(config, "in_channels", None)
    return value if isinstance(value, int) and 0 < value <= 16 else None


def _image_size(config: Any) -> tuple[int, int] | None:
    for one in _configs(config):
        for name in ("image_size", "input_size", "img_size", "crop_size"):
            size = getattr(one, name, None)
            if isinstance(size, dict):
                size = (size.get("height"), size.get("width"))
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                return (size, size)
            if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size):
                return (size[0], size[1])
    return None


def _audio_features(config: Any, notes: list[str]) -> Shape:
    """(frames, mel bins); Whisper and its like take (mel bins, frames), of a fixed number."""
    bins = _find(config, ("num_mel_bins", "n_mels", "mel_bins", "feature_size", "input_feat_per_channel", "input_dim"))
    for one in _configs(config):
        positions, own = getattr(one, "max_source_positions", None), getattr(one, "num_mel_bins", None)
        if isinstance(positions, int) and isinstance(own, int):
            return (own, 2 * positions)  # the convolutions halve them
    notes.append(f"{_AUDIO_FRAMES} frames of {bins or _MEL_BINS} features a sample: 10 s of audio")
    return (_AUDIO_FRAMES, bins or _MEL_BINS)


def _audio(config: Any, notes: list[str]) -> Shape:
    """Samples of one channel; codecs take (channels, samples), spectrogram transformers (frames, mel bins)."""
    frames, bins = getattr(config, "max_length", None), getattr(config, "num_mel_bins", None)
    if isinstance(frames, int) and isinstance(bins, int) and hasattr(config, "frequency_stride"):
        return (frames, bins)
    notes.append("one second of audio at 16 kHz a sample; input_values:SAMPLES for another")
    codec = any(hasattr(one, name) for one in _configs(config) for name in _AUDIO_CHANNELS_FIRST)
    if codec and not hasattr(config, "conv_stride"):
        return (_find(config, ("audio_channels",)) or 1, _AUDIO_SAMPLES)
    return (_AUDIO_SAMPLES,)
