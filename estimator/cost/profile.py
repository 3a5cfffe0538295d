"""A piece of hardware with a framework: how long ops take and what that draws (eq. 2.2.1)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..base.errors import HardwareError, JoulecastError, ProfileError
from ..base.files import read_text, write_json
from ..base.notes import Note, Topic, Weight
from ..base.units import JOULES_PER_KWH
from ..trace.workload import Op, Workload
from .bounds import ErrorModel, Range
from .estimate import STARTUP, Estimate, Share, shares, towards, with_parts
from .profile_notes import engine, notes_on, startup_notes
from .software import TRAINING_STACKS, check_software

SCHEMA = "joulecast.profile/1"
_HALF = ("float16", "bfloat16", "float8")  # FP8 draws the watts of 16 bit: twice the rate, half the energy each
STATIC = "static"
NINETY_PERCENT = 1.645
"""Standard deviations on either side of the middle that hold 90 % of a normal distribution."""
LEFT_OUT_DECADES = 0.3
"""Networks left out of a fit lie about this far outside of the others' range: bounds hold up to there."""
LAYER_OPS = "layer_ops"
"""The range of ops per record, where single layers were measured: more ops are a sum of layers, not outside."""
_ALONE_DECADES = 0.7
"""What measuring layers alone, from hot caches, counts as: they undercount a network by 12 to 50 %."""
_OTHER_ENGINE = 0.7
"""The weight of the population where a profile was measured with another framework or other software."""
_LOST_DECADES = 0.7  # this far outside of what was measured, and what others left out covered, it says nothing
LABELS = ("measured", "modelled", "datasheet", "probed", "given", "assumed")

Array = np.ndarray[Any, np.dtype[np.float64]]


