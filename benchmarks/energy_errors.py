"""How do errors of power and of time go together? Does a step that takes longer than predicted draw less?

    python benchmarks/energy_errors.py --measured ../shared/measured [--cache DIR]

Sources that have both, predicted from datasheets: EC-NAS, Zeus and Fischer et al. (boards), MLPerf Training (nodes).
`slope` is that of log(measured / predicted watts) over log(measured / predicted seconds) inside a source and GPU. Each
source is judged with the mean slope of the others: how many of its energies are inside bounds that combine its own 90 %
of time errors with 12 % of power, as if both were independent, and with the slope. In Fischer et al. the GPUs wait for
pictures, so that its slope is in no mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed_others import kilowatts
from population_rows import Traces
from population_runs import Step, ecnas_steps, fischer_steps, zeus_steps

from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.parallel.predict import POWER_DOUBT, POWER_SLOPE

Array = np.ndarray[Any, np.dtype[np.float64]]
_NETWORKS = 25  # of EC-NAS, each on four GPUs
_WAITS_FOR_DATA = "fischer"
_TAIL = 0.05


@dataclass(frozen=True, slots=True)
class Errors:
    """Logarithms of measured over predicted, without their mean in a source and GPU."""

    time: Array
    watts: Array

    @property
    def slope(self) -> float:
        return float(np.sum(self.time * self.watts) / np.sum(self.time**2))

    def inside(self, slope: float) -> float:
        """The share of the energies inside combined bounds."""
        low, high = np.quantile(self.time, [_TAIL, 1 - _TAIL])
        bounds = [np.hypot((1 + slope) * own, POWER_DOUBT) for own in (low, high)]
        energy = self.time + self.watts
        return float(np.mean((energy >= -bounds[0]) & (energy <= bounds[1])))


def boards(measured: Path, cache: Path) -> Iterator[tuple[Step, float, float]]:
    """Steps with the logarithms of measured over predicted seconds and watts."""
    own = list(ecnas_steps(measured))
    labels = sorted(set.intersection(*({s.label for s in own if s.gpu == gpu} for gpu in {s.gpu for s in own})))
    kept = [step for step in own if step.label in labels[:_NETWORKS]]
    traces = Traces(cache, frozenset())
    for step in (*kept, *zeus_steps(measured), *fischer_steps(measured)):
        work = traces.work(step.key)
        if work is None or step.watts is None:
            continue
        profile = datasheet_profile(find_hardware(step.gpu)).for_software(step.software).for_precision("float32")
        found = profile.predict(work, steps=1000)
        seconds = found.seconds.value / 1000
        watts = found.energy_kwh.value * JOULES_PER_KWH / found.seconds.value
        yield step, float(np.log(step.seconds / seconds)), float(np.log(step.watts / watts))


def all_errors(measured: Path, cache: Path) -> dict[str, Errors]:
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for step, time, watts in boards(measured, cache):
        rows.setdefault(step.source, {}).setdefault(step.gpu, []).append((time, watts))
    nodes, energies = (-np.log(found[1]) for found in kilowatts(measured, cache))
    rows["mlperf power"] = {"h100": list(zip(energies - nodes, nodes, strict=True))}
    return {source: _without_means(list(groups.values())) for source, groups in rows.items()}


def _without_means(groups: Sequence[Sequence[tuple[float, float]]]) -> Errors:
    centred = [np.array(rows) - np.mean(rows, axis=0) for rows in groups]
    time, watts = np.vstack(centred).T
    return Errors(time, watts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "joulecast-benchmarks")
    options = parser.parse_args()
    errors = all_errors(options.measured, options.cache)
    slopes = {source: own.slope for source, own in errors.items() if source != _WAITS_FOR_DATA}
    print(f"{'spreads':16} {'rows':>5} {'time':>6} {'watts':>6} {'energy':>6} {'slope':>6}  inside: independent, slope")
    for source, own in errors.items():
        others = float(np.mean([slope for other, slope in slopes.items() if other != source]))
        spreads = " ".join(f"{np.std(one):6.2f}" for one in (own.time, own.watts, own.time + own.watts))
        inside = f"{own.inside(0.0):.0%}, {own.inside(others):.0%} (slope {others:.2f})"
        print(f"{source:16} {len(own.time):5} {spreads} {own.slope:6.2f}  {inside}", flush=True)
    print(f"mean slope {np.mean(list(slopes.values())):.2f}; shipped {POWER_SLOPE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
