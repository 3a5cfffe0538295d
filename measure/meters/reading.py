"""A meter's reading of one window: the energy of every domain, each with its label."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TextIO, get_args

from ...estimator.base.errors import MeterError

Label = Literal["measured", "modelled", "ambiguous", "missing"]
WORST_FIRST: tuple[Label, ...] = ("missing", "ambiguous", "modelled", "measured")


@dataclass(frozen=True, slots=True)
class DomainReading:
    """The energy of one domain over one window.

    `label`: "measured" and "modelled" have `energy_uj` (integer microjoules); "ambiguous" (several energies are
    consistent with the reads) and "missing" have None and a `reason`, never a number. `counted`: whether the domain is
    part of the total (packages, dram, GPUs) or only reported (core, uncore, psys, a mirror of another domain).
    """

    domain: str
    kind: str  # "package", "dram", "core", "uncore", "psys", "gpu", "machine" or "other"
    label: Label
    energy_uj: int | None
    counted: bool
    method: str = "counter"  # "counter", "integrated power" or "utilisation model"
    reason: str = ""

    def __post_init__(self) -> None:
        if self.label not in get_args(Label):
            raise ValueError(f"label is {self.label!r}, expected one of {', '.join(get_args(Label))}")
        if (self.energy_uj is None) != (self.label in ("missing", "ambiguous")):
            raise ValueError(f"{self.domain}: label {self.label!r} with energy {self.energy_uj}")
        if self.energy_uj is None and not self.reason:
            raise ValueError(f"{self.domain}: label {self.label!r} without a reason")


@dataclass(frozen=True, slots=True)
class Reading:
    """One window of one meter: `seconds` on the monotonic clock and the domains' readings."""

    meter: str
    seconds: float
    domains: tuple[DomainReading, ...]

    @property
    def label(self) -> Label:
        """The worst label of the counted domains; "missing" if there are none."""
        labels = {domain.label for domain in self.domains if domain.counted}
        return next((label for label in WORST_FIRST if label in labels), "missing")

    @property
    def energy_uj(self) -> int | None:
        """Packages + dram + GPUs; None if one of them is missing or ambiguous."""
        return self._sum(lambda domain: True)

    @property
    def cpu_energy_uj(self) -> int | None:
        """Packages + dram (or the modelled machine), without the GPUs; None if one is unknown."""
        return self._sum(lambda domain: domain.kind != "gpu")

    @property
    def gpu_energy_uj(self) -> int | None:
        """All GPUs; None if there is none or one is unknown."""
        return self._sum(lambda domain: domain.kind == "gpu")

    @property
    def energy_j(self) -> float | None:
        return None if self.energy_uj is None else self.energy_uj / 1e6

    @property
    def power_w(self) -> float | None:
        """Mean power over the window; None if the energy is unknown or the window is empty."""
        return None if self.energy_j is None or self.seconds <= 0 else self.energy_j / self.seconds

    @property
    def boundary(self) -> str:
        """What the total includes: the counted kinds, as in "package + dram + gpu"; "" for nothing."""
        return " + ".join(dict.fromkeys(domain.kind for domain in self.domains if domain.counted))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why domains are missing, ambiguous, modelled or not counted, one line each."""
        return tuple(f"{domain.domain}: {domain.reason}" for domain in self.domains if domain.reason)

    def _sum(self, wanted: Any) -> int | None:
        parts = [domain.energy_uj for domain in self.domains if domain.counted and wanted(domain)]
        known = [part for part in parts if part is not None]
        return sum(known) if known and len(known) == len(parts) else None

    def to_json(self) -> dict[str, Any]:
        return {
            "meter": self.meter,
            "seconds": self.seconds,
            "label": self.label,
            "energy_uj": self.energy_uj,
            "domains": [asdict(domain) for domain in self.domains],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Reading:
        """Raises MeterError when the document is not a reading."""
        try:
            domains = tuple(DomainReading(**domain) for domain in document["domains"])
            return cls(str(document["meter"]), float(document["seconds"]), domains)
        except (TypeError, KeyError, ValueError) as error:
            raise MeterError(f"reading is corrupt ({error}); measure again") from error


# Endings of a trace's columns: energies that are part of `watts`, and those only reported.
COUNTED_COLUMN, UNCOUNTED_COLUMN = "_uj", "_uncounted_uj"


@dataclass(frozen=True, slots=True)
class TracePoint:
    """Energy of every domain since the window opened, in the trace's order; None if it was not read."""

    seconds: float
    energy_uj: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class PowerTrace:
    """A window sample by sample; the `watts` column is the sum of the `counted` domains."""

    domains: tuple[str, ...]
    counted: tuple[str, ...]
    points: tuple[TracePoint, ...]

    def watts(self) -> list[float | None]:
        """Mean total power since the previous point, for every point; None if it is unknown."""
        totals = [self._total(point) for point in self.points]
        watts: list[float | None] = [None] if totals else []
        for index in range(1, len(totals)):
            seconds = self.points[index].seconds - self.points[index - 1].seconds
            now, before = totals[index], totals[index - 1]
            known = now is not None and before is not None and seconds > 0
            watts.append((now - before) / 1e6 / seconds if known else None)  # type: ignore[operator]
        return watts

    def _total(self, point: TracePoint) -> int | None:
        parts = [uj for name, uj in zip(self.domains, point.energy_uj, strict=True) if name in self.counted]
        known = [part for part in parts if part is not None]
        return sum(known) if known and len(known) == len(parts) else None

    def write_csv(self, file: TextIO) -> None:
        """Columns `seconds`, `watts` (total, since the row before), `DOMAIN_uj` (since the start).

        Domains that are not in the total are `DOMAIN_uncounted_uj`.
        """
        writer = csv.writer(file, lineterminator="\n")
        endings = [COUNTED_COLUMN if name in self.counted else UNCOUNTED_COLUMN for name in self.domains]
        writer.writerow(["seconds", "watts", *map("".join, zip(self.domains, endings, strict=True))])
        for point, watts in zip(self.points, self.watts(), strict=True):
            shown = "" if watts is None else f"{watts:.3f}"
            energies = ["" if uj is None else uj for uj in point.energy_uj]
            writer.writerow([f"{point.seconds:.6f}", shown, *energies])