class TimeModel(Protocol):
    """Seconds of each op. `form` names the class in a profile's JSON."""

    @property
    def form(self) -> str: ...

    @property
    def components(self) -> tuple[str, ...]: ...

    def seconds(self, ops: Sequence[Op]) -> Array:
        """Shape (ops, components): the seconds of each op record, its count included, split by the
        component of eq. 2.2.1 that is active."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Eq. 2.2.1: P = sum_i AR_i * w_i + P_s, with AR_i = component i's share of the step's time.

    `weights_w` and `static_w` (P_s) are watts, none negative.
    """

    weights_w: Mapping[str, float]
    static_w: float

    def __post_init__(self) -> None:
        bad = {name: watts for name, watts in {**self.weights_w, STATIC: self.static_w}.items() if not watts >= 0}
        if bad:
            raise ProfileError(f"power weights {bad} are not watts of 0 or more; fit the profile again")

    def watts(self, components: Sequence[str]) -> Array:
        """w_i in the order of `components`."""
        missing = [name for name in components if name not in self.weights_w]
        if missing:
            raise ProfileError(f"power weights lack {', '.join(missing)}; fit the profile again")
        return np.array([self.weights_w[name] for name in components])


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the figures of a profile come from."""

    time: str  # "measured" or "datasheet"
    power: str  # "measured", "modelled" or "datasheet"
    sources: tuple[str, ...]
    fitted_on: str = ""
    created: str = ""
    boundary: str = ""  # what the energy covers: "GPU board and CPU packages", ...
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.time not in LABELS or self.power not in LABELS:
            raise ProfileError(f"provenance {self.time!r}/{self.power!r}; each must be one of {', '.join(LABELS)}")
        if not self.sources:
            raise ProfileError("a profile without a source; say where its figures come from")


@dataclass(frozen=True, slots=True)
class Profile:
    """One piece of hardware with one framework, ready to predict. `load_profile` and `fit` make it."""

    name: str
    hardware: str
    device: str  # "cpu" or "gpu"
    framework: str
    time: TimeModel
    power: PowerModel
    time_error: ErrorModel
    energy_error: ErrorModel
    provenance: Provenance
    memory_bytes: int | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()  # op kinds that were fitted; empty: all
    scores: Mapping[str, float] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""  # of the arithmetic that was fitted; empty: any
    startup_s: float = 0.0  # once a run, at P_s: what a run of no steps would take
    software: str = ""  # "" where it is not known
    half_power: PowerModel | None = None  # in 16-bit arithmetic, where that differs

    def for_software(self, software: str | None) -> Profile:
        """The profile for stated software (one of `SOFTWARE`), with the narrower intervals of knowing it.

        None leaves it as it is. Raises ProfileError for software that has no name.
        """
        from .population import PopulationTime, load_population

        if software is None:
            return self
        check_software(software)
        if not isinstance(self.time, PopulationTime):
            return replace(self, software=software)
        time = replace(self.time, software=software)
        population = load_population()
        time_error, energy_error = population.error_models(time, software_known=True)
        # What was added to the energy's bounds stays: watts that are assumed are as uncertain as before.
        _, plain = population.error_models(self.time, software_known=bool(self.software))
        energy_error = replace(
            energy_error,
            low=energy_error.low * self.energy_error.low / plain.low,
            high=energy_error.high * self.energy_error.high / plain.high,
        )
        return replace(self, time=time, time_error=time_error, energy_error=energy_error, software=software)

    def for_precision(self, precision: str) -> Profile:
        """The profile with the watts of arithmetic in `precision`."""
        if self.half_power is None or precision not in _HALF:
            return self
        return replace(self, power=self.half_power, half_power=None)

    @property
    def runs_fp8(self) -> bool:
        """Whether the device has units for 8-bit products. What was measured in 16 bits follows its datasheet then."""
        from .population import PopulationTime

        known: Any = self if isinstance(self.time, PopulationTime) else self._population()
        return known is not None and bool(known.time.specs["fp8"])

    def predict(self, work: Workload, *, steps: int = 1, devices: int = 1, software: str | None = None) -> Estimate:
        """The cost of `steps` steps of `work`, with `software` as `for_software` takes it.

        With `devices` > 1, each device does `work` in every step (data parallel): as long, and that
        many times the energy. Communication between devices is not modelled, and a warning says so.
        """
        if steps < 0 or devices < 1:
            raise JoulecastError(f"steps {steps}, devices {devices}; give 0 or more steps, 1 or more devices")
        if software is not None and software != self.software:
            return self.for_software(software).predict(work, steps=steps, devices=devices)
        if self.half_power and work.precision in _HALF:
            return self.for_precision(work.precision).predict(work, steps=steps, devices=devices)
        own = self._predict(work, steps, devices)
        weight = self._distance(work)
        if weight <= 0 or not steps:
            return own
        # Steps move towards the population; the start-up does not, so that the time grows in a straight line.
        running = replace(self, startup_s=0.0)._predict(work, steps, devices)
        moved = towards(running, self._population().predict(work, steps=steps, devices=devices), weight)
        moved = _started(moved, running, own)
        text = (
            f"this run differs from what {self.name} was measured on: {weight:.0%} of the prediction comes from the "
            "population of GPUs, 0 % would be the profile's own"
        )
        return replace(moved, warnings=(*moved.warnings, Note(text, Topic.PROFILE, Weight.ROUGH)))

    def _distance(self, work: Workload) -> float:
        """How far `work` is from what was measured, 0 to 1: precision, framework, software, size and kinds of ops.

        Each counts as a chance that the measurements say nothing; 0 for what is no measurement of a known GPU.
        """
        if self.provenance.time != "measured" or self._population() is None:
            return 0.0
        other_engine = engine(work.framework) != engine(self.framework)
        if self.software:  # as stated; a profile of TensorFlow knows TensorFlow
            other_engine = (self.software == "tensorflow") != (engine(self.framework) == "tensorflow")
        tuned = self.software in (*TRAINING_STACKS, "channels-last", "compiled", "ngc", "vendor-tuned")
        outside = self._decades_outside(work)
        doubts = (
            1.0 if self.precision and work.precision != self.precision else 0.0,
            _OTHER_ENGINE if other_engine else 0.0,
            _OTHER_ENGINE if tuned else 0.0,
            min(max(outside - LEFT_OUT_DECADES, 0.0) / _LOST_DECADES, 1.0),
        )
        return 1.0 - math.prod(1.0 - doubt for doubt in doubts)

    def _population(self) -> Any:
        """The profile of the same GPU from its datasheet, or None where the table does not have it."""
        from .population import PopulationTime

        if self.device != "gpu" or isinstance(self.time, PopulationTime):
            return None
        return _datasheet_of(self.hardware, self.name, self.software)

    def _predict(self, work: Workload, steps: int, devices: int) -> Estimate:
        seconds = self.time.seconds(work.ops)
        joules = seconds * (self.power.watts(self.time.components) + self.power.static_w)
        step_s, step_j = float(seconds.sum()), float(joules.sum()) * devices
        outside = self._decades_outside(work)
        doubt = max(outside - LEFT_OUT_DECADES, 0.0) + self._never_fitted(work.ops, seconds)
        doubt += _ALONE_DECADES if self.is_sum_of_layers(work) else 0.0
        ops = effective_ops(work.ops, seconds.sum(axis=1))
        time_error, energy_error = self._errors(work)
        startup_s = self.startup_s if steps else 0.0
        startup_kwh = startup_s * self.power.static_w * devices / JOULES_PER_KWH
        kwh = step_j * steps / JOULES_PER_KWH + startup_kwh
        start = shares({STARTUP: startup_s * devices}, {STARTUP: startup_kwh}) if startup_s else ()
        return Estimate(
            steps=steps,
            seconds=time_error.interval(step_s * steps + startup_s, doubt, ops),
            energy_kwh=energy_error.interval(kwh, doubt, ops),
            breakdown=with_parts(self._breakdown(seconds * devices, steps), start),
            layers=with_parts(_by_layer(work.ops, seconds.sum(axis=1), joules.sum(axis=1) * devices, steps), start),
            profile=self.name,
            time_source=self.provenance.time,
            power_source=self.provenance.power,
            devices=devices,
            warnings=(*notes_on(self, work, devices), *startup_notes(startup_s, step_s * steps)),
        )

    def _errors(self, work: Workload) -> tuple[ErrorModel, ErrorModel]:
        """Bounds of time and energy. After a few runs they are wider the less `work` is like what ran."""
        from .population import PopulationTime

        spread = self.time.log_spread(work.ops) if isinstance(self.time, PopulationTime) else None
        if spread is None:
            return self.time_error, self.energy_error
        reach, typical = NINETY_PERCENT * spread, math.log(self.time_error.high)
        power = math.sqrt(max(math.log(self.energy_error.high) ** 2 - typical**2, 0.0))
        whole = math.hypot(reach, power)
        return (
            replace(self.time_error, low=math.exp(-reach), high=math.exp(reach)),
            replace(self.energy_error, low=math.exp(-whole), high=math.exp(whole)),
        )

    def _breakdown(self, seconds: Array, steps: int) -> tuple[Share, ...]:
        by_component = seconds.sum(axis=0) * steps
        watts = self.power.watts(self.time.components)
        time = dict(zip(self.time.components, by_component.tolist(), strict=True))
        energy = {name: time[name] * watt / JOULES_PER_KWH for name, watt in zip(time, watts.tolist(), strict=True)}
        whole = float(by_component.sum())
        time[STATIC], energy[STATIC] = whole, whole * self.power.static_w / JOULES_PER_KWH
        return shares(time, energy)

    def _never_fitted(self, ops: Sequence[Op], seconds: Array) -> float:
        """The share of the time that goes to kinds never fitted; it counts like as many powers of ten outside."""
        total = float(seconds.sum())
        if not self.kinds or total <= 0:
            return 0.0
        return float(seconds[[op.kind not in self.kinds for op in ops]].sum()) / total

    def _decades_outside(self, work: Workload) -> float:
        return max((decades for decades, _ in self.outside_by_feature(work).values()), default=0.0)

    def is_sum_of_layers(self, work: Workload) -> bool:
        """Whether single layers were measured, and `work` is more than one of them."""
        return LAYER_OPS in self.ranges and features(work)["ops"] > self.ranges[LAYER_OPS].high

    def outside_by_feature(self, work: Workload) -> dict[str, tuple[float, float]]:
        """Powers of ten by which the workload lies outside of each range, and its value there.

        Of ranges of single ops, the mean by the time that the ops take, and the value furthest outside.
        """
        values, result = features(work), {}
        shares = self.time.seconds(work.ops).sum(axis=1) if LAYER_OPS in self.ranges else None
        for name, bound in self.ranges.items():
            if name == LAYER_OPS:
                continue
            if name in values:
                result[name] = (bound.decades_outside(values[name]), values[name])
            elif work.ops and shares is not None:
                own = [op_features(op)[name] for op in work.ops]
                decades = np.array([bound.decades_outside(value) for value in own])
                mean = float(decades @ shares / shares.sum()) if shares.sum() > 0 else 0.0
                result[name] = (mean, own[int(np.argmax(decades * shares))])
        return result

    # -- as a document ---------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "hardware": self.hardware,
            "device": self.device,
            "framework": self.framework,
            "provenance": asdict(self.provenance),
            "power": _power_json(self.power),
            "time": {"form": self.time.form, **self.time.to_json()},
            "time_error": asdict(self.time_error),
            "energy_error": asdict(self.energy_error),
            "memory_bytes": self.memory_bytes,
            "ranges": {name: [bound.low, bound.high] for name, bound in self.ranges.items()},
            "kinds": list(self.kinds),
            "scores": dict(self.scores),
            "host": dict(self.host),
            "precision": self.precision,
            "startup_s": self.startup_s,
            **({"software": self.software} if self.software else {}),
            **({"half_power": _power_json(self.half_power)} if self.half_power else {}),
        }

    def save(self, path: str | Path) -> Path:
        """Writes the profile as JSON, whole or not at all."""
        return write_json(Path(path), self.to_json())

    @classmethod
    def from_json(cls, document: Mapping[str, Any], origin: str = "profile") -> Profile:
        """Raises ProfileError for a document of another schema or with a part missing or wrong."""
        schema = document.get("schema") if isinstance(document, Mapping) else None
        if schema is None:
            raise ProfileError(f"{origin} is not a profile of joulecast; `joulecast profiles` lists the available ones")
        if schema != SCHEMA:
            raise ProfileError(
                f"{origin} has schema {schema!r}, this version reads {SCHEMA!r}; "
                "update joulecast or calibrate again with `measure`"
            )
        try:
            return cls(
                name=str(document["name"]),
                hardware=str(document["hardware"]),
                device=str(document["device"]),
                framework=str(document["framework"]),
                time=time_model_from_json(document["time"]),
                power=_power(document["power"]),
                time_error=ErrorModel(**document["time_error"]),
                energy_error=ErrorModel(**document["energy_error"]),
                provenance=_provenance(document["provenance"]),
                memory_bytes=document.get("memory_bytes"),
                ranges={name: Range(*bounds) for name, bounds in document.get("ranges", {}).items()},
                kinds=tuple(document.get("kinds", ())),
                scores=dict(document.get("scores", {})),
                host=dict(document.get("host", {})),
                precision=str(document.get("precision", "")),
                startup_s=float(document.get("startup_s", 0.0)),
                software=str(document.get("software", "")),
                half_power=_power(document["half_power"]) if document.get("half_power") else None,
            )
        except ProfileError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProfileError(f"{origin} is corrupt ({error!r}); calibrate again with `measure`") from error


def _started(moved: Estimate, running: Estimate, own: Estimate) -> Estimate:
    """`moved` with the start-up by which `own` exceeds `running`."""
    startup_s = own.seconds.value - running.seconds.value
    startup_kwh = own.energy_kwh.value - running.energy_kwh.value
    start = tuple(part for part in own.breakdown if part.name == STARTUP)
    return replace(
        moved,
        seconds=moved.seconds * (1.0 + startup_s / moved.seconds.value),
        energy_kwh=moved.energy_kwh * (1.0 + startup_kwh / moved.energy_kwh.value),
        breakdown=with_parts(moved.breakdown, start),
        layers=with_parts(moved.layers, start),
    )


def effective_ops(ops: Sequence[Op], seconds: Array) -> float:
    """How many different ops `seconds`, shape (ops,), is spread over: (sum s)^2 / sum s^2.

    Ops of one name and shape are one, since they are right or wrong together. Some value of at least 1.
    """
    alike: dict[tuple[object, ...], float] = {}
    for op, spent in zip(ops, seconds.tolist(), strict=True):
        what = (op.kind, op.phase, op.name, *sorted(op.dims.items()))
        alike[what] = alike.get(what, 0.0) + spent
    total = sum(alike.values())
    return total**2 / sum(spent**2 for spent in alike.values()) if total > 0 else 1.0


def features(work: Workload) -> dict[str, float]:
    """What `ranges` are kept of: one step's multiply-adds, bytes moved, ops and batch size."""
    return {
        "flops": float(work.flops),
        "bytes": float(work.bytes_moved),
        "ops": float(sum(op.count for op in work.ops)),
        "batch_size": float(work.batch_size),
    }


