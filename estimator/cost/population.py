"""The population model: how long ops take on hardware that is known by its specifications alone.

One set of parameters, fitted on published measurements of many devices, serves all hardware
(docs/method.md). A device enters through its datasheet: arithmetic rates, bandwidth, multiprocessors, cache,
power limit, process. What is particular to it is a small deviation, zero until it has been measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any, ClassVar

import numpy as np

from ..base.errors import ProfileError
from ..trace.fp8 import FP8
from ..trace.workload import Op
from .bounds import ErrorModel
from .features import COMPUTE, LAUNCH, MEMORY, Array, Mask
from .fusion import as_fused, needed_share, with_written_scores
from .hardware import Hardware
from .software import TRAINING_STACKS, WRITTEN_SCORES, check_software
from .stacks import load_stacks

SCHEMA = "joulecast.population/1"

# -- Pieces: what an op makes the device do ----------------------------------------------------------------

CLASSES = ("conv", "conv1", "grouped", "depthwise", "matmul", "batched", "attention", "rnn", "moving")
CONV, CONV1, GROUPED, DEPTHWISE, MATMUL, BATCHED, ATTENTION, RNN, MOVING = range(len(CLASSES))
TRAFFIC = ("dense", "norm", "pointwise", "reduce", "pool", "optimizer", "gather")
_TRAFFIC_OF = {
    "norm": "norm",
    "softmax": "reduce",
    "loss": "reduce",
    "reduce": "reduce",
    "pool": "pool",
    "optimizer": "optimizer",
    "embedding": "gather",
    "sort": "gather",
}
FORWARD, BACKWARD, UPDATE = range(3)
_PHASES = {"forward": FORWARD, "backward": BACKWARD, "optimizer": UPDATE}
_HALF = frozenset({"float16", "bfloat16"})

FIELDS = (
    "op",  # position of the op
    "cls",  # of CLASSES
    "traffic",  # of TRAFFIC
    "phase",
    "macs",
    "moved",  # bytes
    "b",  # products in one kernel
    "m",
    "k",
    "n",
    "count",
    "half",  # 1 for 16-bit arithmetic
    "issued",  # ops that the host issues
    "kernels",  # kernels in a row that the device runs, of which the figures above are one
    "layout",  # bytes of activations that a convolution reorders where channels come first
    "last",  # 1 for channels last
    "weight_grad",
    "window",  # elements of a convolution's window
    "stride",  # input positions for each output position
    "fp8",  # 1 for 8-bit products, which have 16-bit inputs and outputs (`half` is 1 too)
    "dilated",  # 1 where a convolution's window skips positions
)


@dataclass(frozen=True, slots=True)
class Columns:
    """The pieces of a workload, one array a field of `FIELDS`; equal pieces are one row with their count."""

    table: Array  # shape (pieces, fields)

    def __getattr__(self, name: str) -> Array:
        column: Array = self.table[:, FIELDS.index(name)]
        return column


def columns(ops: Sequence[Op], software: str = "eager") -> Columns:
    rows = [row for index, op in enumerate(ops) for part in _as_run(op, software) for row in _rows(index, part)]
    return Columns(np.array(rows, dtype=float).reshape(len(rows), len(FIELDS)))


def pieces(ops: Sequence[Op], software: str) -> Columns:
    """The pieces of `ops` as `software` runs them: training stacks fuse ops, and have no pieces of what is gone."""
    if software not in TRAINING_STACKS:
        return columns(ops)
    kept = [(index, op) for index, op in enumerate(as_fused(ops)) if op is not None]
    found = columns([op for _, op in kept], software)
    found.table[:, FIELDS.index("op")] = np.array([index for index, _ in kept])[found.op.astype(int)]
    return found


def _as_run(op: Op, software: str) -> Iterable[Op]:
    """Attention as `software` runs it: in one kernel, or with its scores in memory (Megatron-LM before 2023)."""
    if op.kind != "attention" or software != WRITTEN_SCORES or "q" not in op.dims:
        return (op,)
    dropped = bool(op.dims.get("dropped"))
    passes = (2.0 + 2.5 * dropped) if op.phase == "forward" else (3.0 + 2.5 * dropped)
    return with_written_scores(op, passes)


def merged(parts: Columns) -> Columns:
    """Equal pieces of different ops as one, their counts added up; the op is forgotten."""
    keys = parts.table.copy()
    keys[:, FIELDS.index("op")] = 0.0
    keys[:, FIELDS.index("count")] = 0.0
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    unique[:, FIELDS.index("count")] = np.bincount(inverse.ravel(), weights=parts.count)
    return Columns(unique)


def _rows(index: int, op: Op) -> Iterator[tuple[float, ...]]:
    fp8 = float(op.dtype.startswith("float8"))
    half, phase = max(float(op.dtype in _HALF), fp8), float(_PHASES[op.phase])

    def row(
        cls: int,
        macs: float,
        moved: float,
        shape: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        *,
        issued: float = 1.0,
        kernels: float = 1.0,
        layout: float = 0.0,
        last: float = 0.0,
        weight_grad: float = 0.0,
        window: float = 0.0,
        stride: float = 0.0,
        dilated: float = 0.0,
    ) -> tuple[float, ...]:
        traffic = "dense" if cls != MOVING else _TRAFFIC_OF.get(op.kind, "pointwise")
        head = (float(index), float(cls), float(TRAFFIC.index(traffic)), phase, macs, moved, *shape)
        return (*head, float(op.count), half, issued, kernels, layout, last, weight_grad, window, stride, fp8, dilated)

    dims = op.dims
    if op.kind == "conv" and "c_in" in dims:
        yield from _convolution(op, row)
    elif op.kind == "matmul" and "n" in dims:
        batch = float(dims["b"])
        shape = (batch, float(dims["m"]), float(dims["k"]), float(dims["n"]))
        # Kernels for groups (experts) work through the tiles of all products as through those of one.
        batched = batch > 1 and "grouped_mm" not in op.name
        yield row(BATCHED if batched else MATMUL, op.flops, op.bytes_moved, shape)
        if fp8:
            yield row(MOVING, 0.0, _CONVERTED_BYTES * batch * dims["k"] * (dims["m"] + dims["n"]))
    elif op.kind == "attention" and "q" in dims:
        # Scores stay on chip: two products of each head, five in the backward pass.
        shape = (float(dims["b"]), float(dims["q"]), float(dims["d"]), float(dims["s"]))
        yield row(ATTENTION, op.flops * needed_share(op), op.bytes_moved, shape)
    elif op.kind == "rnn" and "steps" in dims:
        yield from _recurrent(op, row)
    elif op.flops and op.kind in ("conv", "matmul", "attention", "rnn"):
        side = max(op.flops, 1.0) ** (1 / 3)
        yield row(CONV if op.kind == "conv" else MATMUL, op.flops, op.bytes_moved, (1.0, side, side, side))
    else:
        yield row(MOVING, 0.0, op.bytes_moved)


def _convolution(op: Op, row: Any) -> Iterator[tuple[float, ...]]:
    dims = op.dims
    groups, window = float(dims["groups"]), float(dims["k"])
    c_in, c_out = dims["c_in"] / groups, dims["c_out"] / groups
    inputs, outputs = float(dims["n"] * dims["in"]), float(dims["n"] * dims["out"])
    places = inputs if dims["transposed"] else outputs
    cls = (CONV1 if window == 1 else CONV) if groups == 1 else DEPTHWISE if c_in == 1 else GROUPED
    item = 2.0 if op.dtype in _HALF else 4.0
    activations = item * (inputs * dims["c_in"] + outputs * dims["c_out"])
    shapes = {
        "forward": (groups, places, c_in * window, c_out),
        "grad_input": (groups, places, c_out * window, c_in),
        "grad_weight": (groups, c_in * window, places, c_out),
    }
    forward = op.phase == "forward"
    wanted = ["forward"] if forward else [role for role in ("grad_input", "grad_weight") if dims.get(role, 1)]
    for position, role in enumerate(wanted):
        yield row(
            cls,
            op.flops / len(wanted),
            op.bytes_moved / len(wanted),
            shapes[role],
            issued=float(position == 0),
            layout=activations,
            last=float(dims.get("channels_last", 0)),
            weight_grad=float(role == "grad_weight"),
            window=window,
            stride=max(dims["in"], 1) / max(dims["out"], 1),
            dilated=float(dims.get("dilated", 0)),
        )


def _recurrent(op: Op, row: Any) -> Iterator[tuple[float, ...]]:
    """All positions' inputs in one product, then one product after another for the states."""
    dims = op.dims
    steps, batch, hidden = float(dims["steps"]), float(dims["n"]), float(dims["hidden"])
    cells = float(dims.get("layers", 1) * dims.get("directions", 1))
    share = dims["input"] / (dims["input"] + hidden)
    passes = 1.0 if op.phase == "forward" else 2.0
    gates = op.flops / passes / max(steps * batch * (dims["input"] + hidden) * cells, 1.0)
    yield row(
        MATMUL, op.flops * share, op.bytes_moved, (1.0, steps * batch, float(dims["input"]) * passes * cells, gates)
    )
    yield row(
        RNN,
        op.flops * (1 - share) / max(steps * cells, 1.0),
        0.0,
        (1.0, batch, hidden * passes, gates),
        issued=0.0,
        kernels=steps * cells,
    )


