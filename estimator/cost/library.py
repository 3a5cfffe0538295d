"""Which profile answers for a name: shipped, calibrated here, a file, or a datasheet."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import HardwareError, ProfileError
from ..base.notes import Note, Topic, Weight
from .datasheet import datasheet_profile
from .hardware import Hardware
from .host import Host, cpu_facts, detect_host
from .names import Match, look_up, normalise
from .probe import probe_cpu
from .profile import PowerModel, Profile, read_profile
from .stated import Stated, parse_stated, stated_part
from .unlisted import cpu_row, gpu_row, of_cores

LOGGER = logging.getLogger("joulecast")


def load_profile(name: str | Path | None = None, *, framework: str = "pytorch") -> Profile:
    """The profile to predict with.

    A path to a JSON file; the name of a shipped profile, of hardware in the tables (the shipped one wins,
    as it is measured) or of a calibration; figures ("tflops=35,bandwidth=448,watts=150",
    "rtx-3090,watts=250"); or None for the machine at hand: its own newest calibration, else the profile
    of its GPU, else of its CPU. A part of this machine that no table holds gets a row from its driver or
    a probe.

    Raises ProfileError for a file that cannot be used and HardwareError for hardware that is not
    known, with near names and how to add or calibrate it.
    """
    if name is None:
        return _this_machine(framework)
    text = str(name)
    if not isinstance(name, Path) and _FIGURES.search(text) and not text.endswith(".json"):
        return _stated(parse_stated(text))
    if isinstance(name, Path) or text.endswith(".json") or "/" in text:
        return read_profile(name)
    try:
        return _named(text)
    except HardwareError:
        for profile in calibrations():
            if profile.name == text:
                return profile
        host = detect_host()
        if normalise(text) in {normalise(part) for part in (host.cpu_name, *(gpu.name for gpu in host.gpus)) if part}:
            return _of(_own_part(host))
        raise


_FIGURES = re.compile(r"(?:^|,)\s*[a-z0-9_-]+\s*=", re.I)


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
    return _noting(read_profile(shipped[key]), match.note) if key in shipped else _of(match)


def hardware_of(text: str) -> Hardware:
    """The row of the table that a name means, or that figures make. Raises HardwareError."""
    if not _FIGURES.search(text):
        return look_up(text).part
    stated = parse_stated(text)
    return stated_part(stated, look_up(stated.base).part if stated.base else None)


def contradict(one: str, other: str) -> bool:
    """Whether two texts surely name different parts; a name that several parts share does not."""
    keys = []
    for text in (one, other):
        try:
            match = Match(hardware_of(text)) if _FIGURES.search(text) else look_up(text)
        except HardwareError:
            return False
        if match.note:
            return False
        keys.append(match.part.key)
    return keys[0] != keys[1]


def _stated(stated: Stated) -> Profile:
    """The profile of figures that the user gives, alone or in place of a part's own."""
    if stated.base:
        match = look_up(stated.base)
        part = stated_part(stated, match.part)
        profile = _of(Match(part, match.note))
        return _limited(profile, part, match.part.power_w) if part.kind == "gpu" else profile
    if stated.kind is None and not stated.figures.keys() & {"fp32_tflops", "bandwidth_gb_per_s"}:
        return _of(Match(stated_part(stated, _own_part(detect_host()).part)))
    return _of(Match(stated_part(stated, None)))


def _limited(profile: Profile, part: Hardware, board_w: float) -> Profile:
    """The profile of `part` whose limit is below its `board_w`: the board's watts, cut at the limit.

    Idle power and light loads do not fall with the limit.
    """
    if part.power_w >= board_w:
        return profile
    own = datasheet_profile(replace(part, power_w=board_w))
    half = None if own.half_power is None else _cut(own.half_power, part.power_w)
    return replace(profile, power=_cut(own.power, part.power_w), half_power=half)


def _cut(power: PowerModel, limit_w: float) -> PowerModel:
    static_w = min(power.static_w, limit_w)
    return PowerModel({name: min(watts, limit_w - static_w) for name, watts in power.weights_w.items()}, static_w)


def _of(match: Match) -> Profile:
    """The datasheet's profile of a row, labelled and widened by how its figures were found."""
    part, profile = match.part, datasheet_profile(match.part)
    basis, error = profile.provenance, profile.energy_error
    notes = [*basis.notes, *(_act(note) for note in (*part.notes, match.note) if note)]
    if not part.verified and part.time_label == "datasheet":
        notes.append(f"the hardware table's figures of {part.name} are not all verified")
    return replace(
        profile,
        energy_error=replace(
            error, low=_wider(error.low, part.power_spread), high=1 / _wider(1 / error.high, part.power_spread)
        ),
        provenance=replace(
            basis,
            time=basis.time if part.time_label == "datasheet" else part.time_label,
            power=basis.power if part.power_label == "datasheet" else part.power_label,
            notes=tuple(notes),
        ),
    )


def _wider(bound: float, spread: float) -> float:
    """A bound below 1 that also holds where the watts are off by `spread`: independent errors add in squares."""
    return math.exp(-math.hypot(math.log(bound), math.log(spread)))


def _this_machine(framework: str) -> Profile:
    host = detect_host()
    unseen = f"GPUs could not be listed: {host.gpu_problem}" if not host.gpus and host.gpu_problem else None
    profile = newest_calibration(host, framework)
    if profile is None:
        match, shipped = _own_part(host), shipped_profiles()
        exact = match.part.key in shipped and not match.part.notes
        profile = read_profile(shipped[match.part.key]) if exact else _of(match)
    return _noting(profile, f"the CPU is used, because {unseen}" if unseen else "")


def _own_part(host: Host) -> Match:
    """This machine's GPU, otherwise its CPU: the row of its name, or a row made from its driver or a probe."""
    if host.gpus:
        gpu = host.gpus[0]
        try:
            return look_up(gpu.name, memory_gb=gpu.memory_gb)
        except HardwareError as unknown:
            try:
                return Match(gpu_row(gpu))
            except HardwareError as silent:
                raise HardwareError(f"this machine's GPU: {unknown} ({silent})") from None
    try:
        match = look_up(host.cpu_name)
    except HardwareError:
        return Match(cpu_row(host, cpu_facts(), probe_cpu(host.cpu_name, host.cpu_cores)))
    return Match(of_cores(match.part, host.cpu_cores), match.note)


def _noting(profile: Profile, note: str) -> Profile:
    if not note:
        return profile
    return replace(profile, provenance=replace(profile.provenance, notes=(*profile.provenance.notes, _act(note))))


def _act(note: str) -> Note:
    """A note that is shown among the first: naming the hardware more exactly changes the figures."""
    return Note(note, Topic.PROFILE, Weight.ACT)


def _log(problem: str) -> None:
    LOGGER.warning("left out: %s", problem)


def calibrations(on_problem: Callable[[str], None] = _log) -> list[Profile]:
    """What `measure` fitted for this user, newest first; `on_problem` is called for a file that cannot be read."""
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
