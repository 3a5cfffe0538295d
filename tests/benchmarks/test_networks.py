"""The networks of the benchmark match their papers, and its readers convert units correctly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURED = Path(__file__).parents[3] / "shared" / "measured"
sys.path.append(str(BENCHMARKS))  # last: benchmarks/distributed.py is not Dask's package of that name

torch = pytest.importorskip("torch")
import data_ecnas  # noqa: E402
import data_willowec  # noqa: E402
import vision  # noqa: E402
from nasbench import NasBench, vertex_channels  # noqa: E402

from joulecast.estimator.trace.trace import trace  # noqa: E402

needs_data = pytest.mark.skipif(not MEASURED.is_dir(), reason="no ../shared/measured beside this checkout")

# input -> conv1x1 -> output, and input -> conv3x3 -> output beside it, cut from three vertices
DIAMOND = ((0, 1, 1, 0), (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0))
CHAIN = ((0, 1, 1, 0), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0))
OPS = ("input", "conv1x1-bn-relu", "conv3x3-bn-relu", "output")


def count(model) -> int:  # type: ignore[no-untyped-def]
    return sum(parameter.numel() for parameter in model.parameters())


def test_vertices_that_reach_the_output_share_its_channels() -> None:
    assert vertex_channels(128, 256, DIAMOND) == [128, 128, 128, 256]
    three = [[0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5]
    assert vertex_channels(128, 128, three) == [128, 43, 43, 42, 128]


def test_a_vertex_that_does_not_is_as_wide_as_its_widest_target() -> None:
    line = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0] * 4]
    assert vertex_channels(64, 128, line) == [64, 128, 128, 128]


def test_parameters_of_a_network_of_the_data() -> None:
    """5529e1779433733d1145e20de5d8604e: 3,468,426 in EC-NAS' own count."""
    with torch.device("meta"):
        assert count(NasBench(CHAIN, OPS)) == 3_468_426


@pytest.mark.parametrize(
    ("model", "parameters"),
    [(vision.AlexNet, 61_100_840), (vision.ResNet18, 11_689_512), (vision.MobileNetV3Small, 2_542_856)],
)
def test_parameters_of_the_vision_networks(model, parameters: int) -> None:  # type: ignore[no-untyped-def]
    """As torchvision's documentation lists them."""
    with torch.device("meta"):
        network = model()
        assert count(network) == parameters
        assert network.eval()(torch.empty(2, 3, 64, 64)).shape == (2, 1000)


def test_five_cells_with_counts_are_the_nine_of_the_network() -> None:
    network = data_ecnas.Network("chain", CHAIN, OPS, 3_468_426)
    with torch.device("meta"):
        whole = trace(NasBench(CHAIN, OPS), torch.empty(256, 3, 32, 32), optimizer="momentum", layers=False)

    def rows(work):  # type: ignore[no-untyped-def]
        return sorted((op.name, op.phase, op.flops, op.bytes_moved, op.count) for op in data_ecnas.merged(work).ops)

    assert rows(data_ecnas._traced(network)) == rows(whole)


def test_merging_keeps_the_work() -> None:
    with torch.device("meta"):
        work = trace(vision.ResNet18(), torch.empty(4, 3, 64, 64), layers=False)
    small = data_ecnas.merged(work)
    assert len(small.ops) < len(work.ops)
    assert (small.flops, small.bytes_moved) == (work.flops, work.bytes_moved)


def test_forward_and_the_rest_are_the_whole_step() -> None:
    with torch.device("meta"):
        work = trace(vision.AlexNet(), torch.empty(4, 3, 64, 64), optimizer="momentum", layers=False)
    parts = data_willowec.split(work)
    assert sum(part.flops for part in parts.values()) == work.flops
    assert all(op.phase == "forward" for op in parts["forward"].ops)
    assert any(op.kind == "loss" for op in parts["backward and step"].ops)


@needs_data
def test_a_row_of_the_five_vertex_runs_in_joules() -> None:
    """001a6fcc...: (0.015897 - 0.003883) kWh x 3.6e6 / 1.59 = 27,201.5 J in 70.614 s and 625 steps."""
    run = data_ecnas.runs_five(MEASURED)[0]
    assert run.energy_j == pytest.approx(27_201.5, abs=0.5)
    assert run.seconds == pytest.approx(70.614, abs=1e-3)
    assert run.steps == 625
    (first_s, first_j), (second_s, second_j) = run.halves or ((0, 0), (0, 0))
    assert first_s + second_s == pytest.approx(run.seconds)
    assert first_j + second_j == pytest.approx(run.energy_j)


@needs_data
def test_all_architectures_are_there() -> None:
    networks = data_ecnas.networks(MEASURED)
    assert len(networks) == 2_532
    assert sum(len(network.adjacency) < 5 for network in networks.values()) == 91
    assert len(data_ecnas.runs_repeated(MEASURED)) == 1_092


@needs_data
def test_a_counter_that_wrapped_is_no_energy() -> None:
    nets = {(net.machine, net.name): net for net in data_willowec.networks(MEASURED)}
    assert nets["broadwell-ep", "resnet18"].energy_j["forward"] is None
    assert nets["raptorlake", "alexnet"].seconds["forward"] == pytest.approx(0.2537, abs=1e-3)
