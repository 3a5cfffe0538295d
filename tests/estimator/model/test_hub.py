"""`hf:` models from a local hub through the hub's own client: downloads, the cache, and one line for each failure."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.hub import fetch_config, processor_beside
from joulecast.estimator.model.inputs import model_inputs
from joulecast.estimator.model.load import load_model

VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 16,
}
FILES = {
    "/some/vit/resolve/main/config.json": VIT,
    "/some/vit/resolve/main/preprocessor_config.json": {"size": {"height": 64, "width": 96}},
    "/some/data/resolve/main/README.md": {},
    "/some/odd/resolve/main/config.json": {},
}
REFUSED = {  # path: status and the hub's code for it
    "/some/gated/resolve/main/config.json": (403, "GatedRepo"),
    "/some/vit/resolve/v9/config.json": (404, "RevisionNotFound"),
    "/some/odd/resolve/main/config.json": (418, "Teapot"),
}


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.path in REFUSED and (body or self.path not in FILES):
            status, code = REFUSED[self.path]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        known = {"/".join(path.split("/")[:3]) for path in FILES}
        content = json.dumps(FILES[self.path]).encode() if self.path in FILES else b""
        self.send_response(200 if self.path in FILES else 404)
        if self.path not in FILES:
            is_there = "/".join(self.path.split("/")[:3]) in known
            self.send_header("X-Error-Code", "EntryNotFound" if is_there else "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub():
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(*specs: str, cache: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Prints a line for each model, read by one new process: the hub's address and cache are read when it starts."""
    code = (
        "import sys\n"
        "from joulecast.estimator.base.errors import JoulecastError\n"
        "from joulecast.estimator.model.load import load_model\n"
        "from joulecast.estimator.model.inputs import model_inputs\n"
        "for spec in sys.argv[1:]:\n"
        "    try:\n"
        "        loaded = load_model(spec)\n"
        "        inputs = model_inputs(loaded, 2)\n"
        "        print(type(loaded.model).__name__, list(inputs.kwargs['pixel_values'].shape), loaded.device)\n"
        "    except JoulecastError as error:\n"
        "        print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(cache), "HF_ENDPOINT": endpoint}
    return subprocess.run(
        [sys.executable, "-c", code, *specs], capture_output=True, text=True, timeout=120, check=True, env=environment
    )


@pytest.fixture
def in_process(hub, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def opened(spec: str) -> tuple[str, list[int], str]:
    """The class of a model, the shape of its images and its device."""
    loaded = load_model(spec)
    return type(loaded.model).__name__, list(model_inputs(loaded, 2).kwargs["pixel_values"].shape), loaded.device


@pytest.mark.usefixtures("in_process")
def test_a_repository_then_its_cache_and_what_is_not_there(tmp_path, monkeypatch):
    from huggingface_hub import constants

    expected = "ViTForImageClassification", [2, 3, 64, 96], "meta"
    assert opened("hf:some/vit") == expected
    with pytest.raises(JoulecastError, match="the hub has no repository some/nothing"):
        load_model("hf:some/nothing")
    with pytest.raises(JoulecastError, match=r"hf:some/data has no config\.json"):
        load_model("hf:some/data")
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert opened("hf:some/vit") == expected
    unreachable = ask("hf:some/vit", "hf:some/other", cache=tmp_path, endpoint="http://no-such-host.invalid")
    name, shape, device = expected
    assert unreachable.stdout == (
        f"{name} {shape} {device}\nhf:some/other is not in the local cache and the hub cannot be reached; "
        "connect to the network, or give a config.json\n"
    )
    notes = [
        line for line in unreachable.stderr.splitlines() if "torch_dtype" not in line
    ]  # of an old name in the config
    assert notes == []


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some/gated", r"^hf:some/gated is gated: accept its terms on the hub and set HF_TOKEN$"),
        ("some/vit@v9", r"^some/vit has no revision v9; give a branch, tag or commit$"),
        ("some/odd", r"^hf:some/odd cannot be downloaded \(.*418"),
    ],
)
def test_what_the_hub_refuses(name, message):
    with pytest.raises(JoulecastError, match=message) as caught:
        fetch_config(name)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("in_process")
