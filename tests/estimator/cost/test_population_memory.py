"""The population model's seconds of memory, one effect at a time, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.piece_time import software_factors
from joulecast.estimator.trace.workload import Op

from .neutral import CUBE, conv, matmul, mover, parts

BATCH_NORM = replace(mover("norm"), name="native_batch_norm", dims={"elements": 1, "channels": 1})


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
        (BATCH_NORM, {}, {"traffic_norm": 2.0}, {}, 2.0),
        (BATCH_NORM, {}, {"traffic_reduce": 2.0, "traffic_layer": 2.0}, {}, 1.0),
        (mover("norm"), {}, {"traffic_layer": 2.0, "traffic_norm": 3.0}, {}, 2.0),
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


def test_an_optimizer_of_16_bit_weights_has_a_factor_and_software_one_of_its_own() -> None:
    update = mover("optimizer", phase="optimizer")
    half = replace(update, dtype="bfloat16")
    p = {"traffic_optimizer": 2.0, "traffic_optimizer_half": 1.5}
    assert parts(update, p=p)["memory"] == pytest.approx(2.0)
    assert parts(half, p=p)["memory"] == pytest.approx(3.0)
    adamw = replace(update, name="adamw")  # 20 tensors in place of 7 are read or written
    assert parts(adamw, software={"foreach": 1.0})["memory"] == pytest.approx(20 / 7)
    assert parts(adamw)["memory"] == pytest.approx(1.0)
    assert parts(update, software={"traffic": 0.5, "optimizer": 0.25})["memory"] == pytest.approx(0.25)
    assert parts(mover(), software={"traffic": 0.5, "optimizer": 0.25})["memory"] == pytest.approx(0.5)


def test_compiling_a_model_leaves_its_optimizer_and_others_fuse_both() -> None:
    p = {
        "compiled:traffic": 0.5,
        "ngc:traffic": 0.5,
        "vendor-tuned:traffic": 0.5,
        "tensorflow:traffic": 0.5,
        "tensorflow:optimizer": 0.75,
    }
    found = {
        name: software_factors(name, p)["optimizer"]
        for name in ("eager", "compiled", "ngc", "vendor-tuned", "tensorflow")
    }
    assert found == {"eager": 1.0, "compiled": 1.0, "ngc": 1.0, "vendor-tuned": 0.5, "tensorflow": 0.75}
