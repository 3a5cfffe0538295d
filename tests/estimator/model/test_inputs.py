"""`--input`, `example_inputs`, dataset presets, and inputs from a model's own config."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.model.inputs import InputSpec, describe_inputs, make_inputs, model_inputs, parse_input
from joulecast.estimator.model.load import LoadedModel, load_model
from joulecast.estimator.model.presets import dataset_preset, dataset_presets

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
    def forward(self, x):
        return self.lin(x)
"""


@pytest.fixture
def load(tmp_path: Path):
    def load(text: str) -> LoadedModel:
        path = tmp_path / "mynet.py"
        path.write_text(NET + text)
        return load_model(str(path))

    return load


def shapes(inputs) -> tuple[list[tuple[int, ...]], dict[str, tuple[int, ...]]]:
    return [tuple(t.shape) for t in inputs.args], {name: tuple(t.shape) for name, t in inputs.kwargs.items()}


# -- parsing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("3,224,224", InputSpec((3, 224, 224))),
        ("3x32x32", InputSpec((3, 32, 32))),
        ("128", InputSpec((128,))),
        ("int64:128", InputSpec((128,), "int64")),
        ("ids:128", InputSpec((128,), None, "ids")),
        ("ids:int64:128", InputSpec((128,), "int64", "ids")),
        ("x:float32:3,32,32", InputSpec((3, 32, 32), "float32", "x")),
        ("t:int64:", InputSpec((), "int64", "t")),
        (" 3, 8 ", InputSpec((3, 8))),
    ],
)
def test_parse_input(text, spec):
    assert parse_input(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no shape"),
        ("3,0,3", "'0' is not a size"),
        ("3,-1", "'-1' is not a size"),
        ("3,,3", "'' is not a size"),
        ("3,two", "'two' is not a size"),
        ("2.5", "'2.5' is not a size"),
        ("ids:int46:128", "dtype 'int46' is not one of .*did you mean int"),
        ("a:b:int64:3", "is not SHAPE or NAME:DTYPE:SHAPE"),
        ("my-ids:int64:3", "is not SHAPE or NAME:DTYPE:SHAPE"),
        ("٣,3", "is not a size"),
    ],
)
def test_inputs_that_cannot_be_read(text, message):
    with pytest.raises(JoulecastError, match=message) as caught:
        parse_input(text)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5), st.sampled_from(["", "x", "input_ids"]))
def test_parsing_reads_what_was_written(sizes, name):
    text = ",".join(map(str, sizes))
    spec = parse_input(f"{name}:int32:{text}" if name else text)
    assert (spec.shape, spec.name, spec.dtype) == (tuple(sizes), name, "int32" if name else None)


@given(st.text(alphabet="3,x:int64 ids-.", max_size=12))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(JoulecastError):
        spec = parse_input(text)
        assert all(size > 0 for size in spec.shape)
        assert spec.shape or spec.name or spec.dtype


# -- making ---------------------------------------------------------------------------------------


def test_make_inputs_names_and_positions():
    args, kwargs = make_inputs([parse_input("3,8"), parse_input("ids:int64:5"), parse_input("t:float16:")], 2)
    assert [(tuple(t.shape), t.dtype, t.device.type) for t in args] == [((2, 3, 8), torch.float32, "meta")]
    assert (tuple(kwargs["ids"].shape), kwargs["ids"].dtype) == ((2, 5), torch.int64)
    assert (tuple(kwargs["t"].shape), kwargs["t"].dtype) == ((2,), torch.float16)


def test_real_token_ids_stay_below_the_vocabulary():
    _, zeros = make_inputs([InputSpec((64,), "int64", "ids")], 8, device="cpu")
    assert int(zeros["ids"].abs().sum()) == 0
    _, kwargs = make_inputs([InputSpec((64,), "int64", "ids")], 8, vocab_size=11, device="cpu")
    assert int(kwargs["ids"].max()) == 10
    assert int(kwargs["ids"].min()) == 0