def test_a_config_comes_with_the_processor_that_its_repository_has():
    config = fetch_config("some/vit@main")
    assert json.loads(config.read_text()) == VIT
    assert processor_beside(config) == {"size": {"height": 64, "width": 96}}


@pytest.mark.usefixtures("in_process")
def test_behind_a_proxy_the_hub_s_name_need_not_resolve(monkeypatch, hub):
    from huggingface_hub import constants

    from joulecast.estimator.model.hub import _is_hub_known

    assert _is_hub_known()
    monkeypatch.setattr(constants, "ENDPOINT", "http://no-such-host.invalid")
    assert not _is_hub_known()
    monkeypatch.setenv("https_proxy", "http://10.0.0.1:3128")
    assert _is_hub_known()


@pytest.mark.parametrize("spec", ["hf:", "hf:a/b/c", "hf:" + "x" * 500, "hf:..", "hf:a b"])
def test_names_that_are_not_repositories(spec):
    with pytest.raises(JoulecastError, match=r"hf:.* is not a repository; give hf:ORGANISATION/NAME"):
        load_model(spec)


# -- the processor's file ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "shape"),
    [
        ({"size": 48}, (3, 48, 48)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 240, "width": 200}}, (3, 240, 200)),
        ({"size": {"shortest_edge": 256}, "crop_size": 240, "do_center_crop": False}, (3, 256, 256)),
        ({"image_processor": {"size": {"height": 32, "width": 64}}}, (3, 32, 64)),
        ({"size": {"longest_edge": 999}}, (3, 224, 224)),  # says no size: the config's
    ],
)
def test_sizes_of_processors(tmp_path, document, shape):
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    inputs = model_inputs(load_model(str(tmp_path)), 1)
    assert tuple(inputs.kwargs["pixel_values"].shape[1:]) == shape


def test_a_processor_that_cannot_be_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(JoulecastError, match=r"preprocessor_config\.json cannot be read as JSON"):
        processor_beside(tmp_path / "config.json")


def test_parts_of_a_processor_are_joined_and_lists_are_not_settings(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("[1, 2]")
    assert processor_beside(tmp_path / "config.json") == {}
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": {"feature_size": 80}, "a": 1}))
    assert processor_beside(tmp_path / "config.json") == {
        "feature_extractor": {"feature_size": 80},
        "a": 1,
        "feature_size": 80,
    }


# -- classes and settings of a config ----------------------------------------------------------------


@pytest.fixture
def write_config(tmp_path):
    pytest.importorskip("transformers")

    def write_config(**settings):
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return str(tmp_path)

    return write_config


def test_an_architecture_that_transformers_lacks_gives_the_bare_model(write_config):
    folder = write_config(model_type="gpt2", n_layer=1, architectures=[None, "NoSuchModel"])
    assert load_model(folder).name == "GPT2Model"


def test_a_config_whose_model_is_not_known(write_config):
    with pytest.raises(JoulecastError, match=r"no model for EncoderDecoderConfig; name its class under architectures"):
        load_model(
            write_config(model_type="encoder-decoder", encoder={"model_type": "bert"}, decoder={"model_type": "bert"})
        )


def test_settings_of_a_class_are_checked(write_config):
    with pytest.raises(JoulecastError, match=r"BertConfig has no setting 'hiden_size'; did you mean hidden_size"):
        load_model("transformers:BertModel", args={"hiden_size": "64"})
    with pytest.raises(JoulecastError, match=r"GPT2Config has no setting 'zzz'; it has .*n_positions, "):
        load_model("transformers:GPT2Model", args={"zzz": "1"})


SMALL_BERT = {
    "num_hidden_layers": "1",
    "hidden_size": "16",
    "num_attention_heads": "2",
    "intermediate_size": "16",
    "vocab_size": "11",
}


def test_classes_of_the_dataset_reach_classifiers_only():
    name = "transformers:BertForSequenceClassification"
    assert load_model(name, args=SMALL_BERT, num_classes=7).model.classifier.out_features == 7
    own = {**SMALL_BERT, "num_labels": "3"}
    assert load_model(name, args=own, num_classes=7).model.classifier.out_features == 3
    assert load_model("transformers:BertModel", args=SMALL_BERT, num_classes=7).model.config.num_labels == 2


@pytest.mark.parametrize(
    ("written", "dtype"),
    [("float16", torch.float16), ("torch.bfloat16", torch.bfloat16), ("int8", torch.float32), ("odd", torch.float32)],
)
def test_parameters_have_the_config_s_dtype(written, dtype):
    from types import SimpleNamespace

    from joulecast.estimator.model.hub import _in_own_dtype

    class Net(torch.nn.Linear):
        def __init__(self, config):
            super().__init__(2, 2)

    assert _in_own_dtype(Net, SimpleNamespace(dtype=written)).weight.dtype == dtype
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("gpt2", 'GPT2Model has no language model\'s head; add "architectures": ["GPT2LMHeadModel"] for it'),
        ("bert", 'BertModel has no language model\'s head; add "architectures": ["BertForMaskedLM"] for it'),
        ("vit", None),
    ],
)
def test_a_config_without_a_class_says_that_the_head_is_left_out(write_config, kind, note):
    small = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    notes = load_model(write_config(model_type=kind, **small)).notes
    assert notes == (() if note is None else (f"the config names no class of transformers: {note}",))


