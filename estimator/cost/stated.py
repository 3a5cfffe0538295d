"""Hardware in figures that the user gives: "tflops=35,bandwidth=448,watts=150", "rtx-3090,watts=250", "cores=1"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..base.digits import short
from ..base.errors import HardwareError
from ..base.suggest import near
from .hardware import Hardware
from .unlisted import assumed_gpu_w, of_cores

_FIELDS = {
    **dict.fromkeys(("tflops", "fp32_tflops", "fp32"), "fp32_tflops"),
    **dict.fromkeys(("tf32_tflops", "tf32"), "tf32_tflops"),
    **dict.fromkeys(("fp16_tflops", "fp16"), "fp16_tflops"),
    **dict.fromkeys(("bf16_tflops", "bf16"), "bf16_tflops"),
    **dict.fromkeys(("fp8_tflops", "fp8"), "fp8_tflops"),
    **dict.fromkeys(("fp64_tflops", "fp64"), "fp64_tflops"),
    **dict.fromkeys(("bandwidth", "bandwidth_gb_per_s"), "bandwidth_gb_per_s"),
    **dict.fromkeys(("watts", "power_w", "power", "tdp"), "power_w"),
    **dict.fromkeys(("idle_watts", "idle_w", "idle"), "idle_w"),
    **dict.fromkeys(("memory_gb", "memory", "vram"), "memory_gb"),
    "sms": "sms",
    **dict.fromkeys(("l2_mb", "l2"), "l2_mb"),
    **dict.fromkeys(("boost_mhz", "boost"), "boost_mhz"),
    "process_nm": "process_nm",
    "link_gb_per_s": "link_gb_per_s",
    "pcie_gb_per_s": "pcie_gb_per_s",
}
_RATES = {"tflops": 1.0, "gflops": 1e-3, "pflops": 1e3, "flops": 1e-12}
_BYTES_PER_S = {"gb/s": 1.0, "gbps": 1 / 8, "gbit/s": 1 / 8, "tb/s": 1e3, "mb/s": 1e-3, "gib/s": 1.073741824}
_BYTES_PER_S |= {"GBps": 1.0, "Gb/s": 1 / 8}  # B for bytes, b for bits
_POWERS = {"w": 1.0, "kw": 1e3, "watts": 1.0}
_SUFFIXES = {
    **dict.fromkeys((name for name in _FIELDS.values() if name.endswith("_tflops")), _RATES),
    **dict.fromkeys(("bandwidth_gb_per_s", "link_gb_per_s", "pcie_gb_per_s"), _BYTES_PER_S),
    "power_w": _POWERS,
    "idle_w": _POWERS,
    "memory_gb": {"gb": 1.0, "gib": 1.0, "mb": 1e-3, "mib": 1 / 1024, "tb": 1e3},
    "l2_mb": {"mb": 1.0, "mib": 1.0, "kb": 1e-3},
    "boost_mhz": {"mhz": 1.0, "ghz": 1e3},
    "process_nm": {"nm": 1.0},
}
"""What a unit behind a number is worth in the field's own. Memory of boards is named in GB and counted in GiB."""
_UNITS = {"fp32_tflops": "TFLOPS", "bandwidth_gb_per_s": "GB/s", "power_w": "W", "memory_gb": "GB"}
EXAMPLE = "tflops=35,bandwidth=448,watts=150"

# What parts since 2010 lie in: CPUs and GPUs, phones to accelerators of 1.4 kW.
_LIMITS = {
    "fp32_tflops": (0.001, 5_000.0),
    "bandwidth_gb_per_s": (1.0, 100_000.0),
    "power_w": (0.5, 20_000.0),
    "memory_gb": (0.1, 10_000.0),
}
_TYPICAL = {
    "fp32_tflops": (0.05, 2_000.0),
    "bandwidth_gb_per_s": (10.0, 20_000.0),
    "power_w": (2.0, 2_000.0),
    "memory_gb": (1.0, 500.0),
}
_FAR_FROM_BOARD = 2.0  # times a named part's own figure: no clock, cooling or limit raises it so far
_OPERATIONS_PER_BYTE = (0.3, 500.0)
_TFLOPS_PER_W = {"gpu": (0.008, 1.0), "cpu": (0.0003, 0.1)}
_HALF_OVER_FP32 = 64.0

# Of a CPU of which only its cores are known: 2.5 GHz, AVX2, 6 GB/s a core, a desktop's watts.
_CORE_TFLOPS, _CORE_GB_PER_S, _CORE_W = 0.08, 6.0, 8.0


@dataclass(frozen=True, slots=True)
class Stated:
    """A text of `--hardware` with figures: the part that it starts from, if any, and what replaces its figures."""

    base: str  # a name, "" where none is given
    figures: Mapping[str, float]  # by `Hardware`'s fields
    cores: int | None
    kind: str | None
    name: str | None


_ITEMS = re.compile(r"\s*[,;]\s*|\s+(?=[a-z0-9_-]+\s*=)", re.IGNORECASE)
_KINDS = ("gpu", "cpu")
_NUMBER = re.compile(r"([-+.\deE]+)\s*([a-z/]*)", re.IGNORECASE)