def test_make_inputs_refuses():
    with pytest.raises(JoulecastError, match="batch size is 0"):
        make_inputs([InputSpec((3,))], 0)
    with pytest.raises(JoulecastError, match="`inputs` x is given twice"):
        make_inputs([InputSpec((3,), name="x"), InputSpec((4,), name="x")], 2)


# -- the order of preference ----------------------------------------------------------------------


def test_input_before_example_inputs_before_the_preset(load):
    loaded = load("example_inputs = torch.zeros(2, 5, 3)\n")
    preset = dataset_preset("cifar10")
    by_option = model_inputs(loaded, 4, specs=[parse_input("7,3")], preset=preset)
    assert (shapes(by_option)[0], by_option.source) == ([(4, 7, 3)], "inputs")
    by_file = model_inputs(loaded, 4, preset=preset)
    assert (shapes(by_file)[0], by_file.source) == ([(4, 5, 3)], "example_inputs")
    by_preset = model_inputs(load(""), 4, preset=preset)
    assert (shapes(by_preset)[0], by_preset.source) == ([(4, 3, 32, 32)], "CIFAR-10")


def test_no_inputs_at_all_tells_the_ways(load):
    recurrent = "class Steps(Net):\n    def __init__(self):\n        super().__init__()\n"
    recurrent += "        self.lin = nn.LSTMCell(3, 4)\nmodel = Steps()\n"
    with pytest.raises(
        JoulecastError, match=r"mynet does not declare its inputs.*`inputs`.*`dataset`.*example_inputs"
    ) as caught:
        model_inputs(load(recurrent), 4)
    assert "\n" not in str(caught.value)


def test_inputs_take_the_dtype_of_the_parameters(load):
    loaded = load("model = Net().double()\n")
    assert model_inputs(loaded, 2, specs=[parse_input("3")]).args[0].dtype == torch.float64
    assert model_inputs(loaded, 2, specs=[parse_input("float32:3")]).args[0].dtype == torch.float32


# -- example_inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_examples_are_brought_to_the_batch_size(load, batch_size):
    inputs = model_inputs(load("example_inputs = (torch.zeros(2, 3), torch.ones(2, 4, 5))\n"), batch_size)
    assert shapes(inputs)[0] == [(batch_size, 3), (batch_size, 4, 5)]


def test_example_values_survive(load):
    loaded = load("example_inputs = {'ids': torch.tensor([[1, 2], [3, 4]]), 'mask': None}\n").on_cpu()
    inputs = model_inputs(loaded, 3)
    (batch,) = inputs.args  # whole: the model's forward has one parameter, and none of these names
    assert batch["ids"].tolist() == [[1, 2], [3, 4], [1, 2]]
    assert batch["mask"] is None


def test_example_functions(load):
    loaded = load(
        "def example_inputs(batch_size=9):\n    return {'x': torch.zeros(batch_size, 3), 'h': torch.zeros(2, 6)}\n"
    )
    assert shapes(model_inputs(loaded, 6))[1] == {"x": (6, 3), "h": (2, 6)}
    assert model_inputs(loaded, 6).kwargs["x"].is_meta
    loaded = load("def example_inputs():\n    return torch.zeros(int(torch.ones(1)) + 1, 3)\n")
    assert shapes(model_inputs(loaded, 4))[0] == [(4, 3)]


def test_a_function_of_the_batch_size_is_used_as_it_is(load):
    loaded = load("def example_inputs(batch_size):\n    return torch.zeros(500, batch_size, 40)\n")
    inputs = model_inputs(loaded, 16)
    assert (shapes(inputs)[0], inputs.batch_size, inputs.notes) == ([(500, 16, 40)], 16, ())


def test_a_list_of_images_has_one_for_each_sample(load):
    loaded = load("example_inputs = ([torch.zeros(3, 4, 5), torch.zeros(3, 6, 5)],)\n")
    (images,) = model_inputs(loaded, 3).args
    assert [tuple(image.shape) for image in images] == [(3, 4, 5), (3, 6, 5), (3, 4, 5)]


