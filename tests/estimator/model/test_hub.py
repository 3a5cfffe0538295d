"""`hf:` models: a hub of the test's own, by the hub's client; the cache; every failure in one line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.hub import processor_beside
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
}


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
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


def ask(spec: str, cache, endpoint: str, **more: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "from joulecast.estimator.base.errors import JoulecastError\n"
        "from joulecast.estimator.model.load import load_model\n"
        "from joulecast.estimator.model.inputs import model_inputs\n"
        "try:\n"
        "    loaded = load_model(sys.argv[1])\n"
        "    inputs = model_inputs(loaded, 2)\n"
        "    print(type(loaded.model).__name__, list(inputs.kwargs['pixel_values'].shape), loaded.device)\n"
        "except JoulecastError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(cache), "HF_ENDPOINT": endpoint, **more}
    environment.pop("HF_TOKEN", None)
    return subprocess.run(
        [sys.executable, "-c", code, spec], capture_output=True, text=True, timeout=120, check=True, env=environment
    )


def test_a_repository_then_its_cache_then_what_is_not_there(hub, tmp_path):
    expected = "ViTForImageClassification [2, 3, 64, 96] meta\n"
    assert ask("hf:some/vit", tmp_path, hub).stdout == expected
    assert ask("hf:some/vit", tmp_path, hub, HF_HUB_OFFLINE="1").stdout == expected
    assert ask("hf:some/vit", tmp_path, "http://no-such-host.invalid").stdout == expected
    unreachable = ask("hf:some/other", tmp_path, "http://no-such-host.invalid")
    assert unreachable.stdout == (
        "hf:some/other is not in the local cache and the hub cannot be reached; "
        "connect to the network, or give a config.json\n"
    )
    assert unreachable.stderr == ""


def test_what_the_hub_does_not_have(hub, tmp_path):
    assert "the hub has no repository some/nothing" in ask("hf:some/nothing", tmp_path, hub).stdout
    assert "hf:some/data has no config.json" in ask("hf:some/data", tmp_path, hub).stdout


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