def parse_stated(text: str) -> Stated:
    """Reads "KEY=NUMBER,..." with an optional part's name first. Raises HardwareError."""
    base, figures = "", {}
    words: dict[str, str] = {}
    for position, item in enumerate(_ITEMS.split(text)):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            if position == 0 and key.casefold() in _KINDS:
                words["kind"] = key
                continue
            if position == 0 and key:
                base = key
                continue
            raise HardwareError(f"hardware {text!r}: {item.strip()!r} is not KEY=NUMBER: write it as {EXAMPLE}")
        key = key.casefold().replace("-", "_")
        if key in words or _FIELDS.get(key) in figures:
            raise HardwareError(f"hardware {text!r} gives {key} twice: keep one of them")
        if key in ("name", "kind", "cores"):
            words[key] = value
        elif key in _FIELDS:
            figures[_FIELDS[key]] = _number(text, key, value, _SUFFIXES.get(_FIELDS[key], {}))
        else:
            known = ("name", "kind", "cores", *_FIELDS)
            raise HardwareError(
                f"hardware {text!r} has an unknown key {key!r}{near(key, known)}: give tflops, bandwidth (GB/s), "
                "watts, and optionally fp16_tflops, memory_gb, sms, cores, kind or name"
            )
    kind = words.get("kind")
    if kind is not None and kind.casefold() not in _KINDS:
        raise HardwareError(f"hardware {text!r}: kind is {kind!r}: give gpu or cpu")
    return Stated(base, figures, _cores(text, words), kind and kind.casefold(), words.get("name"))


def _number(text: str, key: str, value: str, units: Mapping[str, float] = MappingProxyType({})) -> float:
    """A number above 0, with one of `units` behind it or none."""
    found = _NUMBER.fullmatch(value)
    number, unit = math.nan, ""
    if found is not None:
        with suppress(ValueError):
            number, unit = float(found[1]), found[2] if found[2] in units else found[2].casefold()
    if unit and unit not in units:
        known = f"one of {', '.join(units)}" if units else "no unit"
        raise HardwareError(f"hardware {text!r}: {key} is {value!r}: give {known} behind the number")
    if not (math.isfinite(number) and number > 0):
        raise HardwareError(f"hardware {text!r}: {key} is {value!r}: give a number above 0")
    return number * units.get(unit, 1.0)


def _cores(text: str, words: Mapping[str, str]) -> int | None:
    if "cores" not in words:
        return None
    number = _number(text, "cores", words["cores"])
    if number != int(number) or number > 1e6:
        raise HardwareError(f"hardware {text!r}: cores is {words['cores']!r}: give a whole number")
    return int(number)


def stated_part(stated: Stated, base: Hardware | None) -> Hardware:
    """`base` with the figures given, or a part of these alone. Raises HardwareError for missing and odd ones."""
    part = _new_part(stated) if base is None else _changed(base, stated)
    check_plausible(part)
    return part


def _new_part(stated: Stated) -> Hardware:
    figures, cores = dict(stated.figures), stated.cores
    kind = stated.kind or ("cpu" if cores and "memory_gb" not in figures and "sms" not in figures else "gpu")
    assumed: list[str] = []
    notes: tuple[str, ...] = ()
    if kind == "cpu" and cores:
        for field, per_core in (
            ("fp32_tflops", _CORE_TFLOPS),
            ("bandwidth_gb_per_s", _CORE_GB_PER_S),
            ("power_w", _CORE_W),
        ):
            if field not in figures:
                figures[field] = per_core * cores
                assumed.append(f"{figures[field]:g} {_UNITS[field]}")
    if kind == "gpu" and "power_w" not in figures and figures.keys() >= {"fp32_tflops", "bandwidth_gb_per_s"}:
        figures["power_w"] = assumed_gpu_w(figures["fp32_tflops"])
        notes = (f"{figures['power_w']:g} W are assumed, which boards with such rates take (give watts=N for yours)",)
    missing = [
        name
        for field, name in (
            ("fp32_tflops", "tflops (FP32)"),
            ("bandwidth_gb_per_s", "bandwidth (GB/s)"),
            ("power_w", "watts"),
        )
        if field not in figures
    ]
    if missing:
        raise HardwareError(f"the hardware's figures lack {' and '.join(missing)}: write them as {EXAMPLE}")
    name = stated.name or f"{kind.upper()} with the figures given"
    sms = figures.get("sms")
    return Hardware(
        key=re.sub(r"[^a-z0-9]+", "-", (stated.name or "given").casefold()).strip("-") or "given",
        name=name,
        vendor="given",
        kind=kind,
        year=0,
        fp32_tflops=figures["fp32_tflops"],
        tf32_tflops=figures.get("tf32_tflops"),
        fp16_tflops=figures.get("fp16_tflops"),
        bf16_tflops=figures.get("bf16_tflops", figures.get("fp16_tflops")),
        memory_gb=figures.get("memory_gb"),
        bandwidth_gb_per_s=figures["bandwidth_gb_per_s"],
        power_w=figures["power_w"],
        idle_w=figures.get("idle_w"),
        cores=cores or (int(sms) * 128 if sms else 1),
        aliases=(),
        source="figures given by the user",
        fp8_tflops=figures.get("fp8_tflops"),
        fp64_tflops=figures.get("fp64_tflops"),
        sms=int(sms) if sms else None,
        boost_mhz=figures.get("boost_mhz"),
        l2_mb=figures.get("l2_mb"),
        process_nm=figures.get("process_nm"),
        link_gb_per_s=figures.get("link_gb_per_s"),
        pcie_gb_per_s=figures.get("pcie_gb_per_s"),
        power_spread=1.0 if "power_w" in stated.figures else 2.0,
        time_label="given" if "fp32_tflops" in stated.figures else "assumed",
        power_label="given" if "power_w" in stated.figures else "assumed",
        notes=(f"{' and '.join(assumed)} are assumed for {cores} cores",) if assumed else notes,
    )


