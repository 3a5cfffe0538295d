"""Keras models: compared with their torch twins, and whatever a model file may do."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch

from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.model import keras_target
from joulecast.estimator.model.input_spec import InputSpec
from joulecast.estimator.model.keras_target import is_keras_source, is_keras_target
from joulecast.estimator.model.presets import dataset_preset
from joulecast.estimator.model.read_model import TraceOptions
from joulecast.estimator.model.reader import ReadRequest, free_reader
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload
from joulecast.models import alexnet, simplenet

needs_keras = pytest.mark.skipif(find_spec("keras") is None, reason="needs joulecast[keras]")
needs_tensorflow = pytest.mark.skipif(
    find_spec("keras") is None or find_spec("tensorflow") is None, reason="needs joulecast[keras]"
)
MODELS = Path(simplenet.__file__).parent


def write(folder: Path, text: str, name: str = "mynet.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def read(model: str | Path, **options: object) -> Workload:
    with free_reader() as reader:
        return reader.read(ReadRequest(str(model), TraceOptions(layers=True, **options)), quiet=True).work


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def per_layer(work: Workload) -> dict[str, tuple[int, int]]:
    return {layer.path: (layer.flops, layer.parameters) for layer in work.layers}


@needs_keras
def test_simplenet_costs_what_its_torch_twin_costs() -> None:
    work = read(MODELS / "simplenet_keras.py", batch_size=4, optimizer="adam")
    twin = trace(simplenet.SimpleNet(), simplenet.example_inputs(4), optimizer="adam")
    assert (work.framework, work.name, work.batch_size) == ("keras", "simplenet_keras", 4)
    assert work.parameters == work.trainable_parameters == 5_498_378
    assert work.forward_flops == twin.forward_flops == 4 * 632_787_968
    assert work.flops == twin.flops
    assert per_layer(work) == per_layer(twin)  # the names are Keras' own and those of the twin
    assert work.unsupported == {}
    convolutions = [op for op in work.ops if op.kind == "conv" and op.phase == "forward"]
    assert [op.layer for op in convolutions] == [f"conv{number}" for number in range(1, 14)]
    assert next(layer for layer in work.layers if layer.path == "conv1").output_shape == (4, 32, 32, 64)


@needs_keras
def test_module_arguments_and_inputs_reach_the_model() -> None:
    work = read(
        "joulecast.models.alexnet_keras:build_model",
        args={"width": "0.5", "num_classes": "7"},
        specs=[InputSpec((32, 32, 3))],
        batch_size=2,
        train=False,
    )
    twin = trace(alexnet.AlexNet(num_classes=7, width=0.5), alexnet.example_inputs(2), train=False)
    assert (work.name, work.train, work.optimizer) == ("build_model", False, None)
    assert work.parameters == twin.parameters
    assert work.flops == twin.flops
    assert {op.phase for op in work.ops} == {"forward"}


@needs_keras
def test_libraries_of_keras_are_imported_once_and_keras_by_each_model(tmp_path: Path) -> None:
    """Keras takes its backend from the environment, which may be another one for the next model."""
    path = write(tmp_path, "import keras\nmodel = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])\n")
    with free_reader() as reader:
        for _ in range(2):
            assert reader.read(ReadRequest(path, TraceOptions(batch_size=2))).work.parameters == 36
        assert {"pandas", "sklearn"} <= set(reader._libraries)
        assert "keras" not in reader._libraries


@needs_tensorflow
def test_tf_keras_file_that_prints(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "import os\nimport tensorflow as tf\n"
        'print("{}")\nos.write(1, b"[1, 2]")\n'
        "class Net(tf.keras.Model):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scores = tf.keras.layers.Dense(3, name='scores')\n"
        "    def call(self, x):\n"
        '        print("called")\n'
        "        return self.scores(x)\n",
    )
    work = read(path, preset=dataset_preset("cifar10"), batch_size=2)  # 32x32x3, channels last
    assert work.parameters == 3 * 3 + 3
    assert work.forward_flops == 2 * 32 * 32 * 3 * 3
    assert {layer.path for layer in work.layers} == {"", "scores"}
    assert work.layers[0].kind == "Net"


@needs_keras
def test_view_runs_keras_layers_as_keras_does() -> None:
    script = Path(__file__).with_name("keras_view_check.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["untouched"]
    assert found["evaluated"] < 1e-5
    assert found["trained"] < 1e-5
    assert found["moving_variance"] < 1e-3
    frozen = {path for path, has_gradient in found["gradients"].items() if not has_gradient}
    assert frozen == {"frozen.mix.kernel", "frozen.mix.bias"}
    assert found["buffers"] == ["norm.moving_mean", "norm.moving_variance"]
    assert found["parameters"] == found["expected_parameters"]
    assert found["trainable"] == found["expected_trainable"]
    assert {"stem", "norm", "attention.query", "frozen.mix", "shared", "memory"} <= set(found["layers"])
    assert found["tracer"] == "meta"


@needs_keras
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import keras\ndef build_model(:\n", r"^mynet\.py:2: SyntaxError: .*; fix the syntax error$"),
        ("import os, keras\nos._exit(3)\n", r"mynet\.py ended its process with status 3; .*__main__"),
        (
            "import keras, tensorflow as tf\n"
            "inputs = keras.Input((4,))\n"
            "class Net(keras.Model):\n"
            "    def call(self, x):\n"
            "        return tf.nn.relu(self.scores(x))\n"
            "    def build(self, shape):\n"
            "        self.scores = keras.layers.Dense(3)\n"
            "        self.scores.build(shape)\n"
            "def example_inputs(batch_size):\n"
            "    return keras.ops.zeros((batch_size, 4))\n",
            r"^mynet\.py:5 in call: .*use keras\.ops$",
        ),
        (
            "import keras\nclass First(keras.Model):\n    pass\nclass Second(keras.Model):\n    pass\n",
            r"several models: First, Second; name one, as in mynet\.py:First$",
        ),
    ],
    ids=["syntax", "exit", "tensorflow-op", "several"],
)
def test_what_goes_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    if "tensorflow" in text and find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow")
    with pytest.raises(JoulecastError, match=message) as raised:
        read(write(tmp_path, text), batch_size=2)
    assert "\n" not in str(raised.value)


@needs_keras
def test_infinite_loop_is_cut_with_all_it_started(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "import keras, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        f"with open({str(tmp_path / 'pid')!r}, 'w') as file:\n"
        "    file.write(str(child.pid))\n"
        "while True:\n    pass\n",
    )
    for limit_s in (1, 10, 60):  # a busy machine may not get to the loop within the first of them
        with pytest.raises(
            ModelError, match=rf"^mynet\.py:\d+ in <module>: .* still ran after {limit_s} s.*`time_limit"
        ):
            read(path, time_limit_s=limit_s)
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
    started = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 30  # the kernel takes its time
    while is_running(started) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(started)


@needs_keras
@pytest.mark.parametrize(
    ("keras", "message"),
    [
        ('__version__ = "2.15.0"\n', r"needs Keras 3, and 2\.15\.0 is installed; pip install"),
        ("import no_such_backend\n", r"needs Keras 3; importing it fails .*; pip install 'joulecast\[keras\]'$"),
    ],
)
def test_without_keras_3_there_is_one_line_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keras: str, message: str
) -> None:
    write(tmp_path, keras, "keras.py")
    monkeypatch.syspath_prepend(str(tmp_path))  # the process that reads models has the path of this one
    (tmp_path / "model").mkdir()
    with pytest.raises(JoulecastError, match=message):
        read(write(tmp_path / "model", "import keras\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import keras", True),
        ("import tensorflow as tf", True),
        ("from tensorflow.keras import layers", True),
        ("def build():\n    from keras.models import Sequential", True),
        ("import torch\nimport keras", False),
        ("import torch", False),
        ("from . import keras", False),
        ("import kerastuner", False),
        ("'import keras'", False),
        ("import keras\ndef f(:", False),
        ("\0", False),
    ],
)
def test_keras_sources_are_told_without_importing(tmp_path: Path, text: str, expected: bool) -> None:
    path = write(tmp_path, text + "\nraise SystemExit('imported')\n")
    assert is_keras_source(path) is expected
    assert is_keras_target(path) is expected
    assert is_keras_target(f"{path}:name") is expected


def test_keras_targets_by_module() -> None:
    assert is_keras_target("keras.applications:ResNet50")
    assert is_keras_target("joulecast.models.simplenet_keras:build_model")
    assert not is_keras_target("joulecast.models.simplenet:SimpleNet")
    assert not is_keras_target("no_such_package.models:net")
    assert not is_keras_source("no-such-file.py")


def test_nothing_heavy_is_imported_to_tell() -> None:
    code = f"import sys; import {keras_target.__name__}; print({{'torch', 'keras'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_example_inputs_of_the_torch_twins_are_batches() -> None:
    assert alexnet.example_inputs(3).shape == simplenet.example_inputs(3).shape == torch.Size((3, 3, 32, 32))
