"""The input of a model that declares none, from its first layer: taken where one shape fits, otherwise suggested."""

from __future__ import annotations

import pytest
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.first_layer import input_of_first_layer
from joulecast.estimator.model.input_spec import InputSpec


class One(nn.Module):
    """Its layers, called one after another."""

    def __init__(self, *layers: nn.Module, **attributes: object) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.layers(x)


def suggestion(model: nn.Module) -> str:
    with pytest.raises(JoulecastError) as caught:
        input_of_first_layer(model.to("meta"), "mynet")
    return str(caught.value)


def only(model: nn.Module) -> tuple[InputSpec, str]:
    (spec,), (note,) = input_of_first_layer(model.to("meta"), "mynet")
    return spec, note


def test_layers_of_vectors_take_one_width():
    net = One(nn.BatchNorm1d(7), nn.Linear(7, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    assert only(net) == (InputSpec((7,), None, "x"), "mynet: a sample is 7 numbers, the width of its first layer")


def test_vectors_may_come_as_a_sequence_where_other_layers_follow():
    net = One(nn.Linear(7, 16), nn.TransformerEncoderLayer(16, 2, batch_first=True))
    assert "give `inputs` (as in 128,7) or `dataset`" in suggestion(net)
    assert "as in 128,51" in suggestion(nn.LSTM(51, 8))


def test_layers_for_one_size_of_image():
    lenet = One(
        nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 10)
    )
    spec, note = only(lenet)
    assert spec == InputSpec((1, 32, 32), None, "x")
    assert note == "mynet: images of 1x32x32, of the usual sizes the only one that its layers take"


def test_images_of_any_size_are_the_users_to_state():
    net = One(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    assert "give `inputs` (as in 4,224,224) or `dataset`, or define example_inputs" in suggestion(net)
    assert "as in 2,16000" in suggestion(One(nn.Conv1d(2, 8, 3)))
    assert "as in 3,16,112,112" in suggestion(One(nn.Conv3d(3, 8, 3)))


class Settings:
    block_size = 48


@pytest.mark.parametrize("attributes", [{"max_seq_len": 48}, {"config": Settings()}, {"hparams": {"sequence_len": 48}}])
def test_texts_are_as_long_as_the_model_allows(attributes):
    spec, note = only(One(nn.Embedding(100, 8), nn.Linear(8, 100), **attributes))
    assert spec == InputSpec((48,), "int64", "x")
    assert note.startswith("mynet: 48 tokens a sample (")


def test_a_text_of_unknown_length():
    assert "as in x:int64:128" in suggestion(One(nn.Embedding(100, 8), nn.Linear(8, 100)))
    long = One(nn.Embedding(100, 8), nn.Linear(8, 100), block_size=10**6)
    assert only(long)[0].shape == (2048,)


def test_several_inputs_are_named():
    assert suggestion(nn.Bilinear(3, 4, 5)) == (
        "mynet takes input1, input2; give `inputs` input1:SHAPE `inputs` input2:SHAPE, or define example_inputs"
    )


def test_a_first_layer_of_another_kind_suggests_nothing_of_its_own():
    assert "as in 3,224,224 or ids:int64:128" in suggestion(One(nn.ConvTranspose2d(8, 4, 3)))
    assert "as in 3,224,224 or ids:int64:128" in suggestion(One(nn.ReLU()))
