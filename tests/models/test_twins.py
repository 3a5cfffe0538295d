"""The PyTorch networks by hand, and their Keras twins on TensorFlow, which must agree with them."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from joulecast.estimator.trace.fvcore_flops import fvcore_forward_flops
from joulecast.models import alexnet, alexnet_imagenet, simplenet

WIDTH = 0.25
CLASSES = {"simplenet": simplenet.SimpleNet, "alexnet": alexnet.AlexNet}
needs_tensorflow = pytest.mark.skipif(
    find_spec("keras") is None or find_spec("tensorflow") is None, reason="needs joulecast[keras]"
)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def output_shapes(net: nn.Module, images: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Of one sample, by layer, channels last."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in net.named_children():
        layer.register_forward_hook(lambda _m, _i, output, name=name: shapes.update({name: tuple(output.shape)}))
    with torch.no_grad():
        net(images)
    return {name: (*shape[2:], shape[1]) for name, shape in shapes.items()}


def test_simplenet_is_the_thesis_network() -> None:
    net = simplenet.SimpleNet()
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    assert [layer.out_channels for layer in convolutions][-4:] == [512, 2048, 256, 256]
    assert [number for number, layer in enumerate(convolutions, 1) if layer.kernel_size == (1, 1)] == [11, 12]
    assert parameters(net) == 5_498_378
    counts = fvcore_forward_flops(net, (simplenet.example_inputs(1),), {})
    assert counts["conv1"] == 32 * 32 * 64 * 3 * 3 * 3
    assert counts["conv11"] == 2 * 2 * 2048 * 512
    assert counts["classifier"] == 256 * 10
    assert counts[""] == 632_787_968


def test_alexnet_for_cifar_is_listing_3_3() -> None:
    net = alexnet.AlexNet()
    shapes = output_shapes(net.eval(), alexnet.example_inputs(1))
    assert shapes["conv1"] == (8, 8, 96)
    assert shapes["pool1"] == (4, 4, 96)
    assert shapes["conv2"] == shapes["pool2"] == (1, 1, 256)
    by_hand = {
        "conv1": 8 * 8 * 96 * 11 * 11 * 3,
        "conv2": 256 * 5 * 5 * 96,
        "conv3": 384 * 3 * 3 * 256,
        "conv4": 384 * 3 * 3 * 384,
        "conv5": 256 * 3 * 3 * 384,
        "fc1": 256 * 256,
        "fc2": 256 * 256,
        "fc3": 256 * 10,
    }
    counts = fvcore_forward_flops(net, (alexnet.example_inputs(1),), {})
    assert {name: counts[name] for name in by_hand} == by_hand
    assert counts[""] == sum(by_hand.values()) == 6_074_880
    assert parameters(net) == 3_881_354


def test_imagenet_alexnet_against_table_3_0_1() -> None:
    net = alexnet_imagenet.AlexNetImageNet()
    counts = fvcore_forward_flops(net, (alexnet_imagenet.example_inputs(1),), {})
    assert counts["conv2"] == 27 * 27 * 256 * 5 * 5 * 96 // 2
    assert parameters(net) == 60_965_224  # the table: 60 M
    assert counts[""] == 724_406_816
    assert counts[""] == pytest.approx(7.27e9 / 10, rel=0.005)  # the table's figure, a decimal point apart


@pytest.mark.parametrize("module", [simplenet, alexnet, alexnet_imagenet])
def test_width_scales_the_channels(module: Any) -> None:
    network = next(value for value in vars(module).values() if isinstance(value, type) and value is not torch.Tensor)
    narrow, full = (parameters(network(width=width)) for width in (0.25, 1.0))
    assert full / 17 < narrow < full / 8
    net = network(num_classes=7, width=0.25).eval()
    assert net(module.example_inputs(2)).shape == (2, 7)


@pytest.fixture(scope="module")
def torch_twins() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    twins = {name: build(width=WIDTH).eval() for name, build in CLASSES.items()}
    for net in twins.values():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):  # statistics that a mix-up would show in
                for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)
    return twins


@pytest.fixture(scope="module")
def given(torch_twins: dict[str, nn.Module]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    values: dict[str, Any] = {
        "width": WIDTH,
        "images": random.standard_normal((4, 32, 32, 3), dtype=np.float32),
        "activations": 10 * random.standard_normal((2, 4, 4, 9), dtype=np.float32),
    }
    for name, net in torch_twins.items():
        for path, tensor in net.state_dict().items():
            values[f"{name}/{path.replace('.', '/')}"] = tensor.numpy()
    return values


@pytest.fixture(scope="module")
def keras_twins(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("twins")
    np.savez(folder / "in.npz", **given)
    script = Path(__file__).with_name("keras_twins.py")
    command = [sys.executable, str(script), str(folder / "in.npz"), str(folder / "out.npz")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as archive:
        return dict(archive)


@needs_tensorflow
@pytest.mark.parametrize("name", CLASSES)
def test_twins_agree(
    name: str, torch_twins: dict[str, nn.Module], given: dict[str, Any], keras_twins: dict[str, Any]
) -> None:
    net, images = torch_twins[name], torch.from_numpy(given["images"].transpose(0, 3, 1, 2).copy())
    counts = fvcore_forward_flops(net, (images[:1],), {})
    shapes = output_shapes(net, images)
    layers = [key.removeprefix(f"{name}/shape/") for key in keras_twins if key.startswith(f"{name}/shape/")]
    assert set(shapes) - set(layers) <= {"pad1", "pad2"}  # Keras pads inside its convolutions
    for layer in layers:
        assert tuple(keras_twins[f"{name}/shape/{layer}"]) == shapes[layer], layer
        if not layer.startswith("norm"):  # fvcore counts an operation or two an element there
            assert keras_twins[f"{name}/flops/{layer}"] == counts.get(layer, 0), layer
    buffers = sum(buffer.numel() for path, buffer in net.named_buffers() if "running" in path)
    assert keras_twins[f"{name}/trainable"] == parameters(net)
    assert keras_twins[f"{name}/parameters"] == parameters(net) + buffers
    assert keras_twins[f"{name}/full_parameters"] == parameters(CLASSES[name]())
    assert tuple(keras_twins[f"{name}/example"]) == (2, 32, 32, 3)


@needs_tensorflow
@pytest.mark.parametrize("name", CLASSES)
def test_twins_compute_the_same(
    name: str, torch_twins: dict[str, nn.Module], given: dict[str, Any], keras_twins: dict[str, Any]
) -> None:
    images = torch.from_numpy(given["images"].transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        ours = torch_twins[name](images).numpy()
    assert np.ptp(ours) > 1e-2  # the images matter
    np.testing.assert_allclose(keras_twins[f"{name}/logits"], ours, atol=1e-4)


@needs_tensorflow
def test_response_norm_is_tensorflows(given: dict[str, Any], keras_twins: dict[str, Any]) -> None:
    np.testing.assert_allclose(keras_twins["lrn"], keras_twins["tf_lrn"], rtol=1e-5)
    activations = torch.from_numpy(given["activations"]).movedim(-1, 1)
    ours = alexnet.AlexNet().lrn1(activations).movedim(1, -1)
    np.testing.assert_allclose(ours, keras_twins["tf_lrn"], rtol=1e-5)
    assert not np.allclose(keras_twins["tf_lrn"], given["activations"] / 2**0.75, rtol=1e-3)  # the window counts
