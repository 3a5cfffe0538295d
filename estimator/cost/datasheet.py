"""From a row of the hardware table to a profile: GPUs through the population model, CPUs through a roofline."""

from __future__ import annotations

from .bounds import ErrorModel
from .features import COMPUTE, LAUNCH, MEMORY
from .hardware import BOUNDARIES, Hardware
from .piece_time import larger_units
from .population import PopulationTime, load_population, population_time, population_watts
from .profile import PowerModel, Profile, Provenance
from .roofline import Roofline

# CPUs: shares of the peaks that whole training steps reach, seconds per op, and watts as shares of the TDP.
# Set on published runs of some CPUs and tested on others' (docs/method.md, benchmarks/datasheet.py).
_VECTOR_EFFICIENCY, _HALF_EFFICIENCY = 0.50, 0.40
_MEMORY_EFFICIENCY = 0.30
_LAUNCH_S = 5e-6
_WATT_SHARES = {COMPUTE: 1.00, MEMORY: 0.85, LAUNCH: 0.30}
_IDLE_SHARE = 0.15  # where the maker publishes no idle power
_CPU_ERROR = ErrorModel(low=0.45, high=3.5)

_TERA = 1e12


def datasheet_profile(hardware: Hardware) -> Profile:
    """The profile of hardware without measurements of its own. Software is unknown until `Profile.for_software`."""
    return _gpu_profile(hardware) if hardware.kind == "gpu" else _cpu_profile(hardware)


def _gpu_profile(hardware: Hardware) -> Profile:
    population = load_population()
    time = population_time(hardware)
    time_error, energy_error = population.error_models(time, software_known=False)
    return Profile(
        name=hardware.key,
        hardware=hardware.name,
        device=hardware.kind,
        framework="pytorch",
        time=time,
        power=_gpu_power(time, hardware, "float32"),
        half_power=_gpu_power(time, hardware, "float16"),
        time_error=time_error,
        energy_error=energy_error,
        provenance=Provenance(
            time="datasheet",
            power="datasheet",
            sources=(hardware.source, *population.sources),
            fitted_on=population.fitted_on,
            boundary=BOUNDARIES[hardware.kind],
            notes=(
                "specifications of the part, in a model fitted on public measurements of other GPUs",
                *_beyond(time),
            ),
        ),
        memory_bytes=int(hardware.memory_gb * 1e9) if hardware.memory_gb else None,
    )


def _beyond(time: PopulationTime) -> tuple[str, ...]:
    """What the measurements do not cover."""
    if larger_units(time.specs) == 1:
        return ()
    return (
        "no GPU with 16-bit matrix units as large as its was measured: they are assumed to reach the share of their "
        "peak that an H100's reach",
    )


def _gpu_power(time: PopulationTime, hardware: Hardware, precision: str) -> PowerModel:
    watts = population_watts(time, precision, hardware.idle_w)
    idle = watts["idle"]
    return PowerModel({name: watts[name] - idle for name in time.components}, static_w=idle)


def _cpu_profile(hardware: Hardware) -> Profile:
    watts = hardware.power_w
    idle = hardware.idle_w if hardware.idle_w is not None else _IDLE_SHARE * watts
    assumed = () if hardware.idle_w is not None else (f"idle power is assumed to be {_IDLE_SHARE:.0%} of {watts:g} W",)
    peaks = {"float32": hardware.fp32_tflops}
    if hardware.fp16_tflops:
        peaks["float16"] = hardware.fp16_tflops
    if hardware.bf16_tflops:
        peaks["bfloat16"] = hardware.bf16_tflops
    return Profile(
        name=hardware.key,
        hardware=hardware.name,
        device=hardware.kind,
        framework="pytorch",
        time=Roofline(
            macs_per_s={name: tflops * _TERA / 2 for name, tflops in peaks.items()},  # vendors count two per pair
            bytes_per_s=hardware.bandwidth_gb_per_s * 1e9,
            compute_efficiency={
                "float32": _VECTOR_EFFICIENCY,
                "float16": _HALF_EFFICIENCY,
                "bfloat16": _HALF_EFFICIENCY,
            },
            memory_efficiency=_MEMORY_EFFICIENCY,
            launch_s=_LAUNCH_S,
        ),
        power=PowerModel({name: max(share * watts - idle, 0.0) for name, share in _WATT_SHARES.items()}, static_w=idle),
        time_error=_CPU_ERROR,
        energy_error=_CPU_ERROR,
        provenance=Provenance(
            time="datasheet",
            power="datasheet",
            sources=(hardware.source,),
            boundary=BOUNDARIES[hardware.kind],
            notes=(
                f"{_VECTOR_EFFICIENCY:.0%} of peak arithmetic and {_MEMORY_EFFICIENCY:.0%} of peak memory bandwidth "
                "are assumed",
                *assumed,
            ),
        ),
    )
