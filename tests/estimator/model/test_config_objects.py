"""A class that takes one config object is built with that object's defaults."""

from __future__ import annotations

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.load import load_model

CONFIG = "@dataclass\nclass NetConfig:\n    width: int = 4\n    depth: int = 2\n"
NET = """
class Net(nn.Module):
    def __init__(self, config, scale=1):
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(config.width, config.width * scale) for _ in range(config.depth)])
"""
HEAD = "from dataclasses import dataclass\nfrom typing import NamedTuple\nimport torch\nfrom torch import nn\n"


@pytest.fixture
def load(tmp_path):
    def load(text, name="", **args):
        path = tmp_path / "net.py"
        path.write_text(HEAD + text)
        return load_model(f"{path}:{name}" if name else str(path), args={k: str(v) for k, v in args.items()})

    return load


def sizes(loaded):
    return len(loaded.model.body), loaded.model.body[0].in_features, loaded.model.body[0].out_features


def test_the_config_beside_the_class(load):
    loaded = load(CONFIG + NET)
    assert sizes(loaded) == (2, 4, 4)
    assert loaded.notes == ("net.py:Net is built with NetConfig(), its other fields by default",)


def test_arguments_reach_the_config_and_the_class(load):
    loaded = load(CONFIG + NET, width=8, scale=3)
    assert sizes(loaded) == (2, 8, 24)
    assert loaded.notes == ("net.py:Net is built with NetConfig(width=8), its other fields by default",)
    with pytest.raises(
        JoulecastError, match=r"NetConfig has no field 'widht', it has width, depth; did you mean width"
    ):
        load(CONFIG + NET, widht=8)


@pytest.mark.parametrize(
    "config",
    [
        "class NetConfig:\n    width = 4\n    depth = 2\n",
        "class ModelArgs:\n    def __init__(self, width=4, depth=2):\n        self.width, self.depth = width, depth\n",
        "class Dimensions(NamedTuple):\n    width: int = 4\n    depth: int = 2\n",
    ],
    ids=["attributes", "constructor", "named tuple"],
)
def test_other_kinds_of_config_classes(load, config):
    assert sizes(load(config + NET)) == (2, 4, 4)
    assert sizes(load(config + NET, depth=5)) == (5, 4, 4)


def test_an_annotation_chooses_among_several(load):
    other = CONFIG.replace("NetConfig", "Small").replace("= 4", "= 1") + CONFIG.replace("NetConfig", "Large")
    assert sizes(load(other + NET.replace("config,", "config: Small,"))) == (2, 1, 1)
    with pytest.raises(JoulecastError, match=r"Net needs config"):
        load(other + NET)


def test_fields_without_defaults_are_listed(load):
    config = CONFIG.replace("depth: int = 2", "depth: int").replace("width: int = 4", "width: int")
    with pytest.raises(JoulecastError, match=r"takes config, a NetConfig that needs width, depth; give `model_args` w"):
        load(config + NET)
    assert sizes(load(config + NET, width=3, depth=1)) == (1, 3, 3)


def test_parts_that_take_the_same_config_are_not_rivals(load):
    """As in nanoGPT: attention, MLP, block and model all take it."""
    block = "class Block(nn.Module):\n    def __init__(self, config):\n        super().__init__()\n"
    assert sizes(load(CONFIG + block + NET.replace("super().__init__()", "super().__init__(); Block(config)"))) == (
        2,
        4,
        4,
    )


def test_a_config_that_is_given_is_used(load):
    text = CONFIG + NET + "def build_model():\n    return Net(NetConfig(width=9))\n"
    assert sizes(load(text)) == (2, 9, 9)


def test_a_class_that_needs_a_number_is_not_given_a_config(load):
    with pytest.raises(JoulecastError, match=r"Net needs width"):
        load(CONFIG + NET.replace("config, scale", "width, scale"))


def test_a_decorator_that_gives_the_config_needs_no_argument():
    """As `hydra.main` does: the wrapper keeps the function's name and signature, and is called without the config."""
    import functools

    from torch import nn

    from joulecast.estimator.model.builders import build

    def with_config(function):
        @functools.wraps(function)
        def decorated(given=None):
            return function({"width": 3} if given is None else given)

        return decorated

    def passes_all(function):
        @functools.wraps(function)
        def decorated(*args, **kwargs):
            return function(*args, **kwargs)

        return decorated

    def make(config):
        return nn.Linear(config["width"], 1)

    assert build(with_config(make), "net.py:make", {}, None).in_features == 3
    with pytest.raises(JoulecastError, match=r"net\.py:make needs config"):
        build(passes_all(make), "net.py:make", {}, None)
