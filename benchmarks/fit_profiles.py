"""Fits the shipped profiles on published measurements and writes them to datasets/profiles.

python benchmarks/fit_profiles.py --measured ../shared/measured
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import e, log
from pathlib import Path
from statistics import median
from tempfile import gettempdir

import click
import data_ecnas as ecnas
import data_willowec as willowec
import numpy as np
from accuracy import NETS, undisturbed

from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.intervals import scores_of
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.fit.regression import bounds
from joulecast.estimator.trace.workload import Workload

EVALUATIONS = (
    "energies of 4-epoch runs are taken without the evaluations in their windows, by the time that these took; "
    "where it is not in the data, by their median share on the Quadro RTX 6000"
)
FRAMEWORK = "TensorFlow (EC-NAS); convolutional networks of 32 x 32 images, batch 256, float32, without tensor cores"
GIGABYTE = 10**9
MEMORY = {"Quadro RTX 6000": 24, "RTX 3090": 24, "RTX 3060": 12, "Titan Xp": 12}
NAMES = {"Quadro RTX 6000": "quadro-rtx-6000", "RTX 3090": "rtx-3090", "RTX 3060": "rtx-3060", "Titan Xp": "titan-xp"}


def gpu_profile(hardware: str, rows: list[Observation], extra: str = "") -> Profile:
    return fit(
        rows,
        name=NAMES[hardware],
        hardware=hardware,
        device="gpu",
        sources=(ecnas.SOURCE,),
        boundary=ecnas.BOUNDARY,
        notes=tuple(note for note in (FRAMEWORK, EVALUATIONS, extra) if note),
        memory_bytes=MEMORY[hardware] * GIGABYTE,
        startup=True,
    )


def quadro(measured: Path, works: Mapping[str, Workload]) -> Profile:
    """All single runs of 4 epochs, and the repeated runs of 36 and 108 epochs without their evaluations."""
    rows = [
        run.observation(works[run.network], run.training_j) for run in ecnas.runs_five(measured) if run.network in works
    ]
    rows += [run.observation(works[run.network]) for run in ecnas.runs_repeated(measured) if run.epochs >= 36]
    return gpu_profile("Quadro RTX 6000", rows)


def other_gpu(measured: Path, works: Mapping[str, Workload], hardware: str) -> Profile:
    every = ecnas.runs_five(measured)
    share = median(run.training_j / run.energy_j for run in every)
    runs = ecnas.runs_four_gpus(measured, hardware)
    kept = undisturbed(runs)
    dropped = f"{len(runs) - len(kept)} runs left out: their CPUs were busy with something else"
    rows = [run.observation(works[run.network], run.energy_j * share) for run in kept]
    return gpu_profile(hardware, rows, dropped if len(kept) < len(runs) else "")


def cpu_profiles(measured: Path) -> list[Profile]:
    """Fitted on single layers and tested on whole networks, which give the scores and intervals.

    Six windows of three networks on one CPU are too few for an interval, so both CPUs' are pooled.
    """
    works = willowec.works(NETS)
    unit = ErrorModel(1 / e, e)
    profiles, errors, families = [], [], []
    for machine in willowec.MACHINES:
        layers = willowec.layer_observations(measured, machine)
        networks = willowec.network_observations(measured, machine, works)
        profile = replace(_cpu_profile(machine, layers, len(networks)), time_error=unit, energy_error=unit)
        found = np.array([_log_ratios(profile, one) for one in networks])
        times, energies = np.exp(-found[:, :2]).T  # predicted over measured
        scores = scores_of("time", times, np.ones(len(found))) | scores_of("energy", energies, np.ones(len(found)))
        profiles.append(replace(profile, scores={**profile.scores, **scores}))
        errors.append(found[:, :2] / found[:, 2:])
        families += [one.family for one in networks]
    pooled = np.concatenate(errors)
    time_error, energy_error = (ErrorModel(*bounds(column, families)) for column in pooled.T)
    return [replace(profile, time_error=time_error, energy_error=energy_error) for profile in profiles]


def _cpu_profile(machine: str, layers: Sequence[Observation], networks: int) -> Profile:
    return fit(
        layers,
        name=f"willowec-{machine}",
        hardware=f"{machine} CPU (model not stated by the data)",
        device="cpu",
        sources=(willowec.SOURCE,),
        boundary=willowec.BOUNDARY,
        notes=(
            "fitted on single random Conv2d, Linear and MaxPool2d layers alone; errors and intervals are those of "
            f"{networks} windows of whole networks, which are far off: see docs/accuracy.md",
        ),
    )


def _log_ratios(profile: Profile, one: Observation) -> tuple[float, float, float]:
    """Logarithms of measured over predicted time and energy, and how far the profile would widen its interval."""
    estimate = profile.predict(one.workload, steps=one.steps)
    joules = estimate.energy_kwh.value * JOULES_PER_KWH
    stretch = log(estimate.seconds.high / estimate.seconds.value)
    return log(one.seconds / estimate.seconds.value), log((one.energy_j or 0.0) / joules), stretch


def gpu_profiles(measured: Path, cache: Path, jobs: int, small: bool) -> list[Profile]:
    known = ecnas.networks(measured)
    wanted = [
        network
        for key, network in known.items()
        if not small or len(network.adjacency) < 5 or (cache / f"{key}.json.gz").is_file()
    ]
    works = ecnas.workloads(wanted, cache, jobs)
    return [quadro(measured, works), *(other_gpu(measured, works, name) for name in NAMES if "Quadro" not in name)]


@click.command()
@click.option("--measured", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(gettempdir()) / "joulecast-accuracy")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parents[1] / "datasets" / "profiles")
@click.option("--jobs", default=2, show_default=True)
@click.option("--small", is_flag=True, help="Only networks that are in the cache, besides the 91.")
@click.option("--only", type=click.Choice(["gpus", "cpus"]), help="Fit these alone.")
def main(measured: Path, cache: Path, out: Path, jobs: int, small: bool, only: str | None) -> None:
    """Fits the profiles that joulecast ships."""
    profiles = [] if only == "cpus" else gpu_profiles(measured, cache, jobs, small)
    profiles += [] if only == "gpus" else cpu_profiles(measured)
    for profile in profiles:
        path = profile.save(out / f"{profile.name}.json")
        click.echo(f"{path}: {profile.provenance.fitted_on}; {dict(profile.scores)}")


if __name__ == "__main__":
    main()
