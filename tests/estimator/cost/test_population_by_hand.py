"""The population model's arithmetic, one effect at a time: neutral parameters and round figures, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from joulecast.estimator.cost import population
from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.deviation import TRAITS
from joulecast.estimator.cost.hardware import Hardware
from joulecast.estimator.cost.population import (
    CLASSES,
    FACTORS,
    SPECS,
    TRAFFIC,
    Columns,
    Deviation,
    Population,
    PopulationTime,
    columns,
    merged,
    piece_seconds,
    population_watts,
    software_factors,
    specs,
    step_seconds,
)
from joulecast.estimator.cost.software import SOFTWARE
from joulecast.estimator.trace.workload import Op, Workload

# Nothing but the plain rate of each unit counts.
NEUTRAL: dict[str, float] = {
    **dict.fromkeys(("eff_fp32", "eff_tf32", "eff_half", "eff_half_vector", "eff_depthwise", "eff_memory"), 1.0),
    **dict.fromkeys(("energy_half", "energy_tf32", "gain_half_conv", "gain_half_last", "gain_weight_grad"), 1.0),
    **dict.fromkeys(("gain_winograd", "gain_strided", "amd_conv", "amd_matmul", "amd_memory", "floor_amd"), 1.0),
    **dict.fromkeys(("overlap", "yearly_compute", "yearly_memory", "yearly_host", "host_infer", "edge_power"), 1.0),
    **dict.fromkeys(("boost", "pascal_compute", "pascal_memory", "ecc_memory", "mobile_power"), 1.0),
    **dict.fromkeys(("radeon_compute", "radeon_memory", "integrated", "unsupported_half", "eff_packed"), 1.0),
    **dict.fromkeys(("gain_dilated", "gain_depthwise_backward", "amd_depthwise", "ceiling"), 1.0),
    **dict.fromkeys(("doubling_matmul", "doubling_grouped", "yearly_conv", "yearly_grouped"), 1.0),
    "energy_memory": 0.015,  # 15 W for the memory of DEVICE
    **dict.fromkeys(("energy_nm", "edge", "start", "wave", "cache", "reorder"), 0.0),
    **dict.fromkeys(("floor", "floor_update", "floor_rnn", "host_forward", "host_backward", "host_update"), 0.0),
    "energy_mac": 1e-9,
    "sharpness": 1.0,
}
# 1, 4 and 8 T multiply-adds per second; 1 TB/s; one multiprocessor; 100 W in 12 nm.
DEVICE: dict[str, float] = {
    **dict.fromkeys(SPECS, 0.0),
    "fp32": 1e12, "tf32": 4e12, "half": 8e12, "tensor": 1.0, "bandwidth": 1e12, "sms": 1.0, "power": 100.0, "nm": 12.0,
    "clock": 1e9, "l2": 1.0,
}  # fmt: skip
PLAIN = {**dict.fromkeys(FACTORS, 1.0), "last": 0.0, "year": 2021.0}


def matmul(m: int, k: int, n: int, b: int = 1, *, moved: int = 0, phase: str = "forward", half: bool = False) -> Op:
    dims = {"b": b, "m": m, "k": k, "n": n}
    return Op("mm", "matmul", phase, "", b * m * k * n, moved, 0, "float16" if half else "float32", dims)


def conv(
    kernel: int = 1, groups: int = 1, *, c: int = 128, size: int = 128, out: int | None = None, half: bool = False,
    phase: str = "forward", moved: int = 0, **dims: int,
) -> Op:  # fmt: skip
    """A convolution of `c` channels to as many, of one image of `size` pixels, window `kernel`."""
    places = size if out is None else out
    all_dims = {
        "n": 1, "c_in": c, "c_out": c, "k": kernel, "groups": groups, "in": size, "out": places,
        "transposed": 0, **dims,
    }  # fmt: skip
    roles = 1 if phase == "forward" else all_dims.get("grad_input", 1) + all_dims.get("grad_weight", 1)
    macs = roles * places * c * c // groups * kernel
    return Op("convolution", "conv", phase, "", macs, moved, 0, "float16" if half else "float32", all_dims)


def mover(kind: str = "elementwise", moved: int = 10**12, phase: str = "forward", count: int = 1) -> Op:
    return Op("op", kind, phase, "", 0, moved, 0, count=count)


def parts(
    *ops: Op,
    device: Mapping[str, float] | None = None,
    p: Mapping[str, float] | None = None,
    tf32: bool = False,
    software: Mapping[str, float] | None = None,
    train: bool = False,
) -> dict[str, float]:
    """Seconds of compute, memory, floor and host of all pieces."""
    t = columns(ops)
    size = len(t.count)
    seconds = piece_seconds(
        t,
        {name: np.full(size, value) for name, value in {**DEVICE, **(device or {})}.items()},
        {**NEUTRAL, **(p or {})},
        tf32=np.full(size, float(tf32)),
        software={name: np.full(size, value) for name, value in {**PLAIN, **(software or {})}.items()},
        train=np.full(size, float(train)),
    )
    return {name: float(getattr(seconds, name).sum()) for name in ("compute", "memory", "floor", "host")}


# -- FP8 -------------------------------------------------------------------------------------------------------


def test_products_in_8_bits_take_their_share_of_the_higher_rate_and_conversions_of_their_inputs() -> None:
    """8 T multiply-adds per second in 16 bits, 16 T in 8 bits: 2 x 0.9 times as fast."""
    device = {"fp8": 16e12, "power": 1e9}
    half = matmul(256, 256, 128, half=True)
    eight = replace(half, dtype="float8_e4m3fn")
    before, after = parts(half, device=device), parts(eight, device=device)
    # 2 bytes of each element of both inputs, 256 x 256 + 256 x 128 of them, at 1 TB/s.
    converted_s = 2 * 256 * (256 + 128) / 1e12
    assert after["compute"] == pytest.approx(before["compute"] / 1.8)
    assert after["memory"] == pytest.approx(before["memory"] + converted_s)


def test_a_device_without_such_units_runs_them_in_16_bits() -> None:
    half = matmul(256, 256, 128, half=True)
    eight = replace(half, dtype="float8_e4m3fn")
    assert parts(eight)["compute"] == parts(half)["compute"]


# -- what an op makes the device do ---------------------------------------------------------------------------


def row(parts: Columns, index: int = 0) -> dict[str, float]:
    """The fields of one piece that are not 0."""
    fields = population.FIELDS
    return {name: value for name, value in zip(fields, parts.table[index].tolist(), strict=True) if value}


def test_pieces_of_products_and_of_traffic() -> None:
    ops = [
        Op("mm", "matmul", "backward", "", 60, 7, 3, "bfloat16", {"b": 2, "m": 2, "k": 3, "n": 5}, 4),
        Op("sdpa", "attention", "forward", "", 99, 1, 1, dims={"b": 6, "q": 5, "s": 7, "d": 8}),
        Op("mm", "matmul", "forward", "", 1000, 1, 0),  # sizes unknown: a cube of as many multiply-adds
        Op("sort", "sort", "forward", "", 0, 1, 0),
        Op("sgd", "optimizer", "optimizer", "", 0, 0, 2),
        Op("mm", "matmul", "forward", "", 0, 5, 0),
        Op("norm", "norm", "backward", "", 50, 1, 1),
    ]
    found = columns(ops)
    plain = {"issued": 1.0, "kernels": 1.0, "count": 1.0}
    assert row(found, 0) == {
        **plain, "cls": 5, "phase": 1, "macs": 60, "moved": 10, "b": 2, "m": 2, "k": 3, "n": 5, "count": 4, "half": 1,
    }  # fmt: skip
    assert row(found, 1) == {**plain, "op": 1, "cls": 6, "macs": 99, "moved": 2, "b": 6, "m": 5, "k": 8, "n": 7}
    assert row(found, 2) == pytest.approx(
        {**plain, "op": 2, "cls": 4, "macs": 1000, "moved": 1, "b": 1, "m": 10, "k": 10, "n": 10}
    )
    assert row(found, 3) == {**plain, "op": 3, "cls": 8, "traffic": 6, "moved": 1}
    assert row(found, 4) == {**plain, "op": 4, "cls": 8, "traffic": 5, "phase": 2, "moved": 2}
    assert row(found, 5) == {**plain, "op": 5, "cls": 8, "traffic": 2, "moved": 5}
    assert row(found, 6) == {**plain, "op": 6, "cls": 8, "traffic": 1, "phase": 1, "moved": 2}


@pytest.mark.parametrize(
    ("kind", "traffic"),
    [
        *(("norm", "norm"), ("softmax", "reduce"), ("loss", "reduce"), ("reduce", "reduce"), ("pool", "pool")),
        *(("optimizer", "optimizer"), ("embedding", "gather"), ("sort", "gather"), ("activation", "pointwise")),
    ],
)
def test_kinds_of_traffic(kind: str, traffic: str) -> None:
    assert TRAFFIC[int(columns([mover(kind)]).traffic[0])] == traffic


@pytest.mark.parametrize(
    ("op", "cls"),
    [
        (conv(1), "conv1"),
        (conv(9), "conv"),
        (conv(9, groups=128), "depthwise"),
        (conv(9, groups=64), "grouped"),
        (conv(1, groups=2), "grouped"),
        (matmul(2, 2, 2), "matmul"),
        (matmul(2, 2, 2, b=2), "batched"),
    ],
)
def test_classes_of_products(op: Op, cls: str) -> None:
    assert CLASSES[int(columns([op]).cls[0])] == cls


def test_a_convolutions_gradients_are_two_products_of_which_the_first_is_issued() -> None:
    # 2 images of 6 channels to 10 in 2 groups, 12 positions to 3, window 9
    dims = {"n": 2, "c_in": 6, "c_out": 10, "k": 9, "groups": 2, "in": 12, "out": 3, "transposed": 0}
    both = columns([Op("cb", "conv", "backward", "", 1000, 80, 20, dims={**dims, "channels_last": 1})])
    shared = {
        "cls": 2, "phase": 1, "macs": 500, "moved": 50, "b": 2, "count": 1, "kernels": 1,
        "layout": 4 * (24 * 6 + 6 * 10), "last": 1, "window": 9, "stride": 4,
    }  # fmt: skip
    assert row(both, 0) == {**shared, "m": 6, "k": 5 * 9, "n": 3, "issued": 1}
    assert row(both, 1) == {**shared, "m": 3 * 9, "k": 6, "n": 5, "weight_grad": 1}
    weight = columns([Op("cb", "conv", "backward", "", 1000, 80, 20, dims={**dims, "grad_input": 0})])
    assert (len(weight.count), weight.macs[0], weight.issued[0], weight.weight_grad[0]) == (1, 1000, 1, 1)
    turned = columns([Op("c", "conv", "forward", "", 1, 1, 1, "float16", {**dims, "transposed": 1})])
    assert (turned.m[0], turned.k[0], turned.n[0], turned.last[0]) == (24, 3 * 9, 5, 0)
    assert turned.layout[0] == 2 * (24 * 6 + 6 * 10)


def test_a_recurrent_layers_two_products() -> None:
    # 10 positions of 4 samples, 6 inputs and 2 states, 3 layers in both directions, 8 gates' rows
    dims = {"steps": 10, "n": 4, "input": 6, "hidden": 2, "layers": 3, "directions": 2}
    macs = 10 * 4 * (6 + 2) * 8 * 6
    forward = columns([Op("lstm", "rnn", "forward", "", macs, 5, 5, dims=dims, count=2)])
    assert row(forward, 0) == {
        "cls": 4, "macs": macs * 6 / 8, "moved": 10, "b": 1, "m": 40, "k": 6 * 6, "n": 8, "count": 2, "issued": 1,
        "kernels": 1,
    }  # fmt: skip
    assert row(forward, 1) == {
        "cls": 7, "macs": macs * 2 / 8 / 60, "b": 1, "m": 4, "k": 2, "n": 8, "count": 2, "kernels": 60,
    }  # fmt: skip
    back = columns([Op("lstm_backward", "rnn", "backward", "", 2 * macs, 5, 5, dims=dims)])
    assert (back.k.tolist(), back.n.tolist()) == ([72, 4], [8, 8])
    lone = columns([Op("rnn", "rnn", "forward", "", 10 * 4 * 8 * 2, 0, 0, dims={**dims, "layers": 1, "directions": 1})])
    assert (lone.kernels.tolist(), lone.n.tolist()) == ([1, 10], [2, 2])


def test_pieces_that_differ_in_one_field_stay_apart() -> None:
    ops = [matmul(2, 2, 2), matmul(2, 2, 2, half=True), replace(matmul(2, 2, 2), count=5), mover(), mover(moved=1)]
    both = merged(columns(ops))
    assert sorted(both.count.tolist()) == [1, 1, 1, 6]
    assert set(both.op.tolist()) == {0}


# -- arithmetic -------------------------------------------------------------------------------------------------

CUBE = 128 * 256 * 128  # multiply-adds of a product that is one whole tile
HALF_DEVICE = {"half": 8e12}


@pytest.mark.parametrize(
    ("op", "device", "p", "tf32", "rate"),
    [
        (matmul(128, 256, 128), {}, {}, False, 1e12),
        (matmul(128, 256, 128), {}, {"eff_fp32": 0.5}, False, 0.5e12),
        (matmul(128, 256, 128), {}, {}, True, 4e12),
        (matmul(128, 256, 128), {}, {"eff_tf32": 0.5}, True, 2e12),
        (matmul(128, 256, 128), {"tf32": 0.0}, {}, True, 1e12),  # no such unit
        (matmul(128, 256, 128), {"tf32": 0.5e12}, {}, True, 1e12),  # slower than the vector units
        (matmul(128, 256, 128, half=True), {}, {"eff_half": 0.5}, False, 4e12),
        (matmul(128, 256, 128, half=True), {"tensor": 0.0}, {"eff_half_vector": 0.5}, False, 0.5e12),
        # A gain cannot lift a product over its units' peak ...
        (matmul(128, 256, 128), {}, {"gain_matmul": 2.0}, False, 1e12),
        (matmul(128, 256, 128), {}, {"gain_matmul": 8.0}, True, 4e12),
        (matmul(128, 256, 128, half=True), {}, {"gain_matmul": 2.0}, False, 8e12),
        (matmul(128, 256, 128, half=True), {"tensor": 0.0}, {"gain_matmul": 2.0}, False, 1e12),
        (conv(9, c=128), {}, {"gain_winograd": 4.0}, False, 2.25e12),  # ... which Winograd's algorithm divides
        # Each class and each effect has a factor of its own.
        *((matmul(128, 256, 128), {}, {f"gain_{name}": 0.5}, False, 1e12) for name in CLASSES if name != "matmul"),
        (matmul(128, 256, 128), {}, {"gain_matmul": 0.5}, False, 0.5e12),
        (matmul(128, 256, 128, b=2), {}, {"gain_batched": 0.5}, False, 0.5e12),
        (conv(1), {}, {"gain_conv1": 0.5, "gain_conv": 0.1}, False, 0.5e12),
        (conv(4), {}, {"gain_conv": 0.5, "gain_conv1": 0.1}, False, 0.5e12),
        (conv(1, groups=2, c=256), {}, {"gain_grouped": 0.5}, False, 0.5e12),
        (conv(1, groups=128), {}, {"eff_depthwise": 0.25}, False, 0.25e12),
        (conv(1, groups=128), {}, {"eff_depthwise": 0.25}, True, 0.25e12),
        (conv(1, half=True), {}, {"gain_half_conv": 0.5, "gain_half_last": 0.1}, False, 4e12),
        (conv(1, half=True, channels_last=1), {}, {"gain_half_conv": 0.1, "gain_half_last": 0.5}, False, 4e12),
        (conv(1, half=True), {"tensor": 0.0}, {"gain_half_conv": 0.5}, False, 1e12),
        (conv(1), {}, {"gain_half_conv": 0.5, "gain_half_last": 0.5}, False, 1e12),
        (matmul(128, 256, 128, half=True), {}, {"gain_half_conv": 0.5}, False, 8e12),
        (conv(1, phase="backward", grad_input=0), {}, {"gain_weight_grad": 0.5}, False, 0.5e12),
        (conv(1, phase="backward", grad_weight=0), {}, {"gain_weight_grad": 0.5}, False, 1e12),
        (conv(1), {}, {"gain_weight_grad": 0.5}, False, 1e12),
        # Winograd's algorithm: windows of 9, moved by 1, in single precision, without groups.
        (conv(9), {}, {"gain_winograd": 2.0}, False, 2e12),
        (conv(9), {}, {"gain_winograd": 2.0}, True, 4e12),
        (conv(4), {}, {"gain_winograd": 0.5}, False, 1e12),
        (conv(25), {}, {"gain_winograd": 0.5}, False, 1e12),
        (conv(9, half=True), {}, {"gain_winograd": 0.5}, False, 8e12),
        (conv(9, size=256, out=128), {}, {"gain_winograd": 0.5}, False, 1e12),
        (conv(9, groups=2, c=256), {}, {"gain_winograd": 0.5}, False, 1e12),
        # Gradients of windows that move by more than 1.
        (conv(1, size=512, out=128, phase="backward", grad_input=0), {}, {"gain_strided": 0.5}, False, 0.5e12),
        (conv(1, size=512, out=128), {}, {"gain_strided": 0.5}, False, 1e12),
        (conv(1, phase="backward", grad_input=0), {}, {"gain_strided": 0.5}, False, 1e12),
        (conv(1, 128, size=512, out=128, phase="backward", grad_input=0), {}, {"gain_strided": 0.5}, False, 1e12),
        (matmul(128, 256, 128, phase="backward"), {}, {"gain_strided": 0.5}, False, 1e12),
        (conv(1), {"amd": 1.0}, {"amd_conv": 0.5, "amd_matmul": 0.1}, False, 0.5e12),
        (conv(1, 128), {"amd": 1.0}, {"amd_conv": 0.5, "amd_matmul": 0.1}, False, 0.5e12),
        (matmul(128, 256, 128), {"amd": 1.0}, {"amd_conv": 0.1, "amd_matmul": 0.5}, False, 0.5e12),
        (matmul(128, 256, 128), {}, {"amd_conv": 0.5, "amd_matmul": 0.5}, False, 1e12),
        (matmul(128, 256, 128), {"radeon": 1.0}, {"radeon_compute": 0.5}, False, 0.5e12),
        (matmul(128, 256, 128), {}, {"radeon_compute": 0.5}, False, 1e12),
        (matmul(128, 256, 128), {"integrated": 1.0}, {"integrated": 0.5}, False, 0.5e12),
        (matmul(128, 256, 128, half=True), {"unsupported": 1.0}, {"unsupported_half": 0.5}, False, 4e12),
        (matmul(128, 256, 128), {"unsupported": 1.0}, {"unsupported_half": 0.5}, False, 1e12),
        # Vector units that compute two 16-bit products at a time.
        (matmul(128, 256, 128, half=True), {"tensor": 0.0, "packed": 1.0}, {"eff_packed": 1.5}, False, 1.5e12),
        (
            matmul(128, 256, 128, half=True),
            {"tensor": 0.0, "packed": 1.0, "half": 2e12},
            {"eff_packed": 9.0},
            False,
            2e12,
        ),
        (matmul(128, 256, 128), {"tensor": 0.0, "packed": 1.0}, {"eff_packed": 1.5}, False, 1e12),
        # Dilated convolutions on matrix units.
        (conv(1, dilated=1), {}, {"gain_dilated": 0.5}, False, 1e12),
        (conv(1, dilated=1), {}, {"gain_dilated": 0.5}, True, 2e12),
        (conv(1, dilated=1, half=True), {}, {"gain_dilated": 0.5}, False, 4e12),
        (conv(1, dilated=1, half=True), {"tensor": 0.0}, {"gain_dilated": 0.5}, False, 1e12),
        (conv(1), {}, {"gain_dilated": 0.5}, True, 4e12),
        # Fast units: 3.75 T are two doublings below the usual rate, 30 T one above.
        (matmul(128, 256, 128), {"fp32": 3.75e12}, {"doubling_matmul": 2.0}, False, 3.75e12 / 4),
        (matmul(128, 256, 128, half=True), {"half": 30e12, "fp32": 2e12}, {"doubling_matmul": 0.5}, False, 15e12),
        (matmul(128, 256, 128, b=2), {"fp32": 3.75e12}, {"doubling_matmul": 2.0}, False, 3.75e12),
        (matmul(128, 256, 128), {"fp32": 3.75e12}, {"doubling_grouped": 2.0}, False, 3.75e12),
        (conv(1), {"fp32": 3.75e12}, {"doubling_matmul": 2.0, "doubling_grouped": 2.0}, False, 3.75e12),
        (conv(1, groups=2, c=256), {"fp32": 3.75e12}, {"doubling_grouped": 2.0}, False, 3.75e12 / 4),
        (conv(1, groups=128), {"fp32": 3.75e12}, {"doubling_grouped": 2.0}, False, 3.75e12 / 4),
        # Depthwise convolutions.
        (conv(1, 128, phase="backward", grad_input=0), {}, {"gain_depthwise_backward": 0.5}, False, 0.5e12),
        (conv(1, phase="backward", grad_input=0), {}, {"gain_depthwise_backward": 0.5}, False, 1e12),
        (conv(1, 128), {}, {"gain_depthwise_backward": 0.5}, False, 1e12),
        (conv(1, 128), {"amd": 1.0}, {"amd_depthwise": 0.5}, False, 0.5e12),
        (conv(1), {"amd": 1.0}, {"amd_depthwise": 0.5}, False, 1e12),
        (conv(1, 128), {}, {"amd_depthwise": 0.5}, False, 1e12),
        # No product is faster than the ceiling.
        (matmul(128, 256, 128), {}, {"gain_matmul": 2.0, "ceiling": 0.75}, False, 0.75e12),
        (matmul(128, 256, 128), {}, {"gain_matmul": 0.5, "ceiling": 0.75}, False, 0.5e12),
        (conv(9, c=128), {}, {"gain_winograd": 4.0, "ceiling": 0.8}, False, 1.8e12),
        (matmul(128, 256, 128), {"boost": 1.0}, {"boost": 1.25}, False, 1.25e12),
        (matmul(128, 256, 128), {"boost": 1.0}, {"boost": 1.25}, True, 5e12),
        (matmul(128, 256, 128, half=True), {"boost": 1.0}, {"boost": 1.25}, False, 10e12),
        (matmul(128, 256, 128), {}, {"boost": 1.25}, False, 1e12),
        (matmul(128, 256, 128), {"pascal": 1.0}, {"pascal_compute": 0.5}, False, 0.5e12),
        (matmul(128, 256, 128), {}, {"pascal_compute": 0.5}, False, 1e12),
    ],
)
def test_the_rate_of_a_product(op: Op, device: dict[str, float], p: dict[str, float], tf32: bool, rate: float) -> None:
    assert parts(op, device=device, p=p, tf32=tf32)["compute"] == pytest.approx(op.flops / rate)


# What is left of the rate where the power limit allows as much as the units do, and half as much.
AT_LIMIT, OVER_LIMIT = 2**-0.125, 257**-0.125


@pytest.mark.parametrize(
    ("op", "device", "p", "tf32", "share"),
    [
        # 90 % of 100 W without 15 W are 75 W; of 75 pJ, 1 T multiply-adds per second: as many as the units do.
        (matmul(128, 256, 128), {}, {"energy_mac": 75.0}, False, AT_LIMIT),
        (matmul(128, 256, 128), {"power": 175 / 3}, {"energy_mac": 75.0}, False, OVER_LIMIT),  # 37.5 W
        (matmul(128, 256, 128), {"power": 10.0}, {"energy_mac": 4.0}, False, AT_LIMIT),  # at least 40 % of the power
        # Twice the bandwidth: its memory draws 30 W and leaves 60 W.
        (matmul(128, 256, 128), {"bandwidth": 2e12}, {"energy_mac": 60.0}, False, AT_LIMIT),
        (
            matmul(128, 256, 128),
            {"mobile": 1.0, "power": 50.0},
            {"energy_mac": 75.0, "mobile_power": 2.0},
            False,
            AT_LIMIT,
        ),
        (matmul(128, 256, 128), {"nm": 24.0}, {"energy_mac": 75.0}, False, AT_LIMIT),
        (matmul(128, 256, 128), {"nm": 24.0}, {"energy_mac": 75.0, "energy_nm": 1.0}, False, OVER_LIMIT),
        (matmul(128, 256, 128), {"nm": 6.0}, {"energy_mac": 150.0, "energy_nm": 1.0}, False, AT_LIMIT),
        (matmul(128, 256, 128, half=True), {}, {"energy_mac": 75.0, "energy_half": 0.125}, False, AT_LIMIT),
        (
            matmul(128, 256, 128, half=True),
            {"tensor": 0.0},
            {"energy_mac": 75.0, "energy_half": 0.125},
            False,
            AT_LIMIT,
        ),
        # 34 multiply-adds for each in FP32, twice as many as any unit that was fitted on: half the energy for each.
        (
            matmul(128, 256, 128, half=True),
            {"half": 34e12},
            {"energy_mac": 75.0, "energy_half": 2 / 34},
            False,
            AT_LIMIT,
        ),
        (
            matmul(128, 256, 128, half=True),
            {"half": 34e12, "amd": 1.0},
            {"energy_mac": 75.0, "energy_half": 1 / 34},
            False,
            AT_LIMIT,
        ),
        (matmul(128, 256, 128), {}, {"energy_mac": 75.0, "energy_half": 9.0, "energy_tf32": 0.25}, True, AT_LIMIT),
        (matmul(128, 256, 128), {}, {"energy_mac": 75.0, "energy_half": 9.0, "energy_tf32": 9.0}, False, AT_LIMIT),
    ],
)
def test_the_power_limit_slows_arithmetic(
    op: Op, device: dict[str, float], p: dict[str, float], tf32: bool, share: float
) -> None:
    free, limited = parts(op, device=device, tf32=tf32), parts(op, device=device, p=p, tf32=tf32)
    assert free["compute"] / limited["compute"] == pytest.approx(share)


def test_larger_matrix_units_are_fed_as_well_as_those_that_were_fitted_on() -> None:
    """34 T multiply-adds per second on one multiprocessor of 1 GHz load 1,062.5 times 64 bytes a clock: half counts."""
    op, device = matmul(128, 256, 128, half=True), {"half": 34e12}
    plain, edges, gain = (
        parts(op, device=device, p=p)["compute"]
        for p in ({}, {"edge": 16 / 531.25, "edge_power": 1.0}, {"doubling_matmul": 0.5})
    )
    assert edges / plain == pytest.approx(1.25)
    assert gain / plain == pytest.approx(17 / 15)  # of 17 T, from 15 T on


@pytest.mark.parametrize(
    ("op", "sms", "p", "done"),
    [
        # One multiprocessor: every tile after the other; the tiles that leave the least over.
        (matmul(128, 256, 128), 1, {}, 128 * 128 * 256),
        (matmul(130, 256, 20), 1, {}, 5 * 32 * 32 * 256),
        (matmul(20, 256, 130), 1, {}, 5 * 32 * 32 * 256),  # the longer side is the tile's longer one
        (matmul(192, 256, 16), 1, {}, 3 * 64 * 16 * 256),
        (matmul(30, 256, 30, b=3), 1, {}, 3 * 32 * 32 * 256),
        # The edges of a tile are loaded: 16 multiply-adds' time for each row and column of it.
        (matmul(128, 256, 128), 1, {"edge": 16.0, "edge_power": 0.0}, CUBE * 1.25),
        (matmul(128, 256, 64), 1, {"edge": 16.0, "edge_power": 0.0}, 128 * 64 * 256 * 1.375),
        (matmul(64, 256, 64), 1, {"edge": 16.0, "edge_power": 0.0}, 64 * 64 * 256 * 1.5),
        (matmul(128, 256, 32), 1, {"edge": 16.0, "edge_power": 0.0}, 128 * 32 * 256 * 1.625),
        (matmul(32, 256, 32), 1, {"edge": 16.0, "edge_power": 0.0}, 32 * 32 * 256 * 2.0),
        (matmul(64, 256, 16), 1, {"edge": 16.0, "edge_power": 0.0}, 64 * 16 * 256 * 2.25),
        # 1000 multiply-adds a clock while an edge loads 64 bytes: 62.5 for each value of 4 bytes; 8000 of 2 bytes.
        (matmul(128, 256, 128), 1, {"edge": 1.6, "edge_power": 1.0}, CUBE * (1 + 100 / 64)),
        (matmul(128, 256, 128, half=True), 1, {"edge": 0.16, "edge_power": 1.0}, CUBE * (1 + 40 / 64)),
        (matmul(256, 256, 128), 1, {"edge": 16.0, "edge_power": 0.0}, 2 * CUBE * 1.1875),  # a tile of 256 x 128
        (matmul(128, 256, 128), 1, {"start": 64.0}, CUBE * 1.25),
        # Ten multiprocessors: 16 tiles of 32 x 32 take two rounds, the second of which 4 leave idle.
        (matmul(128, 256, 128), 10, {}, CUBE),
        (matmul(128, 256, 128), 10, {"wave": 1.0}, CUBE * 1.25),
        (matmul(128, 256, 128), 10, {"wave": 0.5}, CUBE * 1.125),
        (matmul(32, 256, 32), 10, {}, 10 * 32 * 32 * 256),  # one works and nine wait
        # A long reduction is split, down to 256.
        (matmul(32, 1024, 32), 4, {}, 32 * 32 * 1024),
        (matmul(32, 1024, 32), 4, {"start": 64.0}, 32 * 32 * 1024 * 1.25),
        (matmul(32, 1024, 32), 2, {"start": 64.0}, 32 * 32 * 1024 * 1.125),
        (matmul(32, 512, 32), 4, {}, 32 * 32 * 512 * 2),
        (matmul(32, 400, 32), 4, {}, 32 * 32 * 1024),
        (matmul(32, 128, 32), 4, {}, 32 * 32 * 128 * 4),
        (conv(1, 128, size=1000), 10, {"start": 64.0, "wave": 1.0, "edge": 9.0}, 128 * 1000),  # depthwise: no product
    ],
)
def test_tiles_waves_and_splits(op: Op, sms: float, p: dict[str, float], done: float) -> None:
    rate = 8e12 if op.dtype == "float16" else 1e12
    assert parts(op, device={"sms": sms}, p=p)["compute"] == pytest.approx(done / rate)


def attention(q: int, s: int, d: int, products: float = 2) -> Op:
    dims = {"b": 1, "q": q, "s": s, "d": d, "dv": d}
    return Op("sdpa", "attention", "forward", "", round(products * q * s * d), 0, 0, dims=dims)


@pytest.mark.parametrize(
    ("op", "done"),
    [
        (attention(128, 128, 256), 2 * CUBE),
        (attention(128, 128, 256, products=5), 5 * CUBE),
        (attention(128, 128, 256, products=1), CUBE),  # half of the scores are masked
        (attention(1, 128, 256), 2 * 2 * 64 * 16 * 256),  # one query: two tiles of 64 x 16, nearly empty
    ],
)
def test_attention_is_as_many_products_as_its_multiply_adds_tell(op: Op, done: float) -> None:
    assert parts(op)["compute"] == pytest.approx(done / 1e12)
    assert parts(op, software={"attention": 0.5}, p={"eff_fp32": 0.25})["compute"] == pytest.approx(2 * done / 1e12)
    half = parts(matmul(128, 256, 128), software={"attention": 0.5}, p={"eff_fp32": 0.25})
    assert half["compute"] == pytest.approx(4 * CUBE / 1e12)


# -- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "device", "p", "software", "seconds"),
    [
        (mover(), {}, {}, {}, 1.0),
        (mover(), {}, {"eff_memory": 0.5}, {}, 2.0),
        (mover(), {"amd": 1.0}, {"amd_memory": 0.5}, {}, 2.0),
        (mover(), {}, {"amd_memory": 0.5}, {}, 1.0),
        (mover(), {"radeon": 1.0}, {"radeon_memory": 0.5}, {}, 2.0),
        (mover(), {"integrated": 1.0}, {"integrated": 0.5}, {}, 2.0),
        (mover(), {"pascal": 1.0}, {"pascal_memory": 0.5}, {}, 2.0),
        (mover(), {"ecc": 1.0}, {"ecc_memory": 0.5}, {}, 2.0),
        (mover(), {}, {"radeon_memory": 0.5, "pascal_memory": 0.5, "ecc_memory": 0.5}, {}, 1.0),
        (mover(), {}, {"yearly_memory": 2.0}, {"year": 2022.0}, 0.5),
        (mover(), {"l2": 1e12}, {"cache": 0.5}, {}, 0.75),  # half of it is in the cache, at twice the rate
        (mover("norm"), {}, {"traffic_norm": 2.0}, {}, 2.0),
        (mover("norm"), {}, {"traffic_reduce": 2.0}, {}, 1.0),
        (mover("pool"), {}, {"traffic_pool": 2.0}, {}, 2.0),
        (mover(), {}, {}, {"traffic": 0.5}, 0.5),
        (conv(1, 128, moved=10**12), {}, {"traffic_dense": 2.0}, {"traffic": 0.5}, 2.0),
    ],
)
def test_seconds_of_traffic(
    op: Op, device: dict[str, float], p: dict[str, float], software: dict[str, float], seconds: float
) -> None:
    found = parts(op, device=device, p=p, software=software)
    assert found["memory"] + found["compute"] == pytest.approx(seconds, rel=1e-6)


@pytest.mark.parametrize(
    ("op", "device", "reorders"),
    [
        (conv(1, half=True), {}, True),
        (conv(9, half=True), {}, True),
        (conv(1, 2, half=True), {}, True),
        (conv(1, 128, half=True), {}, False),
        (conv(1, half=True, channels_last=1), {}, False),
        (conv(1, half=True), {"tensor": 0.0}, False),
        (conv(1), {}, False),
        (matmul(128, 256, 128, half=True), {}, False),
    ],
)
def test_matrix_units_reorder_images_of_half_precision(op: Op, device: dict[str, float], reorders: bool) -> None:
    # 128 x 128 values in and out, of 2 bytes, three times, at 1 TB/s and at half of what the software takes
    without = parts(op, device=device)
    found = parts(op, device=device, p={"reorder": 3.0}, software={"reorder": 0.5})
    extra = sum(found.values()) - sum(without.values())
    assert extra == pytest.approx(2 * 2 * 128 * 128 * 1.5 / 1e12 if reorders else 0.0)


def test_arithmetic_and_traffic_overlap_and_share_the_time_by_their_squares() -> None:
    # 4 s of traffic, 3 s of arithmetic: 5 s where squares add up, of which 9 and 16 parts in 25
    op = replace(matmul(128, 256, 128), bytes_read=4 * CUBE)
    found = parts(op, p={"overlap": 2.0, "eff_fp32": 1 / 3})
    unit = CUBE / 1e12
    assert found["compute"] == pytest.approx(5 * unit * 9 / 25)
    assert found["memory"] == pytest.approx(5 * unit * 16 / 25)
    turned = parts(replace(op, bytes_read=3 * CUBE), p={"overlap": 2.0, "eff_fp32": 1 / 4})
    assert (turned["compute"], turned["memory"]) == pytest.approx((5 * unit * 16 / 25, 5 * unit * 9 / 25))
    assert parts(mover(moved=0))["memory"] == 0.0


# -- host and starts --------------------------------------------------------------------------------------------

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


# -- a device's step --------------------------------------------------------------------------------------------


def time_of(software: str = "eager", deviation: Deviation | None = None, **p: float) -> PopulationTime:
    return PopulationTime(dict(DEVICE), software, deviation or Deviation(), {**NEUTRAL, **p})


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
    assert time.parts([mover()])[3] == pytest.approx(2.0 ** -(population.SOFTWARE_YEAR - 2021))


def test_factors_of_software_are_1_unless_fitted() -> None:
    p, plain = {"ngc:conv": 0.5, "ngc:host": 0.25}, {**PLAIN, "year": population.SOFTWARE_YEAR}
    assert software_factors("eager", p) == plain
    assert software_factors("ngc", p) == {**plain, "conv": 0.5, "host": 0.25}
    assert [name for name in SOFTWARE if software_factors(name, p)["last"]] == ["channels-last", "vendor-tuned"]


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


# -- devices ----------------------------------------------------------------------------------------------------

CARD = Hardware(
    key="c", name="Card", vendor="NVIDIA", kind="gpu", year=2023, fp32_tflops=40.0, tf32_tflops=80.0, fp16_tflops=160.0,
    bf16_tflops=170.0, memory_gb=24.0, bandwidth_gb_per_s=900.0, power_w=300.0, idle_w=20.0, cores=1, aliases=(),
    source="made up", sms=80, boost_mhz=2000.0, l2_mb=40.0, process_nm=4.0, fp8_tflops=600.0,
)  # fmt: skip


def spec(**changes: Any) -> dict[str, float]:
    return dict(zip(SPECS, specs(replace(CARD, **changes)).tolist(), strict=True))


def test_a_cards_figures_in_basic_units() -> None:
    assert spec() == pytest.approx(
        {
            "fp32": 20e12, "tf32": 40e12, "half": 85e12, "tensor": 1.0, "bandwidth": 900e9, "sms": 80, "l2": 40e6,
            "power": 300, "nm": 4, "amd": 0, "other": 0, "year": 2023, "mobile": 0, "clock": 2e9, "pascal": 0, "ecc": 1,
            "boost": 0, "radeon": 0, "fp8": 300e12, "unsupported": 0, "packed": 0, "integrated": 0,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tf32_tflops": None}, {"tf32": 0.0, "tensor": 1.0}),  # half precision at 4.25 times FP32
        ({"tf32_tflops": None, "bf16_tflops": 140.0, "fp16_tflops": None}, {"half": 70e12, "tensor": 1.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 130.0}, {"half": 65e12, "tensor": 0.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": None}, {"half": 20e12, "tensor": 0.0}),
        ({"tf32_tflops": None, "bf16_tflops": 10.0, "fp16_tflops": 10.0}, {"half": 20e12, "tensor": 0.0}),
        ({"vendor": "AMD"}, {"amd": 1.0, "fp32": 20e12}),
        ({"vendor": "AMD", "year": 2022}, {"fp32": 40e12}),  # CDNA 1 and 2
        (
            {"vendor": "AMD", "year": 2022, "tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 80.0},
            {"fp32": 10.24e12, "radeon": 1.0, "half": 40e12},  # 80 units of 64 lanes at 2 GHz, without dual issue
        ),
        # Vector units that compute two 16-bit products at a time: 72 of 40 TFLOPS and more.
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 72.0}, {"packed": 1.0, "tensor": 0.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 71.0}, {"packed": 0.0}),
        ({"vendor": "AMD", "memory_gb": None}, {"integrated": 1.0}),
        ({"vendor": "Apple", "memory_gb": None}, {"integrated": 0.0}),
        *(
            (
                {
                    "vendor": "AMD",
                    "tf32_tflops": None,
                    "bf16_tflops": None,
                    "fp16_tflops": 80.0,
                    "name": name,
                    "year": year,
                },
                {"radeon": 1.0, "unsupported": unsupported},
            )
            for name, year, unsupported in (
                ("Radeon RX 5700", 2019, 1.0),
                ("Radeon RX 5600 XT", 2020, 1.0),
                ("Radeon RX 580", 2017, 0.0),
                ("Radeon RX 6800", 2020, 0.0),
            )
        ),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 40.0, "year": 2016}, {"pascal": 1.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 40.0, "year": 2019}, {"pascal": 0.0}),
        # Error correction takes bandwidth of GDDR memory on boards for data centres.
        ({"fp64_tflops": 20.0}, {"ecc": 0.0}),  # high-bandwidth memory: parts with FP64 units
        ({"fp64_tflops": 20.0, "year": 2014}, {"ecc": 1.0}),
        ({"bandwidth_gb_per_s": 8000.0}, {"ecc": 0.0}),
        ({"name": "GeForce RTX 4090"}, {"ecc": 0.0, "boost": 1.0}),
        ({"name": "TITAN V"}, {"ecc": 0.0, "boost": 1.0}),
        ({"name": "Quadro RTX 6000"}, {"ecc": 0.0, "boost": 0.0}),
        ({"year": 2022}, {"fp32": 20e12}),
        # 128 lanes at 1.6 GHz make a multiprocessor.
        ({"sms": None}, {"sms": 20e12 / 128 / 1.6e9}),
        # matrix units of 1,024 multiply-adds a clock each
        ({"sms": None, "fp32_tflops": 0.1}, {"sms": 85e12 / 1024 / 1.6e9}),
        ({"sms": None, "vendor": "AMD", "year": 2021}, {"sms": 20e12 / 128 / 1.6e9}),
        ({"vendor": "Apple"}, {"other": 1.0, "sms": 20e12 / 128 / 1.6e9, "clock": 1.6e9}),
        ({"vendor": "Google"}, {"other": 1.0}),
        ({"l2_mb": None}, {"l2": 4e6}),
        ({"boost_mhz": None}, {"clock": 1.6e9}),
        ({"name": "RTX 4090 Laptop GPU"}, {"mobile": 1.0}),
        ({"name": "RTX 2080 Max-Q"}, {"mobile": 1.0}),
        ({"name": "Quadro Mobile"}, {"mobile": 1.0}),
        *(
            ({"process_nm": None, "year": year}, {"nm": nm})
            for year, nm in (
                *((2014, 28), (2015, 28), (2016, 16), (2017, 16), (2018, 12), (2019, 12)),
                *((2020, 7), (2021, 7), (2022, 5), (2024, 5)),
            )
        ),
    ],
)
def test_gaps_of_a_datasheet_are_filled(changes: dict[str, Any], expected: dict[str, float]) -> None:
    found = spec(**changes)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle at a tenth of the board's power, waiting a fifth more, memory half."""
    power = {"idle": 0.1, "waiting": 0.2, "compute": 0.5, "memory": 0.5}
    known = Population(NEUTRAL, {}, {}, (), {}, power, "made up", ("made up",))
    monkeypatch.setattr(population, "load_population", lambda: known)


