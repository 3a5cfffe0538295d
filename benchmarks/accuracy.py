"""Accuracy on published measurements, compared with the alternatives on the same rows.

    python benchmarks/accuracy.py --measured ../shared/measured

Writes docs/accuracy.md and its plots. The first run builds and traces 2,532 networks (six minutes on
two cores) and keeps the traces in the cache folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from statistics import median
from tempfile import gettempdir

import accuracy_report
import click
import data_ecnas as ecnas
import data_willowec as willowec
import numpy as np
import rivals
import vision
from rivals import Array, Cost

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.cost.profile import JOULES_PER_KWH, Profile
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.workload import Workload

NETS = {"alexnet": vision.AlexNet, "resnet18": vision.ResNet18, "mobilenet_v3_small": vision.MobileNetV3Small}
SEEDS = 5
BUSY = 1.4
"""A run whose CPUs drew this many times the machine's median shared it with another job."""


@dataclass(slots=True)
class Row:
    """Predictions of one split: arrays of shape (test runs,); alternatives by name, None where one gives no figure."""

    name: str
    hardware: str
    target_energy: float
    target_time: float
    true_s: Array
    true_j: Array
    seconds: Array
    energy_j: Array
    inside_s: Array
    inside_j: Array
    rivals: dict[str, tuple[Array | None, Array | None]] = field(default_factory=dict)
    form: str = ""
    families: list[str] = field(default_factory=list)