def op_features(op: Op) -> dict[str, float]:
    """What `ranges` are kept of where single layers were measured: an op's multiply-adds and bytes moved."""
    return {"op_flops": float(op.flops), "op_bytes": float(op.bytes_moved)}


def _by_layer(ops: Sequence[Op], seconds: Array, joules: Array, steps: int) -> tuple[Share, ...]:
    time: dict[str, float] = {}
    energy: dict[str, float] = {}
    for op, op_s, op_j in zip(ops, seconds.tolist(), joules.tolist(), strict=True):
        time[op.layer] = time.get(op.layer, 0.0) + op_s * steps
        energy[op.layer] = energy.get(op.layer, 0.0) + op_j * steps / JOULES_PER_KWH
    return shares(time, energy)


@lru_cache(maxsize=64)
def _datasheet_of(hardware: str, name: str, software: str) -> Any:
    from .datasheet import datasheet_profile
    from .names import find_hardware

    for text in (hardware, name):
        try:
            found = find_hardware(text)
        except HardwareError:
            continue
        return datasheet_profile(found).for_software(software or None) if found.kind == "gpu" else None
    return None


def _power_json(power: PowerModel) -> dict[str, Any]:
    return {"weights_w": dict(power.weights_w), "static_w": power.static_w}


def _power(document: Mapping[str, Any]) -> PowerModel:
    return PowerModel({name: float(w) for name, w in document["weights_w"].items()}, float(document["static_w"]))


