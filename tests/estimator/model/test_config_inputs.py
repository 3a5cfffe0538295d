"""What a transformers config implies: lengths, sizes of processors, series, episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.config_inputs import from_config, main_input, vocab_size
from joulecast.estimator.model.inputs import model_inputs
from joulecast.estimator.model.load import LoadedModel, load_model

pytest.importorskip("transformers", minversion="5")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedModel]:
    def load(**settings: object) -> LoadedModel:
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return load_model(str(tmp_path))

    return load


def shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class Taking(nn.Module):
    """A model with a config of its own; `forward` takes what the subclass says."""

    def __init__(self, main: str = "input_ids", **settings: object) -> None:
        super().__init__()
        self.main_input_name = main
        self.config = SimpleNamespace(**settings)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


def wanted(model: nn.Module, sequence_length: int | None = None, processor: Mapping[str, Any] | None = None):
    specs, notes = from_config(model, sequence_length, "net", "float32", processor)
    return {spec.name: (spec.shape, spec.dtype) for spec in specs}, notes


# -- which models --------------------------------------------------------------------------------


def test_models_without_a_config_have_no_main_input_and_no_vocabulary() -> None:
    assert main_input(nn.Linear(2, 2)) == ""
    assert vocab_size(nn.Linear(2, 2)) is None
    named_only = nn.Identity()
    named_only.main_input_name = "x"
    assert main_input(named_only) == ""


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"vocab_size": 11}, 11),
        ({"vocab_size": 11, "text_config": SimpleNamespace(vocab_size=7)}, 7),  # its text part decides
        ({}, None),
        ({"vocab_size": "many"}, None),
    ],
)
def test_vocabulary(settings: dict[str, object], size: int | None) -> None:
    assert vocab_size(Taking(**settings)) == size


# -- lengths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "tokens", "note"),
    [
        ({"n_positions": 96}, 96, "96 tokens a sample, the config's longest"),
        ({"max_target_positions": 448}, 448, "448 tokens a sample, the config's longest"),
        ({"max_text_positions": 450}, 450, "450 tokens a sample, the config's longest"),  # SpeechT5
        ({"max_seq_len": 2048}, 2048, "2048 tokens a sample, the config's longest"),  # DBRX and MPT
        ({"max_position_embeddings": -1, "n_positions": 96}, 96, "96 tokens"),  # -1: no limit
        ({"max_position_embeddings": 10**6}, 2048, "2048 tokens a sample (the config allows 1000000)"),
        ({}, 512, "512 tokens a sample (the config has no length)"),
        (
            {"max_position_embeddings": 4096, "axial_pos_embds": True, "axial_pos_shape": [16, 32]},
            512,  # all of the grid
            "512 tokens a sample, as many as the config has axial positions",
        ),
        ({"n_positions": 96, "axial_pos_embds": False, "axial_pos_shape": [16, 32]}, 96, "96 tokens a sample, the"),
        ({"n_positions": 64, "text_config": SimpleNamespace(n_positions=32)}, 32, "32 tokens"),
    ],
)
def test_length_of_texts(settings: dict[str, object], tokens: int, note: str) -> None:
    inputs, notes = wanted(Taking(**settings))
    assert inputs == {"input_ids": ((tokens,), "int64")}
    assert note in notes[0]


def test_a_length_that_was_asked_for() -> None:
    assert wanted(Taking(n_positions=96), 40) == ({"input_ids": ((40,), "int64")}, ())
    assert wanted(Taking(), 10**5) == ({"input_ids": ((10**5,), "int64")}, ())
    inputs, notes = wanted(Taking(n_positions=96), 97)
    assert inputs == {"input_ids": ((97,), "int64")}
    assert notes == ("97 tokens a sample are more than the config's 96",)


def test_parts_that_are_left_out_are_named() -> None:
    model = Taking(n_positions=96, vision_config=SimpleNamespace(), audio_config=SimpleNamespace())
    assert wanted(model)[1][-1] == "net: costed on text alone, without its vision and audio inputs"


class TakingGrid(Taking):
    def forward(self, input_ids: torch.Tensor, grid_of_patches: torch.Tensor) -> torch.Tensor:
        return input_ids


def test_an_input_that_no_rule_knows_is_an_error_with_the_way_out() -> None:
    with pytest.raises(
        JoulecastError, match=r"net takes grid_of_patches, whose shape is not in its config; give .*`inputs`"
    ) as caught:
        from_config(TakingGrid(n_positions=96), None, "net", None)
    assert "\n" not in str(caught.value)


# -- the processor's sizes -----------------------------------------------------------------------


class Looking(Taking):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        ({"size": 48}, (48, 48)),
        ({"size": [32, 64]}, (32, 64)),
        ({"size": {"height": 32, "width": 64}}, (32, 64)),
        ({"size": {"shortest_edge": 64}}, (64, 64)),
        ({"size": 48, "crop_size": 40}, (40, 40)),  # images are resized, then cropped
        ({"size": 48, "crop_size": 40, "do_center_crop": False}, (48, 48)),
        ({"size": True}, (224, 224)),  # these say nothing: a usual size
        ({"size": [3]}, (224, 224)),
        ({"size": [0, 32]}, (224, 224)),
        ({"size": {"longest_edge": 1333}}, (224, 224)),
        ({}, (224, 224)),
        (None, (224, 224)),
    ],
)
def test_image_sizes(processor: Mapping[str, Any] | None, size: tuple[int, int]) -> None:
    inputs, notes = wanted(Looking("pixel_values"), processor=processor)
    assert inputs == {"pixel_values": ((3, *size), "float32")}
    assert [note for note in notes if "images of" in note] == (
        ["net: images of 224 x 224: the config has no size; set the inputs for another"] if size == (224, 224) else []
    )


# -- series and episodes -------------------------------------------------------------------------

SERIES = {
    "model_type": "time_series_transformer",
    "architectures": ["TimeSeriesTransformerForPrediction"],
    "prediction_length": 4,
    "context_length": 10,
    "lags_sequence": [1, 2, 7],
    "num_time_features": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "d_model": 8,
}


def test_series_reach_back_to_the_longest_lag(load: Callable[..., LoadedModel]) -> None:
    inputs = model_inputs(load(**SERIES), 3)
    assert shapes(inputs.kwargs) == {
        "past_values": (3, 17),  # 10 + 7
        "past_time_features": (3, 17, 2),
        "past_observed_mask": (3, 17),
        "future_values": (3, 4),
        "future_time_features": (3, 4, 2),
    }


def test_series_of_several_variates_with_static_features(load: Callable[..., LoadedModel]) -> None:
    more = {"num_static_real_features": 5, "num_static_categorical_features": 1, "cardinality": [6]}
    loaded = load(**SERIES, **more, embedding_dimension=[2], input_size=2, distribution_output="normal").on_cpu()
    inputs = model_inputs(loaded, 3)
    found = shapes(inputs.kwargs)
    assert (found["past_values"], found["future_values"]) == ((3, 17, 2), (3, 4, 2))
    assert found["past_observed_mask"] == (3, 17, 2)
    assert (found["static_real_features"], found["static_categorical_features"]) == ((3, 5), (3, 1))
    assert inputs.kwargs["static_categorical_features"].dtype == torch.int64
    with torch.no_grad(), loaded.running():
        assert loaded.model.eval()(**inputs.kwargs).loss.isfinite()


def test_series_without_a_context_length_take_the_horizon(load: Callable[..., LoadedModel]) -> None:
    settings = {name: value for name, value in SERIES.items() if name != "context_length"}
    assert shapes(model_inputs(load(**settings), 1).kwargs)["past_values"] == (1, 4 + 7)


def test_episodes_of_a_decision_transformer(load: Callable[..., LoadedModel]) -> None:
    loaded = load(model_type="decision_transformer", state_dim=11, act_dim=3, n_layer=1, n_head=1, hidden_size=8)
    loaded = loaded.on_cpu()
    inputs = model_inputs(loaded, 2)
    assert shapes(inputs.kwargs) == {
        "states": (2, 20, 11),
        "actions": (2, 20, 3),
        "rewards": (2, 20, 1),
        "returns_to_go": (2, 20, 1),
        "timesteps": (2, 20),
    }
    assert "episodes of 20 steps" in inputs.notes[0]
    with torch.no_grad(), loaded.running():
        actions = loaded.model.eval()(**inputs.kwargs, attention_mask=torch.ones(2, 20, dtype=torch.int64))
    assert actions.action_preds.shape == (2, 20, 3)
