"""EC-NAS: trainings of NAS-Bench-101 networks on CIFAR-10, as observations.

Bakhtiarifard, Igel and Selvan, ICASSP 2024, https://arxiv.org/abs/2210.06015 (MIT). GPU by NVML and two
CPU sockets by RAPL, as CarbonTracker read them; its kWh include a PUE of 1.59, which is divided out.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.workload import Workload

PUE = 1.59
JOULES_PER_KWH = 3_600_000
BATCH = 256
STEPS_PER_EPOCH = 156.25  # 40,000 images
METER = "nvml+rapl (CarbonTracker)"
BOUNDARY = "GPU board and both CPU packages, without PUE"
SOURCE = "EC-NAS, Bakhtiarifard et al., ICASSP 2024, arXiv 2210.06015, github saintslab/EC-NAS-Bench (MIT)"


@dataclass(frozen=True, slots=True)
class Run:
    """One training. `seconds` and `energy_j` are training alone; `evaluation_j` is the first evaluation's.

    `first_half` and `second_half` are (seconds, joules) of a run's two monitored chunks, where known.
    `forecast_j` is CarbonTracker's forecast for the whole run, made after its first monitored epoch.
    """

    network: str
    hardware: str
    epochs: int
    seconds: float
    energy_j: float
    evaluation_j: float
    cpu_w: float
    forecast_j: float
    session: str = ""
    evaluation_s: float = 0.0  # one evaluation of the validation and test images, where known
    halves: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def steps(self) -> int:
        return round(self.epochs * STEPS_PER_EPOCH)

    @property
    def training_j(self) -> float:
        """The energy without the evaluations that end both chunks, which its windows contain.

        The power shows that they do: energy over training time is 401 W on average for 4 epochs, more
        than the parts can draw (a board of 260 W and two CPUs at 115 to 120 W). With the time of two
        evaluations added it is 376 W.
        """
        return self.energy_j * self.seconds / (self.seconds + 2 * self.evaluation_s)

    def observation(self, workload: Workload, energy_j: float | None = None) -> Observation:
        return Observation(
            workload=workload,
            steps=self.steps,
            seconds=self.seconds,
            energy_j=self.energy_j if energy_j is None else energy_j,
            meter=METER,
            hardware=self.hardware,
            framework="tensorflow",
            host={"session": self.session},
        )


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture as the data describes it."""

    key: str
    adjacency: tuple[tuple[int, ...], ...]
    ops: tuple[str, ...]
    parameters: int


def _joules(kwh_with_pue: str) -> float:
    return float(kwh_with_pue) * JOULES_PER_KWH / PUE


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def networks(measured: Path) -> dict[str, Network]:
    """All 2,532 architectures by their hash; 91 have four vertices or fewer."""
    return {
        row["model_hash"]: Network(
            key=row["model_hash"],
            adjacency=tuple(tuple(line) for line in json.loads(row["adjacency"])),
            ops=tuple(row["ops"].split(",")),
            parameters=int(row["trainable_params"]),
        )
        for row in _rows(measured / "ec-nas" / "ecnas_5v_rtx6000_4epochs.csv")
    }


def runs_five(measured: Path) -> list[Run]:
    """One run of 4 epochs of each of the 2,532 architectures on a Quadro RTX 6000."""
    runs = []
    for row in _rows(measured / "ec-nas" / "ecnas_5v_rtx6000_4epochs.csv"):
        start, middle, end = (_joules(row[f"ep{n}_energy_kWh"]) for n in (0, 2, 4))
        half, whole = float(row["ep2_training_time_s"]), float(row["ep4_training_time_s"])
        runs.append(
            Run(
                network=row["model_hash"],
                hardware="Quadro RTX 6000",
                epochs=4,
                seconds=whole,
                energy_j=end - start,
                evaluation_j=start,
                cpu_w=float(row["cpu_avg_power_W"]),
                # Its "epoch" was a chunk of two, so that its forecast is of eight.
                forecast_j=_joules(row["carbontracker_predicted_energy_kWh"]) / 2,
                session="five vertices",
                evaluation_s=float(row["ep4_predict_time_s"]),
                halves=((half, middle - start), (whole - half, end - middle)),
            )
        )
    return runs