@pytest.mark.usefixtures("shares")
@pytest.mark.parametrize(
    ("device", "p", "precision", "idle_w", "watts"),
    [
        # 1 T multiply-adds of 40 pJ are 40 W, of which half counts.
        ({}, {"energy_mac": 40.0}, "float32", None, {"idle": 10, "launch": 30, "memory": 80, "compute": 50}),
        ({}, {"energy_mac": 40.0}, "float32", 15.0, {"idle": 15, "launch": 35, "memory": 85, "compute": 55}),
        ({}, {"energy_mac": 40.0}, "float32", 70.0, {"idle": 70, "launch": 90, "memory": 100, "compute": 100}),
        ({}, {"energy_mac": 40.0}, "float32", 95.0, {"idle": 95, "launch": 100, "memory": 100, "compute": 100}),
        ({}, {"energy_mac": 500.0}, "float32", None, {"compute": 30 + 0.5 * 85}),  # no more than the power limit
        ({}, {"energy_mac": 5.0, "energy_half": 0.5}, "float16", None, {"compute": 30 + 0.5 * 20}),
        ({}, {"energy_mac": 5.0, "energy_half": 0.5}, "bfloat16", None, {"compute": 30 + 0.5 * 20}),
        ({"half": 34e12}, {"energy_mac": 1.0, "energy_half": 0.5}, "bfloat16", None, {"compute": 30 + 0.5 * 8.5}),
        ({}, {"energy_mac": 5.0, "energy_half": 0.5}, "float32", None, {"compute": 30 + 0.5 * 5}),
        ({"tensor": 0.0}, {"energy_mac": 5.0, "energy_half": 0.5}, "float16", None, {"compute": 30 + 0.5 * 5}),
        ({"nm": 24.0}, {"energy_mac": 40.0}, "float32", None, {"compute": 50}),
        ({"nm": 24.0}, {"energy_mac": 40.0, "energy_nm": 1.0}, "float32", None, {"compute": 70}),
        ({"nm": 6.0}, {"energy_mac": 40.0, "energy_nm": 2.0}, "float32", None, {"compute": 35}),
    ],
)
def test_watts_of_a_board(
    device: dict[str, float], p: dict[str, float], precision: str, idle_w: float | None, watts: dict[str, float]
) -> None:
    time = PopulationTime({**DEVICE, **device}, parameters={**NEUTRAL, **p})
    found = population_watts(time, precision, idle_w)
    assert {name: found[name] for name in watts} == pytest.approx(watts)


