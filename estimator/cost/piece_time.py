"""Seconds of pieces of work on a device that is known by its specifications: the formulas of docs/method.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .features import Array, Mask
from .pieces import (
    ATTENTION,
    BACKWARD,
    BATCHED,
    CLASSES,
    CONV,
    DEPTHWISE,
    GROUPED,
    MATMUL,
    MOVING,
    RNN,
    SCALAR,
    TRAFFIC,
    Columns,
)

_TILES = ((256.0, 128.0), (128.0, 128.0), (128.0, 64.0), (64.0, 64.0), (128.0, 32.0), (32.0, 32.0), (64.0, 16.0))
_TINY = 1e-30  # seconds
_NORM, _POOL, _ROWS = (SCALAR.index(name) for name in ("norm", "pool", "rows"))
_FP8_SHARE = 0.9  # of the rate over that of 16 bits; fitted on seven steps of MPT 1B and 3B in FP8 on H100
_FP8_JOULES = 0.57  # of a multiply-add in 16 bits; measured on an H100
_USUAL_RATE = 1.5e13  # multiply-adds per second
_LARGEST_UNITS = 17.0  # 16-bit multiply-adds on matrix units for each in FP32: 16 in an A100, 14.8 to 16.7 in Hopper
_ALIGNED = 8  # 16-bit products whose sizes are multiples of it run on matrix units at their full rate
_SPLIT_K = 256.0  # a reduction is split among multiprocessors down to this length


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of every piece, count and kernels included."""

    compute: Array
    memory: Array
    floor: Array  # neither arithmetic nor memory is busy: the least that a kernel takes, and values taken one at a time
    host: Array


def piece_seconds(
    t: Columns,
    s: Mapping[str, Array],
    p: Mapping[str, float],
    *,
    tf32: Array,
    software: Mapping[str, Array],
    train: Array,
    xp: Any = np,
) -> Seconds:
    """Seconds of pieces `t` on devices `s` (one value a piece) with parameters `p`.

    `tf32` is 1 where float32 products may run on TF32 units. `software` holds factors a piece (`software_factors`);
    its "burst" is more than 1 for a kernel that ran for milliseconds: times the board's power that it may draw.
    `xp` is the array library: NumPy, or JAX for derivatives. Busy time is divided between compute and memory by which
    of them it waits for.
    """
    cls = t.cls.astype(int)
    times = t.count * t.kernels
    last = xp.maximum(t.last, software["last"])
    rate, sustained, peak = _rate(t, s, p, tf32, cls, last, xp)
    rate = rate * xp.where(software["scalar"] > 0, _layout_gain(t, s, p, cls, last, xp), 1.0)
    age = software["year"] - 2021.0
    tuned = software["compute"] * xp.where((cls <= DEPTHWISE) & (t.half > 0) & (last == 0), software["conv"], 1.0)
    tuned = tuned * xp.where(cls == ATTENTION, software["attention"], 1.0)
    yearly = xp.where(
        cls == GROUPED, p["yearly_grouped"], xp.where(cls < GROUPED, p["yearly_conv"], p["yearly_compute"])
    )
    tuned = tuned * yearly**-age
    odd = (t.cls == BATCHED) & (t.half > 0) & ((t.m % _ALIGNED > 0) | (t.k % _ALIGNED > 0) | (t.n % _ALIGNED > 0))
    tuned = tuned * xp.where(odd, software["unaligned"], 1.0)
    # Stacks that are tuned for the newest devices: a factor for each doubling of the matrix units' rate.
    tuned = tuned * software["rate"] ** np.log2(np.maximum(s["half"], s["fp32"]) / _RATE_OF_ONE)
    tuned = tuned * xp.where(_odd(t, s, cls) & (software["as_written"] > 0), p["odd_product"], 1.0)
    most = _most(t, s, p, software, cls, peak, xp)
    compute = xp.maximum(_padded_macs(t, s, p, sustained, xp) / rate * tuned, t.macs / most)
    memory = _bytes(t, s, p, software, cls, last, xp) / _bandwidth(t, s, p, xp) * p["yearly_memory"] ** -age
    sharp = p["overlap"]
    slowest = compute + _one_at_a_time(t, s, p, last, xp) * software["scalar"]
    larger = xp.maximum(slowest, memory)
    smaller = xp.minimum(slowest, memory)
    ratio = smaller / xp.maximum(larger, _TINY)
    busy = larger * (1.0 + ratio**sharp) ** (1.0 / sharp)
    bound = compute**2 / xp.maximum(compute**2 + memory**2, _TINY**2)
    phase = t.phase.astype(int)
    own = xp.array([p["host_forward"], p["host_backward"], p["host_update"]])[phase]
    own = xp.where(train > 0, own, own * p["host_infer"])
    # What a kernel that takes its values one at a time takes longer than its bytes: it draws little then.
    idle = xp.where(t.values > 0, busy - memory, 0.0)
    return Seconds(
        compute=busy * bound * times,
        memory=(busy * (1.0 - bound) - idle) * times,
        floor=(least_seconds(t, s, p, software, xp) + idle) * times,
        host=own * software["host"] * t.issued * t.count * p["yearly_host"] ** -age,
    )