# -- Devices -------------------------------------------------------------------------------------------------

SPECS = (
    "fp32",  # multiply-adds per second
    "tf32",  # 0 where there is no such unit
    "half",
    "tensor",  # 1 where 16-bit products have units of their own
    "bandwidth",
    "sms",
    "l2",
    "power",
    "nm",
    "amd",
    "other",  # 1 for parts that are neither NVIDIA's nor AMD's kind of GPU
    "year",
    "mobile",
    "clock",  # Hz
    "pascal",  # 1 for NVIDIA's parts before Volta
    "ecc",  # 1 where error correction takes a share of GDDR memory's bandwidth: boards for data centres
    "boost",  # 1 for GeForce and TITAN, which run above their stated clock
    "radeon",  # 1 for AMD's parts without matrix units
    "fp8",  # multiply-adds per second of 8-bit products; 0 where there are no such units
    "unsupported",  # 1 for those of them for which ROCm's libraries have no kernels: the RX 5000 series
    "packed",  # 1 where vector units compute two 16-bit products at a time, without matrix units
    "integrated",  # 1 for AMD's parts that share memory and power with a CPU
)
_TERA = 1e12
_FOR_DESKS = re.compile("GeForce|TITAN|Quadro|RTX|GTX", re.IGNORECASE)
_OTHER_VENDORS = frozenset({"Apple", "AWS", "Amazon", "Google", "Graphcore", "Habana", "Huawei", "Intel"})


