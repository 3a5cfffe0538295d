"""The factors of training stacks and links, fitted on one half of each source's networks (benchmarks/distributed.py).

Robust least squares on the logarithm of predicted over measured step times. Every parameter has a first guess and a
spread, every source the same weight. The values are written to datasets/stacks.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from distributed_runs import Run, anatomy_of
from scipy.optimize import least_squares

from joulecast.estimator.cost import piece_time as model
from joulecast.estimator.cost.fusion import as_fused
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.parallel.anatomy import Anatomy
from joulecast.estimator.cost.parallel.cluster import parse_cluster
from joulecast.estimator.cost.parallel.shard import Stage, slowest_stage
from joulecast.estimator.cost.parallel.step import combined
from joulecast.estimator.cost.pieces import FIELDS, Columns, columns, merged
from joulecast.estimator.cost.population import SPECS, load_population, specs
from joulecast.estimator.cost.stacks import Links, Stacks
from joulecast.estimator.trace.workload import Op

Array = np.ndarray[Any, np.dtype[np.float64]]

# Parameter -> first guess and spread of its logarithm.
START: dict[str, tuple[float, float]] = {
    "fused:compute": (1.3, 0.3),
    "fused:rate": (1.0, 0.2),
    "fused:attention": (1.0, 0.4),
    "fused:traffic": (1.0, 0.4),
    "fused:host": (0.3, 0.5),
    "fused:kernels": (1.0, 0.3),
    "megatron:attention": (1.0, 0.4),
    "megatron:traffic": (1.0, 0.4),
    "megatron:host": (1.0, 0.5),  # eager PyTorch's
    "megatron:kernels": (1.0, 0.3),
    "megatron:unaligned": (8.0, 0.5),
    "megatron-core:attention": (0.8, 0.3),  # NVIDIA's own kernels
    "megatron-core:traffic": (1.0, 0.4),
    "megatron-core:host": (0.3, 0.5),
    "link_share": (0.75, 0.2),
    "network_share": (0.7, 0.3),
    "node_latency_s": (15e-6, 0.5),
    "network_latency_s": (25e-6, 0.5),
    "exposed": (0.1, 0.5),  # 1 - overlap
    "straggling": (0.005, 0.7),
    "tensor_exposed": (0.3, 0.5),  # 1 - tensor_overlap
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """All runs' pieces in one table. `owner` is 2 x run, + 1 for pieces of the optimizer."""

    runs: tuple[Run, ...]
    anatomies: tuple[Anatomy, ...]
    stages: tuple[Stage, ...]
    table: Array
    owner: Array
    specs: Array


def prepare(runs: Sequence[Run], cache: Path) -> Prepared:
    anatomies, stages, tables, owners, devices = [], [], [], [], []
    for index, run in enumerate(runs):
        _, anatomy = anatomy_of(run, cache)
        assert run.plan is not None
        stage = slowest_stage(anatomy, run.plan, run.software)
        anatomies.append(anatomy)
        stages.append(stage)
        own = specs(find_hardware(run.gpu))
        for part, ops in enumerate((stage.passes, stage.updates)):
            table = pieces(ops, run.software)
            tables.append(table)
            owners.append(np.full(len(table), 2 * index + part))
            devices.append(np.tile(own, (len(table), 1)))
    return Prepared(
        tuple(runs), tuple(anatomies), tuple(stages), np.vstack(tables), np.concatenate(owners), np.vstack(devices)
    )


def pieces(ops: Sequence[Op], software: str) -> Array:
    kept = [op for op in as_fused(ops) if op is not None]
    return merged(columns(kept, software)).table if kept else np.zeros((0, len(FIELDS)))


def predicted(data: Prepared, values: Mapping[str, float]) -> Array:
    """Seconds of a step of every run."""
    p = {**load_population().parameters, **factors_of(values)}
    names = [run.software for run in data.runs]
    factors = {name: model.software_factors(name, p) for name in set(names)}
    t = Columns(data.table)
    owner = (data.owner // 2).astype(int)
    size = len(owner)
    software = {part: np.array([factors[name][part] for name in names])[owner] for part in factors[names[0]]}
    x = model.piece_seconds(
        t,
        {name: data.specs[:, position] for position, name in enumerate(SPECS)},
        p,
        tf32=model.by_cudnn(t.cls).astype(float),
        software=software,
        train=np.ones(size),
    )
    count = 2 * len(data.runs)
    device = np.bincount(data.owner, weights=x.compute + x.memory + x.floor, minlength=count)
    host = np.bincount(data.owner, weights=x.host, minlength=count)
    step = np.where(
        device > 0, model.step_seconds(np.maximum(host, 1e-12), np.maximum(device, 1e-12), p["sharpness"]), 0
    )
    links = links_of(values)
    return np.array(
        [
            combined(
                anatomy,
                run.plan,
                replace(parse_cluster(run.cluster), links=links.of(run.software)),
                stage,
                (step[2 * i], 0.0),
                (step[2 * i + 1], 0.0),
                0.0,
            ).seconds
            for i, (run, anatomy, stage) in enumerate(zip(data.runs, data.anatomies, data.stages, strict=True))
            if run.plan is not None
        ]
    )


def factors_of(values: Mapping[str, float]) -> dict[str, float]:
    """Matrix products are the same library's in all; short kernels are alike in two."""
    factors = {name: value for name, value in values.items() if ":" in name}  # the rest are links
    same = {f"megatron:{part}": factors[f"fused:{part}"] for part in ("compute", "rate")}
    core = {f"megatron-core:{part}": factors[f"fused:{part}"] for part in ("compute", "rate", "kernels")}
    return {**same, **core, **factors}


def values_of(stacks: Stacks) -> dict[str, float]:
    """The fitted values as `fit` returns them."""
    links = asdict(stacks.links)
    exposed = {"exposed": 1.0 - links["overlap"], "tensor_exposed": 1.0 - links["tensor_overlap"]}
    return {**stacks.factors, **links, **exposed}


def links_of(values: Mapping[str, float]) -> Links:
    return Links(
        link_share=min(values["link_share"], 0.95),
        network_share=min(values["network_share"], 0.95),
        node_latency_s=values["node_latency_s"],
        network_latency_s=values["network_latency_s"],
        overlap=1.0 - min(values["exposed"], 1.0),
        tensor_overlap=1.0 - min(values["tensor_exposed"], 1.0),
        straggling=values["straggling"],
    )


def weights(runs: Sequence[Run]) -> Array:
    """Each source counts as much as 30 rows, however many it has; a small one as its rows."""
    sizes = Counter(run.source for run in runs)
    return np.array([min(1.0, 30 / sizes[run.source]) ** 0.5 for run in runs])


def fit(data: Prepared, start: Mapping[str, tuple[float, float]] = START) -> dict[str, float]:
    names = list(start)
    guess = np.log([start[name][0] for name in names])
    spread = np.array([start[name][1] for name in names])
    measured = np.array([run.seconds for run in data.runs])
    weight = weights(data.runs)

    def residuals(logs: Array) -> Array:
        errors = np.log(predicted(data, dict(zip(names, np.exp(logs), strict=True))) / measured) / 0.1
        soft = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
        return np.concatenate([weight * soft, (logs - guess) / spread])

    found = least_squares(residuals, guess, diff_step=0.02, max_nfev=12).x
    return dict(zip(names, (float(value) for value in np.exp(found)), strict=True))
