"""Cloud machines without accelerators: the CPU of a family, and the cores of a size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ..base.tables import read_table

_AWS_CPUS = {"medium": 1, "large": 2, "xlarge": 4}
_AWS = re.compile(
    r"(?:ml\.|db\.)?(?P<family>[a-z]+\d+[a-z]*)\.(?:metal-)?(?P<times>\d*)(?P<size>medium|large|xl(?:arge)?)"
)
_AWS_WHOLE = re.compile(r"(?P<family>[a-z]+\d+[a-z]*)\.metal")
_GCP = re.compile(r"(?P<family>[a-z]\d+[a-z]*)-(?:standard|highcpu|highmem)-(?P<cpus>\d+)(?:-lssd|-metal)?")
_AZURE = re.compile(r"(?:standard_)?(?P<series>[a-z])(?P<cpus>\d+)(?P<features>[a-z]*)_v(?P<version>\d)")


@dataclass(frozen=True, slots=True)
class CpuMachine:
    """`cores` physical cores of the part with the key `part`. `costed_for` is the machine's own CPU, where it differs.

    The part is then one of the same generation, of which a table has the figures.
    """

    name: str
    part: str
    cores: int
    costed_for: str


def cpu_machine(name: str) -> CpuMachine | None:
    """The machine type ("c7i.16xlarge", "n2-standard-64", "Standard_F64s_v2") of that name, by its processors."""
    family, cpus = _family_and_cpus(name.strip().casefold())
    row = _families().get(family) if family else None  # most names are of no such form, and need no table
    if row is None:
        return None
    most = int(row["most_vcpus"])
    cpus = most if cpus is None else cpus
    if not 1 <= cpus <= most:
        return None
    cores = max(1, cpus // int(row["threads_per_core"]))
    return CpuMachine(name.strip(), row["part"], cores, row["costed_for"])


def _family_and_cpus(name: str) -> tuple[str, int | None]:
    """The family and the number of its virtual CPUs, None for all; ("", None) for no such name."""
    if found := _AWS.fullmatch(name):
        size = "xlarge" if found["size"].startswith("x") else found["size"]
        return found["family"], _AWS_CPUS[size] * int(found["times"] or 1)
    if found := _AWS_WHOLE.fullmatch(name):
        return found["family"], None
    if found := _GCP.fullmatch(name):
        return found["family"], int(found["cpus"])
    if found := _AZURE.fullmatch(name):
        vendor = "a" if "a" in found["features"] else "p" if "p" in found["features"] else ""
        return f"{found['series']}{vendor}_v{found['version']}", int(found["cpus"])
    return "", None


@cache
def _families() -> Mapping[str, Mapping[str, str]]:
    return {row["family"].casefold(): row for row in read_table("cpu_machines.csv")}