def specs(hardware: Hardware) -> Array:
    """Shape (specs,): what the model uses of a row of the hardware table, gaps filled by what is typical."""
    fp32 = hardware.fp32_tflops
    half = max(hardware.fp16_tflops or 0.0, hardware.bf16_tflops or 0.0)
    tensor = bool(hardware.tf32_tflops) or half >= 3.5 * fp32
    amd, other = hardware.vendor == "AMD", hardware.vendor in _OTHER_VENDORS
    if amd and tensor and hardware.year < 2023:
        fp32 *= 2.0  # CDNA 1 and 2: matrix units at twice the vector rate
    radeon = amd and not tensor
    if radeon and hardware.sms and hardware.boost_mhz:  # dual issue is rarely reached
        fp32 = min(fp32, hardware.sms * 64 * 2 * hardware.boost_mhz / 1e6)
    data_centre = hardware.vendor == "NVIDIA" and not _FOR_DESKS.search(hardware.name)
    double = (hardware.fp64_tflops or 0.0) > 0.1 * hardware.fp32_tflops
    gddr = hardware.year < 2016 or (not double and hardware.bandwidth_gb_per_s < 1500)
    sms = float(hardware.sms or 0)
    if not sms or other:  # as many multiprocessors of usual size as its rate takes
        sms = max(max(hardware.fp32_tflops / 128, half / 1024) * _TERA / 2 / 1.6e9, 1.0)
    return np.array(
        [
            fp32 * _TERA / 2,
            (hardware.tf32_tflops or 0.0) * _TERA / 2,
            max(half, hardware.fp32_tflops) * _TERA / 2,
            float(tensor),
            hardware.bandwidth_gb_per_s * 1e9,
            sms,
            (hardware.l2_mb or 4.0) * 1e6,
            hardware.power_w,
            hardware.process_nm or _typical_nm(hardware.year),
            float(amd),
            float(other),
            float(hardware.year),
            float(any(word in hardware.name.lower() for word in ("laptop", "max-q", "mobile"))),
            (1600.0 if other else hardware.boost_mhz or 1600.0) * 1e6,
            float(hardware.vendor == "NVIDIA" and not tensor and hardware.year < 2018),
            float(data_centre and gddr),
            float(hardware.vendor == "NVIDIA" and bool(re.search("GeForce|TITAN", hardware.name))),
            float(radeon),
            (hardware.fp8_tflops or 0.0) * _TERA / 2,
            float(radeon and "RX 5" in hardware.name and 2019 <= hardware.year <= 2020),
            float(not tensor and half >= 1.8 * hardware.fp32_tflops),
            float(amd and hardware.memory_gb is None),
        ]
    )


