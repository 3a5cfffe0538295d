"""Inputs that configs imply, one row per family of models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from joulecast.estimator.model.implied import UnknownShape, implied_inputs

transformers = pytest.importorskip("transformers", minversion="5")

FAMILIES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "text": ("BertModel", {"input_ids": (64,)}),
    "text to text": ("T5Model", {"input_ids": (64,), "decoder_input_ids": (64,)}),
    "images of the config's size": ("ViTModel", {"pixel_values": (3, 224, 224)}),
    "images of a size inside the config": ("Sam2Model", {"pixel_values": (3, 1024, 1024)}),
    "images without a size": ("PoolFormerModel", {"pixel_values": (3, 224, 224)}),
    "images in which objects are found": ("RTDetrV2Model", {"pixel_values": (3, 640, 640)}),
    "videos": ("VideoMAEModel", {"pixel_values": (16, 3, 224, 224)}),
    "texts and images": ("CLIPModel", {"input_ids": (64,), "pixel_values": (3, 224, 224)}),
    "images and a text": ("Blip2Model", {"pixel_values": (3, 224, 224), "input_ids": (64,)}),
    "mel spectrograms of a fixed length": ("WhisperModel", {"input_features": (80, 3000), "decoder_input_ids": (64,)}),
    "spectrograms": ("ParakeetForCTC", {"input_features": (1000, 80)}),
    "patches of a spectrogram": ("ASTModel", {"input_values": (1024, 128)}),
    "samples": ("Wav2Vec2Model", {"input_values": (16_000,)}),
    "samples of a codec": ("MimiModel", {"input_values": (1, 16_000)}),
    "series": ("PatchTSTModel", {"past_values": (32, 1)}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_of_one_sample(family: str) -> None:
    name, shapes = FAMILIES[family]
    model_class = getattr(transformers, name)
    with torch.device("meta"):
        model = model_class(model_class.config_class())
    wanted, _ = implied_inputs(model, tokens=64)
    assert {name: shape for name, shape, _ in wanted} == shapes
    integers = {name for name, _, dtype in wanted if dtype == "int64"}
    assert integers == {name for name in shapes if name.endswith("input_ids")}


class Fake:
    """An object that looks like a transformers model."""

    main_input_name = "input_ids"

    def __init__(self, **config: Any) -> None:
        self.config = type("Config", (), config)()

    def forward(self, grid: torch.Tensor, pixel_values: torch.Tensor | None = None) -> None: ...


def test_an_argument_of_unknown_shape_is_named() -> None:
    with pytest.raises(UnknownShape, match="grid"):
        implied_inputs(Fake(), tokens=8)


def test_assumed_sizes_are_noted() -> None:
    class Images(Fake):
        def forward(self, pixel_values: torch.Tensor) -> None: ...

    wanted, notes = implied_inputs(Images(), tokens=8)
    assert wanted == [("pixel_values", (3, 224, 224), None)]
    assert notes == ["images of 224 x 224: the config says no size; set the inputs for another"]


def test_a_required_mask_has_the_positions_of_the_main_input() -> None:
    class Masked(Fake):
        def forward(self, input_ids: torch.Tensor, input_ids_mask: torch.Tensor) -> None: ...

    wanted, _ = implied_inputs(Masked(), tokens=8)
    assert wanted == [("input_ids", (8,), "int64"), ("input_ids_mask", (8,), "bool")]