def least_seconds(
    t: Columns, s: Mapping[str, Array], p: Mapping[str, float], software: Mapping[str, Array], xp: Any = np
) -> Array:
    """What one kernel of each piece takes at least, however little it does."""
    floor = xp.array([p["floor"], p["floor"], p["floor_update"]])[t.phase.astype(int)]
    floor = floor * (1.0 + s["amd"] * (p["floor_amd"] - 1.0))
    result: Array = xp.where(t.cls == RNN, p["floor_rnn"], floor) * xp.where(t.cls == MOVING, software["kernels"], 1.0)
    return result


def _one_at_a_time(t: Columns, s: Mapping[str, Array], p: Mapping[str, float], last: Array, xp: Any) -> Array:
    """Seconds of kernels whose multiprocessors take so many values a clock; measured on NVIDIA's alone."""
    kind = t.scalar.astype(int)
    norm = p["norm_rate"] * xp.where(t.phase == BACKWARD, p["norm_backward"], 1.0)
    norm = norm * xp.where(t.half > 0, p["norm_half"], 1.0)
    rows = p["row_rate"] * xp.where(t.phase == BACKWARD, p["row_backward"], 1.0)
    rate = xp.where(kind == _ROWS, rows, xp.where(kind == _POOL, p["pool_rate"], p["permute_rate"]))
    rate = xp.where(kind == _NORM, norm, rate)
    few = (t.lanes > 0) & (last == 0)
    lanes = xp.where(few, xp.minimum(t.lanes, s["sms"]), s["sms"])
    nvidia = (s["amd"] == 0) & (s["other"] == 0)
    result: Array = xp.where(nvidia, t.values / (rate * lanes * s["clock"]), 0.0)
    return result


def _padded_macs(t: Columns, s: Mapping[str, Array], p: Mapping[str, float], sustained: Array, xp: Any) -> Array:
    """Multiply-adds as the device does them: whole tiles, whole waves of multiprocessors, a start for each tile."""
    long, short, sms = xp.maximum(t.m, t.n), xp.minimum(t.m, t.n), s["sms"]
    # A multiprocessor loads a tile's edges at 64 bytes a clock.
    bytes_per_mac_time = sustained / (sms * s["clock"]) * xp.where(t.half > 0, 2.0, 4.0) / 64.0
    bytes_per_mac_time = bytes_per_mac_time / xp.where(t.half > 0, larger_units(s, xp), 1.0)
    edge = p["edge"] * bytes_per_mac_time ** p["edge_power"]
    best = xp.full(t.m.shape, xp.inf)
    longest = xp.maximum(t.k / _SPLIT_K, 1.0)
    for rows, cols in _TILES:
        tiles = xp.maximum(t.b * xp.ceil(long / rows) * xp.ceil(short / cols), 1.0)
        split = xp.clip(sms / tiles, 1.0, longest)
        waves = tiles * split / sms
        waves = xp.where(waves < 1.0, 1.0, waves + p["wave"] * (xp.ceil(waves) - waves))
        work = waves * (rows * cols) * (t.k / split + p["start"]) * (1.0 + edge * (1 / rows + 1 / cols))
        best = xp.minimum(best, work)
    # Attention has two products, five in the backward pass, and skips the scores that a mask hides.
    plain = xp.maximum(t.b * t.m * t.k * t.n, 1.0)
    best = best * xp.where(t.cls == ATTENTION, t.macs / plain, 1.0)
    result: Array = xp.where((t.cls != DEPTHWISE) & (t.m > 0), best * sms, t.macs)
    return result


