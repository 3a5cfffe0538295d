"""Inputs that configs imply, one row per family of models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import joulecast as jc
from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.clips import Picture, image_layouts
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
    assert [(spec.name, spec.values) for spec in wanted] == [("input_ids", None), ("mm_token_type_ids", (0,) * 64)]
    _, kwargs = make_inputs(wanted, 2)
    assert jc.trace(model, kwargs, layers=False).tracer == "meta"
    assert any("its features are 48 wide and its tokens 64, by the config" in note for note in notes)


# -- sizes that a config's other settings ask for -----------------------------------------------------


def inputs_of(model: Any, tokens: int = 8) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    wanted, notes = implied_inputs(model, tokens)
    return {spec.name: spec.shape for spec in wanted}, notes


class Pictures(Fake):
    main_input_name = "pixel_values"

    def forward(self, pixel_values: torch.Tensor) -> None: ...


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"image_size": 518, "patch_size": 14, "num_windows": 4}, 504),  # 9 windows' widths of 56
        ({"image_size": 504, "patch_size": 14, "num_windows": 4}, 504),
        ({"image_size": 384, "patch_size": 384, "scaled_images_ratios": [0.25, 0.5, 1]}, 1536),  # a quarter is a patch
        ({"image_size": 2048, "patch_size": 384, "scaled_images_ratios": [0.25, 0.5, 1]}, 2048),
        ({"max_img_size": 448}, 448),
    ],
)
def test_images_fill_windows_and_scales(settings: dict[str, Any], side: int) -> None:
    shapes, notes = inputs_of(Pictures(**settings))
    assert shapes == {"pixel_values": (3, side, side)}
    assert bool(notes) == (side not in settings.values())


def test_a_prompt_takes_the_upper_half_of_the_config_s_image() -> None:
    class Prompted(Pictures):
        def forward(self, pixel_values: Any, prompt_pixel_values: Any, prompt_masks: Any) -> None: ...

    shapes, _ = inputs_of(Prompted(image_size=[64, 32], patch_size=16))
    assert shapes == dict.fromkeys(("pixel_values", "prompt_pixel_values", "prompt_masks"), (3, 32, 32))


@pytest.mark.parametrize("model_type", ["superglue", "efficientloftr"])
def test_key_points_are_matched_between_two_images(model_type: str) -> None:
    model = Pictures(image_size=64, model_type=model_type)
    assert inputs_of(model)[0] == {"pixel_values": (2, 3, 64, 64)}


def test_a_timm_network_inside_the_model_gives_the_size() -> None:
    class Wraps(torch.nn.Module):
        main_input_name = "pixel_values"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {})()
            self.backbone = torch.nn.Identity()
            self.backbone.pretrained_cfg = {"input_size": (3, 336, 320)}

        def forward(self, pixel_values: torch.Tensor) -> None: ...

    assert inputs_of(Wraps()) == ({"pixel_values": (3, 336, 320)}, [])


def test_an_audio_model_that_takes_a_video_gets_one() -> None:
    class Films(Fake):
        main_input_name = "input_values"

        def forward(self, input_values: Any = None, pixel_values_videos: Any = None) -> None: ...

    assert inputs_of(Films(image_size=64))[0] == {"input_values": (16_000,), "pixel_values_videos": (8, 3, 64, 64)}


@pytest.mark.parametrize(("model_type", "hears"), [("audio_video", True), ("video", False)])
def test_a_text_beside_a_video_has_audio_where_the_config_has_a_part_for_it(model_type: str, hears: bool) -> None:
    class Watches(torch.nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"model_type": model_type, "image_size": 4})()

        def forward(self, input_ids: Any, pixel_values_videos: Any = None, input_values: Any = None) -> Any:
            return input_ids

    audio = {"input_values": (16_000,)} if hears else {}
    assert inputs_of(Watches())[0] == {"input_ids": (8,), "pixel_values_videos": (8, 3, 4, 4), **audio}


@pytest.mark.parametrize(("bins", "frames"), [(80, 100), (128, 100), (160, 50)])
def test_features_beside_samples_are_of_the_same_second(bins: int, frames: int) -> None:
    class Both(torch.nn.Module):
        main_input_name = "input_values"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"num_mel_bins": bins})()

        def forward(self, input_values: Any, input_features: Any, input_features_mask: Any = None) -> None: ...

    shapes = {"input_values": (16_000,), "input_features": (frames, bins), "input_features_mask": (frames,)}
    assert inputs_of(Both())[0] == shapes


def test_audio_fills_whole_tokens() -> None:
    class Whole(Fake):
        main_input_name = "input_values"

        def forward(self, input_values: Any) -> None: ...

    assert inputs_of(Whole(samples_per_token=1_920))[0] == {"input_values": (17_280,)}  # 9 tokens


def test_each_position_has_an_id_of_each_codebook() -> None:
    class Summed(Fake):
        def get_input_embeddings(self) -> Any:
            return type("Embeddings", (), {"audio_tokens_offsets": torch.arange(33)})()

        def forward(self, input_ids: Any) -> None: ...

    assert inputs_of(Summed())[0] == {"input_ids": (8, 33)}


@pytest.mark.parametrize("names", [["pixel_values", "task_inputs"], ("pixel_values", "task_inputs")])
def test_the_first_of_several_main_inputs_counts(names: Any) -> None:
    class Several(Fake):
        main_input_name = names

        def forward(self, task_inputs: Any, pixel_values: Any) -> None: ...

    shapes, _ = inputs_of(Several(image_size=64, task_seq_len=77))
    assert shapes == {"pixel_values": (3, 64, 64), "task_inputs": (77,)}


def test_inputs_without_a_name_of_their_own_are_those_of_the_encoder() -> None:
    class Composed(Fake):
        main_input_name = "inputs"
        encoder = type("Encoder", (), {"main_input_name": "input_values"})()

        def forward(self, inputs: Any = None, decoder_input_ids: Any = None, input_values: Any = None) -> None: ...

    shapes, _ = inputs_of(Composed(is_encoder_decoder=True))
    assert shapes == {"input_values": (16_000,), "decoder_input_ids": (8,)}


def test_a_text_without_its_image_says_that_all_its_tokens_are_words() -> None:
    class Tells(torch.nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"image_token_id": 5, "image_size": 4})()

        def get_image_features(self, pixel_values: Any, pooling: Any) -> Any: ...

        def forward(self, input_ids: Any, pixel_values: Any = None, mm_token_type_ids: Any = None) -> None: ...

    wanted, notes = implied_inputs(Tells(), tokens=3)
    assert wanted == [
        InputSpec((3,), "int64", "input_ids"),
        InputSpec((3,), "int64", "mm_token_type_ids", (0, 0, 0)),
    ]
    assert [note.partition(":")[0] for note in notes] == ["costed without pixel_values"]


def test_a_text_is_as_long_as_the_clip_whose_vectors_are_added_to_it() -> None:
    class Adds(torch.nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"num_mel_bins": 80})()
            self.words, self.frames = torch.nn.Embedding(10, 6), torch.nn.Linear(8 * 80, 6)

        def get_input_embeddings(self) -> Any:
            return self.words

        def get_audio_features(self, input_features: torch.Tensor) -> Any:
            output = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=input_features)
            output.pooler_output = self.frames(input_features.reshape(len(input_features), -1, 8 * 80))
            return output

        def forward(self, input_ids: torch.Tensor, input_features: torch.Tensor) -> Any:
            return self.words(input_ids) + self.get_audio_features(input_features).pooler_output

    shapes, notes = inputs_of(Adds())
    assert shapes == {"input_ids": (125,), "input_features": (1_000, 80)}  # 8 frames a vector
    assert "a text with a token for each vector of its clip" in notes


@pytest.mark.parametrize(("settings", "shape"), [({"channels": 2}, (2, 16_000)), ({"channels": 1}, (2, 125))])
def test_a_network_of_convolutions_takes_the_waveform_or_the_latents(
    settings: dict[str, int], shape: tuple[int, ...]
) -> None:
    class Convolves(torch.nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), settings)()
            self.stem = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 7), torch.nn.Linear(3, 3))

        def forward(self, hidden_states: torch.Tensor) -> None: ...

    assert inputs_of(Convolves())[0] == {"hidden_states": shape}


def test_a_layer_that_is_no_convolution_says_nothing_of_vectors() -> None:
    class Attends(torch.nn.Module):
        main_input_name = "hidden_states"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"channels": 2})()
            self.layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Conv1d(2, 3, 7))

        def forward(self, hidden_states: torch.Tensor) -> None: ...

    with pytest.raises(UnknownShape, match="hidden_states"):
        implied_inputs(Attends(), tokens=8)


SPEECH = {
    "SpeechT5Model": {"input_values": (8, 768), "decoder_input_values": (8, 768)},  # no prenets: vectors
    "SpeechT5ForSpeechToSpeech": {"input_values": (16_000,), "decoder_input_values": (1_000, 80)},
    "SpeechT5ForSpeechToText": {"input_values": (16_000,), "decoder_input_ids": (8,)},
}


@pytest.mark.parametrize("name", SPEECH)
def test_speech_with_and_without_the_network_that_makes_vectors_of_it(name: str) -> None:
    with torch.device("meta"):
        model = getattr(transformers, name)(transformers.SpeechT5Config())
    assert inputs_of(model)[0] == SPEECH[name]


def test_patches_as_large_as_a_token_have_a_grid_of_tokens() -> None:
    takes = dict.fromkeys(("pixel_values", "image_grid_thw"))
    last = list(image_layouts(takes, list(takes), "pixel_values", Picture(80, 120, 3, patch=20, merge=2)))[-1]
    assert last == [
        InputSpec((2 * 3, 40, 40, 3), None, "pixel_values", packed_axis=0),
        InputSpec((3,), "int64", "image_grid_thw", (1, 2, 3)),
    ]


def test_videos_have_frames_where_the_config_has_none() -> None:
    class Videos(Fake):
        main_input_name = "pixel_values_videos"

        def forward(self, pixel_values_videos: torch.Tensor) -> None: ...

    shapes, notes = inputs_of(Videos(image_size=64))
    assert shapes == {"pixel_values_videos": (8, 3, 64, 64)}
    assert "videos of 8 frames" in notes


def test_codes_have_the_channels_of_a_decoder_s_codec() -> None:
    class Speaks(Fake):
        def forward(self, input_ids: Any, decoder_input_ids: Any = None) -> None: ...

    model = Speaks(is_encoder_decoder=True, decoder_config=type("Decoder", (), {"num_channels": 9})())
    assert inputs_of(model)[0] == {"input_ids": (8,), "decoder_input_ids": (8, 9)}


def test_states_of_several_layers_lie_one_after_another() -> None:
    class Drafts(Fake):
        main_input_name = "noise_embeds"

        def forward(self, noise_embeds: Any, context_hidden_states: Any) -> None: ...

    shapes, _ = inputs_of(Drafts(hidden_size=4, target_layer_ids=[1, 3, 5]))
    assert shapes == {"noise_embeds": (8, 4), "context_hidden_states": (8, 12)}


def test_latents_of_a_codec_are_channels_first() -> None:
    class Decodes(Fake):
        main_input_name = "latents"

        def forward(self, latents: Any) -> None: ...

    assert inputs_of(Decodes(hidden_size=16))[0] == {"latents": (16, 125)}


class Hears(torch.nn.Module):
    """Takes frames of 320 features, which no setting of its config says."""

    main_input_name = "input_features"

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = type("Config", (), settings)()
        self.linear = torch.nn.Linear(320, 2)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        return self.linear(input_features)


def test_the_width_of_features_is_found_on_meta_tensors() -> None:
    assert inputs_of(Hears(num_mel_bins=80))[0] == {"input_features": (1000, 320)}


def test_stacked_frames_are_as_wide_as_all_of_them() -> None:
    assert inputs_of(Hears(num_mel_bins=64, num_stacked_frames=5))[0] == {"input_features": (1000, 320)}


def test_a_q_former_asks_the_vectors_of_an_image() -> None:
    class Asks(Fake):
        main_input_name = "query_embeds"

        def forward(self, query_embeds: Any, encoder_hidden_states: Any = None) -> None: ...

    shapes, _ = inputs_of(Asks(hidden_size=16, encoder_hidden_size=24, num_query_tokens=4))
    assert shapes == {"query_embeds": (4, 16), "encoder_hidden_states": (257, 24)}


def test_the_text_of_a_q_former_is_at_most_its_own_longest() -> None:
    class Instructed(Fake):
        def forward(self, input_ids: Any, qformer_input_ids: Any) -> None: ...

    inner = type("Inner", (), {"max_position_embeddings": 4})()
    assert inputs_of(Instructed(qformer_config=inner))[0] == {"input_ids": (8,), "qformer_input_ids": (4,)}


def test_a_config_without_the_token_of_its_images_is_named() -> None:
    class Looks(torch.nn.Module):
        main_input_name = "pixel_values"

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"text_config": None, "image_size": 4, "image_token_id": None})()

        def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> Any:
            return (input_ids == self.config.image_token_id).sum()

    with pytest.raises(JoulecastError, match=r"Looks: image_token_id of its config is None, .*image_token_id=NUMBER"):
        implied_inputs(Looks(), tokens=8)
