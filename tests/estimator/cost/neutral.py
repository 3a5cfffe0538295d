"""Neutral parameters and round figures: nothing but the plain rate of each unit counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from joulecast.estimator.cost.piece_time import FACTORS, piece_seconds
from joulecast.estimator.cost.pieces import columns
from joulecast.estimator.cost.population import SPECS, Deviation, PopulationTime
from joulecast.estimator.trace.workload import Op

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
    **dict.fromkeys(("norm_rate", "pool_rate", "permute_rate", "row_rate"), math.inf),
    **dict.fromkeys(("norm_backward", "norm_half", "row_backward", "traffic_layer", "traffic_layer_backward"), 1.0),
    **dict.fromkeys(("traffic_reduce_backward", "gain_half_attention", "gain_grouped_last"), 1.0),
    **dict.fromkeys(("depthwise_last", "depthwise_half", "depthwise_last_grad"), 1.0),
    **dict.fromkeys(("ceiling_half_conv", "ceiling_attention", "doubling_attention", "attention_backward"), 1.0),
    **dict.fromkeys(("energy_product", "energy_product_nm", "slowdown"), 0.0),
    **dict.fromkeys(("odd_product", "traffic_optimizer_half"), 1.0),
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


PLAIN = {
    **dict.fromkeys((*FACTORS, "optimizer", "scalar", "as_written"), 1.0),
    "foreach": 0.0,
    "last": 0.0,
    "burst": 1.0,
    "year": 2021.0,
}


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


CUBE = 128 * 256 * 128  # multiply-adds of a product that is one whole tile


HALF_DEVICE = {"half": 8e12}


def time_of(software: str = "eager", deviation: Deviation | None = None, **p: float) -> PopulationTime:
    return PopulationTime(dict(DEVICE), software, deviation or Deviation(), {**NEUTRAL, **p})
