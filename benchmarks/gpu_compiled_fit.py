"""What `torch.compile` changes, from the compiled steps in `measured/h100-sxm.csv`, with the rest of the population.

    python benchmarks/gpu_compiled_fit.py [--cache FILE] [--write]

Fits the factors of the software "compiled" in `datasets/population.json` on logarithms of seconds, with their first
guesses in `population_fit.py` as priors, and prints the error of each network with factors that were fitted without it.
`--write` replaces the factors there. Run it after a new fit of the population.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from math import exp
from pathlib import Path
from statistics import mean, median
from tempfile import gettempdir
from typing import Any

import numpy as np
from gpu_profile import MEASURED, observations
from scipy.optimize import least_squares

from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.piece_time import step_seconds
from joulecast.estimator.cost.pieces import Columns, pieces
from joulecast.estimator.cost.population import PopulationTime, load_population, population_time

PART, SOFTWARE = "h100-sxm", "compiled"
POPULATION = Path(__file__).parents[1] / "datasets" / "population.json"
FIRST = {"conv": (1.0, 0.3), "traffic": (0.6, 0.3), "host": (0.2, 0.8), "kernels": (0.5, 0.3)}
"""First guess of each factor, and the standard deviation of its logarithm."""
_ERROR = 0.25  # standard deviation of the logarithm of a network's seconds
Array = np.ndarray[Any, np.dtype[np.float64]]


def log_errors(works: Sequence[Columns], seconds: Array, factors: Array) -> Array:
    """Logarithms of predicted over measured seconds."""
    named = {f"{SOFTWARE}:{name}": float(value) for name, value in zip(FIRST, factors, strict=True)}
    basis = population_time(find_hardware(PART), SOFTWARE)
    time = PopulationTime(basis.specs, SOFTWARE, parameters={**basis.parameters, **named})
    found = []
    for work in works:
        x = time.seconds_of(work, train=True)
        device = float((x.compute + x.memory + x.floor).sum())
        found.append(float(step_seconds(x.host.sum(), np.array(device), time.parameters["sharpness"])))
    return np.asarray(np.log(np.array(found) / seconds))


def fitted(works: Sequence[Columns], seconds: Array) -> Array:
    guesses, deviations = np.array(list(FIRST.values())).T

    def residuals(logs: Array) -> Array:
        errors = log_errors(works, seconds, np.exp(logs)) / _ERROR
        return np.concatenate([errors, (logs - np.log(guesses)) / deviations])

    return np.asarray(np.exp(least_squares(residuals, np.log(guesses), loss="soft_l1").x))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="file with traces; default: in the temporary folder")
    parser.add_argument("--write", action="store_true", help="write the factors to datasets/population.json")
    options = parser.parse_args()
    with (MEASURED / f"{PART}.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["software"] == SOFTWARE]
    rows = observations(PART, table, options.cache or Path(gettempdir()) / f"joulecast-{PART}-traces.json")
    works = [pieces(row.workload.ops, SOFTWARE) for row in rows]
    seconds = np.array([row.step_seconds for row in rows])
    population = load_population()
    bounds = [population.errors[f"time nvidia {known}"] for known in ("known", "unknown")]
    shipped = np.array([population.parameters.get(f"{SOFTWARE}:{name}", 1.0) for name in FIRST])
    without = []
    for index, row in enumerate(rows):
        others = [at for at in range(len(rows)) if at != index]
        factors = fitted([works[at] for at in others], seconds[others])
        without.append(float(log_errors([works[index]], seconds[[index]], factors)[0]))
        print(f"  {row.family:<28} {1e3 * row.step_seconds:6.1f} ms, predicted without it {np.expm1(without[-1]):+.0%}")
    for name, errors in (
        ("shipped factors", log_errors(works, seconds, shipped)),
        ("each left out", np.array(without)),
    ):
        sizes = np.abs(np.expm1(errors)).tolist()
        inside = [mean(low <= exp(-error) <= high for error in errors.tolist()) for low, high in bounds]
        print(
            f"{name}, {len(rows)} steps: {mean(sizes):.1%} mean, {median(sizes):.1%} median error; {inside[0]:.0%} "
            f"inside the bounds of software that is stated, {inside[1]:.0%} of software that is not"
        )
    factors = fitted(works, seconds)
    print("factors:", ", ".join(f"{name} {value:.3f}" for name, value in zip(FIRST, factors, strict=True)))
    if options.write:
        document = json.loads(POPULATION.read_text(encoding="utf-8"))
        for name, value in zip(FIRST, factors, strict=True):
            document["parameters"][f"{SOFTWARE}:{name}"] = float(f"{value:.5g}")
        POPULATION.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {POPULATION}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
