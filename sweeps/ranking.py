"""What the results of a sweep say together: the total with its interval, the cheapest candidates, the Pareto front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..estimator.base.digits import is_number
from ..estimator.base.errors import JoulecastError
from ..estimator.base.interval import Interval
from ..estimator.base.suggest import near

TOTALS = ("seconds", "energy_kwh", "facility_energy_kwh", "co2e_kg", "cost")
NODES = "node_energy_kwh"
"""A total too, where all candidates are on a cluster."""
_COLUMNS = {
    "energy": "energy_kwh",
    "facility_energy": "facility_energy_kwh",
    "co2e": "co2e_kg",
    "time": "seconds",
    "flops": "step_flops",
}
_NAMES = (*_COLUMNS, "cost", "parameters")
_COSTS = frozenset([*TOTALS, *(f"{name}_high" for name in TOTALS), *(f"{name}_low" for name in TOTALS)])


def column_name(name: str) -> str:
    """The column that a short name stands for: "energy" is "energy_kwh"; others are columns themselves."""
    return _COLUMNS.get(name, name)


@dataclass(frozen=True, slots=True)
class Merit:
    """A column that candidates are compared by, and whether more of it is better."""

    column: str
    more_is_better: bool

    def __str__(self) -> str:
        return f"{'most' if self.more_is_better else 'least'} {self.column}"

    def loss(self, columns: Mapping[str, Any]) -> float:
        """What is to be small. Raises JoulecastError where the column is missing or no number."""
        if self.column not in columns:
            known = [name for name, value in columns.items() if is_number(value)]
            hint = near(self.column, (*_NAMES, *known)) or f"; known are {', '.join(known)}"
            raise JoulecastError(f"candidates have no column {self.column!r}{hint}")
        value = columns[self.column]
        if not is_number(value):
            raise JoulecastError(f"column {self.column!r} is {value!r} in a candidate: give a column of numbers")
        return -float(value) if self.more_is_better else float(value)


def parse_merits(text: str) -> tuple[Merit, ...]:
    """The merits of "energy,accuracy" or "co2e,latency:min". Raises JoulecastError.

    Energy, CO2e, time and cost are better when they are small, every other column when it is large; `:min` and `:max`
    say otherwise.
    """
    merits = []
    for part in text.split(","):
        name, colon, end = part.strip().partition(":")
        if not name or (colon and end not in ("min", "max")):
            raise JoulecastError(f"{part!r} is not a column, with :min or :max if it needs one")
        column = column_name(name)
        merits.append(Merit(column, end == "max" if colon else column not in _COSTS))
    if len({merit.column for merit in merits}) < len(merits):
        raise JoulecastError(f"{text!r} names a column twice")
    return tuple(merits)


def columns_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """All columns of a result: what was asked, then the figures, which take precedence."""
    return {"candidate": result["index"], **result["asked"], **result.get("row", {}), "error": result.get("error", "")}


@dataclass(slots=True)
class Ranking:
    """Collects the results of a sweep; keeps a few numbers of each."""

    front_by: Sequence[Merit] = ()
    top_by: Merit | None = None
    totals: dict[str, Interval] = field(default_factory=dict)
    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    over_budget: int = 0
    sources: set[str] = field(default_factory=set)
    """What the figures are based on: those of `time_source` and `power_source` that occur."""
    _nodes: bool = True
    _points: list[tuple[float, ...]] = field(default_factory=list)
    _indices: list[int] = field(default_factory=list)
    _losses: list[tuple[float, int]] = field(default_factory=list)

    def add(self, result: Mapping[str, Any]) -> None:
        """Adds one result. Candidates that failed count, but have no figures; those over their budget do not rank."""
        self.done += 1
        if "row" not in result:
            self.failures[result["error"]] += 1
            return
        columns = columns_of(result)
        self.sources |= {columns[name] for name in ("time_source", "power_source") if name in columns}
        if self._nodes and columns.get(NODES) is None:
            self._nodes = False
            self.totals.pop(NODES, None)
        for name in (*TOTALS, NODES) if self._nodes else TOTALS:
            own = Interval(columns[name], columns[f"{name}_low"], columns[f"{name}_high"])
            self.totals[name] = self.totals[name] + own if name in self.totals else own
        if columns.get("over_budget"):
            self.over_budget += 1
            return
        if self.front_by:
            self._points.append(tuple(merit.loss(columns) for merit in self.front_by))
            self._indices.append(result["index"])
        if self.top_by is not None:
            self._losses.append((self.top_by.loss(columns), result["index"]))

    @property
    def failed(self) -> int:
        return self.failures.total()

    def top(self, number: int) -> list[int]:
        """The indices of the best candidates, best first; of equals the earlier ones."""
        return [index for _, index in sorted(self._losses)[:number]]

    def front(self) -> list[int]:
        """The indices of the candidates that no other one is at least as good as in all merits and better in one."""
        import numpy as np

        if not self._points:
            return []
        points = np.asarray(self._points)
        order = np.lexsort((np.asarray(self._indices), *points.T[::-1]))
        kept: list[int] = []
        for row in order:  # sorted by the first merit: only earlier ones can be better
            own = points[row]
            best = points[kept]
            if not np.any(np.all(best <= own, axis=1) & np.any(best < own, axis=1)):
                kept.append(int(row))
        return [self._indices[row] for row in kept]
