"""willowec: random layers and whole networks trained on two CPUs under RAPL, as observations.

github willowec/characterizing-pytorch-power (MIT). A layer's two windows are its forward pass, and
everything after it: mean-square loss, backward (its input needs no gradient) and the step of SGD with
momentum. The whole networks, with one more Linear(1000, 10), were trained on CIFAR-10 at 64 x 64.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

MACHINES = ("raptorlake", "broadwell-ep")
PHASES = ("forward", "backward and step")
METER = "rapl (pyRAPL)"
BOUNDARY = "CPU packages"
SOURCE = "willowec/characterizing-pytorch-power, W. Cunningham 2025, github @ 4067417d (MIT)"
Works = Mapping[str, Mapping[str, list[tuple[float, Workload]]]]
"""By network and phase, (share of the batches, workload)."""
BATCHES = 50  # five batches, ten repeats
"""Batches that each layer's figures are the mean of."""


@dataclass(frozen=True, slots=True)
class Network:
    """One whole network's mean batch: seconds and joules by phase (None where the counter wrapped)."""

    machine: str
    name: str
    seconds: dict[str, float]
    energy_j: dict[str, float | None]


def split(work: Workload) -> dict[str, Workload]:
    """The forward pass, and the loss, backward and optimizer that the data calls `backward and step`."""
    forward = tuple(op for op in work.ops if op.phase == "forward" and op.layer != "(loss)")
    rest = tuple(op for op in work.ops if op.phase != "forward" or op.layer == "(loss)")
    return {
        PHASES[0]: replace(work, ops=forward, train=False, optimizer=None),
        PHASES[1]: replace(work, ops=rest),
    }


def _mean_square(output: Any, *_: Any) -> Any:
    import torch

    return torch.nn.functional.mse_loss(output, torch.empty_like(output))


def _layer(kind: str, row: dict[str, float]) -> tuple[Any, Any]:
    """The module and a batch for it, on the meta device."""
    import torch
    from torch import nn

    size = {name: int(value) for name, value in row.items() if not name.endswith(("energy", "time"))}
    batch = size["batch_size"]
    with torch.device("meta"):
        if kind == "conv":
            module: nn.Module = nn.Conv2d(size["in_chan"], size["out_chan"], size["k_size"], size["stride"])
            return module, torch.empty(batch, size["in_chan"], size["side_len"], size["side_len"])
        if kind == "linear":
            return nn.Linear(size["in_size"], size["out_size"]), torch.empty(batch, size["in_size"])
        side = size["im_side_length"]
        return nn.MaxPool2d(size["k_side_length"], size["stride"]), torch.empty(batch, size["in_chan"], side, side)


def _rows(path: Path) -> Iterator[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            yield {name: float(value) for name, value in row.items()}


def layer_observations(measured: Path, machine: str) -> list[Observation]:
    """All windows of the random layers of one machine, except those whose energy counter wrapped."""
    folder = measured / "willowec-cpu-rapl-train"
    found = []
    for kind in ("conv", "linear", "pool"):
        for index, row in enumerate(_rows(folder / f"{machine}_{kind}.csv")):
            module, batch = _layer(kind, row)
            work = _traced(kind, module, batch, f"{kind} {index}")
            for phase, prefix in zip(PHASES, ("for", "back"), strict=True):
                seconds, energy_j = row[f"{prefix}_time"] / 1e6, row[f"{prefix}_energy"] / 1e6
                if phase in work and seconds > 0 and energy_j > 0:
                    found.append(
                        Observation(
                            workload=work[phase],
                            steps=BATCHES,
                            seconds=seconds * BATCHES,
                            energy_j=energy_j * BATCHES,
                            meter=METER,
                            hardware=machine,
                        )
                    )
    return found


def _traced(kind: str, module: Any, batch: Any, name: str) -> dict[str, Workload]:
    if kind != "pool":
        return split(trace(module, batch, optimizer="momentum", loss=_mean_square, layers=False, name=name))
    # A pool has no parameters, and its data has no backward pass.
    return {PHASES[0]: forward_only(module, batch, name)}


def forward_only(module: Any, batch: Any, name: str) -> Workload:
    from torch import nn

    holder = nn.Sequential(module)
    holder.register_parameter("unused", nn.Parameter(batch.new_empty(1)))
    return trace(holder, batch, train=False, layers=False, name=name)


def network_workloads(name: str, build: Callable[[], Any]) -> dict[str, list[tuple[float, Workload]]]:
    """By phase, (share of the batches, workload): 97 batches of 512 images and a last one of 336."""
    import torch
    from torch import nn

    found: dict[str, list[tuple[float, Workload]]] = {phase: [] for phase in PHASES}
    for size, share in ((512, 97 / 98), (336, 1 / 98)):
        with torch.device("meta"):
            model = nn.Sequential(build(), nn.Linear(1000, 10))
            images = torch.empty(size, 3, 64, 64)
        for phase, work in split(trace(model, images, optimizer="momentum", layers=False, name=name)).items():
            found[phase].append((share, work))
    return found


def works(builders: Mapping[str, Callable[[], Any]]) -> Works:
    """`network_workloads` of several networks, by name."""
    return {name: network_workloads(name, build) for name, build in builders.items()}


def network_observations(measured: Path, machine: str, works: Works) -> list[Observation]:
    """The windows of the whole networks of one machine, each a family, except those whose counter wrapped.

    A mean batch is 0.3 % less than one of 512 images, since the last of an epoch has 336.
    """
    whole = (97 + 336 / 512) / 98
    found = []
    for net in networks(measured):
        for phase in PHASES:
            joules = net.energy_j[phase]
            if net.machine == machine and joules is not None:
                found.append(
                    Observation(
                        workload=works[net.name][phase][0][1],
                        steps=98,
                        seconds=net.seconds[phase] / whole * 98,
                        energy_j=joules / whole * 98,
                        meter=METER,
                        hardware=machine,
                        family=net.name,
                    )
                )
    return found


def networks(measured: Path) -> list[Network]:
    """Each machine's whole networks, the median of their repeats."""
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    with (measured / "willowec-cpu-rapl-train" / "nets.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            rows.setdefault((row["machine"], row["net"]), []).append(row)
    return [
        Network(
            machine=machine,
            name=name,
            seconds={
                phase: median(float(row[f"{prefix}_time_us"]) / 1e6 for row in repeats)
                for phase, prefix in zip(PHASES, ("fwd", "bwd"), strict=True)
            },
            energy_j={
                phase: _known(median(float(row[f"{prefix}_energy_uJ"]) / 1e6 for row in repeats))
                for phase, prefix in zip(PHASES, ("fwd", "bwd"), strict=True)
            },
        )
        for (machine, name), repeats in rows.items()
    ]


def _known(joules: float) -> float | None:
    """None for the sum over a counter that wrapped, which is negative."""
    return joules if joules > 0 else None
