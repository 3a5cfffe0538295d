"""From a row of the hardware table to a profile: a roofline with stated efficiencies."""

from __future__ import annotations

from .hardware import Hardware
from .profile import ErrorModel, PowerModel, Profile, Provenance
from .roofline import COMPUTE, LAUNCH, MEMORY, Roofline

# Shares of the peaks that whole training steps reach, and watts as shares of the board power or TDP
# while an op is bound by arithmetic, by memory, or waits for its launch. Set from published runs on
# other hardware than they are judged on; docs/method.md says which, benchmarks/datasheet.py scores them.
_COMPUTE_EFFICIENCY = {"gpu": 0.45, "cpu": 0.55}
_MEMORY_EFFICIENCY = {"gpu": 0.60, "cpu": 0.40}
_LAUNCH_S = {"gpu": 8e-6, "cpu": 5e-6}
_WATT_SHARES = {COMPUTE: 0.90, MEMORY: 0.70, LAUNCH: 0.35}
_IDLE_SHARE = 0.15  # where the maker publishes no idle power

# Bounds of measured / predicted that hold for 90 % of the published runs in benchmarks/datasheet.py.
_TIME_ERROR = ErrorModel(low=0.4, high=4.0)
_ENERGY_ERROR = ErrorModel(low=0.35, high=4.0)

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
    boundary = "the GPU board, without its host" if hardware.kind == "gpu" else "the CPU package, without memory"
    return Profile(
        name=hardware.key,
        hardware=hardware.name,
        device=hardware.kind,
        framework="pytorch",
        time=_roofline(hardware),
        power=PowerModel({name: max(share * watts - idle, 0.0) for name, share in _WATT_SHARES.items()}, static_w=idle),
        time_error=_TIME_ERROR,
        energy_error=_ENERGY_ERROR,
        provenance=Provenance(
            time="datasheet",
            power="datasheet",
            sources=(hardware.source,),
            boundary=boundary,
            notes=(
                f"{_COMPUTE_EFFICIENCY[hardware.kind]:.0%} of peak arithmetic and "
                f"{_MEMORY_EFFICIENCY[hardware.kind]:.0%} of peak memory bandwidth are assumed",
                *assumed,
            ),
        ),
        memory_bytes=int(hardware.memory_gb * 1e9) if hardware.kind == "gpu" and hardware.memory_gb else None,
    )


def _roofline(hardware: Hardware) -> Roofline:
    macs = {"float32": hardware.fp32_tflops * _TERA / 2}  # vendors count a multiply and an add as two
    if hardware.tf32_tflops:
        macs["float32.conv"] = hardware.tf32_tflops * _TERA / 2  # cuDNN's default in PyTorch
    if hardware.fp16_tflops:
        macs["float16"] = hardware.fp16_tflops * _TERA / 2
    if hardware.bf16_tflops:
        macs["bfloat16"] = hardware.bf16_tflops * _TERA / 2
    return Roofline(
        macs_per_s=macs,
        bytes_per_s=hardware.bandwidth_gb_per_s * 1e9,
        compute_efficiency=_COMPUTE_EFFICIENCY[hardware.kind],
        memory_efficiency=_MEMORY_EFFICIENCY[hardware.kind],
        launch_s=_LAUNCH_S[hardware.kind],
    )
