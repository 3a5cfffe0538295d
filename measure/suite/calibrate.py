"""From the records of this machine to its profile, with the source of its power."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...estimator.base.digits import counted
from ...estimator.base.errors import FitError, HardwareError, JoulecastError
from ...estimator.cost.bounds import ErrorModel
from ...estimator.cost.hardware import BOUNDARIES
from ...estimator.cost.names import find_hardware
from ...estimator.cost.profile import PowerModel, Profile
from ...estimator.fit.few import known_gpu
from ...estimator.fit.fit import fit
from ...estimator.fit.observation import Observation
from ..meters.modelled import utilisation_model
from ..records.records import Record, hardware_name, now_utc
from .drift import Drift, corrected, drift_of

COMPONENTS = ("compute", "memory", "launch")
# With this many clean records, disturbed ones are left out.
LEAST_CLEAN = 12
_MOST_NOTES = 3  # on records left out

# Watts of one busy core of an unknown CPU: from 1.64 W (AMD EPYC of the second generation at full load, per virtual
# CPU; Cloud Carbon Footprint, coefficients from SPECpower) to 12 W, the default of Green Algorithms for unknown CPUs
# (Lannelongue, Grealey and Inouye 2021, Advanced Science 8, 2100707).
UNKNOWN_CORE_W = (1.64, 12.0)
# A busy package draws between 0.5 and 1.5 times its TDP times the utilisation.
TDP_ERROR = ErrorModel(low=0.5, high=1.5)


@dataclass(frozen=True, slots=True)
class Power:
    """Power that was not measured: its model, its error and its source."""

    model: PowerModel
    error: ErrorModel
    source: str
    boundary: str


def given_power(watts: float) -> Power:
    """Power as the user gives it, taken as exact. Raises JoulecastError."""
    if not (math.isfinite(watts) and watts > 0):
        raise JoulecastError(f"`power_w` is {watts}; give the machine's watts while it trains, above 0")
    return Power(_flat(watts), ErrorModel(1.0, 1.0), f"{watts:g} W given by the user", "what the user's figure covers")


def table_power(name: str, cores: int, device: str = "cpu") -> Power:
    """Power of the part with that name at full utilisation of `cores` cores.

    Raises HardwareError, also for a part that is not a `device` ("cpu" or "gpu").
    """
    row = find_hardware(name)
    if row.kind != device:
        raise HardwareError(
            f"{row.name} is a {row.kind.upper()} and this trains on the {device.upper()}: give the name of that part"
        )
    model = utilisation_model(row.name, row.power_w, row.idle_w, row.cores if row.kind == "cpu" else None, cores)
    weights = dict.fromkeys(COMPONENTS, max(model.full_w - model.idle_w, 0.0))
    return Power(PowerModel(weights, model.idle_w), TDP_ERROR, f"{model.basis}; {row.source}", BOUNDARIES[row.kind])


def unknown_power(cpu_name: str, threads: int) -> Power:
    """Power of `threads` busy cores of a CPU that is not in the table: a wide range, and its source says so."""
    low, high = UNKNOWN_CORE_W
    middle = math.sqrt(low * high)
    return Power(
        _flat(middle * threads),
        ErrorModel(low / middle, high / middle),
        f"CPU {cpu_name or 'without a name'} is not in the hardware table: {threads} busy cores taken at "
        f"{low:g} to {high:g} W each (Cloud Carbon Footprint's AMD EPYC of the 2nd generation; Green "
        "Algorithms' default); give `power_w` or `hardware` for a narrower range",
        "the busy cores, without memory and the rest of the machine",
    )


def modelled_power(host: Mapping[str, Any], *, power_w: float | None = None, hardware: str | None = None) -> Power:
    """Power without a measurement: the user's figure, or the hardware table, or for an unknown CPU a wide range.

    Raises JoulecastError for an impossible figure, HardwareError for hardware that is unknown or does not train.
    """
    if power_w is not None:
        return given_power(power_w)
    device, name = str(host.get("device", "cpu")), str(host["cpu_name"])
    threads = min(
        int(host["threads"]), int(host.get("cpu_cores") or host["threads"])
    )  # at most one busy thread counts for each core
    if device == "gpu":
        return table_power(hardware or str(host["gpus"][0]), threads, device)
    if hardware is not None:
        return table_power(hardware, threads)
    try:
        return table_power(name, threads)
    except HardwareError:
        return unknown_power(name, threads)


def _flat(watts: float) -> PowerModel:
    return PowerModel(dict.fromkeys(COMPONENTS, watts), 0.0)


# -- which records ---------------------------------------------------------------------------------


def chosen_records(records: Iterable[Record]) -> list[Record]:
    """For each case its newest clean record, or its newest; disturbed ones only if there are few clean ones."""
    best: dict[str, Record] = {}
    for record in records:  # oldest first
        if record.kind != "case" or record.status != "complete":
            continue
        if record.name not in best or not record.disturbed or best[record.name].disturbed:
            best[record.name] = record
    clean = [record for record in best.values() if not record.disturbed]
    return clean if len(clean) >= LEAST_CLEAN else list(best.values())


def alike(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The records that can be fitted together, and a line for each that is left out.

    They have the precision of most records, but for a GPU of the hardware table, whose fit takes all; measured energies
    are those of the newest record's meter.
    """
    several = bool(records) and known_gpu(hardware_name(records[-1].host), ()) is not None
    precisions = Counter(one.workload.precision for one in records if one.workload is not None)
    usual = precisions.most_common(1)[0][0] if precisions else ""
    metered = [one for one in records if one.label == "measured"]
    meter = str(max(metered, key=lambda one: one.created).meter.get("name")) if metered else ""
    kept, left_out = [], []
    for one in records:
        precision = usual if one.workload is None else one.workload.precision
        if precision != usual and not several:
            left_out.append(f"{one.name} is not in this profile: it ran in {precision}, the others in {usual}")
        elif one.label == "measured" and one.meter.get("name") != meter:
            left_out.append(f"{one.name} is not in this profile: its meter was {one.meter.get('name')}, now {meter}")
        else:
            kept.append(one)
    return kept, left_out


