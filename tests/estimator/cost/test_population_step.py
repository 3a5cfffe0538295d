"""A device's step in the population model, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from joulecast.estimator.cost.piece_time import SOFTWARE_YEAR, software_factors, step_seconds
from joulecast.estimator.cost.population import Deviation
from joulecast.estimator.cost.software import SOFTWARE
from joulecast.estimator.trace.workload import Op

from .neutral import PLAIN, conv, matmul, mover, parts, time_of


def test_a_step_is_by_component_and_the_host_waits() -> None:
    # 2 s of traffic and the host's 1 s, one after the other (sharpness 1): 3 s, of which the launch is the host's
    seconds = time_of(host_forward=1.0).seconds([mover(moved=2 * 10**12)])
    assert seconds == pytest.approx(np.array([[0.0, 2.0, 1.0]]))
    two = time_of(host_forward=1.0, floor=0.5).seconds([mover(count=2), mover(phase="backward")])
    assert two == pytest.approx(np.array([[0.0, 2.0, 1.0 + 2.0], [0.0, 1.0, 0.5]]))
    hidden = time_of(host_forward=1.0, sharpness=50.0).seconds([mover(moved=5 * 10**12)])
    assert hidden[0, 2] == pytest.approx(0.0, abs=1e-9)
    assert time_of().seconds([]).shape == (0, 3)
    assert time_of().seconds([mover()]) == pytest.approx(np.array([[0.0, 1.0, 0.0]]))


def test_training_and_inference_have_their_own_host_seconds() -> None:
    time = time_of(host_forward=1.0, host_infer=0.5)
    assert time.parts([mover()])[3] == pytest.approx(0.5)
    assert time.parts([mover(), mover(phase="backward")])[3] == pytest.approx(1.0)


def test_a_devices_deviation_multiplies_what_it_is_named_for() -> None:
    ops = [mover(), matmul(128, 256, 128)]
    settings = {"host_forward": 1.0, "floor": 1.0}
    plain = time_of(**settings).parts(ops)
    off = time_of(
        deviation=Deviation({"compute": math.log(2), "memory": math.log(3), "launch": math.log(4)}), **settings
    ).parts(ops)
    assert off / plain == pytest.approx([2, 3, 2, 4])  # short kernels take half of the launch's


@pytest.mark.parametrize(
    ("software", "op", "rate"),
    [
        ("eager", conv(1), 4e12),
        ("eager", matmul(128, 256, 128), 1e12),  # PyTorch itself has TF32 off for matrix products
        ("ngc", matmul(128, 256, 128), 4e12),
        ("vendor-tuned", matmul(128, 256, 128), 4e12),
        ("tensorflow", matmul(128, 256, 128), 4e12),
        ("compiled", matmul(128, 256, 128), 1e12),
    ],
)
def test_which_software_uses_tf32_for_what(software: str, op: Op, rate: float) -> None:
    assert time_of(software).parts([op])[0] == pytest.approx(op.flops / rate)


def test_the_year_of_software_is_todays() -> None:
    time = time_of(host_forward=1.0, yearly_host=2.0)
    assert time.parts([mover()])[3] == pytest.approx(2.0 ** -(SOFTWARE_YEAR - 2021))


def test_factors_of_software_are_1_unless_fitted() -> None:
    p, plain = {"ngc:conv": 0.5, "ngc:host": 0.25}, {**PLAIN, "year": SOFTWARE_YEAR}
    assert software_factors("eager", p) == {**plain, "foreach": 1.0}
    assert software_factors("ngc", p) == {**plain, "as_written": 0.0, "foreach": 1.0, "conv": 0.5, "host": 0.25}
    assert [name for name in SOFTWARE if software_factors(name, p)["last"]] == ["channels-last", "vendor-tuned"]
    listed = [name for name in SOFTWARE if software_factors(name, p)["foreach"]]  # whose optimizers are torch.optim's
    assert listed == [name for name in SOFTWARE if name in ("eager", "compiled", "channels-last", "ngc")]


@pytest.mark.parametrize(
    ("op", "times"),
    [
        (matmul(16, 12, 16, 2, half=True), 3.0),
        (matmul(12, 16, 16, 2, half=True), 3.0),
        (matmul(16, 16, 12, 2, half=True), 3.0),
        (matmul(16, 16, 16, 2, half=True), 1.0),
        (matmul(16, 12, 16, 2), 1.0),  # not on 16-bit units
        (matmul(16, 12, 16, half=True), 1.0),  # not batched
    ],
)
def test_batched_16_bit_products_with_sizes_that_are_no_multiples_of_8(op: Op, times: float) -> None:
    slow = {"eff_fp32": 0.1, "eff_half": 0.1}
    plain, found = (parts(op, p=slow, software={"unaligned": factor})["compute"] for factor in (1.0, 3.0))
    assert found == pytest.approx(times * plain)


def test_software_that_uses_channels_last_reorders_nothing() -> None:
    op, p = conv(1, half=True), {"reorder": 3.0, "gain_half_conv": 0.5}
    first, last = parts(op, p=p), parts(op, p=p, software={"last": 1.0, "conv": 9.0})
    assert last == parts(conv(1, half=True, channels_last=1), p=p)
    assert sum(last.values()) < sum(first.values())


def test_seconds_of_a_step_by_hand() -> None:
    steps = step_seconds(np.array([3.0, 4.0]), np.array([4.0, 3.0]), 2.0)
    assert steps == pytest.approx([5.0, 5.0])