def _rate(
    t: Columns, s: Mapping[str, Array], p: Mapping[str, float], tf32: Array, cls: Any, last: Array, xp: Any
) -> tuple[Array, Array, Array]:
    """Multiply-adds per second: what ops of a class reach, what the power limit sustains, and the units' peak."""
    clock = xp.where(s["boost"] > 0, p["boost"], 1.0)
    single = clock * s["fp32"] * p["eff_fp32"] * xp.where(s["pascal"] > 0, p["pascal_compute"], 1.0)
    matrix = clock * s["tf32"] * p["eff_tf32"]
    vector = single * xp.where(s["packed"] > 0, p["eff_packed"], p["eff_half_vector"])
    half = xp.where(s["tensor"] > 0, clock * s["half"] * p["eff_half"], vector)
    on_tf32 = (tf32 > 0) & (matrix > single)
    rate = xp.where(t.half > 0, half, xp.where(on_tf32, matrix, single))
    larger = xp.where(t.half > 0, larger_units(s, xp), 1.0)
    doublings = xp.log2(rate / larger / _USUAL_RATE)
    joules = p["energy_mac"] * 1e-12 * (s["nm"] / 12.0) ** p["energy_nm"]
    joules = joules * xp.where(
        _on_matrix_units(t, s), p["energy_half"] / larger, xp.where(on_tf32, p["energy_tf32"], 1.0)
    )
    board = s["power"] * xp.where(s["mobile"] > 0, p["mobile_power"], 1.0)
    # Memory, its interface and the paths to it draw power that arithmetic cannot have.
    limit = xp.maximum(0.9 * board - p["energy_memory"] * s["bandwidth"] * 1e-9, 0.4 * board) / joules
    units = xp.maximum(s["tensor"], s["packed"])
    peak = xp.where(t.half > 0, xp.maximum(s["half"] * units, s["fp32"]), xp.where(on_tf32, s["tf32"], s["fp32"]))
    eight = xp.where(t.fp8 > 0, xp.maximum(s["fp8"] / xp.maximum(s["half"], 1.0), 1.0), 1.0)  # times the 16-bit rate
    peak = peak * xp.maximum(clock, 1.0) * eight
    rate = rate / (1.0 + (rate / limit) ** 8) ** 0.125
    wide = s["fp32"] * p["eff_depthwise"]
    rate = xp.where(cls == DEPTHWISE, wide, rate)
    gain = xp.array([p.get(f"gain_{name}", 1.0) for name in CLASSES])[cls]
    # Fast units come with more bandwidth to their tiles than `_padded_macs` assumes.
    narrow = (cls == GROUPED) | (cls == DEPTHWISE)
    doubling = xp.where(narrow, p["doubling_grouped"], xp.where(cls == MATMUL, p["doubling_matmul"], 1.0))
    gain = gain * doubling**doublings
    gain = gain * xp.where((cls == DEPTHWISE) & (t.phase == BACKWARD), p["gain_depthwise_backward"], 1.0)
    on_matrix = _on_matrix_units(t, s)
    gain = gain * xp.where(on_matrix & (cls == ATTENTION), p["gain_half_attention"], 1.0)
    half_conv = on_matrix & (cls <= GROUPED)
    gain = gain * xp.where(half_conv, xp.where(last > 0, p["gain_half_last"], p["gain_half_conv"]), 1.0)
    gain = gain * xp.where(t.weight_grad > 0, p["gain_weight_grad"], 1.0)
    winograd = (t.window == 9) & (t.stride < 1.5) & (t.half == 0) & (cls == CONV) & (on_tf32 == 0)
    gain = gain * xp.where(winograd, p["gain_winograd"], 1.0)
    gain = gain * xp.where((t.stride > 1.5) & (t.phase == BACKWARD) & (cls <= GROUPED), p["gain_strided"], 1.0)
    gain = gain * xp.where(s["amd"] > 0, xp.where(cls <= DEPTHWISE, p["amd_conv"], p["amd_matmul"]), 1.0)
    gain = gain * xp.where((s["amd"] > 0) & (cls == DEPTHWISE), p["amd_depthwise"], 1.0)
    gain = gain * xp.where(s["radeon"] > 0, p["radeon_compute"], 1.0)
    gain = gain * xp.maximum(eight * _FP8_SHARE, 1.0)
    gain = gain * xp.where(s["integrated"] > 0, p["integrated"], 1.0)
    gain = gain * xp.where((s["unsupported"] > 0) & (t.half > 0), p["unsupported_half"], 1.0)
    gain = gain * xp.where((t.dilated > 0) & (half_conv | (on_tf32 > 0)), p["gain_dilated"], 1.0)
    return rate * gain, rate, xp.where(winograd, 2.25, 1.0) * peak