def observations(records: Iterable[Record], drift: Drift | None = None) -> list[Observation]:
    """The records as evidence: with energies if enough were measured, otherwise times only.

    With `drift`, as a quiet machine would have made them.
    """
    factor = (lambda record: 1.0) if drift is None else drift.factor
    return consistent(
        [corrected(one, factor(record)) for record in records if (one := record.observation()) is not None]
    )


def consistent(found: Sequence[Observation]) -> list[Observation]:
    """All with energies, if enough were measured; otherwise all without."""
    metered = [one for one in found if one.energy_j]
    if len(metered) >= LEAST_CLEAN or len(metered) == len(found):
        return list(metered)
    return [replace(one, energy_j=None, meter=None) for one in found]


# -- the profile -----------------------------------------------------------------------------------


def fit_profile(
    records: Sequence[Record],
    *,
    power: Callable[[], Power],
    now: Callable[[], str] = now_utc,
) -> Profile:
    """This machine's profile from its records; `power` is called if none has measured energy.

    Raises FitError if the records are not enough for a fit, and what `power` raises.
    """
    chosen, left_out = alike(chosen_records(records))
    drift = drift_of(chosen)
    evidence = observations(chosen, drift)
    if not evidence:
        raise FitError("no case was measured on this machine; run `measure` for longer, or without `only`")
    slower = () if drift is None or drift.note is None else (drift.note,)
    notes = (*_notes(chosen), *slower, *first_lines(left_out))
    return profile_of(evidence, records, chosen=chosen, power=power, now=now, notes=notes)


def profile_of(
    evidence: Sequence[Observation],
    records: Sequence[Record],
    *,
    power: Callable[[], Power],
    now: Callable[[], str],
    notes: Sequence[str],
    chosen: Sequence[Record] = (),
) -> Profile:
    """The profile that is fitted on `evidence`, which comes from the records `chosen` (all, by default)."""
    host, created = evidence[-1].host, now()
    metered = evidence[0].energy_j is not None
    stand_in = None if metered else power()
    evidence = [replace(one, host=host, flags=()) for one in evidence]
    profile = fit(
        evidence,
        name=profile_name(host, created),
        hardware=hardware_name(host),
        device=str(host["device"]),
        sources=_sources(chosen or records, host, stand_in),
        boundary="" if stand_in is None else stand_in.boundary,
        notes=tuple(notes),
        power=None if stand_in is None else stand_in.model,
        created=created,
    )
    if stand_in is None:
        return replace(profile, power=anchored(profile.power, idle_power_w(records)))
    return replace(profile, energy_error=_both(profile.time_error, stand_in.error))


def anchored(power: PowerModel, idle_w: float | None) -> PowerModel:
    """The same power model with P_s at the machine's idle power, as far as no weight becomes negative.

    Activity ratios add up to one, so moving the same watts from all weights to P_s changes no prediction. The idle
    machine, where every ratio is 0, determines the split.
    """
    if idle_w is None:
        return power
    shift = min(max(idle_w - power.static_w, -power.static_w), min(power.weights_w.values()))
    weights = {name: watts - shift for name, watts in power.weights_w.items()}
    return PowerModel(weights, power.static_w + shift)


def idle_power_w(records: Iterable[Record]) -> float | None:
    """Power of the newest measured and undisturbed idle window; None if there is none."""
    idle = [one for one in records if one.kind == "idle" and one.label == "measured" and not one.disturbed]
    if not idle or idle[-1].energy_j is None:
        return None
    return idle[-1].energy_j / idle[-1].seconds


def _sources(records: Sequence[Record], host: Mapping[str, Any], power: Power | None) -> tuple[str, ...]:
    libraries = ", ".join(f"{name} {version}" for name, version in host["libraries"].items())
    meters = sorted({str(record.meter.get("name", "none")) for record in records})
    measured = (
        f"{len(records)} training steps of networks measured on this machine with `measure` "
        f"({libraries}; {host['os']}; meter: {', '.join(meters)})"
    )
    return (measured,) if power is None else (measured, power.source)


def _notes(records: Sequence[Record]) -> tuple[str, ...]:
    disturbed = [record for record in records if record.disturbed]
    if not disturbed:
        return ()
    example = disturbed[0].windows[0].flags[0]
    return (
        f"disturbed while they were measured: {len(disturbed)} of {counted(len(records), 'case')} ({example}, ...): "
        "run `measure` again on a quiet machine",
    )


def first_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """The first lines, and how many more there are."""
    rest = len(lines) - _MOST_NOTES
    return (*lines[:_MOST_NOTES], *((f"{rest} more records are not in this profile",) if rest > 0 else ()))


def _both(first: ErrorModel, second: ErrorModel) -> ErrorModel:
    """The error of a product: the bounds of both multiplied, which is cautious."""
    return replace(first, low=min(first.low, 1) * second.low, high=max(first.high, 1) * second.high)


def profile_name(host: Mapping[str, Any], created: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", hardware_name(host).lower()).strip("-")
    return f"{slug}-{re.sub(r'[^0-9]', '', created)[:14]}"
