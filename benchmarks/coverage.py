"""Coverage of the 90 % intervals on families that were left out of the fit.

    python benchmarks/coverage.py --measured ../shared/measured [--store DIR]

Leaves out each family in turn (named by the observations, else groups of similar networks), fits the rest with
intervals from its own left-out families, and compares the intervals with the family's measurements. Exit status 1
where fewer than 85 % or more than 95 % of times or energies lie inside.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import click
import data_ecnas as ecnas
import numpy as np
from accuracy import undisturbed

from joulecast.estimator.cost.profile import JOULES_PER_KWH, PowerModel
from joulecast.estimator.fit.design import Design
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.fit.regression import folds
from joulecast.measure.records.store import Store
from joulecast.measure.suite.calibrate import chosen_records, observations

LEAST, MOST = 0.85, 0.95
_NO_POWER = PowerModel({"compute": 1.0, "memory": 1.0, "launch": 1.0}, 0.0)


def inside(rows: Sequence[Observation], startup: bool) -> tuple[float, float | None]:
    """Shares of the rows whose time and energy (None where not measured) lie in the intervals of the other families."""
    families = Design(rows).families
    named = [replace(row, family=family) for row, family in zip(rows, families, strict=True)]
    metered = rows[0].energy_j is not None
    times, energies = [], []
    for train, test in folds(families):
        known = [row for row, used in zip(named, train, strict=True) if used]
        profile = fit(known, name="others", startup=startup, power=None if metered else _NO_POWER)
        for row in (row for row, left_out in zip(named, test, strict=True) if left_out):
            estimate = profile.predict(row.workload, steps=row.steps)
            joules = estimate.energy_kwh * JOULES_PER_KWH
            times.append(estimate.seconds.low <= row.seconds <= estimate.seconds.high)
            energies.append(joules.low <= (row.energy_j or 0.0) <= joules.high)
    return float(np.mean(times)), float(np.mean(energies)) if metered else None


def of_ecnas(measured: Path, cache: Path) -> dict[str, list[Observation]]:
    """The 91 networks with at most four vertices, on each of the four GPUs, without disturbed runs."""
    known = ecnas.networks(measured)
    small = [network for network in known.values() if len(network.adjacency) < 5]
    works = ecnas.workloads(small, cache, 2)
    found = {}
    for hardware in ("Quadro RTX 6000", "RTX 3090", "RTX 3060", "Titan Xp"):
        runs = undisturbed(ecnas.runs_four_gpus(measured, hardware))
        found[f"EC-NAS on {hardware}"] = [run.observation(works[run.network]) for run in runs]
    return found


@click.command()
@click.option("--measured", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cache", type=click.Path(path_type=Path), default=Path(gettempdir()) / "joulecast-accuracy")
@click.option("--store", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Records of `measure`.")
def main(measured: Path | None, cache: Path, store: Path | None) -> None:
    """Coverage of the intervals on families left out."""
    evidence = of_ecnas(measured, cache) if measured else {}
    if store:
        evidence["this machine's suite"] = observations(chosen_records(Store(store).records()))
    missed = False
    for name, rows in evidence.items():
        time, energy = inside(rows, startup="EC-NAS" in name)
        missed |= any(share is not None and not LEAST <= share <= MOST for share in (time, energy))
        energy_text = "-" if energy is None else f"{energy:.0%}"
        click.echo(f"| {name} | {len(rows)} | {len(set(Design(rows).families))} | {energy_text} | {time:.0%} |")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
