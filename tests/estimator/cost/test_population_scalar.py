"""Kernels of PyTorch that take values or rows one at a time, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from joulecast.estimator.cost.pieces import SCALAR, columns
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Op

from .neutral import conv, matmul, mover, parts

DEVICE = {"sms": 4.0, "clock": 1e9}
SLOW = {"norm_rate": 0.5, "norm_backward": 0.25, "norm_half": 0.5, "pool_rate": 2.0, "permute_rate": 0.2}
ROWS = {"row_rate": 1e-3, "row_backward": 0.5}


def moves(name: str, kind: str, dims: dict[str, int], phase: str = "forward", dtype: str = "float32") -> Op:
    return Op(name, kind, phase, "", 0, 0, 0, dtype, dims)


NORM = {"elements": 4000, "channels": 2}


@pytest.mark.parametrize(
    ("op", "software", "device", "clocks"),
    [
        # 4,000 values at half a value a clock: two channels keep two of the four multiprocessors busy.
        (moves("native_batch_norm", "norm", NORM), {}, {}, 4000 / 0.5 / 2),
        (moves("native_batch_norm", "norm", {**NORM, "channels": 64}), {}, {}, 4000 / 0.5 / 4),
        (moves("native_batch_norm", "norm", {**NORM, "channels_last": 1}), {}, {}, 4000 / 0.5 / 4),
        (moves("native_batch_norm", "norm", NORM), {"last": 1.0}, {}, 4000 / 0.5 / 4),
        (moves("native_batch_norm", "norm", NORM, dtype="float16"), {}, {}, 4000 / 0.25 / 2),
        (moves("native_batch_norm_backward", "norm", NORM, "backward"), {}, {}, 4000 / 0.125 / 2),
        (moves("native_group_norm", "norm", NORM), {}, {}, 4000 / 0.5 / 4),
        # With running statistics it is one pass, as fast as memory.
        (moves("native_batch_norm", "norm", {**NORM, "running": 1}), {}, {}, 0.0),
        (moves("max_pool2d", "pool", {"elements_in": 400, "elements_out": 100, "k": 9}), {}, {}, 900 / 2 / 4),
        (moves("max_pool2d_backward", "pool", {"elements_in": 1, "elements_out": 4}, "backward"), {}, {}, 0.0),
        (moves("clone", "copy", {"elements_in": 80, "elements_out": 80, "permuted": 1}), {}, {}, 80 / 0.2 / 4),
        (moves("clone", "copy", {"elements_in": 80, "elements_out": 80}), {}, {}, 0.0),
        (moves("native_layer_norm", "norm", {**NORM, "rows": 20}), {}, {}, 20 / 1e-3 / 4),
        (moves("native_layer_norm_backward", "norm", {**NORM, "rows": 20}, "backward"), {}, {}, 20 / 5e-4 / 4),
        # Measured on NVIDIA's alone; others than PyTorch bring their own kernels.
        (moves("native_batch_norm", "norm", NORM), {}, {"amd": 1.0}, 0.0),
        (moves("native_batch_norm", "norm", NORM), {}, {"other": 1.0}, 0.0),
        (moves("native_batch_norm", "norm", NORM), {"scalar": 0.0}, {}, 0.0),
    ],
)
def test_seconds_of_kernels_that_take_values_one_at_a_time(
    op: Op, software: dict[str, float], device: dict[str, float], clocks: float
) -> None:
    found = parts(op, device={**DEVICE, **device}, p={**SLOW, **ROWS}, software=software)
    assert found["floor"] == pytest.approx(clocks / 1e9)
    assert found["compute"] == found["memory"] == 0.0  # it does not draw their watts


def test_their_bytes_move_meanwhile() -> None:
    """3 s of values and 4 s of bytes: 5 s where squares add up, of which 4 s draw the watts of memory."""
    op = replace(moves("native_layer_norm", "norm", {**NORM, "rows": 3 * 10**9}), bytes_read=4 * 10**12)
    found = parts(op, device={"sms": 1.0}, p={"row_rate": 1.0, "overlap": 2.0, "floor": 1e-3})
    assert (found["memory"], found["floor"], found["compute"]) == pytest.approx((4.0, 1.0 + 1e-3, 0.0))


def test_backward_passes_of_layer_norms_and_of_softmax_have_prices_of_their_own() -> None:
    p = {"traffic_layer": 2.0, "traffic_layer_backward": 3.0, "traffic_reduce_backward": 4.0, "traffic_norm": 5.0}
    layer = replace(mover("norm"), name="native_layer_norm")
    assert parts(layer, p=p)["memory"] == pytest.approx(2.0)
    assert parts(replace(layer, phase="backward"), p=p)["memory"] == pytest.approx(6.0)
    assert parts(replace(layer, name="native_batch_norm", dims=dict(NORM)), p=p)["memory"] == pytest.approx(5.0)
    assert parts(mover("softmax", phase="backward"), p=p)["memory"] == pytest.approx(4.0)
    assert parts(mover("softmax"), p=p)["memory"] == pytest.approx(1.0)


def test_attention_in_16_bits_has_a_gain_of_its_own() -> None:
    op = Op("sdpa", "attention", "forward", "", 10**9, 0, 0, "float16", {"b": 8, "q": 256, "s": 256, "d": 64})
    p, device = {"gain_half_attention": 0.5}, {"power": 1e9}
    assert parts(op, p=p, device=device)["compute"] == pytest.approx(2 * parts(op, device=device)["compute"])
    full = replace(op, dtype="float32")
    assert parts(full, p=p, device=device) == parts(full, device=device)
    half = matmul(128, 256, 128, half=True)
    assert parts(half, p=p, device=device) == parts(half, device=device)


@pytest.mark.parametrize(
    ("op", "p", "device", "times"),
    [
        (conv(9, 128, channels_last=1), {"depthwise_last": 0.5}, {}, 2.0),
        (conv(9, 128), {"depthwise_last": 0.5}, {}, 1.0),
        (conv(9, 128, channels_last=1), {"depthwise_last": 0.5}, {"amd": 1.0}, 1.0),
        (conv(9, 128, half=True), {"depthwise_half": 0.5}, {}, 2.0),
        (conv(9, 128, half=True, channels_last=1), {"depthwise_half": 0.5}, {}, 1.0),
        (conv(9, 128), {"depthwise_half": 0.5}, {}, 1.0),
        (conv(9, 2, half=True, channels_last=1), {"gain_grouped_last": 0.5}, {}, 2.0),
        (conv(9, 2, half=True), {"gain_grouped_last": 0.5}, {}, 1.0),
    ],
)
def test_grouped_convolutions_by_layout(op: Op, p: dict[str, float], device: dict[str, float], times: float) -> None:
    device = {"power": 1e9, **device}
    plain = parts(op, device=device)["compute"]
    assert parts(op, p=p, device=device)["compute"] == pytest.approx(times * plain)
    assert parts(op, p=p, device=device, software={"scalar": 0.0})["compute"] == pytest.approx(plain)


def test_a_trace_says_what_its_kernels_take_one_at_a_time() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.layer, self.last = nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.max_pool2d(self.norm(self.first(x)), 2)
            return self.last(self.layer(x.permute(0, 2, 3, 1).contiguous()).mean((1, 2)))

    def found(**options: bool) -> dict[tuple[str, float], tuple[float, float]]:
        t = columns(trace(Net(), (torch.zeros(5, 3, 10, 10),), layers=False, **options).ops)
        return {
            (SCALAR[int(kind)], phase): (values, lanes)
            for kind, phase, values, lanes in zip(t.scalar, t.phase, t.values, t.lanes, strict=True)
            if kind
        }

    assert found() == {
        ("norm", 0): (5 * 8 * 8 * 8, 8), ("norm", 1): (5 * 8 * 8 * 8, 8),
        ("pool", 0): (5 * 8 * 4 * 4 * 4, 0), ("permute", 0): (5 * 8 * 4 * 4, 0),
        ("rows", 0): (5 * 4 * 4, 0), ("rows", 1): (5 * 4 * 4, 0),
    }  # fmt: skip
    assert ("norm", 0) not in found(train=False)
