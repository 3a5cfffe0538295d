"""The shapes of a transformers model's inputs, from its config and the arguments of its forward pass.

Where the config does not say a size, a usual one is taken and a note says which.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..base.errors import JoulecastError
from ..trace.signature import arguments
from .clips import (
    PATCH_SIDE,
    Layout,
    NoLayout,
    Picture,
    audio_layouts,
    first_taken,
    image_layouts,
    is_cut_into_patches,
    placeholders,
    pooled,
    required,
)
from .input_spec import InputSpec

Shape = tuple[int, ...]

_AUDIO_SAMPLES = (16_000, 19_200)  # one second; where a model asks for whole frames of 80 ms at 24 kHz, 0.8 s
_AUDIO_FRAMES = 1_000  # 10 s of 10 ms
_FRAMES_OF_A_SECOND = 100  # of 10 ms; stacked ones are fewer
_IMAGE_SIDE, _DETECTION_SIDE = 224, 640
_MEL_BINS = 80
_SERIES_STEPS = 512
_PATCHES = 2_048  # of Pix2Struct's processor
_AUDIO_CHANNELS_FIRST = ("audio_channels", "upsampling_ratios", "downsampling_ratios", "codebook_size")
_IMAGE_VECTORS = 257  # of 224 x 224 in patches of 14, and the class
_MOST_LAYOUTS = 8  # that are tried together
_FEATURE_WIDTHS = (80, 128, 160, 320)  # of log-mel frames, single or stacked
_LATENT_FRAMES = 125  # 10 s of a codec's usual 12.5 a second
_VIDEO_FRAMES = 8
_TEXT_BESIDE_CLIPS = 64  # tokens, where images fill the usual length
_PIXELS = ("pixel_values", "image_pixel_values", "pixel_values_videos")
_FEATURES = ("input_features", "audio_input_features", "audio_mel")


class UnknownShape(Exception):  # noqa: N818 - a question that the config leaves open
    """The config does not imply the shape of the input named by the message."""


def implied_inputs(
    model: Any, tokens: int, image_size: tuple[int, int] | None = None
) -> tuple[list[InputSpec], list[str]]:
    """The inputs of one call, main input first, and notes on what was assumed.

    `tokens` is the length of each text, `image_size` that of the processor. A text has an image (or a video) and an
    audio clip where the model takes them. Raises UnknownShape with the name of an input.
    """
    takes = arguments(model)
    main = _main(model, takes)
    needed = [main, *(name for name in takes if _required(takes[name]) and name != main)]
    notes: list[str] = []
    wanted: dict[str, InputSpec] = {}
    filled: list[tuple[str, int]] = []  # the kind of each clip, and the tokens of the text that stand for it
    possible: list[list[Layout]] = []  # of each clip, where its model does not tell
    for name in (*needed, *_optional(model, takes, needed)):
        if name in wanted:
            continue
        patches = name == "hidden_states" and is_cut_into_patches(takes)  # as vision towers name them
        if name in (*_PIXELS, *_FEATURES) or patches or (name == "input_values" and main == "input_ids"):
            try:
                layouts, count = _clip(model, takes, name, notes, image_size)
            except NoLayout as unknown:
                if name in needed:
                    raise UnknownShape(name) from unknown
                notes.append(f"costed without {name}: no layout for it is taken ({unknown})")
                if "mm_token_type_ids" in takes:
                    wanted["mm_token_type_ids"] = _only_text(wanted["input_ids"])
                continue
            wanted |= {spec.name: spec for spec in layouts[0]}
            filled.append((_kind(name), count))
            possible.append(layouts)
        elif name.endswith("_mask") and wanted:  # for the positions of the main input
            wanted[name] = InputSpec(next(iter(wanted.values())).shape[:1], "bool", name)
        else:
            shape, dtype = _shape(model, name, tokens, notes)
            wanted[name] = InputSpec(shape, dtype, name)
    if "input_ids" in wanted and any(count for _, count in filled):
        wanted |= {spec.name: spec for spec in _text(model.config, takes, tokens, filled, notes)}
    if filled and "input_ids" in wanted:
        return _with_or_without_clips(model, wanted, needed, notes, possible)
    return list(wanted.values()), notes


def _with_or_without_clips(
    model: Any,
    wanted: dict[str, InputSpec],
    needed: Sequence[str],
    notes: list[str],
    possible: Sequence[Sequence[Layout]],
) -> tuple[list[InputSpec], list[str]]:
    """All inputs if the model takes them together, in one of the layouts; otherwise the text alone, with a note."""
    whole = list(wanted.values())
    wholes = [
        list((wanted | {spec.name: spec for layout in picked for spec in layout}).values())
        for picked in itertools.islice(itertools.product(*possible), _MOST_LAYOUTS)
    ]
    ids = wanted["input_ids"]
    try:
        return first_taken(model, model.forward, wholes)[0], notes
    except NoLayout as refused:
        with suppress(NoLayout):
            together = first_taken(model, model.forward, list(_as_long_as_clips(model, ids, wholes)))[0]
            return together, [*notes, "a text with a token for each vector of its clip"]
        text = [
            replace(ids, values=None) if spec is ids else spec for spec in whole if spec.values is None or spec is ids
        ]
        text = [spec for spec in text if spec.name in needed or spec.name.endswith("input_ids")]
        if "mm_token_type_ids" in arguments(model):
            text.append(_only_text(ids))
        try:
            first_taken(model, model.forward, [text])
        except NoLayout:
            if missing := _missing_token(model.config):
                raise JoulecastError(
                    f"{type(model).__name__}: {missing} of its config is None, and the model looks for that token in "
                    f"each text; set it with `model_args` {missing}=NUMBER"
                ) from None
            return whole, notes  # the trace shows the error
        return text, [f"costed on its text alone: the model refuses its images or audio ({refused})"]


def _as_long_as_clips(model: Any, ids: InputSpec, wholes: Sequence[Layout]) -> Iterator[Layout]:
    """The inputs of a model that adds the vectors of a clip to those of a text: a text of as many tokens."""
    for kind in ("image", "audio"):
        features = getattr(model, f"get_{kind}_features", None)
        if features is None or _token(model.config, kind) is not None:
            continue
        for whole in wholes:
            with suppress(NoLayout):
                _, outputs = first_taken(model, pooled(features), [whole])
                text = replace(ids, shape=(placeholders(outputs, _width(model)),), values=None)
                yield [text if spec.name == ids.name else spec for spec in whole]


def _only_text(ids: InputSpec) -> InputSpec:
    """The kinds of a text's tokens, which some models require in training: 0 is a word."""
    return InputSpec(ids.shape, "int64", "mm_token_type_ids", (0,) * math.prod(ids.shape))


