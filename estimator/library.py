"""Which profile answers for a name: shipped, calibrated here, a file, or a datasheet."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

from .datasheet import datasheet_profile
from .errors import HardwareError
from .hardware import find_hardware
from .host import Host, detect_host
from .profile import Profile, read_profile


def load_profile(name: str | Path | None = None, *, framework: str = "pytorch") -> Profile:
    """The profile to predict with.

    A path to a JSON file; the name of a shipped profile or of hardware in the table (the shipped one
    wins, as it is measured); or None for the machine at hand: its own newest calibration, else the
    shipped or datasheet profile of its GPU, else of its CPU.

    Raises ProfileError for a file that cannot be used and HardwareError for hardware that is not
    known, with near names and how to add or calibrate it.
    """
    if name is None:
        return _this_machine(framework)
    text = str(name)
    if isinstance(name, Path) or text.endswith(".json") or "/" in text:
        return read_profile(name)
    return _named(text)


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
    hardware = find_hardware(name)
    if hardware.key in shipped:
        return read_profile(shipped[hardware.key])
    return datasheet_profile(hardware)


def _this_machine(framework: str) -> Profile:
    host = detect_host()
    if (calibrated := newest_calibration(host, framework)) is not None:
        return calibrated
    part = host.gpus[0].name if host.gpus else host.cpu_name
    try:
        return _named(part)
    except HardwareError as error:
        raise HardwareError(
            f"this machine's {'GPU' if host.gpus else 'CPU'}: {error}; or name hardware with --hardware"
        ) from error


def _noting(profile: Profile, problem: str | None) -> Profile:
    """The profile with a note on why no GPU was looked for, where there is one to say."""
    if problem is None:
        return profile
    note = f"the CPU answers, because GPUs could not be listed: {problem}"
    return replace(profile, provenance=replace(profile.provenance, notes=(*profile.provenance.notes, note)))


def calibrations() -> list[Profile]:
    """All profiles that `measure` fitted for this user, newest first."""
    from .store import profiles_folder

    fitted = [read_profile(path) for path in profiles_folder().glob("*.json")]
    return sorted(fitted, key=lambda profile: profile.provenance.created, reverse=True)


def newest_calibration(host: Host, framework: str) -> Profile | None:
    """The newest profile that `measure` fitted on this host with this framework, or None."""
    gpus = [gpu.name for gpu in host.gpus]
    for profile in calibrations():
        same_host = profile.host.get("cpu_name") == host.cpu_name and list(profile.host.get("gpus", [])) == gpus
        if same_host and profile.framework == framework:
            return profile
    return None
