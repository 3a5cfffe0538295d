"""Loading a model file: what is chosen in it, and whether it is built on the meta device or for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


# -- which object of a file -----------------------------------------------------------------------


def test_the_one_class_of_a_file(write):
    loaded = load_model(write(NET))
    assert (loaded.name, loaded.framework, loaded.device) == ("mynet", "pytorch", "meta")
    assert parameters(loaded) == 3 * 4 + 4 + 4 * 10 + 10
    assert all(parameter.is_meta for parameter in loaded.model.parameters())


def test_model_comes_before_build_model_before_get_model_before_the_class(write):
    text = NET
    text += "def get_model():\n    return Net(1)\n"
    assert load_model(write(text)).model.body.out_features == 1
    text += "def build_model():\n    return Net(2)\n"
    assert load_model(write(text)).model.body.out_features == 2
    text += "model = Net(3)\n"
    assert load_model(write(text)).model.body.out_features == 3


def test_an_explicit_name_comes_first(write):
    spec = write(NET + "model = Net(3)\ndef wide():\n    return Net(9)\nclass zoo:\n    small = Net\n")
    assert load_model(f"{spec}:wide").model.body.out_features == 9
    assert load_model(f"{spec}:zoo.small").model.body.out_features == 4
    assert load_model(f"{spec}:wide").name == "mynet:wide"


def test_model_may_be_a_class_or_a_function(write):
    assert load_model(write(NET + "model = Net\n")).model.body.out_features == 4
    assert load_model(write(NET + "def model():\n    return Net(7)\n")).model.body.out_features == 7


def test_parts_of_the_model_are_no_rivals(write):
    text = """
from torch import nn
class Swish(nn.Module):
    pass
class Base(nn.Module):
    pass
class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.act = Swish()
class Whole(Base):
    def __init__(self):
        super().__init__()
        self.block, self.lin = Block(3), nn.Linear(2, 2)
"""
    assert type(load_model(write(text)).model).__name__ == "Whole"


def test_classes_from_elsewhere_are_no_candidates(write):
    text = "from torch.nn import Module, Identity, Flatten\n" + NET
    assert type(load_model(write(text)).model).__name__ == "Net"


def test_an_imported_get_model_that_needs_arguments_is_not_the_model(write):
    write("def get_model(name):\n    return None\n", "zoo.py")
    assert type(load_model(write("from zoo import get_model\n" + NET)).model).__name__ == "Net"


# -- arguments ------------------------------------------------------------------------------------


def test_arguments_are_literals_or_strings(write):
    text = (
        NET
        + "def build_model(size, kind, flags=()):\n"
        + "    assert kind == 'big' and flags == (1, 2)\n"
        + "    return Net(size)"
    )
    loaded = load_model(write(text), args={"size": "6", "kind": "big", "flags": "(1, 2)"})
    assert loaded.model.body.out_features == 6


def test_the_classes_of_the_dataset_go_in_unless_told_otherwise(write):
    assert load_model(write(NET), num_classes=100).model.head.out_features == 100
    assert load_model(write(NET), num_classes=100, args={"num_classes": "7"}).model.head.out_features == 7
    without = "from torch import nn\ndef build_model():\n    return nn.Linear(2, 5)\n"
    assert load_model(write(without), num_classes=100).model.out_features == 5


# -- meta and real --------------------------------------------------------------------------------

NEEDS_VALUES = {
    "item": "n = int(torch.linspace(0, 4, 5)[-1].item())",
    "tolist": "n = torch.tensor([4]).tolist()[0]",
    "unique": "n = torch.unique(torch.tensor([1, 2, 3, 3, 4])).numel()",
    "numpy": "n = int(torch.full((1,), 4).numpy()[0])",
    "branch": "n = 4 if torch.ones(1) > 0 else 3",
}


@pytest.mark.parametrize("code", NEEDS_VALUES.values(), ids=NEEDS_VALUES)
def test_a_model_that_needs_values_is_built_for_real(write, code):
    loaded = load_model(write(f"{NET}\n{code}\nmodel = Net(n)\n"))
    assert loaded.device == "cpu"
    assert loaded.model.body.out_features == 4
    assert loaded.model(torch.ones(2, 3)).shape == (2, 10)


def test_a_model_that_asks_for_meta_is_built_for_real(write):
    text = NET + "def build_model():\n    return Net(8 if torch.zeros(1).is_meta else 4)\n"
    assert load_model(write(text)).model.body.out_features == 4


def test_a_failure_that_the_file_itself_catches_on_meta_is_not_the_last_word(write):
    text = (
        NET
        + "try:\n    model = Net(int(torch.tensor(5).item()))\n"
        + "except RuntimeError:\n    model = None\n    del Net\n"
    )
    assert load_model(write(text)).model.body.out_features == 5


def test_real_and_meta_builds_have_the_same_parameters(write):
    loaded = load_model(write(NET))
    real = loaded.on_cpu()
    assert real.device == "cpu"
    shapes = [(name, parameter.shape) for name, parameter in loaded.model.named_parameters()]
    assert shapes == [(name, parameter.shape) for name, parameter in real.model.named_parameters()]
    assert not any(parameter.is_meta for parameter in real.model.parameters())
    assert real.on_cpu() is real


def test_tensors_from_numpy_go_to_meta_and_stay_tied(write):
    text = """