def _optional(model: Any, takes: Mapping[str, Any], needed: Sequence[str]) -> list[str]:
    """Arguments that have a default and yet belong to a usual call."""
    decodes = bool(getattr(model.config, "is_encoder_decoder", False))
    names = []
    if needed[0] in _PIXELS and "input_ids" in takes and not decodes and hasattr(model.config, "text_config"):
        names.append("input_ids")
    if "input_ids" in (*needed, *names):
        names += [name for name in _PIXELS if name in takes][:1]
        if not decodes:
            names += [name for name in _FEATURES if name in takes][:1]
        hears = any("audio" in str(getattr(one, "model_type", "")) for one in _configs(model.config))
        if "input_values" in takes and (hears or _token(model.config, "audio") is not None):
            names.append("input_values")
        names += [name for name in ("bbox", "image") if name in takes]
    if needed[0] in ("input_values", *_FEATURES) and "input_ids" not in takes:  # of a film
        names += [name for name in _PIXELS if name in takes][:1]
    if needed[0] == "query_embeds" and "encoder_hidden_states" in takes:  # a Q-Former asks an image
        names.append("encoder_hidden_states")
    if decodes and "decoder_input_ids" in (takes or {"decoder_input_ids"}):
        names.append("decoder_input_ids")
    if "decoder_input_values" in takes:
        names.append("decoder_input_values")
    return names