def test_a_large_example_batch_costs_nothing(load):
    loaded = load("def example_inputs(batch_size):\n    return torch.zeros(batch_size, 10**6, 3)\n")
    assert model_inputs(loaded, 10**6).args[0].numel() == 3 * 10**12  # 12 TB, were it real


def test_examples_that_cannot_be_rebatched(load):
    loaded = load("example_inputs = (torch.zeros(8, 3), torch.zeros(2, 8, 4))\n")
    assert shapes(model_inputs(loaded, 8))[0] == [(8, 3), (2, 8, 4)]
    as_given = model_inputs(loaded, 4)
    assert (shapes(as_given)[0], as_given.batch_size) == ([(8, 3), (2, 8, 4)], 4)
    assert "first dimensions 8, 2" in as_given.notes[0]
    with pytest.raises(JoulecastError, match=r"example_inputs is a str without tensors"):
        model_inputs(load("example_inputs = 'cifar'\n"), 4)


def test_an_error_in_the_example_function_names_its_line(load):
    with pytest.raises(ModelError, match=r"mynet\.py:\d+ in example_inputs: KeyError: 'x'"):
        model_inputs(load("def example_inputs(batch_size):\n    return {}['x']\n"), 4)


# -- what the model says --------------------------------------------------------------------------


@pytest.fixture
def from_config(tmp_path: Path):
    pytest.importorskip("transformers")

    def from_config(**settings: object) -> LoadedModel:
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return load_model(str(tmp_path))

    return from_config


def test_a_language_model_gets_tokens(from_config):
    loaded = from_config(model_type="gpt2", n_layer=1, architectures=["GPT2LMHeadModel"])
    inputs = model_inputs(loaded, 2)
    assert shapes(inputs)[1] == {"input_ids": (2, 1024)}
    assert inputs.kwargs["input_ids"].dtype == torch.int64
    assert "1024 tokens a sample" in inputs.notes[0]
    assert shapes(model_inputs(loaded, 2, sequence_length=64))[1] == {"input_ids": (2, 64)}
    assert shapes(model_inputs(loaded, 2, specs=[parse_input("64")]))[1] == {"input_ids": (2, 64)}
    assert "more than the config's 1024" in model_inputs(loaded, 2, sequence_length=4096).notes[0]
    with pytest.raises(JoulecastError, match="sequence length is 0"):
        model_inputs(loaded, 2, sequence_length=0)


def test_long_contexts_are_capped_with_a_note(from_config):
    loaded = from_config(
        model_type="llama",
        num_hidden_layers=1,
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=131072,
    )
    inputs = model_inputs(loaded, 1)
    assert shapes(inputs)[1] == {"input_ids": (1, 2048)}
    assert "131072" in inputs.notes[0]
    assert "`sequence_length` sets another" in inputs.notes[0]


ONE_LAYER = {"num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model_type": "vit", "num_hidden_layers": 1, "image_size": 96}, {"pixel_values": (2, 3, 96, 96)}),
        (
            {
                "model_type": "t5",
                "num_layers": 1,
                "d_model": 64,
                "d_ff": 64,
                "architectures": ["T5ForConditionalGeneration"],
            },
            {"input_ids": (2, 512), "decoder_input_ids": (2, 512)},
        ),
        (
            {"model_type": "whisper", "encoder_layers": 1, "decoder_layers": 1},
            {"input_features": (2, 80, 3000), "decoder_input_ids": (2, 448)},
        ),
        (
            {"model_type": "clip", "text_config": ONE_LAYER, "vision_config": ONE_LAYER},
            {"input_ids": (2, 77), "pixel_values": (2, 3, 224, 224)},
        ),
        ({"model_type": "wav2vec2", "num_hidden_layers": 1}, {"input_values": (2, 16000)}),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_transformers_models_run_on_what_their_config_implies(from_config, settings, expected):
    loaded = from_config(**settings).on_cpu()
    inputs = model_inputs(loaded, 2)
    assert shapes(inputs)[1] == expected
    with torch.no_grad(), loaded.running():
        loaded.model.eval()(**inputs.kwargs)


