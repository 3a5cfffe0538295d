"""Contradictions in a transformers config: the error names them, and not the inputs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from joulecast.estimator.base.errors import ModelError
from joulecast.estimator.model.config_faults import config_fault
from joulecast.estimator.model.read_model import TraceOptions, read_model


def config(**numbers: Any) -> Any:
    return SimpleNamespace(to_dict=dict, model_type="any", **numbers)


def test_heads_that_do_not_divide_the_width_are_named() -> None:
    assert config_fault(config(hidden_size=2048, num_attention_heads=28)) == (
        "the config does not fit together: hidden_size 2048 is not a multiple of num_attention_heads 28, and it has no "
        "head_dim; name a config.json in which these fit"
    )


def test_the_part_is_named() -> None:
    whole = config(hidden_size=64, num_attention_heads=4, text_config=config(hidden_size=65, num_attention_heads=4))
    assert config_fault(whole).startswith("the text_config of the config does not fit together: hidden_size 65 is not")


@pytest.mark.parametrize(
    "fitting",
    [
        config(hidden_size=2048, num_attention_heads=32),
        config(hidden_size=2048, num_attention_heads=28, head_dim=128),
        config(hidden_size=2048, num_attention_heads=[28]),
        config(hidden_size=2048, num_attention_heads=0),
        config(hidden_size=None, num_attention_heads=28),
        config(),
        SimpleNamespace(hidden_size=2048, num_attention_heads=28),
        None,
    ],
)
def test_what_fits_or_is_no_config_has_no_fault(fitting: Any) -> None:
    assert config_fault(fitting) == ""


def test_numbers_that_differ_from_layer_to_layer_are_no_fault() -> None:
    class PerLayer:
        model_type, hidden_size = "any", 64

        def to_dict(self) -> dict[str, Any]:
            return {}

        @property
        def num_attention_heads(self) -> int:
            raise RuntimeError("a per-layer attribute")  # as transformers' own, which is no AttributeError

    whole = PerLayer()
    assert config_fault(whole) == ""
    vars(whole)["text_config"] = config(hidden_size=65, num_attention_heads=4)
    assert "hidden_size 65" in config_fault(whole)


def test_what_is_no_config_inside_a_config_is_not_searched() -> None:
    quantization = SimpleNamespace(to_dict=dict, hidden_size=65, num_attention_heads=4)
    assert config_fault(config(quantization_config=quantization)) == ""


def test_the_error_of_a_forward_pass_names_the_config(tmp_path: Any) -> None:
    """Rotary positions of an odd number of values a head: the model's own error speaks of a broadcast."""
    pytest.importorskip("transformers")
    text = {"hidden_size": 90, "num_attention_heads": 28, "num_key_value_heads": 4, "num_hidden_layers": 1}
    towers = {"vision_config": {"depth": 1}, "audio_config": {"encoder_layers": 1}}
    config = {"model_type": "qwen3_omni_moe_thinker", "text_config": {**text, "num_experts": 2}, **towers}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        read_model(str(tmp_path / "config.json"), TraceOptions(batch_size=2, sequence_length=8))
    said = str(caught.value)
    assert "hidden_size 90 is not a multiple of num_attention_heads 28" in said
    assert "the inputs were" not in said
