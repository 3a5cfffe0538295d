"""Which profile answers for a name: shipped, calibrated here, a file, or a datasheet."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import HardwareError, ProfileError
from .datasheet import datasheet_profile
from .host import Host, detect_host
from .names import look_up
from .profile import Profile, read_profile

LOGGER = logging.getLogger("joulecast")


def load_profile(name: str | Path | None = None, *, framework: str = "pytorch") -> Profile:
    """The profile to predict with.

    A path to a JSON file; the name of a shipped profile, of hardware in the table (the shipped one wins,
    as it is measured) or of a calibration; or None for the machine at hand: its own newest calibration,
    else the shipped or datasheet profile of its GPU, else of its CPU.

    Raises ProfileError for a file that cannot be used and HardwareError for hardware that is not
    known, with near names and how to add or calibrate it.
    """
    if name is None:
        return _this_machine(framework)
    text = str(name)
    if isinstance(name, Path) or text.endswith(".json") or "/" in text:
        return read_profile(name)
    try:
        return _named(text)
    except HardwareError:
        for profile in calibrations():
            if profile.name == text:
                return profile
        raise


def shipped_profiles() -> dict[str, Path]:
    """Name -> file of the profiles that come with joulecast."""
    folder = resources.files("joulecast.datasets").joinpath("profiles")
    if not folder.is_dir():
        return {}
    return {Path(item.name).stem: Path(str(item)) for item in folder.iterdir() if item.name.endswith(".json")}


def _named(name: str) -> Profile:
    shipped = shipped_profiles()
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if slug in shipped:
        return read_profile(shipped[slug])
    match = look_up(name)
    key = match.part.key
    profile = read_profile(shipped[key]) if key in shipped else datasheet_profile(match.part)
    return _noting(profile, match.note) if match.note else profile


def _this_machine(framework: str) -> Profile:
    host = detect_host()
    unseen = f"GPUs could not be listed: {host.gpu_problem}" if not host.gpus and host.gpu_problem else None
    profile = newest_calibration(host, framework)
    if profile is None:
        part = host.gpus[0].name if host.gpus else host.cpu_name
        try:
            profile = _named(part)
        except HardwareError as error:
            raise HardwareError(
                f"this machine's {'GPU' if host.gpus else 'CPU'}: {error}; or name the `hardware`"
                + (f" ({unseen})" if unseen else "")
            ) from error
    return _noting(profile, f"the CPU answers, because {unseen}") if unseen else profile


def _noting(profile: Profile, note: str) -> Profile:
    return replace(profile, provenance=replace(profile.provenance, notes=(*profile.provenance.notes, note)))


def _log(problem: str) -> None:
    LOGGER.warning("left out: %s", problem)


def calibrations(on_problem: Callable[[str], None] = _log) -> list[Profile]:
    """What `measure` fitted for this user, newest first; of a file that cannot be read, `on_problem` hears."""
    from ..base.folders import profiles_folder

    fitted = []
    for path in sorted(profiles_folder().glob("*.json")):
        try:
            fitted.append(read_profile(path))
        except ProfileError as error:
            on_problem(f"{error}, or delete the file")
    return sorted(fitted, key=lambda profile: profile.provenance.created, reverse=True)


def newest_calibration(host: Host, framework: str) -> Profile | None:
    """The newest profile that `measure` fitted on this host with this framework, or None.

    Those fitted with as many threads as compute now go first; another one says so in a note.
    """
    fitted = [one for one in calibrations() if one.framework == framework and _same_machine(one.host, host)]
    for profile in fitted:
        if _same_threads(profile.host, host):
            return profile
    if not fitted:
        return None
    then, now = fitted[0].host["threads"], _threads_now(host)
    return _noting(
        fitted[0], f"measured with {then} threads, {now} compute now: set OMP_NUM_THREADS={then} or `measure`"
    )


def _same_machine(recorded: Mapping[str, Any], host: Host) -> bool:
    """Older profiles lack cores and machine: they match by the CPU's name, where it has one (ARM's have none)."""
    if recorded.get("cpu_name") != host.cpu_name or list(recorded.get("gpus", [])) != [gpu.name for gpu in host.gpus]:
        return False
    rest = {"cpu_cores": host.cpu_cores, "machine": host.machine}
    return all(recorded.get(name, value if host.cpu_name else None) == value for name, value in rest.items())


def _same_threads(recorded: Mapping[str, Any], host: Host) -> bool:
    """Asks no framework for its count, as that takes seconds: the same setting gives the same count."""
    if "threads" not in recorded or str(recorded["threads"]) == _threads_now(host):
        return True
    setting = os.environ.get("OMP_NUM_THREADS")
    return "environment" in recorded and recorded["environment"].get("OMP_NUM_THREADS") == setting


def _threads_now(host: Host) -> str:
    return os.environ.get("OMP_NUM_THREADS") or str(host.cpu_cores)
