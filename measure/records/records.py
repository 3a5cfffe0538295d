"""The document of one measured run: where it ran, what ran, its windows, and what disturbed them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ...estimator.base.errors import JoulecastError
from ...estimator.cost.host import detect_host
from ...estimator.fit.observation import Observation
from ...estimator.trace.workload import Workload
from ..meters.reading import Reading

SCHEMA = "joulecast.record/1"
STATUSES = ("complete", "interrupted", "failed", "running")
MODELLED_FLAG = "modelled-power"

# Two hosts are the same machine to a profile if these are equal: the same parts and as many threads.
_IDENTITY = ("device", "cpu_name", "cpu_cores", "gpus", "machine", "threads")
_LIBRARIES = ("joulecast", "torch", "numpy", "keras", "tensorflow", "nvidia-ml-py")


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """`steps` steps in `seconds` s on the monotonic clock, with the meter's reading if there is one.

    `flags` say what disturbed it. `figures` contain other values (loss, accuracy, ...).
    """

    name: str
    steps: int
    seconds: float
    reading: Reading | None = None
    flags: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        reading = None if self.reading is None else self.reading.to_json()
        return {
            "name": self.name,
            "steps": self.steps,
            "seconds": self.seconds,
            "reading": reading,
            "flags": list(self.flags),
            "figures": dict(self.figures),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MeasuredWindow:
        reading = document["reading"]
        return cls(
            str(document["name"]),
            int(document["steps"]),
            float(document["seconds"]),
            None if reading is None else Reading.from_json(reading),
            tuple(document["flags"]),
            dict(document["figures"]),
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One run. `kind` is "case" (of the suite), "idle", "training" or "command".

    `run` is the same for all records of one `measure`. `meter` contains its name, domains and notes.
    `op_seconds` are those of one step, in the order of `workload.ops`.
    """

    id: str
    kind: str
    name: str
    created: str  # ISO 8601, UTC
    status: str
    host: Mapping[str, Any]
    windows: tuple[MeasuredWindow, ...]
    run: str = ""
    family: str = ""
    meter: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    workload: Workload | None = None
    op_seconds: tuple[float | None, ...] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise JoulecastError(f"record status is {self.status!r}; give one of {', '.join(STATUSES)}")

    @property
    def seconds(self) -> float:
        return sum(window.seconds for window in self.windows)

    @property
    def steps(self) -> int:
        return sum(window.steps for window in self.windows)

    @property
    def disturbed(self) -> bool:
        """Whether anything disturbed one of its windows."""
        return any(window.flags for window in self.windows)

    @property
    def energy_j(self) -> float | None:
        """The sum of all windows; None if one of them has no energy."""
        energies = [None if one.reading is None else one.reading.energy_j for one in self.windows]
        known = [energy for energy in energies if energy is not None]
        return sum(known) if known and len(known) == len(energies) else None

    @property
    def label(self) -> str:
        """The label of the energy: "measured", "modelled" or "missing"."""
        if self.energy_j is None:
            return "missing"
        labels = {one.reading.label for one in self.windows if one.reading is not None}
        return "measured" if labels == {"measured"} else "modelled"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "created": self.created,
            "status": self.status,
            "run": self.run,
            "family": self.family,
            "host": dict(self.host),
            "meter": dict(self.meter),
            "settings": dict(self.settings),
            "figures": dict(self.figures),
            "flags": list(self.flags),
            "windows": [window.to_json() for window in self.windows],
            "workload": None if self.workload is None else self.workload.to_json(),
            "op_seconds": None if self.op_seconds is None else list(self.op_seconds),
        }

    @classmethod
    def from_json(cls, document: Any, origin: str = "record") -> Record:
        """Raises JoulecastError for a document of another schema or with a part missing or wrong."""
        schema = document.get("schema") if isinstance(document, Mapping) else None
        if schema != SCHEMA:
            raise JoulecastError(
                f"{origin} has schema {schema!r}, this version reads {SCHEMA!r}; update joulecast or delete it"
            )
        try:
            values = {key: value for key, value in document.items() if key != "schema"}
            values["windows"] = tuple(map(MeasuredWindow.from_json, values["windows"]))
            values["flags"] = tuple(values["flags"])
            if values["workload"] is not None:
                values["workload"] = Workload.from_json(values["workload"])
            if values["op_seconds"] is not None:
                values["op_seconds"] = tuple(values["op_seconds"])
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError, JoulecastError) as error:
            raise JoulecastError(f"{origin} is corrupt ({error!r}); delete it and measure again") from error

    @property
    def _gpus_metered(self) -> bool:
        return all(one.reading is not None and one.reading.gpu_energy_uj is not None for one in self.windows)

    def observation(self) -> Observation | None:
        """The record as evidence for `fit`; None if it has no steps of a workload.

        Only measured energy is used; for a GPU, only if the GPU itself was metered.
        """
        if self.workload is None or self.steps == 0 or self.status == "failed":
            return None
        measured = self.label == "measured" and (self.host.get("device") != "gpu" or self._gpus_metered)
        return Observation(
            workload=self.workload,
            steps=self.steps,
            seconds=self.seconds,
            energy_j=self.energy_j if measured else None,
            op_seconds=self.op_seconds,
            meter=str(self.meter.get("name", "")) if measured else None,
            hardware=hardware_name(self.host),
            framework=self.workload.framework,
            family=self.family or self.workload.name,
            host=self.host,
            flags=self.flags,
        )


def describe_host(threads: int, device: str = "cpu", root: Path = Path("/")) -> dict[str, Any]:
    """This machine as a record describes it: parts, operating system, governor, driver, library versions.

    `threads`: how many the framework computes with. `device`: "cpu" or "gpu".
    """
    host = detect_host(root)
    return {
        "node": platform.node(),
        "device": device,
        "cpu_name": host.cpu_name,
        "cpu_cores": host.cpu_cores,
        "threads": threads,
        "gpus": [gpu.name for gpu in host.gpus],
        "gpu_driver": _text(root / "proc/driver/nvidia/version").partition("\n")[0],
        "os": host.os,
        "machine": host.machine,
        "hypervisor": host.hypervisor,
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "microcode": _text(root / "sys/devices/system/cpu/cpu0/microcode/version"),
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "environment": {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ},
    }


def same_machine(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the measurements of two hosts can be fitted together."""
    return all(first.get(name) == second.get(name) for name in _IDENTITY)


def hardware_name(host: Mapping[str, Any]) -> str:
    """What was measured: "NVIDIA RTX 3090", or "AMD EPYC, 2 threads" for a CPU."""
    gpus = host.get("gpus") or []
    if gpus and host.get("device") == "gpu":
        return str(gpus[0]) if len(gpus) == 1 else f"{len(gpus)} x {gpus[0]}"
    threads = host.get("threads", 1)
    return f"{host.get('cpu_name') or 'unknown CPU'}, {threads} thread{'s' if threads != 1 else ''}"


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def describe_meter(meter: Any) -> dict[str, Any]:
    """The name, domains and notes of a meter as a record stores them."""
    domains = [asdict(domain) for domain in meter.domains]
    return {"name": meter.name, "domains": domains, "notes": list(meter.notes)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