def _provenance(document: Mapping[str, Any]) -> Provenance:
    lists = {name: tuple(document[name]) for name in ("sources", "notes") if name in document}
    return Provenance(**{**document, **lists})


def time_model_from_json(document: Mapping[str, Any]) -> TimeModel:
    """The time model that `document["form"]` names."""
    form = document["form"]
    values = {key: value for key, value in document.items() if key != "form"}
    if form == "curves":
        from .curves import Curves

        return Curves.from_json(values)
    if form == "population":
        from .population import PopulationTime

        return PopulationTime.from_json(values)
    if form == "roofline":
        from .roofline import Roofline

        return Roofline.from_json(values)
    raise ProfileError(f"time model {form!r} is not known; update joulecast or calibrate again")


def read_profile(path: str | Path) -> Profile:
    """The profile in a JSON file. Raises ProfileError when it is missing, corrupt or newer."""
    path = Path(path)
    try:
        document = json.loads(read_text(path))
    except FileNotFoundError:
        raise ProfileError(
            f"profile file {path} does not exist; `joulecast profiles` lists the available ones"
        ) from None
    except IsADirectoryError:
        raise ProfileError(f"profile {path} is a directory; name the JSON file in it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ProfileError(f"profile {path} cannot be read ({error}); calibrate again with `measure`") from error
    return Profile.from_json(document, origin=f"profile {path}")
