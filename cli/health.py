"""What this machine has for joulecast: meters, hardware, profiles, extras and caches. Imports no framework."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ..estimator.answer import figures
from ..estimator.base.digits import counted
from ..estimator.base.errors import JoulecastError
from ..estimator.base.folders import cache_folder, profiles_folder, store_folder
from ..estimator.cost.hardware import user_file
from ..estimator.cost.host import Host, detect_host
from ..estimator.cost.library import calibrations, load_profile

SCHEMA = "joulecast.doctor/1"
OK, MISSING, OPTIONAL, FACT = "ok", "missing", "optional", ""

# Extra of pyproject.toml: the modules that it brings, the packages to install, and what needs them.
EXTRAS = {
    "gpu": (("pynvml",), ("nvidia-ml-py",), "energy of NVIDIA GPUs"),
    "keras": (("keras",), ("keras",), "Keras models"),
    "tensorflow": (("keras", "tensorflow"), ("keras", "tensorflow"), "tf.keras models, training them under a meter"),
    "hub": (("transformers",), ("transformers",), "models from a Hugging Face config"),
    "lightning": (("lightning",), ("lightning",), "budgets in Lightning's Trainer"),
    "transformers": (
        ("accelerate", "transformers"),
        ("accelerate", "transformers"),
        "budgets in its Trainer",
    ),
    "lora": (("peft",), ("peft",), "`--lora`"),
    "data": (("pooch",), ("pooch",), "downloading CIFAR-10 for `measure train`"),
    "parquet": (
        ("pyarrow",),
        ("pyarrow",),
        "`measure export --format parquet`, `joulecast sweep --output FILE.parquet`",
    ),
    "dask": (("dask", "distributed"), ("dask", "distributed"), "`joulecast sweep --engine dask`"),
    "ray": (("ray",), ("ray",), "`joulecast sweep --engine ray`"),
    "fleet": (("fsspec",), ("fsspec",), "a `--store` at an address; the protocol's own package too, as s3fs"),
    "serve": (
        ("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"),
        ("fastapi", "prometheus-client", "pydantic", "starlette", "uvicorn"),
        "`joulecast serve`",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `fix` is a command or setting, empty where nothing is to be done."""

    section: str
    name: str
    state: str  # OK, MISSING, OPTIONAL (an extra that is not installed) or FACT
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def findings() -> Iterator[Finding]:
    host = detect_host()
    yield from _software()
    yield from _machine(host)
    yield from _meters(host)
    yield from _profiles()
    yield from _extras()
    yield from _folders()


def _software() -> Iterator[Finding]:
    from joulecast import __version__

    yield Finding("software", "joulecast", OK, __version__)
    yield Finding("software", "Python", OK, f"{platform.python_version()} ({sys.executable})")
    if version := _version("torch"):
        yield Finding("software", "torch", OK, version)
    else:
        yield Finding("software", "torch", MISSING, "not installed", _install("torch"))


def _machine(host: Host) -> Iterator[Finding]:
    virtual = ", virtual machine" if host.hypervisor else ""
    yield Finding("machine", "CPU", FACT, f"{host.cpu_name or 'unknown name'}, {host.cpu_cores} cores{virtual}")
    yield Finding("machine", "system", FACT, f"{host.os}, {host.machine}")
    for gpu in host.gpus:
        memory = f", {gpu.memory_gb:.3g} GB" if gpu.memory_gb else ""
        yield Finding("machine", "GPU", OK, f"{gpu.name}{memory}")
    if host.gpu_problem:
        fix = "estimate --hardware NAME" if host.amd_targets else "run `nvidia-smi` and repair the NVIDIA driver"
        yield Finding("machine", "GPU", MISSING, host.gpu_problem, fix)
    elif not host.gpus:
        yield Finding("machine", "GPU", FACT, "no NVIDIA GPU found")


