"""From a row of the hardware table to a profile: a roofline with stated efficiencies."""

from __future__ import annotations

from collections.abc import Mapping

from .bounds import ErrorModel
from .hardware import BOUNDARIES, Hardware
from .profile import PowerModel, Profile, Provenance
from .roofline import COMPUTE, LAUNCH, MEMORY, Roofline

# Shares of the peaks that whole training steps reach, seconds that the host takes to issue an op, and
# watts as shares of the board power or TDP while an op is bound by arithmetic, by memory, or waits for
# the host. Set on published runs of some hardware and judged on others': docs/method.md says which,
# benchmarks/datasheet.py scores them.
_VECTOR_EFFICIENCY = {"gpu": 0.90, "cpu": 0.50}
_TF32_EFFICIENCY = 0.30
_HALF_EFFICIENCY = 0.40  # float16 and bfloat16 on matrix units
_MEMORY_EFFICIENCY = {"gpu": 0.60, "cpu": 0.30}
_LAUNCH_S = {"gpu": 75e-6, "cpu": 5e-6}
_WATT_SHARES = {COMPUTE: 1.00, MEMORY: 0.85, LAUNCH: 0.30}
_IDLE_SHARE = 0.15  # where the maker publishes no idle power

# Bounds of measured / predicted that hold for 90 % of the published runs that nothing was set on.
_TIME_ERROR = {"gpu": ErrorModel(low=0.45, high=4.0), "cpu": ErrorModel(low=0.45, high=3.5)}
_ENERGY_ERROR = {"gpu": ErrorModel(low=0.45, high=2.5), "cpu": ErrorModel(low=0.45, high=3.5)}

_TERA = 1e12


def datasheet_profile(hardware: Hardware) -> Profile:
    """The profile of hardware that nobody has measured: every figure from its datasheet.

    Time is a roofline (arithmetic or traffic, whichever takes longer, plus launches that nothing
    hides), power is eq. 2.2.1 with weights that are stated shares of the board power or TDP. The
    intervals are as wide as published runs miss these predictions.
    """
    watts = hardware.power_w
    idle = hardware.idle_w if hardware.idle_w is not None else _IDLE_SHARE * watts
    assumed = () if hardware.idle_w is not None else (f"idle power is assumed to be {_IDLE_SHARE:.0%} of {watts:g} W",)
    return Profile(
        name=hardware.key,
        hardware=hardware.name,
        device=hardware.kind,
        framework="pytorch",
        time=_roofline(hardware),
        power=PowerModel({name: max(share * watts - idle, 0.0) for name, share in _WATT_SHARES.items()}, static_w=idle),
        time_error=_TIME_ERROR[hardware.kind],
        energy_error=_ENERGY_ERROR[hardware.kind],
        provenance=Provenance(
            time="datasheet",
            power="datasheet",
            sources=(hardware.source,),
            boundary=BOUNDARIES[hardware.kind],
            notes=(
                f"{_shown(_efficiencies(hardware))} of peak arithmetic and "
                f"{_MEMORY_EFFICIENCY[hardware.kind]:.0%} of peak memory bandwidth are assumed",
                *assumed,
            ),
        ),
        memory_bytes=int(hardware.memory_gb * 1e9) if hardware.kind == "gpu" and hardware.memory_gb else None,
    )


def _roofline(hardware: Hardware) -> Roofline:
    peaks = {key: tflops * _TERA / 2 for key, tflops in _peak_tflops(hardware).items()}
    return Roofline(
        macs_per_s=peaks,  # vendors count a multiply and an add as two
        bytes_per_s=hardware.bandwidth_gb_per_s * 1e9,
        compute_efficiency=_efficiencies(hardware),
        memory_efficiency=_MEMORY_EFFICIENCY[hardware.kind],
        launch_s=_LAUNCH_S[hardware.kind],
    )


def _peak_tflops(hardware: Hardware) -> dict[str, float]:
    peaks = {"float32": hardware.fp32_tflops}
    if hardware.tf32_tflops and hardware.tf32_tflops > hardware.fp32_tflops:
        peaks["float32.conv"] = hardware.tf32_tflops  # cuDNN's default in PyTorch
    if hardware.fp16_tflops:
        peaks["float16"] = hardware.fp16_tflops
    if hardware.bf16_tflops:
        peaks["bfloat16"] = hardware.bf16_tflops
    return peaks


def _efficiencies(hardware: Hardware) -> dict[str, float]:
    shares = {
        "float32": _VECTOR_EFFICIENCY[hardware.kind],
        "float32.conv": _TF32_EFFICIENCY,
        "float16": _HALF_EFFICIENCY,
        "bfloat16": _HALF_EFFICIENCY,
    }
    return {key: shares[key] for key in _peak_tflops(hardware)}


_LABELS = {"float32": "FP32", "float32.conv": "TF32", "float16": "FP16", "bfloat16": "BF16"}


def _shown(efficiencies: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} ({_LABELS[key]})" for key, share in efficiencies.items())