def _changed(base: Hardware, stated: Stated) -> Hardware:
    if stated.kind is not None and stated.kind != base.kind:
        raise HardwareError(f"{base.name} is a {base.kind.upper()}, not a {stated.kind.upper()}: leave out kind")
    if stated.cores is not None and base.kind != "cpu":
        raise HardwareError(f"cores={stated.cores} is for CPUs, and {base.name} is a GPU: leave it out")
    part = base if stated.cores is None else of_cores(base, stated.cores)
    if not stated.figures and stated.name is None:
        return part
    figures: dict[str, float | int] = dict(stated.figures)
    for field in ("fp32_tflops", "bandwidth_gb_per_s", "power_w"):
        own = getattr(base, field)
        if base.verified and figures.get(field, 0.0) > _FAR_FROM_BOARD * own:
            raise HardwareError(
                f"{figures[field]:g} {_UNITS[field]} are {short(figures[field] / own)} times the {own:g} of {base.name}"
                ": give all figures without the name, if it is another part"
            )
    if "sms" in figures:
        figures["sms"] = int(figures["sms"])
    power_given = "power_w" in figures
    return replace(
        part,
        **figures,  # type: ignore[arg-type]
        name=stated.name or part.name,
        source=f"{part.source}; {', '.join(sorted(figures)) or 'name'} given by the user",
        time_label="given" if figures.keys() - {"power_w", "idle_w", "memory_gb"} else part.time_label,
        power_label="given" if power_given else part.power_label,
        power_spread=1.0 if power_given else part.power_spread,
        # The last note of a row that was made on the spot is on its watts.
        notes=part.notes[:-1] if power_given and part.power_label in ("probed", "assumed") else part.notes,
    )


_PREFIXES = (1e3, 1e6, 1e9, 1e12)


def _in_another_unit(field: str, value: float) -> str:
    """What to do about a figure: the value that it has where it was given in a smaller unit."""
    low, high = _TYPICAL[field]
    likely = next((value / prefix for prefix in _PREFIXES if low <= value / prefix <= high), None)
    name = next(name for name, own in _FIELDS.items() if own == field)
    return "check the unit" if likely is None else f"if its unit is a smaller one, give {name}={likely:g}"


def check_plausible(part: Hardware) -> None:
    """Raises HardwareError for figures that no part has together, which a wrong unit gives."""
    for field, (low, high) in _LIMITS.items():
        value = getattr(part, field)
        if value is not None and not low <= value <= high:
            advice = _in_another_unit(field, value)
            raise HardwareError(f"{field} of {value:g} cannot be right: parts have {low:g} to {high:g}; {advice}")
    balance = part.fp32_tflops * 1000 / part.bandwidth_gb_per_s
    if not _OPERATIONS_PER_BYTE[0] <= balance <= _OPERATIONS_PER_BYTE[1]:
        raise HardwareError(
            f"{part.fp32_tflops:g} TFLOPS and {part.bandwidth_gb_per_s:g} GB/s contradict each other: {short(balance)} "
            f"operations per byte, parts have {_OPERATIONS_PER_BYTE[0]:g} to {_OPERATIONS_PER_BYTE[1]:g}; "
            "tflops is FP32 in TFLOPS, bandwidth the memory's in GB/s"
        )
    efficiency, (least, most) = part.fp32_tflops / part.power_w, _TFLOPS_PER_W[part.kind]
    if not least <= efficiency <= most:
        raise HardwareError(
            f"{part.fp32_tflops:g} TFLOPS and {part.power_w:g} W contradict each other: {short(efficiency)} TFLOPS/W, "
            f"a {part.kind.upper()} has {least:g} to {most:g}; check the units"
        )
    for field in ("fp16_tflops", "bf16_tflops", "tf32_tflops"):
        rate = getattr(part, field)
        if rate is not None and rate > _HALF_OVER_FP32 * part.fp32_tflops:
            raise HardwareError(
                f"{field} of {rate:g} is {short(rate / part.fp32_tflops)} times the {part.fp32_tflops:g} TFLOPS of FP32"
                ": give both in TFLOPS, dense"
            )
    if part.idle_w is not None and part.idle_w >= part.power_w:
        raise HardwareError(f"{part.idle_w:g} W idle and {part.power_w:g} W at work: idle power must be lower")