def test_bounds_are_those_of_the_vendor_and_of_what_is_known() -> None:
    errors = {
        f"{what} {vendor} {known}": (0.1 + index / 100, 2.0 + index)
        for index, (what, vendor, known) in enumerate(
            (what, vendor, known)
            for what in ("time", "energy")
            for vendor in ("nvidia", "amd", "other", "radeon")
            for known in ("known", "unknown")
        )
    }
    fitted = Population(NEUTRAL, {}, {}, (), errors, {}, "made up", ("made up",))
    for flags, known, place in (
        ({}, True, 0),
        ({}, False, 1),
        ({"amd": 1.0}, True, 2),
        ({"other": 1.0}, False, 5),
        ({"amd": 1.0, "radeon": 1.0}, True, 6),
    ):
        times, energies = fitted.error_models(PopulationTime({**DEVICE, **flags}), software_known=known)
        assert (times.high, energies.high) == (2.0 + place, 2.0 + place + 8)
        assert times.low == pytest.approx(0.1 + place / 100)


def test_bounds_after_a_few_runs_are_what_is_not_known_of_the_work() -> None:
    nothing = tuple((0.0,) * len(TRAITS) for _ in TRAITS)
    time = replace(time_of(), deviation=Deviation({"memory": 0.0}, nothing, noise=0.2))
    own = replace(
        datasheet_profile(CARD), time=time, time_error=ErrorModel(0.5, math.exp(0.3)), energy_error=ErrorModel(0.5, 2.0)
    )
    work = Workload("net", "pytorch", 1, False, None, "float32", 0, 0, 0, 0, (), (mover(),))
    found = own.predict(work)
    reach = 1.645 * 0.2  # 90 % of a normal distribution
    assert math.log(found.seconds.high / found.seconds.value) == pytest.approx(reach)
    assert math.log(found.seconds.value / found.seconds.low) == pytest.approx(reach)
    # what the energy's bounds were wider than the time's is the doubt about watts
    whole = math.hypot(reach, math.sqrt(math.log(2) ** 2 - 0.3**2))
    assert math.log(found.energy_kwh.high / found.energy_kwh.value) == pytest.approx(whole)
    assert math.log(found.energy_kwh.value / found.energy_kwh.low) == pytest.approx(whole)
    narrow = replace(own, energy_error=ErrorModel(0.5, 1.1)).predict(work)
    assert narrow.energy_kwh.high / narrow.energy_kwh.value == pytest.approx(narrow.seconds.high / narrow.seconds.value)