# -- images and audio with a text -------------------------------------------------------------------


def _kind(name: str) -> str:
    if name == "pixel_values_videos":
        return "video"
    return "image" if name in (*_PIXELS, "hidden_states") else "audio"


def _clip(
    model: Any, takes: Mapping[str, Any], name: str, notes: list[str], image_size: tuple[int, int] | None
) -> tuple[list[Layout], int]:
    """The possible arrays of one image, video or audio clip, and the tokens that it fills (0 where it fills none)."""
    kind = _kind(name)
    features = getattr(model, f"get_{kind}_features", None)
    needs = [*required(type(model).forward), *(required(features) if features else ())]
    known = {**takes, **dict.fromkeys(needs)}
    if kind == "audio":
        both = name != "input_values" and "input_values" in needs  # of one clip
        shapes = _audio(model.config, notes) if name == "input_values" else _audio_features(model.config, notes, both)
        layouts = [
            layout
            for shape in shapes
            for layout in audio_layouts(known, needs, name, shape, shape[0] if both else None)
        ]
    else:
        layouts = list(_images(model, known, needs, name, notes, image_size))
    if _token(model.config, kind) is not None and features is not None:
        layout, outputs = first_taken(model, pooled(features), layouts)
        return [layout], placeholders(outputs, _width(model))
    if "input_ids" not in takes and (kind == "audio" or is_cut_into_patches(takes)):
        with suppress(NoLayout):  # the trace shows the error
            return [first_taken(model, model.forward, layouts)[0]], 0
    return layouts, 0


def _images(
    model: Any,
    takes: Mapping[str, Any],
    needs: Sequence[str],
    name: str,
    notes: list[str],
    image_size: tuple[int, int] | None,
) -> Iterator[Layout]:
    config = model.config
    if not is_cut_into_patches(takes):
        *frames, channels, height, width = _image(model, notes, is_video=name == "pixel_values_videos")
        height, width = image_size or (height, width)
        if "prompt_pixel_values" in takes:  # the config's image is the prompt above the picture
            height //= 2
        if frames:
            yield [InputSpec((*frames, channels, height, width), None, name)]
        else:
            yield from image_layouts(takes, needs, name, Picture(height, width, channels, _patch(config)))
        return
    channels = next((value for one in _configs(config) if (value := _channels(one))), 3)
    merge = _find(config, ("spatial_merge_size", "merge_size", "merge_kernel_size", "pooling_kernel_size")) or 1
    depth = _find(config, ("temporal_patch_size", "patch_temporal")) or 1
    size = _image_size(config)
    picture = Picture(0, 0, channels, _patch(config), merge, depth).cut(size[0] if size else PATCH_SIDE)
    if size is None:
        notes.append(f"images of {picture.height} x {picture.width}: the config has no size")
    yield from image_layouts(takes, needs, name, picture)


def _patch(config: Any) -> int:
    return _find(config, ("patch_size",)) or 16