def _most(
    t: Columns,
    s: Mapping[str, Array],
    p: Mapping[str, float],
    software: Mapping[str, Array],
    cls: Any,
    peak: Array,
    xp: Any,
) -> Array:
    """Multiply-adds per second that no op of a class exceeds, with what the board's power allows for long."""
    on_matrix = _on_matrix_units(t, s)
    ceiling = xp.where(on_matrix & (cls <= GROUPED), p["ceiling_half_conv"], p["ceiling"])
    # Kernels of attention that were written for the A100 reach less of the peak of faster units.
    doublings = xp.log2(xp.maximum(s["half"], s["fp32"]) / _RATE_OF_ONE)
    attention = p["ceiling_attention"] * p["doubling_attention"] ** doublings / software["attention"]
    attention = attention * xp.where(t.phase == BACKWARD, p["attention_backward"], 1.0)
    ceiling = xp.where(on_matrix & (cls == ATTENTION), xp.minimum(attention, ceiling), ceiling)
    most = peak * ceiling
    joules = p["energy_product"] * 1e-12 * (s["nm"] / 5.0) ** p["energy_product_nm"] / larger_units(s, xp)
    watts = most * joules * xp.where(t.fp8 > 0, _FP8_JOULES, 1.0)
    # A clock that is lowered to the board's power needs less voltage, too.
    beyond = (1.0 + (watts / (0.9 * s["power"] * software["burst"])) ** 8) ** (p["slowdown"] / 8.0)
    result: Array = most / xp.where(on_matrix, beyond, 1.0)
    return result


def _odd(t: Columns, s: Mapping[str, Array], cls: Any) -> Mask:
    """16-bit products whose rows begin at any two bytes, which few kernels can load: an odd vocabulary, for example."""
    odd = (t.k % 2 == 1) | (t.n % 2 == 1) | ((t.phase == BACKWARD) & (t.m % 2 == 1))
    result: Mask = _on_matrix_units(t, s) & (cls == MATMUL) & (t.b <= 1) & odd
    return result


def _on_matrix_units(t: Columns, s: Mapping[str, Array]) -> Mask:
    """Whether a piece is 16-bit arithmetic on a device with matrix units."""
    result: Mask = (t.half > 0) & (s["tensor"] > 0)
    return result


def _layout_gain(t: Columns, s: Mapping[str, Array], p: Mapping[str, float], cls: Any, last: Array, xp: Any) -> Array:
    """What the order of channels changes in PyTorch's grouped and depthwise convolutions."""
    depthwise = (cls == DEPTHWISE) & (s["amd"] == 0)
    gain = xp.where(depthwise & (last > 0), p["depthwise_last"], 1.0)
    gain = gain * xp.where(depthwise & (last == 0) & (t.half > 0), p["depthwise_half"], 1.0)
    gain = gain * xp.where(depthwise & (last > 0) & (t.weight_grad > 0), p["depthwise_last_grad"], 1.0)
    grouped = _on_matrix_units(t, s) & (cls == GROUPED)
    result: Array = gain * xp.where(grouped & (last > 0), p["gain_grouped_last"], 1.0)
    return result


def larger_units(s: Mapping[str, Any], xp: Any = np) -> Any:
    """How much larger NVIDIA's matrix units are than any that was fitted on: more than 1 from the B200 on.

    It is assumed that they need as much less energy for each multiply-add, and have as much wider paths to their tiles
    (pairs of multiprocessors share operands): that they reach the share of their peak that the H100's reach.
    """
    larger = xp.maximum(s["half"] / s["fp32"] / _LARGEST_UNITS, 1.0)
    return xp.where((s["amd"] > 0) | (s["other"] > 0) | (s["tensor"] == 0), 1.0, larger)


