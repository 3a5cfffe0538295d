"""The population model: how long ops take on hardware that is known by its specifications alone.

One set of parameters, fitted on published measurements of many devices, serves all hardware
(docs/method.md). A device enters through its datasheet: arithmetic rates, bandwidth, multiprocessors, cache,
power limit, process. What is particular to it is a small deviation, zero until it has been measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any, ClassVar

import numpy as np

from ..base.errors import ProfileError
from ..trace.fp8 import FP8
from ..trace.workload import Op
from .bounds import ErrorModel
from .features import COMPUTE, LAUNCH, MEMORY, Array
from .hardware import Hardware
from .piece_time import TF32_EVERYWHERE, Seconds, by_cudnn, larger_units, piece_seconds, software_factors, step_seconds
from .pieces import HALF_TYPES, Columns, pieces
from .software import check_software
from .stacks import load_stacks

SCHEMA = "joulecast.population/1"


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


# -- What was fitted -----------------------------------------------------------------------------------------

_LITTLE_MEASURED = frozenset({"compiled"})
"""Software with few measured steps, as uncertain as software that is not stated."""


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
            tf32=np.ones(size) if self.software in TF32_EVERYWHERE else by_cudnn(t.cls).astype(float),
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
    half = (precision in HALF_TYPES or precision == FP8) and s["tensor"] > 0
    rate = s["half"] if half else s["fp32"]
    dynamic = min(joules * (p["energy_half"] / float(larger_units(s)) if half else 1.0) * rate, 0.85 * board)
    busy = min(waiting + share["compute"] * dynamic, board)
    memory = min(waiting + share["memory"] * board, board)
    return {"idle": idle, LAUNCH: waiting, MEMORY: memory, COMPUTE: max(busy, waiting)}


def population_time(hardware: Hardware, software: str = "eager") -> PopulationTime:
    return PopulationTime(dict(zip(SPECS, specs(hardware).tolist(), strict=True)), software)
