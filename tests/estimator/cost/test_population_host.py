"""The population model's seconds of the host and of short kernels, by hand."""

from __future__ import annotations

import pytest

from joulecast.estimator.trace.workload import Op

from .neutral import CUBE, conv, matmul, mover, parts

HOST = {"host_forward": 1.0, "host_backward": 3.0, "host_update": 5.0, "host_infer": 0.5}


@pytest.mark.parametrize(
    ("op", "train", "host"),
    [
        (mover(), True, 1.0),
        (mover(), False, 0.5),
        (mover(phase="backward"), True, 3.0),
        (mover(phase="optimizer", count=4), True, 20.0),
        (conv(1, phase="backward"), True, 3.0),  # both gradients are one op of the host's
    ],
)
def test_seconds_of_the_host(op: Op, train: bool, host: float) -> None:
    assert parts(op, p=HOST, train=train)["host"] == pytest.approx(host)


def test_software_and_years_change_the_host_and_the_arithmetic() -> None:
    years = {"year": 2023.0}
    assert parts(mover(), p=HOST, train=True, software={"host": 0.25})["host"] == pytest.approx(0.25)
    assert parts(mover(), p={**HOST, "yearly_host": 2.0}, train=True, software=years)["host"] == pytest.approx(0.25)
    product = matmul(128, 256, 128)
    own = {"eff_fp32": 0.25, "yearly_compute": 1.5}
    assert parts(product, p=own, software=years)["compute"] == pytest.approx(4 / 2.25 * CUBE / 1e12)
    # convolutions and grouped ones have trends of their own; depthwise ones have that of products
    trends = {"yearly_compute": 1.5, "yearly_conv": 2.0, "yearly_grouped": 4.0}
    slow_fp32 = {"eff_fp32": 1 / 64, "eff_depthwise": 1 / 64}
    for op, factor in ((conv(1), 4.0), (conv(4), 4.0), (conv(1, groups=2, c=256), 16.0), (conv(1, 128), 2.25)):
        seconds = parts(op, p={**trends, **slow_fp32}, software=years)["compute"]
        assert seconds == pytest.approx(64 / factor * op.flops / 1e12)
    assert parts(product, p=own, software={"compute": 0.5})["compute"] == pytest.approx(2 * CUBE / 1e12)
    # "conv" counts for convolutions in half precision, depthwise ones included, and for nothing else
    slow = {"eff_half": 0.25, "eff_fp32": 0.25, "eff_depthwise": 0.25}
    for op, counts in ((conv(1, half=True), True), (conv(1, 128, half=True), True), (conv(1), False)):
        ratio = parts(op, p=slow, software={"conv": 0.5})["compute"] / parts(op, p=slow)["compute"]
        assert ratio == pytest.approx(0.5 if counts else 1.0)
    half = matmul(128, 256, 128, half=True)
    assert parts(half, p=slow, software={"conv": 0.5}) == parts(half, p=slow)


RNN = Op("rnn", "rnn", "forward", "", 10 * 4 * 8 * 2, 0, 0, dims={"steps": 10, "n": 4, "input": 6, "hidden": 2})


FLOORS = {"floor": 1.0, "floor_update": 3.0, "floor_rnn": 7.0, "floor_amd": 2.0}


@pytest.mark.parametrize(
    ("op", "device", "floor"),
    [
        (mover(), {}, 1.0),
        (mover(phase="backward", count=4), {}, 4.0),
        (mover(phase="optimizer"), {}, 3.0),
        (mover(), {"amd": 1.0}, 2.0),
        (matmul(2, 2, 2), {}, 1.0),
        (RNN, {}, 1.0 + 10 * 7.0),  # a product of all inputs, and one product for each position
        (conv(1, phase="backward"), {}, 2.0),
    ],
)
def test_kernels_that_are_over_before_they_have_begun(op: Op, device: dict[str, float], floor: float) -> None:
    assert parts(op, device=device, p=FLOORS)["floor"] == pytest.approx(floor)


def test_compiled_software_has_fewer_kernels_that_only_move_data() -> None:
    assert parts(mover(), p=FLOORS, software={"kernels": 0.5})["floor"] == pytest.approx(0.5)
    assert parts(matmul(2, 2, 2), p=FLOORS, software={"kernels": 0.5})["floor"] == pytest.approx(1.0)