def _typical_nm(year: int) -> float:
    return 28.0 if year < 2016 else 16.0 if year < 2018 else 12.0 if year < 2020 else 7.0 if year < 2022 else 5.0


# -- The model -----------------------------------------------------------------------------------------------

_TILES = ((256.0, 128.0), (128.0, 128.0), (128.0, 64.0), (64.0, 64.0), (128.0, 32.0), (32.0, 32.0), (64.0, 16.0))
_TINY = 1e-30  # seconds
_CONVERTED_BYTES = 2.0  # of an input of an 8-bit product; each is read in 16 bits and written twice, for two products
_FP8_SHARE = 0.9  # of the rate over that of 16 bits; fitted on seven steps of MPT 1B and 3B in FP8 on H100
_USUAL_RATE = 1.5e13  # multiply-adds per second
_LARGEST_UNITS = 17.0  # 16-bit multiply-adds on matrix units for each in FP32: 16 in an A100, 14.8 to 16.7 in Hopper
_ALIGNED = 8  # 16-bit products whose sizes are multiples of it run on matrix units at their full rate
_SPLIT_K = 256.0  # a reduction is split among multiprocessors down to this length


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of every piece, count and kernels included."""

    compute: Array
    memory: Array
    floor: Array  # the least that a kernel takes, however little it does
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

    `tf32` is 1 where float32 products may run on TF32 units. `software` holds factors a piece (`software_factors`).
    `xp` is the array library: NumPy, or JAX for derivatives. Busy time is divided between compute and memory by which
    of them it waits for.
    """
    cls = t.cls.astype(int)
    times = t.count * t.kernels
    last = xp.maximum(t.last, software["last"])
    rate, sustained, peak = _rate(t, s, p, tf32, cls, last, xp)
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
    compute = xp.maximum(_padded_macs(t, s, p, sustained, xp) / rate * tuned, t.macs / (peak * p["ceiling"]))
    memory = _bytes(t, s, p, software, cls, last, xp) / _bandwidth(t, s, p, xp) * p["yearly_memory"] ** -age
    sharp = p["overlap"]
    larger = xp.maximum(compute, memory)
    smaller = xp.minimum(compute, memory)
    ratio = smaller / xp.maximum(larger, _TINY)
    busy = larger * (1.0 + ratio**sharp) ** (1.0 / sharp)
    bound = compute**2 / xp.maximum(compute**2 + memory**2, _TINY**2)
    phase = t.phase.astype(int)
    own = xp.array([p["host_forward"], p["host_backward"], p["host_update"]])[phase]
    own = xp.where(train > 0, own, own * p["host_infer"])
    floor = xp.array([p["floor"], p["floor"], p["floor_update"]])[phase] * (1.0 + s["amd"] * (p["floor_amd"] - 1.0))
    floor = xp.where(cls == RNN, p["floor_rnn"], floor) * xp.where(cls == MOVING, software["kernels"], 1.0)
    return Seconds(
        compute=busy * bound * times,
        memory=busy * (1.0 - bound) * times,
        floor=floor * times,
        host=own * software["host"] * t.issued * t.count * p["yearly_host"] ** -age,
    )


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
        (t.half > 0) & (s["tensor"] > 0), p["energy_half"] / larger, xp.where(on_tf32, p["energy_tf32"], 1.0)
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
    half_conv = (t.half > 0) & (s["tensor"] > 0) & (cls <= GROUPED)
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
    weight = weight * xp.where(cls == MOVING, software["traffic"], 1.0)
    reorder = (t.half > 0) & (s["tensor"] > 0) & (last == 0) & (cls <= GROUPED)
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
_LITTLE_MEASURED = frozenset({"compiled"})
"""Software with few measured steps, as uncertain as software that is not stated."""
SOFTWARE_YEAR = 2024.0  # of what is installed today, in the trend that was fitted
_TF32_EVERYWHERE = frozenset({"ngc", "vendor-tuned", "tensorflow"})
"""PyTorch itself uses TF32 in cuDNN alone: in convolutions and recurrent layers."""