def runs_repeated(measured: Path) -> list[Run]:
    """Three runs each of 4, 12, 36 and 108 epochs of the 91 on a Quadro RTX 6000."""
    return [
        Run(
            network=row["model_hash"],
            hardware="Quadro RTX 6000",
            epochs=int(row["epochs"]),
            seconds=float(row["eN_time_s"]),
            energy_j=_joules(row["eN_energy_kWh"]) - _joules(row["e0_energy_kWh"]),
            evaluation_j=_joules(row["e0_energy_kWh"]),
            cpu_w=float(row["cpu_avg_power_W"]),
            forecast_j=_joules(row["ct_pred_energy_kWh"]),
            session="four vertices, repeated",
        )
        for row in _rows(measured / "ec-nas" / "ecnas_4v_rtx6000_4-12-36-108epochs_x3.csv")
    ]


HARDWARE = {
    "quadrortx6000": "Quadro RTX 6000",
    "rtx3090": "RTX 3090",
    "rtx3060": "RTX 3060",
    "titanxp": "Titan Xp",
}


def runs_four_gpus(measured: Path, hardware: str) -> list[Run]:
    """One run of 4 epochs of each of the 91 (88 on the RTX 3060) on one of four machines."""
    runs = []
    for row in _rows(measured / "ec-nas" / "ecnas_4v_4gpus_4epochs.csv"):
        if HARDWARE[row["hw"]] != hardware:
            continue
        start, end, whole = _joules(row["e0_energy_kWh"]), _joules(row["e4_energy_kWh"]), float(row["e4_time_s"])
        halves = None
        if row["e2_time_s"]:
            middle, half = _joules(row["e2_energy_kWh"]), float(row["e2_time_s"])
            halves = ((half, middle - start), (whole - half, end - middle))
        runs.append(
            Run(
                network=row["model_hash"],
                hardware=hardware,
                epochs=4,
                seconds=whole,
                energy_j=end - start,
                evaluation_j=start,
                cpu_w=float(row["cpu_avg_power_W"]),
                # With chunks of two epochs its forecast is of eight, as above.
                forecast_j=_joules(row["ct_pred_energy_kWh"]) / (2 if halves else 1),
                session="four GPUs",
                halves=halves,
            )
        )
    return runs


def workloads(wanted: Iterable[Network], cache: Path, jobs: int = 2) -> dict[str, Workload]:
    """Each network built, its parameters checked against the data, and traced; kept in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    listed = list(wanted)
    found = Parallel(n_jobs=jobs, batch_size=4)(delayed(_workload)(network, cache) for network in listed)
    return {network.key: Workload.from_json(document) for network, document in zip(listed, found, strict=True)}


def _workload(network: Network, cache: Path) -> Mapping[str, Any]:
    path = cache / f"{network.key}.json.gz"
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            document: dict[str, Any] = json.load(stream)
            return document
    document = merged(_traced(network)).to_json()
    part = path.with_suffix(".part")
    with gzip.open(part, "wt", encoding="utf-8") as stream:
        json.dump(document, stream)
    part.replace(path)
    return document


UNIQUE_CELLS = (1, 2, 2)
REPEATS = {"body.0": 3, "body.3": 2, "body.6": 2}
"""Cells of one stack are equal but for the first, which widens: five of the nine tell all of them."""


def _traced(network: Network) -> Workload:
    """The step of the whole network; its parameters must be those of the data."""
    import torch
    from nasbench import NasBench

    from joulecast.estimator.trace.trace import trace

    torch.set_num_threads(1)
    with torch.device("meta"):
        whole = NasBench(network.adjacency, network.ops)
        model = NasBench(network.adjacency, network.ops, UNIQUE_CELLS)
        images = torch.empty(BATCH, 3, 32, 32)
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    if parameters != network.parameters:
        raise SystemExit(f"{network.key} has {parameters} parameters, the data says {network.parameters}")
    work = trace(model, images, optimizer="momentum", name=network.key, layers=False)
    ops = tuple(replace(op, count=op.count * repeats(op.layer)) for op in work.ops)
    sizes = {"parameters": parameters, "trainable_parameters": parameters, "parameter_bytes": 4 * parameters}
    return replace(work, ops=ops, **sizes)


def repeats(layer: str) -> int:
    """How many equal cells of the whole network the cell of `layer` represents."""
    return REPEATS.get(".".join(layer.split(".")[:2]), 1)


def merged(work: Workload) -> Workload:
    """Equal ops of different layers as one record with their count: a tenth of the size."""
    counts: Counter[str] = Counter()
    first: dict[str, Any] = {}
    for op in work.ops:
        plain = replace(op, layer="", count=1)
        key = repr(plain)
        counts[key] += op.count
        first.setdefault(key, plain)
    return replace(work, layers=(), ops=tuple(replace(first[key], count=count) for key, count in counts.items()))