def _bytes(
    t: Columns,
    s: Mapping[str, Array],
    p: Mapping[str, float],
    software: Mapping[str, Array],
    cls: Any,
    last: Array,
    xp: Any,
) -> Array:
    weight = xp.array([p.get(f"traffic_{name}", 1.0) for name in TRAFFIC])[t.traffic.astype(int)]
    of_optimizer = t.traffic == TRAFFIC.index("optimizer")
    moving = xp.where(of_optimizer, software["optimizer"], software["traffic"])
    weight = weight * xp.where(cls == MOVING, moving, 1.0)
    # The backward passes of layer norms and of softmax are slower than their bytes say.
    backward = t.phase == BACKWARD
    layer = p["traffic_layer"] * xp.where(backward, p["traffic_layer_backward"], 1.0)
    weight = xp.where(t.per_row > 0, layer * software["traffic"], weight)
    weight = weight * xp.where(of_optimizer & (t.half > 0), p["traffic_optimizer_half"], 1.0)
    weight = weight * xp.where(of_optimizer & (software["foreach"] > 0), t.passes, 1.0)
    softmax = (t.traffic == TRAFFIC.index("reduce")) & backward
    weight = weight * xp.where(softmax, p["traffic_reduce_backward"], 1.0)
    reorder = _on_matrix_units(t, s) & (last == 0) & (cls <= GROUPED)
    result: Array = t.moved * weight + xp.where(reorder, p["reorder"] * software["reorder"], 0.0) * t.layout
    return result


def _bandwidth(t: Columns, s: Mapping[str, Array], p: Mapping[str, float], xp: Any) -> Array:
    cached = s["l2"] / (s["l2"] + t.moved)
    share = p["eff_memory"] * xp.where(s["amd"] > 0, p["amd_memory"], 1.0)
    share = share * xp.where(s["radeon"] > 0, p["radeon_memory"], 1.0)
    share = share * xp.where(s["integrated"] > 0, p["integrated"], 1.0)
    share = share * xp.where(s["pascal"] > 0, p["pascal_memory"], 1.0) * xp.where(s["ecc"] > 0, p["ecc_memory"], 1.0)
    result: Array = s["bandwidth"] * share / (1.0 - p["cache"] * cached)
    return result


def step_seconds(host: Array, device: Array, sharpness: float, xp: Any = np) -> Array:
    """The host issues while the device works: about the larger of the two."""
    larger, smaller = xp.maximum(host, device), xp.minimum(host, device)
    result: Array = larger * (1.0 + (smaller / larger) ** sharpness) ** (1.0 / sharpness)
    return result


FACTORS = ("compute", "conv", "attention", "rate", "traffic", "host", "kernels", "reorder", "unaligned")
CHANNELS_LAST = frozenset({"channels-last", "vendor-tuned"})
SOFTWARE_YEAR = 2024.0  # of what is installed today, in the trend that was fitted
PYTORCH_KERNELS = frozenset({"eager", "channels-last", "ngc"})
"""Others fuse norms and pools, or bring kernels of their own."""
PYTORCH_OPTIMIZERS = frozenset({"eager", "channels-last", "compiled", "ngc"})
"""Others update the parameters in one kernel."""
TF32_EVERYWHERE = frozenset({"ngc", "vendor-tuned", "tensorflow"})
"""PyTorch itself uses TF32 in cuDNN alone: in convolutions and recurrent layers."""


def by_cudnn(cls: Array) -> Mask:
    """The pieces that PyTorch runs in cuDNN, which may use TF32."""
    return np.asarray((cls <= DEPTHWISE) | (cls == RNN))


_RATE_OF_ONE = 156e12  # multiply-adds per second in 16 bit, of an A100


def software_factors(name: str, p: Mapping[str, float]) -> dict[str, float]:
    """What software changes: factors on the seconds or bytes of each part; eager PyTorch is 1."""
    factors = {factor: p.get(f"{name}:{factor}", 1.0) for factor in FACTORS}
    return {
        **factors,
        # `torch.compile` of a model leaves the optimizer as it is; others fuse it as they fuse the rest.
        "optimizer": p.get(f"{name}:optimizer", 1.0 if name in PYTORCH_OPTIMIZERS else factors["traffic"]),
        "foreach": float(name in PYTORCH_OPTIMIZERS),
        "last": float(name in CHANNELS_LAST),
        "year": SOFTWARE_YEAR,
        "scalar": float(name in PYTORCH_KERNELS),
        "as_written": float(name in ("eager", "channels-last")),  # others pad a vocabulary
        "burst": 1.0,
    }
