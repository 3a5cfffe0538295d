"""The population model's seconds of arithmetic, one effect at a time, by hand."""

from __future__ import annotations

import pytest

from joulecast.estimator.cost.pieces import CLASSES
from joulecast.estimator.trace.workload import Op

from .neutral import CUBE, conv, matmul, parts


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
        # Nor a convolution in 16 bits than its own, which float32 does not have.
        (conv(half=True), {}, {"gain_half_conv": 4.0, "ceiling_half_conv": 0.75}, False, 6e12),
        (conv(), {}, {"ceiling_half_conv": 0.25}, False, 1e12),
        (matmul(128, 256, 128, half=True), {}, {"ceiling_half_conv": 0.25}, False, 8e12),
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


# 8 T multiply-adds per second of 25 pJ are 200 W, and 90 of the board's 100 W are theirs.
BEYOND = (1 + (200 / 90) ** 8) ** 0.125
HALF = matmul(128, 256, 128, half=True)
QUARTER = {"ceiling_attention": 0.25}
HOT = {"energy_product": 25.0, "slowdown": 1.0}


def attention(half: bool = True, phase: str = "forward") -> Op:
    """One head of one position a query: as many multiply-adds as `CUBE`."""
    dims = {"b": 1, "q": 128, "d": 128, "s": 128}
    dtype = "float16" if half else "float32"
    return Op("attention", "attention", phase, "", CUBE, 0, 0, dtype, dims)


@pytest.mark.parametrize(
    ("op", "device", "p", "software", "rate"),
    [
        # A board that cannot pay for its matrix units' peak lowers their clock ...
        (matmul(128, 256, 128, half=True), {}, HOT, {}, 8e12 / BEYOND),
        (matmul(128, 256, 128, half=True), {}, {**HOT, "slowdown": 0.5}, {}, 8e12 / BEYOND**0.5),
        (matmul(128, 256, 128, half=True), {"power": 1e4}, HOT, {}, 8e12),
        (HALF, {"nm": 10.0, "power": 200.0}, {**HOT, "energy_product_nm": 1.0}, {}, 8e12 / BEYOND),
        # ... but not in milliseconds, and not for vector units, which have a limit of their own.
        (matmul(128, 256, 128, half=True), {}, HOT, {"burst": 100.0}, 8e12),
        (matmul(128, 256, 128), {}, HOT, {}, 1e12),
        (matmul(128, 256, 128, half=True), {"tensor": 0.0}, HOT, {}, 1e12),
        # Attention in one kernel has a ceiling, at the rate of an A100's units and at twice that.
        (attention(), {"half": 156e12, "power": 1e9}, QUARTER, {}, 39e12),
        (attention(), {"half": 312e12, "power": 1e9}, {**QUARTER, "doubling_attention": 0.5}, {}, 39e12),
        (attention(phase="backward"), {"half": 156e12}, {**QUARTER, "attention_backward": 0.5}, {}, 19.5e12),
        (attention(), {"half": 156e12}, {**QUARTER, "attention_backward": 0.5}, {"attention": 0.5}, 78e12),
        (attention(), {"half": 156e12}, {"ceiling_attention": 0.9, "ceiling": 0.5}, {}, 78e12),
        (attention(half=False), {}, QUARTER, {}, 1e12),
        # An odd vocabulary: rows of 16-bit numbers that begin at any two bytes.
        (matmul(128, 256, 127, half=True), {}, {"odd_product": 4.0}, {}, 2e12 * 127 / 128),
        (matmul(128, 255, 128, half=True), {}, {"odd_product": 4.0}, {}, 2e12),
        (matmul(127, 256, 128, half=True), {}, {"odd_product": 4.0}, {}, 8e12 * 127 / 128),
        (matmul(127, 256, 128, half=True, phase="backward"), {}, {"odd_product": 4.0}, {}, 2e12 * 127 / 128),
        (matmul(128, 256, 127, half=True), {}, {"odd_product": 4.0}, {"as_written": 0.0}, 8e12 * 127 / 128),
        (matmul(128, 256, 127), {}, {"odd_product": 4.0}, {}, 1e12 * 127 / 128),
    ],
)  # fmt: skip
def test_ceilings_and_what_a_product_is_off_them(
    op: Op, device: dict[str, float], p: dict[str, float], software: dict[str, float], rate: float
) -> None:
    assert op.flops / parts(op, device=device, p=p, software=software)["compute"] == pytest.approx(rate, rel=1e-6)