def _token(config: Any, kind: str) -> int | None:
    """The id of the token that stands for a part of an image, a video or an audio clip."""
    for one in _configs(config):
        for name in (f"{kind}_token_id", f"{kind}_token_index", "media_placeholder_token_id"):
            value = getattr(one, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _missing_token(config: Any) -> str:
    names = (f"{kind}_token_{what}" for kind in ("image", "video", "audio") for what in ("id", "index"))
    return next((name for name in names if hasattr(config, name) and getattr(config, name) is None), "")


def _width(model: Any) -> int | None:
    """Of the vector that a token becomes."""
    try:
        shape = model.get_input_embeddings().weight.shape
    except (AttributeError, NotImplementedError):
        return None
    return int(shape[-1])


def _ids_per_position(model: Any) -> int | None:
    """Of a model that sums the vectors of several ids, those of a codec's codebooks: how many each position has."""
    try:
        offsets = getattr(model.get_input_embeddings(), "audio_tokens_offsets", None)
    except (AttributeError, NotImplementedError):
        return None
    return None if offsets is None else len(offsets)


def _text(
    config: Any, takes: Mapping[str, Any], tokens: int, filled: Sequence[tuple[str, int]], notes: list[str]
) -> Iterator[InputSpec]:
    """A text of `tokens` tokens, or more where its clips need them, that begins with its clips."""
    count = sum(count for _, count in filled)
    if count + _TEXT_BESIDE_CLIPS > tokens:
        tokens = count + _TEXT_BESIDE_CLIPS
        notes.append(f"{tokens} tokens a sample")
    notes.append(f"{count} of the {tokens} tokens stand for {' and '.join(kind for kind, count in filled if count)}")
    named = (getattr(one, name) for one in _configs(config) for name in vars(one) if name.endswith(("_id", "_index")))
    special = {one for one in named if isinstance(one, int)}
    word = next(number for number in range(3, 3 + len(special) + 1) if number not in special)
    kinds = {"image": 1, "video": 2, "audio": 3}
    row, types = [word], [0]
    for kind, count in filled:
        row += [_token(config, kind) or 0] * count
        types += [kinds[kind]] * count
    row += [word] * (tokens - len(row))
    types += [0] * (tokens - len(types))
    yield InputSpec((tokens,), "int64", "input_ids", tuple(row))
    if "mm_token_type_ids" in takes:
        yield InputSpec((tokens,), "int64", "mm_token_type_ids", tuple(types))
    elif "token_type_ids" in takes:
        yield InputSpec((tokens,), "int64", "token_type_ids", tuple(min(one, 1) for one in types))


# -- the arguments ---------------------------------------------------------------------------------


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


_KNOWN = (
    *("input_ids", "pixel_values", "pixel_values_videos", "input_features", "input_values", "past_values"),
    *("audio_mel", "hidden_states", "latents", "inputs_embeds", "noise_embeds", "query_embeds"),
)


def named_input(model: Any) -> str:
    """The main input that the model names, the first of several; "" if it names none."""
    name = getattr(model, "main_input_name", "")
    if isinstance(name, (list, tuple)):
        name = next(iter(name), "")
    return name if isinstance(name, str) else ""


def _main(model: Any, takes: Any) -> str:
    """The main input that the model names, if its forward pass takes it."""
    named = named_input(model)
    encoder = named_input(getattr(model, "encoder", None))
    if named == "inputs" and encoder in takes:  # whatever the encoder takes
        return encoder
    if not takes or named in takes:
        return named
    return next((name for name in _KNOWN if name in takes), named)


def _shape(model: Any, name: str, tokens: int, notes: list[str]) -> tuple[Shape, str | None]:
    config = model.config
    if name == "decoder_input_ids" and (channels := getattr(_decoder(config), "num_channels", None)):
        return (tokens, channels), "int64"  # of a codec
    if name == "input_ids" and (rows := _ids_per_position(model)):
        return (tokens, rows), "int64"
    if name == "qformer_input_ids":
        return (min(tokens, _find(config.qformer_config, ("max_position_embeddings",)) or tokens),), "int64"
    if name.endswith("input_ids"):
        return (tokens,), "int64"
    if name == "encoder_hidden_states" and (size := _find(config, ("encoder_hidden_size", "cross_attention_dim"))):
        notes.append(f"{_IMAGE_VECTORS} vectors of an image a sample")
        return (_IMAGE_VECTORS, size), None
    if name == "bbox":
        return (tokens, 4), "int64"
    if name == "image":
        return _image(model, notes), None
    if name in ("prompt_pixel_values", "prompt_masks"):
        channels, height, width = _image(model, notes)
        return (channels, height // 2, width), None
    if name == "latents" and (size := _find(config, ("hidden_size",))):
        notes.append(f"{_LATENT_FRAMES} frames a sample: 10 s of audio")
        return (size, _LATENT_FRAMES), None
    if name.endswith("_embeds") or name == "context_hidden_states":
        if (hidden := _find(config, ("hidden_size", "d_model"))) is None:
            raise UnknownShape(name)
        if name == "context_hidden_states":  # of several layers, one after another
            hidden *= len(getattr(config, "target_layer_ids", None) or (0,))
        return (_find(config, ("num_query_tokens",)) or tokens if name == "query_embeds" else tokens, hidden), None
    if name == "task_inputs":
        return (_find(config, ("task_seq_len",)) or tokens,), "int64"
    if name in ("input_values", "decoder_input_values") and (part := _part_of_speech(model, name)) is not None:
        if not hasattr(part, "prenet"):  # which makes vectors of the speech
            return (tokens, config.hidden_size), None
        if name == "decoder_input_values":
            return (_AUDIO_FRAMES, config.num_mel_bins), None
    if name in ("input_values", "audio_values"):
        return _audio(config, notes)[0], None
    if name == "hidden_states" and (channels := _first_convolved(model)):
        if channels == getattr(config, "channels", None):  # the waveform itself
            return (channels, _AUDIO_SAMPLES[0]), None
        return (channels, _LATENT_FRAMES), None
    if name == "past_values":
        steps = _find(config, ("context_length",)) or _SERIES_STEPS
        channels = _find(config, ("num_input_channels",))
        return ((steps, channels) if channels else (steps,)), None
    if name == "flattened_patches":
        notes.append(f"{_PATCHES} patches a sample, the processor's usual number")
        return (_PATCHES, 2 + 3 * _patch(config) ** 2), None
    if name == "inputs" and (size := _find(config, ("d_model",))):
        notes.append(f"{tokens} positions a sample")
        return (tokens, size), None
    if name.endswith("_session"):
        raise UnknownShape(f"{name}, an object and not a tensor")
    raise UnknownShape(name)


def _part_of_speech(model: Any, name: str) -> Any:
    """The encoder or decoder that takes `input_values` or `decoder_input_values`, of a model with both."""
    if "decoder_input_values" not in arguments(model):
        return None
    base = getattr(model, str(getattr(model, "base_model_prefix", "")), model)
    return getattr(base, "decoder" if name.startswith("decoder") else "encoder", None)


def _first_convolved(model: Any) -> int | None:
    """Channels that the first layer takes, if it is a convolution along time."""
    from torch import nn

    layers = model.modules() if isinstance(model, nn.Module) else ()
    first = next((layer for layer in layers if any(True for _ in layer.parameters(recurse=False))), None)
    return first.in_channels if isinstance(first, nn.Conv1d) else None


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
            if isinstance(value, (list, tuple)) and value:  # [2, 2], or time, rows and columns
                value = value[-1]
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _decoder(config: Any) -> Any:
    return getattr(config, "decoder_config", None)


def _image(model: Any, notes: list[str], is_video: bool = False) -> Shape:
    """(channels, height, width), with the frames first for a model of videos and of pairs."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_KEYPOINT_MATCHING_MAPPING_NAMES

    config, name = model.config, type(model).__name__
    size = _image_size(config) or _size_of_parts(model)
    if size is not None and (fitting := _fitting(config, size)) != size:
        size = fitting
        notes.append(f"images of {size[0]} x {size[1]}: the config's own size does not fit its windows or scales")
    if size is None:
        finds = any(word in name for word in ("Detection", "Detr", "DETR", "Grounding", "Segmentation"))
        side = _DETECTION_SIDE if finds else _IMAGE_SIDE
        size = (side, side)
        notes.append(f"images of {side} x {side}: the config has no size; set the inputs for another")
    channels = next((value for one in _configs(config) if (value := _channels(one))), 3)
    frames = _find(config, ("num_frames", "frames_per_clip"))
    if getattr(config, "model_type", None) in MODEL_FOR_KEYPOINT_MATCHING_MAPPING_NAMES:
        frames = 2  # the images of a pair
    elif is_video and not frames:
        frames = _VIDEO_FRAMES
        notes.append(f"videos of {frames} frames")
    return (frames, channels, *size) if frames and frames > 1 else (channels, *size)


def _fitting(config: Any, size: tuple[int, int]) -> tuple[int, int]:
    """The nearest size whose patches fill all windows, and whose smallest scale has a patch."""
    windows = _find(config, ("num_windows",))
    if windows and (patch := _find(config, ("patch_size",))):
        token = windows * patch
        return tuple(max(1, side // token) * token for side in size)  # type: ignore[return-value]
    if ratios := getattr(config, "scaled_images_ratios", None):
        least = math.ceil(_patch(config) / min(ratios))
        return max(size[0], least), max(size[1], least)
    return size


def _channels(config: Any) -> int | None:
    value = getattr(config, "num_channels", None) or getattr(config, "in_channels", None)
    return value if isinstance(value, int) and 0 < value <= 16 else None


def _image_size(config: Any) -> tuple[int, int] | None:
    for one in _configs(config):
        for name in ("image_size", "input_size", "img_size", "crop_size", "max_img_size"):
            size = getattr(one, name, None)
            if isinstance(size, dict):
                size = (size.get("height"), size.get("width"))
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                return (size, size)
            if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size):
                return (size[0], size[1])
    return None


def _size_of_parts(model: Any) -> tuple[int, int] | None:
    """Height and width of the images of a timm network inside the model, which keeps them in its own config."""
    from torch import nn

    for part in model.modules() if isinstance(model, nn.Module) else ():
        own = getattr(part, "pretrained_cfg", None)
        size = own.get("input_size") if isinstance(own, Mapping) else None
        if isinstance(size, Sequence) and len(size) == 3:
            return int(size[1]), int(size[2])
    return None


def _audio_features(config: Any, notes: list[str], beside_samples: bool = False) -> list[Shape]:
    """(frames, mel bins); Whisper and its like take (mel bins, frames), of a fixed number. The likeliest first.

    Beside the samples of the same second, there are as many frames of 10 ms as the samples have.
    """
    bins = _find(
        config,
        (
            "feature_projection_input_dim",
            "num_mel_bins",
            "n_mels",
            "mel_bins",
            "feature_size",
            "input_feat_per_channel",
            "input_feat_size",
            "input_dim",
        ),
    )
    for one in _configs(config):
        positions, own = getattr(one, "max_source_positions", None), getattr(one, "num_mel_bins", None)
        if isinstance(positions, int) and isinstance(own, int):
            return [(own, 2 * positions)]  # the convolutions halve them
    own_width = (bins or _MEL_BINS) * (_find(config, ("num_stacked_frames",)) or 1)
    widths = dict.fromkeys((own_width, *_FEATURE_WIDTHS))
    if beside_samples:
        return [(_FRAMES_OF_A_SECOND // max(1, width // _MEL_BINS), width) for width in widths]
    notes.append(f"{_AUDIO_FRAMES} frames a sample: 10 s of audio")
    return [(_AUDIO_FRAMES, width) for width in widths]


def _audio(config: Any, notes: list[str]) -> list[Shape]:
    """Samples of one channel; codecs take (channels, samples), spectrogram transformers (frames, mel bins)."""
    frames, bins = getattr(config, "max_length", None), getattr(config, "num_mel_bins", None)
    if isinstance(frames, int) and isinstance(bins, int) and hasattr(config, "frequency_stride"):
        return [(frames, bins)]
    if whole := _find(config, ("samples_per_token",)):  # and no part of a token
        samples = math.ceil(_AUDIO_SAMPLES[0] / whole) * whole
        notes.append(f"{samples} samples of audio; input_values:SAMPLES for another")
        return [(samples,)]
    notes.append("one second of audio at 16 kHz a sample; input_values:SAMPLES for another")
    codec = any(hasattr(one, name) for one in _configs(config) for name in _AUDIO_CHANNELS_FIRST)
    if codec and not hasattr(config, "conv_stride"):
        return [(_find(config, ("audio_channels",)) or 1, samples) for samples in _AUDIO_SAMPLES]
    return [(samples,) for samples in _AUDIO_SAMPLES]
