"""Inputs that configs imply, one row per family of models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import joulecast as jc
from joulecast.estimator.model.implied import UnknownShape, implied_inputs
from joulecast.estimator.model.input_spec import InputSpec, make_inputs

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
    "patches and their grid": ("Qwen3VLVisionModel", {"hidden_states": (784, 1536), "grid_thw": (3,)}),
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
    assert {spec.name: spec.shape for spec in wanted} == shapes
    integers = {spec.name for spec in wanted if spec.dtype == "int64"}
    assert integers == {name for name in shapes if name.endswith(("input_ids", "_type_ids", "grid_thw"))}


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
    assert wanted == [InputSpec((3, 224, 224), None, "pixel_values")]
    assert notes == ["images of 224 x 224: the config has no size; set the inputs for another"]


def test_a_required_mask_has_the_positions_of_the_main_input() -> None:
    class Masked(Fake):
        def forward(self, input_ids: torch.Tensor, input_ids_mask: torch.Tensor) -> None: ...

    wanted, _ = implied_inputs(Masked(), tokens=8)
    assert wanted == [InputSpec((8,), "int64", "input_ids"), InputSpec((8,), "bool", "input_ids_mask")]


# A text with an image: shrunk configs, and the tokens that the image fills by hand.
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
}
CLIPS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], int]] = {
    # 28 / 14 = 2 rows and columns of patches; the token of the class is left out
    "Llava": (
        {
            "vision_config": VISION
            | {"num_hidden_layers": 2, "image_size": 28, "patch_size": 14, "model_type": "clip_vision_model"},
            "text_config": TEXT | {"model_type": "llama"},
            "image_token_id": 150,
        },
        {"pixel_values": (3, 28, 28)},
        4,
    ),
    # 448 / 14 = 32 rows and columns of patches, 2 x 2 of them one token; two frames a patch
    "Qwen2VL": (
        {
            "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
            "text_config": TEXT
            | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}},
            "image_token_id": 150,
        },
        {"pixel_values": (1024, 3 * 2 * 14 * 14), "image_grid_thw": (3,)},
        256,
    ),
}


@pytest.mark.parametrize("family", CLIPS)
def test_a_text_has_as_many_image_tokens_as_the_model_makes_of_an_image(family: str) -> None:
    settings, shapes, count = CLIPS[family]
    with torch.device("meta"):
        model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**settings))
    wanted, notes = implied_inputs(model, tokens=512)
    specs = {spec.name: spec for spec in wanted}
    assert {name: specs[name].shape for name in shapes} == shapes
    ids = specs["input_ids"].values
    assert ids is not None
    assert len(ids) == 512
    assert ids.count(150) == count
    assert any(note == f"{count} of the 512 tokens stand for image" for note in notes)
    _, kwargs = make_inputs([replace(spec, dtype=spec.dtype or "float32") for spec in wanted], 2)
    work = jc.trace(model, kwargs, batch_size=2, layers=False)
    assert work.tracer == "meta"
    # without the image, the text alone
    alone = jc.trace(model, {"input_ids": torch.zeros(2, 512, dtype=torch.int64, device="meta")}, layers=False)
    assert work.forward_flops > alone.forward_flops


def test_features_that_are_not_as_wide_as_a_token_leave_the_text_alone() -> None:
    settings, _, _ = CLIPS["Qwen2VL"]
    wide = settings | {"vision_config": settings["vision_config"] | {"hidden_size": 48}}
    with torch.device("meta"):
        model = transformers.Qwen2VLModel(transformers.Qwen2VLConfig(**wide))
    wanted, notes = implied_inputs(model, tokens=64)
    assert [spec.name for spec in wanted] == ["input_ids"]
    assert wanted[0].values is None
    assert any("its features are 48 wide and its tokens 64, by the config" in note for note in notes)
