"""Cloud machine types and vendors' nodes: the part that each has, and how many."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ..base.tables import read_table


@dataclass(frozen=True, slots=True)
class Machine:
    """`count` of the part with the key `part`: a share of one where it is below 1. `network_gbit` is of the whole."""

    name: str
    part: str
    count: float
    network_gbit: float | None = None


def machine(name: str) -> Machine | None:
    """The machine type ("p4d.24xlarge", "Standard_ND96asr_v4") or node ("DGX H100") of that name."""
    return _machines().get(_bare(name))


def family(name: str) -> tuple[Machine, ...]:
    """The machine types of a family ("p5", "a3-highgpu", "ND H200 v5"), in the table's order."""
    return _families().get(_bare(name), ())


def near_machines(name: str) -> list[str]:
    """The names of machine types that begin as `name` does and are spelt almost like it."""
    wanted = _bare(name)
    alike = [bare for bare in _machines() if bare[:1] == wanted[:1]]
    return [_machines()[bare].name for bare in difflib.get_close_matches(wanted, alike, n=3, cutoff=0.8)]


@cache
def _machines() -> dict[str, Machine]:
    machines = [
        Machine(row["instance"], row["part"], float(row["count"]), float(row["network_gbit"] or 0) or None)
        for row in read_table("instances.csv")
    ]
    for row in read_table("clusters.csv"):
        names = (row["key"], *filter(None, row["aliases"].split(";")))
        machines += [Machine(name, row["hardware"], float(row["devices"])) for name in names]
    return {_bare(machine.name): machine for machine in machines}


@cache
def _families() -> dict[str, tuple[Machine, ...]]:
    families: dict[str, list[Machine]] = {}
    for row in read_table("instances.csv"):
        for name in dict.fromkeys(map(_bare, _family_names(row["provider"], row["instance"]))):
            families.setdefault(name, []).append(_machines()[_bare(row["instance"])])
    return {name: tuple(machines) for name, machines in families.items()}


_AZURE = re.compile(r"Standard_([A-Z]+)\d+([a-z]*)_(?:xl_|NDR_)?(.+)")


def _family_names(provider: str, instance: str) -> Iterator[str]:
    if provider == "AWS":  # p5.48xlarge
        yield instance.partition(".")[0]
    elif provider == "GCP":  # a3-highgpu-8g
        yield instance.rpartition("-")[0]
        yield instance.partition("-")[0]
    elif provider == "Azure" and (parts := _AZURE.fullmatch(instance)):  # Standard_ND96isr_H200_v5: ND H200 v5
        series, features, rest = parts.groups()
        for kept in ("m" if "m" in features else "", features):
            yield series + kept + rest


_PREFIXES = re.compile(
    r"^(?:aws|ec2|azure|gcp|google|oci|coreweave)?"
    r"(?:ml(?=[a-z]+\d+[a-z]*(?:\d*x?large|metal)$)|standard|cloudtpu|tpu)?"
)


def _bare(name: str) -> str:
    """Letters and digits, without the provider's name and the prefixes of SageMaker, Azure and Cloud TPU."""
    return _PREFIXES.sub("", re.sub(r"[^a-z0-9]+", "", name.casefold()))