import numpy, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Linear(3, 3, bias=False)
        self.a.weight = self.b.weight = nn.Parameter(torch.from_numpy(numpy.ones((3, 3), "float32")))
        self.register_buffer("steps", torch.from_numpy(numpy.arange(3)))
"""
    model = load_model(write(text)).model
    assert model.a.weight is model.b.weight
    assert model.a.weight.is_meta
    assert model.steps.is_meta
    assert sum(parameter.numel() for parameter in model.parameters()) == 9


def test_libraries_imported_on_the_way_keep_their_real_constants(write, tmp_path, monkeypatch):
    library = tmp_path / "site"
    library.mkdir()
    (library / "constants_lib.py").write_text("import torch\nMEAN = torch.tensor([0.5])\n")
    monkeypatch.syspath_prepend(str(library))
    load_model(write("import constants_lib\n" + NET, "nets/mynet.py"))
    try:
        assert sys.modules["constants_lib"].MEAN.item() == 0.5
    finally:
        del sys.modules["constants_lib"]


# -- what loading leaves behind -------------------------------------------------------------------


def test_siblings_are_found_and_forgotten(write, tmp_path):
    path = list(sys.path)
    one = write("from blocks import WIDTH\n" + NET + "model = Net(WIDTH)", "one/mynet.py")
    two = write("from blocks import WIDTH\n" + NET + "model = Net(WIDTH)", "two/mynet.py")
    write("WIDTH = 11\n", "one/blocks.py")
    write("WIDTH = 22\n", "two/blocks.py")
    assert load_model(one).model.body.out_features == 11
    assert load_model(two).model.body.out_features == 22
    assert "blocks" not in sys.modules
    assert sys.path == path
    assert not list(tmp_path.rglob("__pycache__"))


def test_folders_that_the_file_itself_adds(write, tmp_path):
    add = (
        "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'common'))\nfrom sizes import WIDTH\n"
    )
    one = write(add + NET + "model = Net(WIDTH)", "one/mynet.py")
    two = write(add + NET + "model = Net(WIDTH)", "two/mynet.py")
    write("WIDTH = 11\n", "one/common/sizes.py")
    write("WIDTH = 22\n", "two/common/sizes.py")
    assert load_model(one).model.body.out_features == 11
    assert load_model(two).model.body.out_features == 22


def test_a_folder_of_data_does_not_hide_an_installed_package(write, tmp_path, monkeypatch):
    write("WIDTH = 5\n", "site/library_of_sizes/__init__.py")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    write("", "nets/library_of_sizes/readme.txt")
    write("DEPTH = 2\n", "nets/parts/sizes.py")  # a package without __init__.py is still one
    text = "from library_of_sizes import WIDTH\nfrom parts.sizes import DEPTH\n" + NET
    try:
        assert load_model(write(text + "model = Net(WIDTH * DEPTH)", "nets/mynet.py")).model.body.out_features == 10
    finally:
        sys.modules.pop("library_of_sizes", None)


def test_a_sibling_imported_in_forward_is_found_while_running(write):
    write("OFFSET = 1\n", "late.py")
    text = (
        NET.replace("return self", "from late import OFFSET\n        return self") + "model = Net(int(torch.ones(1)))\n"
    )
    loaded = load_model(write(text))
    with loaded.running():
        assert loaded.model(torch.ones(2, 3)).shape == (2, 10)
    assert "late" not in sys.modules


@pytest.mark.parametrize("package", [True, False], ids=["package", "plain folder"])
def test_relative_imports(write, package):
    if package:
        write("DEPTH = 3\n", "pkg/__init__.py")
        write("", "pkg/nets/__init__.py")
        write("from . import DEPTH\nWIDTH = DEPTH * 2\n", "pkg/sizes.py")
        spec = write("from ..sizes import WIDTH\n" + NET + "model = Net(WIDTH)", "pkg/nets/mynet.py")
    else:
        write("WIDTH = 6\n", "nets/sizes.py")
        spec = write("from .sizes import WIDTH\n" + NET + "model = Net(WIDTH)", "nets/mynet.py")
    assert load_model(spec).model.body.out_features == 6
    assert not [name for name in sys.modules if name.partition(".")[0] in ("pkg", "sizes") or "joulecast_user_" in name]


def test_a_file_named_like_an_installed_module(write):
    import colorsys

    spec = write("import colorsys\n" + NET + "model = Net(len(colorsys.rgb_to_hsv(1, 1, 1)))", "colorsys.py")
    assert load_model(spec).model.body.out_features == 3
    assert sys.modules["colorsys"] is colorsys
    spec = write("import timeit\n" + NET + "model = Net(int(timeit.default_number > 0))", "timeit.py")
    sys.modules.pop("timeit", None)
    assert load_model(spec).model.body.out_features == 1


def test_global_settings_are_put_back(write, tmp_path):
    folder = os.getcwd()
    text = f"""
