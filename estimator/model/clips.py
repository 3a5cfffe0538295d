"""Images and audio in the layout that a transformers model takes, and the text tokens that they fill.

The names of a model's arguments tell the layout: an `image_grid_thw` says that images come as patches, one after
another; `spatial_shapes` that they come as padded patches. Where names leave a choice, the layouts are tried on meta
tensors, and the model's own `get_image_features` and `get_audio_features` tell how many placeholder tokens a clip has.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .input_spec import InputSpec, make_inputs

PATCH_SIDE = 448  # of an image that comes as patches of no fixed number


class NoLayout(Exception):  # noqa: N818 - a question that the model's code leaves open
    """No layout that is known here is taken by the model; the message is its own for the first."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image, and the patches that a model cuts it into; `merge` x `merge` patches become one token."""

    height: int
    width: int
    channels: int
    patch: int = 16
    merge: int = 1
    frames_per_patch: int = 1

    @property
    def rows(self) -> int:
        return self.height // self.patch

    @property
    def columns(self) -> int:
        return self.width // self.patch

    @property
    def patches(self) -> int:
        return self.rows * self.columns

    def cut(self, side: int) -> Picture:
        """The nearest square image around `side` that whole tokens fill."""
        token = self.patch * self.merge
        edge = max(1, round(side / token)) * token
        return Picture(edge, edge, self.channels, self.patch, self.merge, self.frames_per_patch)

    def in_tokens(self) -> Picture:
        """The same image in patches as large as a token."""
        return replace(self, patch=self.patch * self.merge, merge=1)


Layout = list[InputSpec]

# -- images --------------------------------------------------------------------------------------

_GRIDS: Mapping[str, Callable[[Picture], tuple[int, ...]]] = {
    "image_grid_thw": lambda it: (1, it.rows, it.columns),
    "grid_thw": lambda it: (1, it.rows, it.columns),
    "image_grid_hw": lambda it: (it.rows, it.columns),
}
_PADDED = ("spatial_shapes", "image_position_ids", "pixel_position_ids")


def is_cut_into_patches(takes: Mapping[str, Any]) -> bool:
    """Whether the images come as patches, of any number."""
    return any(name in takes for name in (*_GRIDS, *_PADDED, "target_sizes"))