def _meters(host: Host) -> Iterator[Finding]:
    try:
        from ..measure.meters.selection import select_meter
    except ImportError as error:  # no fcntl
        yield Finding("meters", "measure", MISSING, f"needs a POSIX system ({error})")
        return
    with select_meter("auto") as meter:
        for attempt in meter.attempts:
            reason, fix = _reason_and_fix(attempt.reason)
            needed = attempt.meter != "nvml" or host.gpus
            state = OK if attempt.works else MISSING if needed else OPTIONAL
            yield Finding("meters", attempt.meter, state, reason or "works", fix)
        if not any(attempt.works for attempt in meter.attempts):
            fix = "give the power: measure --power-w WATTS, or the CPU: measure --hardware NAME"
            yield Finding("meters", "chosen", MISSING, "none: energy would be missing from measurements", fix)
        else:
            yield Finding("meters", "chosen", OK, meter.name)


def _reason_and_fix(text: str) -> tuple[str, str]:
    """A meter's one line: what is wrong, and behind the last semicolon what to do."""
    reason, _, fix = text.rpartition("; ")
    return (reason, _command(fix)) if reason else (text, "")


def _command(fix: str) -> str:
    """The command in "load it with: sudo modprobe intel_rapl_msr", for the Python that runs now."""
    if fix.startswith("pip install 'joulecast[gpu]'"):
        return _install(*EXTRAS["gpu"][1])
    return (fix.partition("with: ")[2] or fix).replace("`hardware`", "--hardware")


def _profiles() -> Iterator[Finding]:
    problems: list[str] = []
    for profile in calibrations(problems.append):
        provenance = profile.provenance
        detail = f"{profile.hardware} with {profile.framework}, measured here {provenance.created[:10]}"
        yield Finding("profiles", profile.name, OK, f"{detail}, power {provenance.power}")
    for problem in problems:
        yield Finding("profiles", "unreadable", MISSING, problem, "calibrate again: measure --quick")
    try:
        chosen = load_profile(None)
    except JoulecastError as error:
        fix = "measure --quick, or name hardware: estimate --hardware NAME (`joulecast profiles` lists the names)"
        yield Finding("profiles", "this machine", MISSING, str(error).partition("; ")[0], fix)
        return
    provenance = chosen.provenance
    detail = f"`estimate` uses {chosen.name}: time {provenance.time}, power {provenance.power}"
    fix = "measure --quick narrows the interval" if provenance.time in ("datasheet", "probed") else ""
    yield Finding("profiles", "this machine", OK, detail, fix)


def _extras() -> Iterator[Finding]:
    for name, (modules, packages, purpose) in EXTRAS.items():
        if all(util.find_spec(module) is not None for module in modules):
            versions = ", ".join(f"{package} {_version(package) or ''}".rstrip() for package in packages)
            yield Finding("extras", name, OK, f"{purpose}: {versions}")
        else:
            yield Finding("extras", name, OPTIONAL, f"{purpose}: not installed", _install(*packages))


def _folders() -> Iterator[Finding]:
    store, cache = store_folder(), cache_folder()
    records = len(list((store / "records").glob("*.json")))
    fitted = len(list(profiles_folder().glob("*.json")))
    yield _folder("store", store, f"{counted(records, 'record')}, {counted(fitted, 'profile')}", "JOULECAST_STORE")
    yield _folder("cache", cache, f"{figures.size(_bytes_in(cache))}, can be deleted", "JOULECAST_CACHE")
    own = user_file()
    if own is not None:
        yield Finding("folders", "hardware", OK, f"{own}: your own rows of the hardware table")


def _folder(name: str, path: Path, content: str, variable: str) -> Finding:
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding("folders", name, MISSING, f"{path} cannot be written", f"set {variable} to another folder")
    return Finding("folders", name, OK, f"{path}: {content if path.exists() else 'empty'}")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _install(*packages: str) -> str:
    """The command that installs into the environment that runs now, whether or not it is active in the shell."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{shlex.quote(str(python))} -m pip install {' '.join(packages)}"