def test_a_config_with_a_class_has_no_note_on_its_head(write_config):
    folder = write_config(model_type="gpt2", n_layer=1, architectures=["GPT2LMHeadModel"])
    assert load_model(folder).notes == ()


def test_a_config_without_a_dtype_is_not_asked_by_the_old_name():
    """transformers 5 warns on standard error where `torch_dtype` is read."""
    from joulecast.estimator.model.hub import _in_own_dtype

    class Config:
        dtype = None

        @property
        def torch_dtype(self):
            raise AssertionError("`torch_dtype` was read")

    class Net(torch.nn.Linear):
        def __init__(self, config):
            super().__init__(2, 2)

    class OldConfig:
        torch_dtype = "float16"  # before transformers 5

    assert _in_own_dtype(Net, Config()).weight.dtype == torch.float32
    assert _in_own_dtype(Net, OldConfig()).weight.dtype == torch.float16


# -- timm's configs ----------------------------------------------------------------------------------

TIMM = {
    "architecture": "small",
    "num_classes": 12,
    "model_args": {"width": 5},
    "pretrained_cfg": {"input_size": [3, 96, 64]},
}


@pytest.fixture
def timm(monkeypatch):
    """A timm with one model; the real one needs torchvision."""

    class Small(torch.nn.Module):
        def __init__(self, num_classes, width):
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(3, width, 3), torch.nn.Linear(width, num_classes)
            self.pretrained_cfg = {"input_size": (3, 224, 224), "mean": (0.5,)}

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3)))

    def create_model(name, pretrained=False, num_classes=1000, width=1):
        assert not pretrained
        return Small(num_classes, width)

    module = types.ModuleType("timm")
    module.__version__, module.is_model, module.create_model = "1.2.3", "small".__eq__, create_model
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("timm")
def test_a_timm_config(write_config):
    loaded = load_model(write_config(**TIMM))
    assert (loaded.model.conv.out_channels, loaded.model.head.out_features) == (5, 12)
    assert tuple(model_inputs(loaded, 2).args[0].shape) == (2, 3, 96, 64)
    other = load_model(write_config(**TIMM), args={"width": "3"}, num_classes=7)
    assert (other.model.conv.out_channels, other.model.head.out_features) == (3, 7)
    bare = load_model(write_config(architecture="small"))
    assert (bare.model.conv.out_channels, bare.model.head.out_features) == (1, 1000)
    assert tuple(model_inputs(bare, 2).args[0].shape) == (2, 3, 224, 224)


@pytest.mark.usefixtures("timm")
def test_a_timm_config_of_a_newer_timm(write_config):
    with pytest.raises(JoulecastError, match=r"timm 1\.2\.3 has no model newest; install a version that has it"):
        load_model(write_config(architecture="newest"))
