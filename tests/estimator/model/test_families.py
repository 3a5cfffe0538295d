"""Models that take several arrays which belong together: one row per family, shapes by hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from joulecast.estimator.model.families import family_inputs
from joulecast.estimator.model.input_spec import make_inputs

Shapes = Mapping[str, tuple[int, ...]]
VISION = SimpleNamespace(image_size=28, patch_size=14)

# arguments of forward, config, shapes of a batch of 2 for texts of 6 tokens
FAMILIES: dict[str, tuple[tuple[str, ...], dict[str, Any], Shapes]] = {
    # 10 past steps and the longest lag of 3; 4 steps are predicted, from 2 features of time
    "series with lags": (
        ("past_values",),
        {"lags_sequence": [1, 3], "context_length": 10, "prediction_length": 4, "num_time_features": 2},
        {
            "past_values": (2, 13),
            "past_time_features": (2, 13, 2),
            "past_observed_mask": (2, 13),
            "future_values": (2, 4),
            "future_time_features": (2, 4, 2),
        },
    ),
    "padded series": (
        ("past_values", "past_values_padding", "freq"),
        {"context_length": 64},
        {"past_values": (2, 64), "past_values_padding": (2, 64), "freq": (2, 1)},
    ),
    "episodes": (
        ("states", "actions"),
        {"state_dim": 5, "act_dim": 3},
        {
            "states": (2, 20, 5),
            "actions": (2, 20, 3),
            "rewards": (2, 20, 1),
            "returns_to_go": (2, 20, 1),
            "timesteps": (2, 20),
        },
    ),
    # 6 phonemes of 5 frames each
    "speech": (
        ("input_ids", "spectrogram_labels", "duration_labels"),
        {"num_mel_bins": 80},
        {
            "input_ids": (2, 6),
            "spectrogram_labels": (2, 30, 80),
            "duration_labels": (2, 6),
            "pitch_labels": (2, 6, 1),
            "energy_labels": (2, 6, 1),
        },
    ),
    # 10 classes an image, those of all images one after another
    "classes in words": (
        ("pixel_values", "classes_input_ids", "tasks_input_ids", "classes_structure"),
        {"image_size": 64},
        {
            "pixel_values": (2, 3, 64, 64),
            "classes_input_ids": (20, 8),
            "classes_attention_mask": (20, 8),
            "tasks_input_ids": (2, 6),
            "tasks_attention_mask": (2, 6),
            "classes_structure": (2,),
        },
    ),
    # 2 x 2 patches and 48 tokens of text; the state comes before 5 actions
    "robots": (
        ("action_embeds", "input_ids", "pixel_values"),
        {
            "vlm_config": SimpleNamespace(vision_config=VISION, image_token_id=99),
            "dit_config": SimpleNamespace(hidden_size=16),
            "chunk_size": 5,
        },
        {
            "action_embeds": (2, 6, 16),
            "input_ids": (2, 52),
            "pixel_values": (2, 1, 3, 28, 28),
            "pixel_attention_mask": (2, 1),
        },
    ),
    "an image that all tokens see": (
        ("input_ids", "pixel_values", "image_attention_mask", "image_encoder_embeddings"),
        {"vision_config": VISION},
        {"input_ids": (2, 6), "pixel_values": (2, 1, 3, 28, 28), "image_attention_mask": (2, 6, 1)},
    ),
    "an image in the first tokens": (
        ("input_ids", "pixel_values", "image_embeds_position_mask"),
        {"vision_config": VISION, "latent_query_num": 4},
        {"input_ids": (2, 6), "pixel_values": (2, 3, 28, 28), "image_embeds_position_mask": (2, 6)},
    ),
    "questions": (
        ("input_ids", "marks", "num_options", "question_type_ids"),
        {},
        {"input_ids": (2, 6), "marks": (2, 4), "num_options": (2, 4), "question_type_ids": (2, 4)},
    ),
}


def made(family: str) -> dict[str, Any]:
    arguments, settings, _ = FAMILIES[family]
    model = SimpleNamespace(config=SimpleNamespace(**settings))
    found = family_inputs(model, dict.fromkeys(arguments), tokens=6, asked=6)
    assert found is not None
    return make_inputs(found[0], 2)[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_of_a_batch(family: str) -> None:
    assert {name: tuple(tensor.shape) for name, tensor in made(family).items()} == FAMILIES[family][2]


def test_a_vocoder_follows_a_speech_model_whose_config_is_inside() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_config=SimpleNamespace(num_mel_bins=12)))
    takes = dict.fromkeys(("input_ids", "spectrogram_labels", "duration_labels"))
    found = family_inputs(model, takes, tokens=512)  # of a config without a length
    assert found is not None
    assert {spec.name: spec.shape for spec in found[0]}["spectrogram_labels"] == (128 * 5, 12)


def test_values_that_models_read() -> None:
    assert made("speech")["duration_labels"].tolist() == [[5] * 6] * 2
    assert made("classes in words")["classes_structure"].tolist() == [10, 10]
    assert made("robots")["input_ids"][0].tolist() == [99] * 4 + [3] * 48
    assert made("robots")["pixel_attention_mask"].tolist() == [[True], [True]]
    assert made("an image in the first tokens")["image_embeds_position_mask"][1].tolist() == [1, 1, 1, 1, 0, 0]


def test_other_models_belong_to_no_family() -> None:
    model = SimpleNamespace(config=SimpleNamespace())
    assert family_inputs(model, {"input_ids": None, "pixel_values": None}, tokens=6) is None
    assert family_inputs(model, {"past_values": None}, tokens=6) is None  # no lags in its config