def image_layouts(takes: Mapping[str, Any], needs: Sequence[str], name: str, it: Picture) -> Iterator[Layout]:
    """The forms in which a model may take one image as its argument `name`, the likeliest first."""
    beside = [spec for other in dict.fromkeys((*needs, *takes)) if (spec := _beside(other, other in needs, it))]
    inner = it.channels * it.patch**2
    if any(grid in takes for grid in _GRIDS):
        depths = dict.fromkeys((it.frames_per_patch, 1))
        token = it.patch * it.merge
        shapes: list[tuple[int, ...]] = [(it.patches, inner * depth) for depth in depths]
        shapes.append((it.patches, it.channels, it.patch, it.patch))
        yield from ([InputSpec(shape, None, name, packed_axis=0), *beside] for shape in shapes)
        tokens = InputSpec((it.patches // it.merge**2, token, token, it.channels), None, name, packed_axis=0)
        grids = [spec for grid in _GRIDS if grid in takes and (spec := _beside(grid, True, it.in_tokens()))]
        yield [tokens, *(spec for spec in beside if spec.name not in _GRIDS), *grids]
    elif any(padded in takes for padded in _PADDED):
        yield [InputSpec((it.patches, inner), None, name), *beside]
    elif "target_sizes" in takes and name == "pixel_values":
        sizes = InputSpec((2,), "int64", "target_sizes", (it.rows, it.columns))
        packed = (1, it.channels, it.patch, it.patches * it.patch)
        yield [InputSpec(packed, None, name, packed_axis=3), *(one for one in beside if one.name != sizes.name), sizes]
    else:
        plain = (it.channels, it.height, it.width)
        for shape in (plain, (1, *plain), (1, 1, *plain)):  # images of a sample, tiles of an image
            yield [InputSpec(shape, None, name), *beside]


def _beside(name: str, needed: bool, it: Picture) -> InputSpec | None:
    """What goes with the pixels: sizes, grids, positions and masks."""
    if name in _GRIDS:
        values = _GRIDS[name](it)
        return InputSpec((len(values),), "int64", name, values)
    if name in ("image_sizes", "original_sizes") and needed:
        return InputSpec((2,), "int64", name, (it.height, it.width))
    if name in ("spatial_shapes", "target_sizes") and (needed or name == "spatial_shapes"):
        return InputSpec((2,), "int64", name, (it.rows, it.columns))
    if name in ("image_position_ids", "pixel_position_ids"):
        positions = tuple(place for row in range(it.rows) for column in range(it.columns) for place in (column, row))
        return InputSpec((it.patches, 2), "int64", name, positions)
    if name in ("image_merge_sizes", "merge_sizes"):
        return InputSpec((), "int64", name, (it.merge,))
    if name == "pixel_attention_mask" and needed:
        return InputSpec((it.patches,), "bool", name, (1,) * it.patches)
    return None


# -- audio ---------------------------------------------------------------------------------------

_LENGTHS = ("audio_feature_lengths", "chunk_sample_lengths")


def audio_layouts(
    takes: Mapping[str, Any], needs: Sequence[str], name: str, shape: tuple[int, ...], frames: int | None = None
) -> Iterator[Layout]:
    """The forms in which a model may take one clip: (frames, bins) or (bins, frames), and its mask.

    Without `frames`, the longer side is that of the frames.
    """
    frames = frames or max(shape)
    beside = [
        InputSpec((frames,), "bool", other, (1,) * frames)
        for other in dict.fromkeys((*needs, *takes))
        if other in ("input_features_mask", "feature_attention_mask", "input_values_mask", "audio_mel_mask")
        or (other == "padding_mask" and other in needs)
    ]
    beside += [InputSpec((), "int64", other, (frames,)) for other in needs if other in _LENGTHS]
    if "is_longer" in takes:  # one channel for the whole clip, as CLAP takes it
        yield [InputSpec((1, *shape), None, name), InputSpec((1,), "bool", "is_longer", (0,))]
    for order in dict.fromkeys((shape, shape[::-1])):
        yield [InputSpec(order, None, name), *beside]


# -- the model's own word ------------------------------------------------------------------------


def required(function: Any) -> list[str]:
    """Arguments without a default."""
    return [
        name
        for name, parameter in inspect.signature(inspect.unwrap(function)).parameters.items()
        if parameter.default is parameter.empty
        and name != "self"
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def first_taken(model: Any, call: Callable[..., Any], layouts: Sequence[Layout]) -> tuple[Layout, Any]:
    """The first layout that `call` takes for a batch of one, and the shapes that it returns. Raises NoLayout."""
    from ..trace.shapes import output_shapes

    reason = ""
    known = inspect.signature(inspect.unwrap(call)).parameters
    own = next((one.dtype for one in model.parameters() if one.is_floating_point()), "float32")
    for layout in layouts:
        typed = [replace(spec, dtype=spec.dtype or str(own).removeprefix("torch.")) for spec in layout]
        _, arguments = make_inputs([spec for spec in typed if spec.name in known], 1)
        try:
            return layout, output_shapes(model, call, arguments)
        except Exception as error:  # the model's code may raise anything for a layout that is not its own
            reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise NoLayout(reason)


def pooled(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, which makes features of a clip, with the vectors that stand for tokens as its result."""

    @functools.wraps(call)
    def vectors(**arguments: Any) -> Any:
        output = call(**arguments)
        own = getattr(output, "pooler_output", None)
        return output if own is None else own

    return vectors


def placeholders(features: Any, width: int | None) -> int:
    """Tokens that the features of one sample fill: all of their vectors, which must be as wide as a token's."""
    shapes = list(_shapes(features))
    if other := [shape[-1] for shape in shapes if width is not None and shape[-1] != width]:
        raise NoLayout(f"its features are {other[0]} wide and its tokens {width}, by the config")
    return sum(math.prod(shape[:-1]) for shape in shapes)


def _shapes(value: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(value, tuple) and all(isinstance(size, int) for size in value):
        if len(value) > 1:
            yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _shapes(one)