import os, sys, torch
os.chdir({str(tmp_path)!r})
sys.path.append("/nowhere")
torch.set_default_dtype(torch.float64)
torch.set_default_device("cpu")
torch.set_grad_enabled(False)
"""
    loaded = load_model(write(text + NET))
    assert loaded.model.body.weight.dtype == torch.float64
    assert os.getcwd() == folder
    assert "/nowhere" not in sys.path
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.zeros(1).device.type == "cpu"


def test_what_the_file_prints_goes_to_stderr(write, capsys):
    load_model(write("print('hello from the file')\n" + NET))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from the file" in captured.err


def test_main_blocks_do_not_run(write, tmp_path):
    text = NET + f"if __name__ == '__main__':\n    open({str(tmp_path / 'ran')!r}, 'w')\n"
    load_model(write(text))
    assert not (tmp_path / "ran").exists()


def test_models_are_let_go(write):
    import gc
    import weakref

    loaded = load_model(write(NET + "model = Net()\n"))
    reference = weakref.ref(loaded.model)
    del loaded
    gc.collect()
    assert reference() is None


def test_loading_imports_no_torch_before_it_is_used():
    code = (
        "import joulecast.estimator.model.load, joulecast.estimator.model.inputs, sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_path_with_a_space_is_no_script_with_arguments(tmp_path):
    folder = tmp_path / "my.py nets"
    folder.mkdir()
    (folder / "net.py").write_text("from torch import nn\nmodel = nn.Linear(3, 4)\n")
    assert load_model(str(folder / "net.py")).model.in_features == 3
    assert load_model(f"{folder / 'net.py'}:model").model.in_features == 3
