"""Models of packages (torch, timm, pytorchcv, transformers) and of Hugging Face configs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.model.inputs import model_inputs
from joulecast.estimator.model.load import LoadedModel, load_model

ROOT = Path(__file__).parents[3]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, num_classes=10):
        super().__init__()
        self.body = nn.Linear(3, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.body(x))
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mynet.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def parameters(loaded: LoadedModel) -> int:
    return sum(parameter.numel() for parameter in loaded.model.parameters())


def torchvision_stub() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torchvision_stub", ROOT / "benchmarks" / "torchvision_stub.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- packages -------------------------------------------------------------------------------------


def test_package_and_callable():
    loaded = load_model("torch.nn:Linear", args={"in_features": "3", "out_features": "5"})
    assert (loaded.name, parameters(loaded)) == ("Linear", 20)


def test_a_package_in_the_current_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(NET, "shapes_pkg/nets.py")
    write("", "shapes_pkg/__init__.py")
    assert load_model("shapes_pkg.nets:Net", args={"width": "2"}).model.body.out_features == 2
    assert "shapes_pkg" not in sys.modules


def test_the_project_s_own_models():
    by_file = load_model(str(ROOT / "models" / "alexnet.py"))
    by_package = load_model("joulecast.models.alexnet:AlexNet")
    assert parameters(by_file) == parameters(by_package) == 3_881_354
    assert callable(by_file.example_inputs)


def test_keras_files_are_left_to_their_own_process(write):
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    spec = write("import keras\nmodel = keras.Sequential([keras.layers.Dense(3)])\nraise SystemExit\n")
    loaded = load_model(spec)
    assert (loaded.framework, loaded.model, loaded.spec) == ("keras", None, spec)
    assert load_model("joulecast.models.simplenet_keras:build_model").framework == "keras"


def test_timm():
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    torchvision_stub().import_timm()
    loaded = load_model("timm:create_model", args={"model_name": "resnet18"})
    assert (loaded.name, parameters(loaded), loaded.device) == ("resnet18", 11_689_512, "meta")
    ten = load_model("timm:create_model", args={"model_name": "resnet18"}, num_classes=10)
    assert ten.model.fc.out_features == 10
    inputs = model_inputs(load_model("timm:create_model", args={"model_name": "inception_v3"}), 2)
    assert (inputs.args[0].shape, inputs.source) == ((2, 3, 299, 299), "default_cfg")


def test_pytorchcv():
    if importlib.util.find_spec("pytorchcv") is None:
        pytest.skip("pytorchcv is not installed")
    torchvision_stub().import_pytorchcv()
    loaded = load_model("pytorchcv.model_provider:get_model", args={"name": "resnet10"}, num_classes=10)
    assert loaded.name == "resnet10"
    assert loaded.model.output.out_features == 10


# -- transformers ---------------------------------------------------------------------------------

LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def config(tmp_path: Path):
    pytest.importorskip("transformers")

    def config(**settings: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return str(tmp_path)

    return config


def test_a_transformers_class_with_settings():
    pytest.importorskip("transformers")
    args = {
        "num_hidden_layers": "2",
        "hidden_size": "64",
        "num_attention_heads": "4",
        "intermediate_size": "128",
    }
    loaded = load_model("transformers:BertModel", args=args)
    embeddings = (30522 + 512 + 2) * 64 + 2 * 64
    layer = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 4 * 64
    assert parameters(loaded) == embeddings + 2 * layer + (64 * 64 + 64)


def test_a_70b_llama_costs_nothing(config):
    folder = config(**LLAMA_70B)
    loaded = load_model(folder)
    attention, mlp, norms = 2 * 8192 * 8192 + 2 * 8192 * 1024, 3 * 8192 * 28672, 2 * 8192
    assert parameters(loaded) == 80 * (attention + mlp + norms) + 2 * 128256 * 8192 + 8192 == 70_553_706_496
    assert loaded.device == "meta"
    assert loaded.model.lm_head.weight.dtype == torch.bfloat16  # as the config says
    small = load_model(folder + "/config.json", args={"num_hidden_layers": "1"})
    assert parameters(small) == attention + mlp + norms + 2 * 128256 * 8192 + 8192


def test_tied_weights_stay_tied_on_meta(config):
    loaded = load_model(config(model_type="gpt2", architectures=["GPT2LMHeadModel"], n_layer=1, n_embd=48, n_head=2))
    assert loaded.device == "meta"
    assert loaded.model.lm_head.weight is loaded.model.transformer.wte.weight
    assert parameters(loaded) == parameters(loaded.on_cpu())


def test_a_config_without_architectures_gives_the_bare_model(config):
    loaded = load_model(config(model_type="gpt2", n_layer=1))
    assert loaded.name == "GPT2Model"


def test_a_config_never_runs_code_from_a_hub(config):
    auto_map = {
        "AutoConfig": "evil/repo--configuration_x.X",
        "AutoModelForCausalLM": "evil/repo--modeling_x.Y",
    }
    with pytest.raises(JoulecastError, match=r"model_type 'evil' is not in transformers .*code from a hub is not run"):
        load_model(config(model_type="evil", auto_map=auto_map))
    assert load_model(config(model_type="gpt2", n_layer=1, auto_map=auto_map)).name == "GPT2Model"


def test_the_classes_of_the_dataset_reach_a_classifier(config):
    loaded = load_model(
        config(model_type="vit", architectures=["ViTForImageClassification"], num_hidden_layers=1),
        num_classes=37,
    )
    assert loaded.model.classifier.out_features == 37


def test_configs_that_are_none(config, write):
    with pytest.raises(JoulecastError, match=r"has no model_type; give a Hugging Face config\.json"):
        load_model(config(layers=3))
    with pytest.raises(JoulecastError, match=r"cannot be read as JSON"):
        load_model(write("{", "broken.json"))
    with pytest.raises(JoulecastError, match=r"did you mean llama"):
        load_model(config(model_type="llamma"))
    with pytest.raises(JoulecastError, match=r"no setting 'n_layers'.*n_layer"):
        load_model(config(model_type="gpt2"), args={"n_layers": "2"})


# -- what a build on the meta device leaves ---------------------------------------------------------


def test_numbers_in_buffers_keep_their_values_without_weights(write):
    text = NET.replace("self.body =", 'self.register_buffer("stride", torch.tensor(3))\n        self.body =')
    model = load_model(write(text)).model
    assert model.stride.item() == 3
    assert all(parameter.is_meta for parameter in model.parameters())


def test_an_installed_class_that_no_device_builds_is_not_built_with_real_weights(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text(
        "import builtins\nimport torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        made = torch.empty(4)\n"
        "        builtins.built.append(type(made).__name__ + made.device.type)\n"
        "        {}.missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    built: list[str] = []
    monkeypatch.setattr("builtins.built", built, raising=False)
    with pytest.raises(ModelError, match="'dict' object has no attribute 'missing'"):
        load_model("broken_package:Net")
    assert built == ["Tensormeta", "FakeTensorcpu"]


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize("kernel", ["flash_attention_2", "kernels-community/flash-attn3"])
@pytest.mark.parametrize("given", ["config", "code"])
def test_attention_of_a_kernel_that_is_not_installed_is_read(write, tmp_path: Path, given: str, kernel: str):
    pytest.importorskip("transformers", minversion="5")
    from transformers.modeling_utils import PreTrainedModel

    check = PreTrainedModel._check_and_adjust_attn_implementation
    if given == "config":
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**LLAMA, "_attn_implementation": kernel}))
        spec = str(path)
    else:
        settings = {name: value for name, value in LLAMA.items() if name not in ("model_type", "architectures")}
        spec = write(
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            f"model = LlamaForCausalLM._from_config(LlamaConfig(**{settings}), attn_implementation={kernel!r})\n"
        )
    model = load_model(spec).model
    assert model is not None
    assert model.config._attn_implementation == "sdpa"
    assert PreTrainedModel._check_and_adjust_attn_implementation is check


def test_an_attention_that_transformers_does_not_know_is_still_an_error(write):
    pytest.importorskip("transformers", minversion="5")
    settings = {name: value for name, value in LLAMA.items() if name not in ("model_type", "architectures")}
    spec = write(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"model = LlamaForCausalLM._from_config(LlamaConfig(**{settings}), attn_implementation='fast')\n"
    )
    with pytest.raises(ModelError, match=r'attn_implementation="fast"'):
        load_model(spec)