def predicted(profile: Profile, test: Sequence[Cost]) -> dict[str, Array]:
    """Predictions for the test runs, and whether each measurement lies in its 90 % interval."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in test:
        estimate = profile.predict(run.workload, steps=run.steps)
        joules = estimate.energy_kwh * JOULES_PER_KWH
        found["seconds"].append(estimate.seconds.value)
        found["energy_j"].append(joules.value)
        found["inside_s"].append(estimate.seconds.low <= run.seconds <= estimate.seconds.high)
        found["inside_j"].append(joules.low <= run.energy_j <= joules.high)
    return {name: np.array(values, dtype=float) for name, values in found.items()}


def row(
    name: str, hardware: str, targets: tuple[float, float], train: Sequence[Observation], test: Sequence[Cost]
) -> Row:
    """Fits on `train` and predicts `test`, with joulecast, the linear alternatives and TDP."""
    profile = fit(train, name=name, startup=True)
    costs = [Cost(one.workload, one.steps, one.seconds, one.energy_j or 0.0) for one in train]
    others: dict[str, tuple[Array | None, Array | None]] = {
        rival: rivals.linear(traits, costs, test) for rival, traits in rivals.LINEAR.items()
    }
    others["TDP x true time"] = (None, rivals.tdp_times_true_time(hardware, test))
    return Row(
        name=name,
        hardware=hardware,
        target_energy=targets[0],
        target_time=targets[1],
        true_s=np.array([one.seconds for one in test]),
        true_j=np.array([one.energy_j for one in test]),
        rivals=others,
        form=profile.provenance.fitted_on,
        **predicted(profile, test),
    )


def _cost(run: ecnas.Run, works: Mapping[str, Workload]) -> Cost:
    return Cost(works[run.network], run.steps, run.seconds, run.energy_j)


def family(network: ecnas.Network) -> str:
    return f"{sum(op.startswith('conv3x3') for op in network.ops)} x conv3x3"


def small_to_large(measured: Path, works: Mapping[str, Workload], four: set[str]) -> list[Row]:
    """B: fitted on every 4-epoch run of the 91, tested on the single runs of the others."""
    every, known = ecnas.runs_five(measured), ecnas.networks(measured)
    train = [run for run in every if run.network in four]
    train += [run for run in ecnas.runs_repeated(measured) if run.epochs == 4]
    train += ecnas.runs_four_gpus(measured, "Quadro RTX 6000")
    rows = []
    for name, kept in (
        ("EC-NAS B: 91 networks to the other 2,441", every),
        ("the same, networks never looked at", [run for run in every if not tuned_on(run.network)]),
    ):
        test = [run for run in kept if run.network not in four and run.network in works]
        if not test:  # --small, and the cache contains none of them
            continue
        found = row(
            name,
            "Quadro RTX 6000",
            (0.06, 0.025),
            [run.observation(works[run.network]) for run in train],
            [_cost(run, works) for run in test],
        )
        found.rivals["CarbonTracker's forecast"] = (None, np.array([run.forecast_j for run in test]))
        found.families = [family(known[run.network]) for run in test]
        rows.append(found)
    return rows


def tuned_on(network: str) -> bool:
    """The quarter of the hashes that was used to choose forms and features."""
    return network[0] in "0123"


def short_to_long(measured: Path, works: Mapping[str, Workload], four: set[str]) -> list[Row]:
    """C: fitted on the 2,441 at 4 epochs, tested on the 91 at 108 (the median of three runs)."""
    train = [run for run in ecnas.runs_five(measured) if run.network not in four and run.network in works]
    evidence = [run.observation(works[run.network], run.training_j) for run in train]
    repeats: dict[str, list[ecnas.Run]] = defaultdict(list)
    for run in ecnas.runs_repeated(measured):
        if run.epochs == 108:
            repeats[run.network].append(run)
    rows = []
    for name, kept in (
        ("EC-NAS C: 2,441 at 4 epochs to the 91 at 108", list(repeats)),
        ("the same, networks never looked at", [network for network in repeats if network[0] in "89abcdef"]),
    ):
        test = [
            Cost(
                works[network],
                repeats[network][0].steps,
                median(run.seconds for run in repeats[network]),
                median(run.energy_j for run in repeats[network]),
            )
            for network in kept
        ]
        found = row(name, "Quadro RTX 6000", (0.06, 0.03), evidence, test)
        forecast = np.array([median(run.forecast_j for run in repeats[network]) for network in kept])
        found.rivals["CarbonTracker's forecast"] = (None, forecast)
        rows.append(found)
    return rows


def undisturbed(runs: Sequence[ecnas.Run]) -> list[ecnas.Run]:
    usual = median(run.cpu_w for run in runs)
    return [run for run in runs if run.cpu_w < BUSY * usual]


def other_gpus(measured: Path, works: Mapping[str, Workload]) -> list[Row]:
    """Fitted on 60 networks of a GPU, tested on its other 31, five draws pooled; also without disturbed runs."""
    rows = []
    for hardware in ("RTX 3090", "RTX 3060", "Titan Xp"):
        runs = ecnas.runs_four_gpus(measured, hardware)
        kept = undisturbed(runs)
        rows.append(_draws(f"EC-NAS on {hardware}: 60 networks to the others", hardware, runs, works))
        if len(runs) - len(kept) > 5:
            name = f"the same, without {len(runs) - len(kept)} runs whose CPUs were busy with something else"
            rows.append(_draws(name, hardware, kept, works))
    return rows


def _draws(name: str, hardware: str, runs: Sequence[ecnas.Run], works: Mapping[str, Workload]) -> Row:
    parts = []
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(len(runs))
        size = min(60, len(runs) - 31) if len(runs) < 85 else 60
        train = [runs[index].observation(works[runs[index].network]) for index in order[:size]]
        test = [runs[index] for index in order[size:]]
        part = row(name, hardware, (0.06, 0.03), train, [_cost(run, works) for run in test])
        part.rivals["CarbonTracker's forecast"] = (None, np.array([run.forecast_j for run in test]))
        parts.append(part)
    return pooled(parts)


def pooled(parts: Sequence[Row]) -> Row:
    first = parts[0]
    for name in ("true_s", "true_j", "seconds", "energy_j", "inside_s", "inside_j"):
        setattr(first, name, np.concatenate([getattr(part, name) for part in parts]))
    for rival in first.rivals:
        columns = [
            None if first.rivals[rival][side] is None else np.concatenate([part.rivals[rival][side] for part in parts])
            for side in (0, 1)
        ]
        first.rivals[rival] = (columns[0], columns[1])
    return first


def layers_to_networks(measured: Path) -> list[accuracy_report.Single]:
    """Fitted on random layers of a CPU, tested on whole networks, by phase."""
    works = willowec.works(NETS)
    found = []
    for machine in willowec.MACHINES:
        profile = fit(willowec.layer_observations(measured, machine), name=machine)
        for net in willowec.networks(measured):
            if net.machine != machine:
                continue
            for phase in willowec.PHASES:
                estimates = [(share, profile.predict(work)) for share, work in works[net.name][phase]]
                joules = _summed([share * JOULES_PER_KWH * one.energy_kwh for share, one in estimates])
                seconds = _summed([share * one.seconds for share, one in estimates])
                true_s, true_j = net.seconds[phase], net.energy_j[phase]
                found.append(
                    accuracy_report.Single(
                        machine,
                        net.name,
                        phase,
                        seconds.value,
                        true_s,
                        joules.value,
                        true_j,
                        seconds.low <= true_s <= seconds.high,
                        true_j is not None and joules.low <= true_j <= joules.high,
                    )
                )
    return found


def _summed(parts: Sequence[Interval]) -> Interval:
    return reduce(add, parts)


@click.command()
@click.option("--measured", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path(gettempdir()) / "joulecast-accuracy")
@click.option("--docs", type=click.Path(path_type=Path), default=Path(__file__).parents[1] / "docs")
@click.option("--jobs", default=2, show_default=True)
@click.option("--small", is_flag=True, help="Only networks that are in the cache, besides the 91.")
def main(measured: Path, cache: Path, docs: Path, jobs: int, small: bool) -> None:
    """Tests the regression on the measurements in the folder MEASURED and writes docs/accuracy.md."""
    known = ecnas.networks(measured)
    four = {key for key, network in known.items() if len(network.adjacency) < 5}
    wanted = [net for key, net in known.items() if not small or key in four or (cache / f"{key}.json.gz").is_file()]
    works = ecnas.workloads(wanted, cache, jobs)
    click.echo(f"{len(works)} networks traced, their parameters as in the data")
    rows = [*small_to_large(measured, works, four), *short_to_long(measured, works, four), *other_gpus(measured, works)]
    singles = layers_to_networks(measured)
    click.echo(accuracy_report.write(rows, singles, docs))


if __name__ == "__main__":
    main()
