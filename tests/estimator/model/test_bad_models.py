"""Unusable model files: one line with the place, the reason and the fix; no hang and no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.model.inputs import describe_inputs
from joulecast.estimator.model.load import load_model
from joulecast.estimator.sandbox.user_code import model_error, user_code
from joulecast.estimator.trace.trace import trace

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.lin = nn.Linear(3, width)
    def forward(self, x):
        return self.lin(x)
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mynet.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def message(spec: str, **options: object) -> str:
    with pytest.raises(JoulecastError) as caught:
        load_model(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the name -------------------------------------------------------------------------------------


def test_a_missing_file_names_its_neighbours(write, tmp_path):
    write(NET)
    assert message(str(tmp_path / "mynt.py")).endswith("did you mean mynet.py?")
    assert "no folder" in message(str(tmp_path / "nowhere" / "mynet.py"))
    assert message(str(tmp_path / "mynet")).endswith("mynet.py?")


def test_a_folder_is_no_file(write, tmp_path):
    write(NET)
    assert "is a folder without a config.json; name a file in it: mynet.py" in message(str(tmp_path))
    (tmp_path / "dir.py").mkdir()
    assert "is a folder" in message(str(tmp_path / "dir.py"))
    assert "is a folder; give a FILE.py" in message(f"{tmp_path / 'dir.py'}:Net")


def test_files_that_are_no_python(write):
    assert "is not a .py file; give FILE.py" in message(write("hello", "notes.txt"))
    assert "contains weights, which are not read" in message(write("", "model.pt"))


def test_words_that_name_nothing(write):
    assert "did you mean torchvision.models:resnet50?" in message("torchvision.models.resnet50")
    assert "is neither a file nor package.module:callable" in message("resnet50")
    assert "no model is named; give FILE.py" in message("")
    assert "'1x' in" in message(f"{write(NET)}:1x")


def test_packages_and_modules_that_are_not_installed():
    assert message("no_such_package.nets:Net") == (
        "no_such_package.nets:Net: the module no_such_package is not installed; pip install no_such_package"
    )
    assert "the installed torch has no module torch.no_such" in message("torch.no_such:Net")
    assert message("torch.nn:Linaer").startswith("torch.nn has no Linaer; did you mean Linear")


# -- what is in the file --------------------------------------------------------------------------


def test_a_syntax_error(write):
    said = message(write("import torch\nclass Net(:\n    pass\n"))
    assert said.startswith("mynet.py:2: SyntaxError: invalid syntax")
    assert message(write("if True:\npass\n")).startswith("mynet.py:2: IndentationError: expected an indented block")


def test_a_syntax_error_in_a_sibling_names_the_sibling(write):
    write("\n\ndef broken(:\n", "parts.py")
    assert "parts.py:3" in message(write("import parts\n" + NET))


def test_bytes_that_are_no_python(tmp_path):
    path = tmp_path / "mynet.py"
    path.write_bytes(b"\xff\xfe\x00class")
    assert "Error" in message(str(path))


def test_no_model(write):
    said = message(write("def train():\n    pass\ndef net(width):\n    pass\n"))
    assert said == (
        "mynet.py contains no model class that builds without arguments; it has train(), net() (needs width): "
        "name one (FILE.py:net), or define build_model()"
    )
    builder = "class Block(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
    builder = "from torch import nn\n" + builder + "def test():\n    pass\ndef main():\n    pass\n"
    builder += "class Other(Block):\n    pass\n"
    assert "name one (FILE.py:Block)" in message(write(builder))
    assert "name one (FILE.py:ResNet18)" in message(write(builder + "def ResNet18():\n    return Block(3)\n"))
    assert "name one (FILE.py:main)" in message(write("def test():\n    pass\ndef main():\n    pass\n"))
    assert "define a torch.nn.Module class" in message(write("x = 3\n"))
    assert "define a torch.nn.Module class" in message(write(""))


@pytest.mark.parametrize(
    "guard", ["if __name__ == '__main__':", 'if __name__=="__main__":', "if  __name__ ==  '__main__' :"]
)
def test_a_file_without_a_model_is_run_as_a_script(write, guard):
    """The model of what it trains is read; a script that trains nothing has no model either."""
    training = "    net = nn.Linear(3, 4)\n    opt = torch.optim.SGD(net.parameters(), 0.1)\n"
    training += "    net(torch.rand(8, 3)).sum().backward()\n    opt.step()\n"
    text = f"import torch\nfrom torch import nn\ndef main():\n{training}{guard}\n    main()\n"
    loaded = load_model(str(write(text)))
    assert loaded.training.name == "net"
    assert any("it was stopped there" in note for note in loaded.notes), loaded.notes
    said = message(write(f"def main():\n    pass\n{guard}\n    main()\n"))
    assert "contains no model class that builds without arguments; it has main(): name one (FILE.py:main)" in said
    said = message(write(f"def main():\n    pass\n{guard}\n    open('missing.csv')\n"))
    assert "No such file or directory: 'missing.csv'" in said


def test_several_models_are_listed(write):
    said = message(write(NET + "class Other(Net):\n    pass\nclass Third(nn.Module):\n    pass\n"))
    assert said.startswith("mynet.py contains several models: Other, Third; name one, as in mynet.py:Other")


def test_a_constructor_that_needs_arguments(write):
    text = NET.replace("width=4", "width, depth")
    assert message(write(text)) == (
        "mynet.py:Net needs width, depth; "
        "give `model_args` width=VALUE `model_args` depth=VALUE, or define build_model()"
    )
    two = text + "class Other(nn.Module):\n    def __init__(self, k):\n        super().__init__()\n"
    assert "Net (needs width, depth), Other (needs k)" in message(write(two))


def test_arguments_that_do_not_fit(write):
    spec = write(NET)
    assert message(spec, args={"widht": "3"}) == (
        "mynet.py:Net takes no argument 'widht', it takes width; did you mean width?"
    )
    assert "is built already" in message(write(NET + "model = Net()\n"), args={"width": "3"})
    assert "it takes none" in message(write(NET + "def build_model():\n    return Net()\n"), args={"width": "3"})


def test_a_name_that_is_not_there_or_no_model(write):
    spec = write(NET + "size = 3\ndef make():\n    return 'net'\n")
    assert message(f"{spec}:Nett") == "mynet.py has no Nett; did you mean Net?"
    assert "mynet.py:size is a int, not a model" in message(f"{spec}:size")
    assert "mynet.py:make returned a str, not a torch.nn.Module" in message(f"{spec}:make")


# -- what the file does ---------------------------------------------------------------------------


def test_an_import_that_is_not_installed(write):
    said = message(write("import torch\nimport no_such_library.layers\n" + NET))
    assert said == ("mynet.py:2 in <module>: the module no_such_library is not installed; pip install no_such_library")


def test_import_names_that_pip_knows_under_another(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    assert message(write("import cv2\n" + NET)).endswith("pip install opencv-python")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_cannot_be_stood_in_for(write):
    said = message(write(f"{NET}\ntorch.cuda.get_device_properties(0)\n"))
    assert said.startswith("mynet.py:11 in <module>: ")
    assert "the module" not in said


def test_advice_about_inputs_only_where_it_fits():
    fix = "the inputs were float32 2x5: give others"
    related = (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        IndexError("index out of range in self"),
        TypeError("forward() missing 1 required positional argument: 'y'"),
    )
    for error in related:
        assert str(model_error(error, what="net", fix=fix)).endswith(fix)
    unrelated = (
        RuntimeError("expected scalar type Long but found Float"),
        RuntimeError("mat1 and mat2 must have the same dtype, but got Float and Half"),
        NotImplementedError("Could not run 'aten::foo' with shape arguments"),
        AttributeError("'Net' object has no attribute 'shape'"),
        NameError("name 'size' is not defined"),
        OSError("no file of that size"),
    )
    for error in unrelated:
        assert fix not in str(model_error(error, what="net", fix=fix))
    missing = NotImplementedError('Module [Net] is missing the required "forward" function')
    assert str(model_error(missing, what="net", fix=fix)).endswith("; define forward")


def test_the_cause_behind_a_lazy_import_is_shown():
    try:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as broken:
            raise ModuleNotFoundError("Could not import module 'DetrModel'. Are its requirements there?") from broken
    except ModuleNotFoundError as error:
        said = str(model_error(error, what="config.json", fix="correct the model"))
    assert said.endswith("RuntimeError: operator torchvision::nms does not exist")


def test_a_command_line_that_needs_arguments(write):
    text = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--data', required=True)\n"
    said = message(write(text + "parser.parse_args()\n"))
    assert said.startswith("mynet.py:4 in <module>: its command line needs arguments (the following arguments are")
    assert said.endswith("give them, as in `model` 'FILE.py --name VALUE'")


def test_a_repository_folder_is_never_to_be_installed(write):
    said = message(write("from networks.parts import Block\n" + NET))
    assert "pip install" not in said
    assert "there is no module networks.parts next to the file or in the folders above it" in said or (
        "there is no module networks next to the file" in said
    )


def test_an_error_in_the_constructor_names_its_line_and_keeps_the_frames(write):
    spec = write(NET + "def build_model():\n    return Net('four')\n")
    with pytest.raises(ModelError, match=r"^mynet\.py:7 in __init__: TypeError: ") as caught:
        load_model(spec)
    assert [line.split('"')[1] for line in caught.value.frames.splitlines() if "File" in line] == [spec, spec]
    assert "torch/nn" not in caught.value.frames
    assert "`model_args`" in str(caught.value)


def test_sys_exit_in_the_file(write):
    said = message(write(NET + "import sys\nsys.exit(0)\n"))
    assert said.startswith("mynet.py:11 in <module>: calls sys.exit(0); put what is not the model under")


def test_a_long_message_of_many_lines_becomes_one(write):
    said = message(write("raise ValueError('one\\ntwo ' + 'x' * 5000)\n"))
    assert said.startswith("mynet.py:1 in <module>: ValueError: one two xxx")
    assert len(said) < 600


def test_endless_recursion(write):
    said = message(write("def f():\n    return f()\nf()\n" + NET))
    assert said.startswith("mynet.py:2 in f: RecursionError")


def test_keyboard_interrupt_passes_through(write):
    with pytest.raises(KeyboardInterrupt):
        load_model(write("raise KeyboardInterrupt\n"))


def test_nothing_is_written_beside_a_bad_file(write, tmp_path):
    write("x = 1\n", "parts.py")
    message(write("import parts\nraise ValueError\n"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mynet.py", "parts.py"]


# -- forward --------------------------------------------------------------------------------------


def test_a_wrong_input_shape(write):
    loaded = load_model(write(NET)).on_cpu()
    x = torch.zeros(2, 5)
    try:
        loaded.model(x)
    except RuntimeError as error:
        said = model_error(error, what="mynet", fix=describe_inputs((x,), {}))
    assert isinstance(said, ModelError)
    assert "mat1 and mat2 shapes cannot be multiplied (2x5 and 3x4)" in str(said)
    assert str(said).startswith("mynet.py:9 in forward: RuntimeError: ")
    assert str(said).endswith(
        "the inputs were float32 2x5 (batch first): give one sample's shape as `inputs` if they are wrong"
    )
    assert 'mynet.py", line 9, in forward' in said.frames


def test_own_errors_are_not_wrapped():
    error = JoulecastError("batch size is 0; give 1 or more")
    assert model_error(error, what="mynet") is error
    with pytest.raises(JoulecastError) as caught, user_code("mynet"):
        raise error
    assert caught.value is error


def test_memory_that_a_trace_does_not_have():
    class Peeks(torch.nn.Linear):
        def forward(self, data):
            return super().forward(data) * (1 + self.weight.untyped_storage()[0])

    with torch.device("meta"):
        model = Peeks(64, 64)
    with pytest.raises(ModelError) as caught:
        trace(model, torch.zeros(2, 64))
    said = str(caught.value)
    assert "reads the memory of a tensor, which has none in a trace" in said
    assert said.endswith(
        "read its values with .tolist(), .numpy() or .item() in place of untyped_storage() or data_ptr()"
    )


def test_a_file_that_lies_beside_the_model_is_looked_for_there(write, tmp_path):
    (tmp_path / "settings.txt").write_text("4")
    said = message(write("width = open('settings.txt').read()\n" + NET))
    assert said.endswith(f"No such file or directory: 'settings.txt'; run this in {tmp_path}, which has it")
    assert message(write("open('none.txt')\n" + NET)).endswith("No such file or directory: 'none.txt'")


def test_a_part_of_the_repositorys_own_package_is_never_to_be_installed(write, tmp_path):
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "__init__.py").write_text("from align.core import path\n")
    said = message(write("import align\n" + NET))
    assert said.endswith(
        "the repository's align has no module align.core; build or add it as the repository's instructions say"
    )


def test_a_script_for_torchrun(write, monkeypatch):
    said = message(write("import os\nrank = int(os.environ['LOCAL_RANK'])\n" + NET))
    assert said.endswith(
        "KeyError: 'LOCAL_RANK'; it is a script for torchrun: set RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 before the command"
    )
    assert "torchrun" not in message(write("rank = {}['rank']\n" + NET))


@pytest.mark.parametrize(
    ("module", "distribution"),
    [("hydra", "hydra-core"), ("fla", "flash-linear-attention"), ("open_clip", "open_clip_torch")],
)
def test_a_missing_package_is_named_as_pip_knows_it(module, distribution):
    error = model_error(ModuleNotFoundError(f"No module named '{module}'", name=module), what="net.py")
    assert str(error).endswith(f"the module {module} is not installed; pip install {distribution}")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA is not available but cuda was specified.",
        "No GPU found!",
        "no CUDA device is available",
        "This requires a GPU: CUDA unavailable",
        "GPU not detected",
    ],
)
def test_a_script_that_refuses_to_run_without_a_gpu(write, text):
    said = message(write(f"raise RuntimeError({text!r})\n"))
    assert f"the model asks for a GPU ({text}" in said
    assert "give the script's option for the CPU" in said


@pytest.mark.parametrize("text", ["no GPU name is given", "the GPU kernel is not needed", "weights are not available"])
def test_other_errors_of_gpus_keep_their_words(write, text):
    assert f"RuntimeError: {text}" in message(write(f"raise RuntimeError({text!r})\n"))


def test_an_assertion_of_a_gpu(write):
    said = message(write("import torch\nassert not torch.cuda.is_available() or True\nassert False\n" + NET))
    assert said.endswith("AssertionError")
    said = message(write("import torch\nassert torch.cuda.is_available() and False\n" + NET))
    assert "the model asks for a GPU (assert torch.cuda.is_available() and False); guard it" in said