def test_sequence_length_where_it_has_no_use(load):
    with pytest.raises(JoulecastError, match=r"`sequence_length` 5 has no use here"):
        model_inputs(load(""), 4, sequence_length=5)


# -- wrong shapes ---------------------------------------------------------------------------------


def test_the_fix_for_a_wrong_shape_tells_what_the_inputs_were():
    args, kwargs = make_inputs([parse_input("3,8"), parse_input("ids:int64:5")], 2)
    assert describe_inputs(args, kwargs).startswith("the inputs were float32 2x3x8, ids int64 2x5 (batch first)")


# -- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "shape", "classes", "train", "test"),
    [
        ("cifar10", (3, 32, 32), 10, 50_000, 10_000),
        ("cifar100", (3, 32, 32), 100, 50_000, 10_000),
        ("mnist", (1, 28, 28), 10, 60_000, 10_000),
        ("fashion-mnist", (1, 28, 28), 10, 60_000, 10_000),
        ("imagenet-1k", (3, 224, 224), 1000, 1_281_167, 50_000),
    ],
)
def test_presets(key, shape, classes, train, test):
    preset = dataset_preset(key)
    assert (preset.input_shape, preset.classes) == (shape, classes)
    assert (preset.train_samples, preset.test_samples) == (train, test)


def test_every_preset_has_a_source_and_a_dtype_that_torch_knows():
    for preset in dataset_presets().values():
        assert len(preset.source) > 10
        assert getattr(torch, preset.input_dtype).is_floating_point


def test_preset_names():
    assert dataset_preset("CIFAR-10").key == "cifar10"
    assert dataset_preset("Fashion_MNIST").key == "fashion-mnist"
    with pytest.raises(
        JoulecastError, match=r"'cifar-11' has no preset: give `inputs` and `samples`; did you mean cifar10"
    ):
        dataset_preset("cifar-11")
    with pytest.raises(JoulecastError, match=r"known are cifar10, cifar100, mnist"):
        dataset_preset("laion")


# -- names that forward does not have --------------------------------------------------------------

NAMED = """
class Two(Net):
    def forward(self, a, b=None):
        return self.lin(a)
class Pair(Net):
    def forward(self, a, b):
        return self.lin(a + b)
class Batch(Net):
    def forward(self, batch):
        return self.lin(batch["a"] + batch["b"])
class Any(Net):
    def forward(self, **batch):
        return self.lin(batch["x"])
model = {}()
"""


def taken(load, name, *specs):
    return shapes(model_inputs(load(NAMED.replace("{}", name)), 4, specs=[parse_input(spec) for spec in specs]))


def test_one_input_under_another_name_goes_by_position(load):
    assert taken(load, "Two", "ids:5,3") == ([(4, 5, 3)], {})
    assert taken(load, "Two", "b:5,3") == ([], {"b": (4, 5, 3)})
    assert taken(load, "Any", "x:3") == ([], {"x": (4, 3)})


def test_several_inputs_under_other_names_are_one_batch(load):
    inputs = model_inputs(load(NAMED.replace("{}", "Batch")), 4, specs=[parse_input("a:3"), parse_input("b:3")])
    ((batch,), kwargs) = inputs.args, inputs.kwargs
    assert ({name: tuple(tensor.shape) for name, tensor in batch.items()}, kwargs) == ({"a": (4, 3), "b": (4, 3)}, {})


def test_a_name_that_forward_does_not_have(load):
    with pytest.raises(JoulecastError, match=r"^`inputs` c: Pair takes a, b; give one of these names$"):
        taken(load, "Pair", "a:3", "c:3")