def by_cudnn(cls: Array) -> Mask:
    """The pieces that PyTorch runs in cuDNN, which may use TF32."""
    return np.asarray((cls <= DEPTHWISE) | (cls == RNN))


_RATE_OF_ONE = 156e12  # multiply-adds per second in 16 bit, of an A100


def software_factors(name: str, p: Mapping[str, float]) -> dict[str, float]:
    """What software changes: factors on the seconds or bytes of each part; eager PyTorch is 1."""
    factors = {factor: p.get(f"{name}:{factor}", 1.0) for factor in FACTORS}
    return {**factors, "last": float(name in CHANNELS_LAST), "year": SOFTWARE_YEAR}


# -- What was fitted -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deviation:
    """What is particular to one device: logarithms of factors on the population's seconds, by `deviation.TRAITS`.

    `covariance` is what is not known about them after the runs, and `noise` the standard deviation among networks;
    both empty where nothing was measured. `runs` holds the slopes of the steps that ran, and `pull` what each adds to
    the logarithm of a network like it.
    """

    logs: Mapping[str, float] = field(default_factory=dict)
    covariance: tuple[tuple[float, ...], ...] = ()
    noise: float = 0.0
    runs: tuple[tuple[float, ...], ...] = ()
    pull: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Population:
    """The fitted values, as `datasets/population.json` holds them.

    `spread` is the standard deviation of each trait of a `Deviation` among devices, and "amd" how many times wider
    they are there; `correlations` holds each trait's correlations with those before it in `deviation.TRAITS`.
    `networks` holds standard deviations among networks of one device, each with its share of devices.
    `errors` are bounds of measured over predicted on devices left out, by what was predicted and what was known;
    `power` says what the parts draw.
    """

    parameters: Mapping[str, float]
    spread: Mapping[str, float]
    correlations: Mapping[str, tuple[float, ...]]
    networks: tuple[tuple[float, float], ...]
    errors: Mapping[str, tuple[float, float]]
    power: Mapping[str, float]
    fitted_on: str
    sources: tuple[str, ...]

    def error_models(self, time: PopulationTime, *, software_known: bool) -> tuple[ErrorModel, ErrorModel]:
        """Bounds of time and energy for a device without measurements."""
        specs = time.specs
        vendor = next((name for name in ("radeon", "amd", "other") if specs[name]), "nvidia")
        known = "known" if software_known and time.software not in _LITTLE_MEASURED else "unknown"
        times, energies = (ErrorModel(*self.errors[f"{what} {vendor} {known}"]) for what in ("time", "energy"))
        return times, energies


@cache
def load_population() -> Population:
    """The shipped values. Raises ProfileError for a file of another schema."""
    text = resources.files("joulecast.datasets").joinpath("population.json").read_text(encoding="utf-8")
    document = json.loads(text)
    if document.get("schema") != SCHEMA:
        raise ProfileError(f"population.json has schema {document.get('schema')!r}, expected {SCHEMA!r}; reinstall")
    return Population(
        parameters={**document["parameters"], **load_stacks().factors},
        spread=document["spread"],
        correlations={name: tuple(map(float, row)) for name, row in document["correlations"].items()},
        networks=tuple((float(noise), float(share)) for noise, share in document["networks"]),
        errors={name: (float(low), float(high)) for name, (low, high) in document["errors"].items()},
        power=document["power"],
        fitted_on=str(document["fitted_on"]),
        sources=tuple(document["sources"]),
    )


@dataclass(frozen=True, slots=True)
class PopulationTime:
    """The time model of one device: `specs` by the names of `SPECS`, `software` one of `SOFTWARE`."""

    specs: Mapping[str, float]
    software: str = "eager"
    deviation: Deviation = field(default_factory=Deviation)
    parameters: Mapping[str, float] = field(default_factory=lambda: load_population().parameters)

    form: ClassVar[str] = "population"
    components: ClassVar[tuple[str, ...]] = (COMPUTE, MEMORY, LAUNCH)

    def __post_init__(self) -> None:
        check_software(self.software)

    def seconds(self, ops: Sequence[Op]) -> Array:
        """Shape (ops, components); "launch" is what the device waits for the host, and kernels too short to matter."""
        if not len(ops):
            return np.zeros((0, len(self.components)))
        compute, memory, floor, host = self._by_op(ops).T
        device, issuing = float((compute + memory + floor).sum()), float(host.sum())
        step = float(step_seconds(np.array(issuing), np.array(device), self.parameters["sharpness"]))
        waiting = host * ((step - device) / issuing) if issuing > 0 else host
        return np.stack([compute, memory, floor + waiting], axis=1)

    def parts(self, ops: Sequence[Op]) -> Array:
        """Seconds of one step's compute, memory, short kernels and host, as if none hid behind another."""
        return np.asarray(self._by_op(ops).sum(axis=0))

    def seconds_of(self, t: Columns, *, train: bool) -> Seconds:
        """Seconds of pieces of work before any deviation."""
        size = len(t.count)
        factors = software_factors(self.software, self.parameters)
        return piece_seconds(
            t,
            {name: np.full(size, value) for name, value in self.specs.items()},
            self.parameters,
            tf32=np.ones(size) if self.software in _TF32_EVERYWHERE else by_cudnn(t.cls).astype(float),
            software={name: np.full(size, value) for name, value in factors.items()},
            train=np.full(size, float(train)),
        )

    def log_spread(self, ops: Sequence[Op]) -> float | None:
        """Standard deviation of the logarithm of a step's seconds, as far as runs told; None without runs."""
        from .deviation import log_spread, log_step, traits, values_of

        if not self.deviation.covariance:
            return None
        t, x = self._pieces(ops)
        _, slopes = log_step(x, traits(t), values_of(self.deviation), self.parameters["sharpness"])
        return log_spread(self.deviation, slopes)

    def _pieces(self, ops: Sequence[Op]) -> tuple[Columns, Seconds]:
        t = pieces(ops, self.software)
        return t, self.seconds_of(t, train=any(op.phase != "forward" for op in ops))

    def _by_op(self, ops: Sequence[Op]) -> Array:
        """Shape (ops, 4): seconds of compute, memory, short kernels and the host's issuing."""
        from .deviation import deviated, log_of_alike, log_step, traits, values_of

        t, x = self._pieces(ops)
        factor = 1.0
        if self.deviation.logs:
            shapes, values = traits(t), values_of(self.deviation)
            if self.deviation.runs:
                _, slopes = log_step(x, shapes, values, self.parameters["sharpness"])
                factor = float(np.exp(log_of_alike(self.deviation, slopes)))
            x = deviated(x, shapes, values)
        index, count = t.op.astype(int), len(ops)
        parts = (x.compute, x.memory, x.floor, x.host)
        stacked: Array = np.stack([np.bincount(index, weights=values, minlength=count) for values in parts], axis=1)
        return stacked * factor

    def to_json(self) -> dict[str, Any]:
        return {
            "specs": dict(self.specs),
            "software": self.software,
            "deviation": asdict(self.deviation),
            "parameters": dict(self.parameters),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PopulationTime:
        return cls(
            specs={name: float(value) for name, value in document["specs"].items()},
            software=str(document["software"]),
            deviation=_deviation(document["deviation"]),
            parameters=_complete({name: float(value) for name, value in document["parameters"].items()}),
        )


def _complete(parameters: dict[str, float]) -> dict[str, float]:
    """The parameters, with today's factors of software that had none of its own when the profile was made.

    Raises ProfileError where another one is missing: the model had fewer then.
    """
    current = load_population().parameters
    parameters = {**{name: value for name, value in current.items() if ":" in name}, **parameters}
    if missing := sorted(set(current) - set(parameters)):
        raise ProfileError(f"the profile has no parameter {missing[0]!r}: an older version made it; fit it again")
    return parameters


def _deviation(document: Mapping[str, Any]) -> Deviation:
    return Deviation(
        logs={name: float(value) for name, value in document["logs"].items()},
        covariance=tuple(tuple(float(value) for value in row) for row in document["covariance"]),
        noise=float(document["noise"]),
        runs=tuple(tuple(float(value) for value in row) for row in document.get("runs", ())),
        pull=tuple(float(value) for value in document.get("pull", ())),
    )


def population_watts(time: PopulationTime, precision: str, idle_w: float | None) -> dict[str, float]:
    """Watts of the board when idle, and while each component of the time is busy; each at least that before it.

    Arithmetic draws its joules per multiply-add at the rate that the power limit sustains.
    """
    s, p, share = time.specs, time.parameters, load_population().power
    board = s["power"]
    idle = idle_w if idle_w is not None else share["idle"] * board
    waiting = min(idle + share["waiting"] * board, board)
    joules = p["energy_mac"] * 1e-12 * (s["nm"] / 12.0) ** p["energy_nm"]
    half = (precision in _HALF or precision == FP8) and s["tensor"] > 0
    rate = s["half"] if half else s["fp32"]
    dynamic = min(joules * (p["energy_half"] / float(larger_units(s)) if half else 1.0) * rate, 0.85 * board)
    busy = min(waiting + share["compute"] * dynamic, board)
    memory = min(waiting + share["memory"] * board, board)
    return {"idle": idle, LAUNCH: waiting, MEMORY: memory, COMPUTE: max(busy, waiting)}


def population_time(hardware: Hardware, software: str = "eager") -> PopulationTime:
    return PopulationTime(dict(zip(SPECS, specs(hardware).tolist(), strict=True)), software)
