"""Fits the shared parameters of the population model on published steps and kernels; writes datasets/population.json.

    python benchmarks/population_fit.py --measured ../shared/measured --cache DIR [--out datasets/population.json]
    python benchmarks/population_spread.py --measured ../shared/measured --cache DIR --write datasets/population.json

Robust least squares on the logarithm of measured over predicted, by Gauss-Newton. Every parameter has a first guess
and a spread (`START`), and every GPU three deviations with spreads of their own (`PRIOR`), so that what one GPU does
does not become what all do. `left_out` predicts every GPU with parameters fitted without any variant of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import population_kernels
from population_networks import WorkKey, build_work
from population_runs import Step, all_steps

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.cost import population as model
from joulecast.estimator.cost.hardware import load_hardware
from joulecast.estimator.cost.population import FACTORS, FIELDS, MOVING, SCHEMA, SPECS, Columns, columns, merged, specs
from joulecast.estimator.cost.software import SOFTWARE
from joulecast.estimator.trace.workload import Op, Workload

Array = np.ndarray[Any, np.dtype[np.float64]]
NOISE, ROBUST = 0.15, 0.2
PRIOR = (0.12, 0.12, 0.25)
"""Spreads of a GPU's deviations in compute, memory and launch."""

# Parameter -> first guess and spread of its logarithm.
START: dict[str, tuple[float, float]] = {
    "eff_fp32": (0.85, 0.15),
    "eff_tf32": (0.6, 0.3),
    "eff_half": (0.65, 0.3),
    "eff_half_vector": (1.0, 0.3),
    "eff_depthwise": (0.15, 0.7),
    "eff_memory": (0.8, 0.15),
    "energy_mac": (36.0, 0.5),
    "energy_nm": (1.2, 0.4),
    "energy_half": (0.2, 0.5),
    "energy_tf32": (0.4, 0.5),
    "edge": (20.0, 0.7),
    "edge_power": (0.5, 0.5),
    "start": (40.0, 0.7),
    "wave": (0.7, 0.5),
    "overlap": (3.0, 0.4),
    "cache": (0.4, 0.5),
    "floor": (4e-06, 0.4),
    "floor_update": (2e-06, 0.7),
    "floor_rnn": (1.5e-05, 0.7),
    "floor_amd": (1.5, 0.4),
    "host_forward": (4e-05, 0.4),
    "host_backward": (3e-05, 0.4),
    "host_update": (6e-06, 0.6),
    "host_infer": (0.8, 0.4),
    "sharpness": (4.0, 0.5),
    "traffic_dense": (1.0, 0.3),
    "traffic_norm": (1.4, 0.3),
    "traffic_reduce": (1.2, 0.4),
    "traffic_pool": (1.2, 0.4),
    "traffic_optimizer": (1.2, 0.4),
    "traffic_gather": (2.0, 0.6),
    "reorder": (1.0, 0.6),
    "gain_conv": (1.1, 0.3),
    "gain_conv1": (0.9, 0.3),
    "gain_grouped": (0.6, 0.5),
    "gain_batched": (0.9, 0.3),
    "gain_attention": (0.7, 0.4),
    "gain_rnn": (0.7, 0.4),
    "gain_half_conv": (0.8, 0.4),
    "gain_half_last": (0.9, 0.4),
    "gain_weight_grad": (0.8, 0.3),
    "gain_winograd": (1.3, 0.3),
    "gain_strided": (0.7, 0.3),
    "amd_conv": (0.7, 0.4),
    "amd_matmul": (0.9, 0.3),
    "amd_memory": (0.9, 0.3),
    "yearly_compute": (1.02, 0.03),
    "yearly_host": (1.03, 0.02),
    "channels-last:conv": (0.9, 0.3),
    "compiled:traffic": (0.6, 0.3),
    "compiled:host": (0.2, 0.3),
    "compiled:kernels": (0.5, 0.3),
    "ngc:conv": (0.9, 0.3),
    "ngc:compute": (1.0, 0.3),
    "ngc:traffic": (1.0, 0.3),
    "ngc:host": (1.0, 0.3),
    "ngc:reorder": (0.6, 0.3),
    "vendor-tuned:conv": (0.7, 0.3),
    "vendor-tuned:compute": (0.8, 0.3),
    "vendor-tuned:traffic": (0.6, 0.3),
    "vendor-tuned:host": (0.1, 0.3),
    "vendor-tuned:kernels": (0.5, 0.3),
    "vendor-tuned:reorder": (0.1, 0.3),
    "tensorflow:conv": (0.9, 0.3),
    "tensorflow:compute": (1.0, 0.3),
    "tensorflow:traffic": (1.0, 0.3),
    "tensorflow:host": (1.0, 0.3),
    "tensorflow:reorder": (0.6, 0.3),
}
NUISANCE = {
    "copy": (2.5e-10, 0.4),  # seconds a byte of inputs copied from the host in the step
    "floor_k": (2.0, 0.8),  # kernels measured alone: what starting one adds
    "copy_k": (1.5e-5, 0.4),
    "multi": (1.1, 0.1),  # several devices: what they say to each other
}


def chip(gpu: str) -> str:
    """Variants of one GPU are left out together."""
    for stem in ("a100", "v100", "h100", "p100"):
        if gpu.startswith(stem):
            return stem
    same = {
        "h200": "h100",
        "titan-v": "v100",
        "gtx-1080-ti": "gp102",
        "quadro-rtx-6000": "tu102",
        "rtx-2080-ti": "tu102",
    }
    return "gp102" if gpu.startswith("titan-x") else same.get(gpu, gpu)


# -- Traces, kept in a folder ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Traces:
    """Traced steps by key. Where a network occurs in many batches, two are traced: every figure is affine in it."""

    folder: Path
    many: frozenset[WorkKey]

    def work(self, key: WorkKey) -> Workload | None:
        """The step with equal ops merged; None where its network cannot be traced."""
        if key.train and key.optimizer is None:
            work = self.work(replace(key, optimizer="momentum"))
            return work and replace(work, ops=tuple(op for op in work.ops if op.phase != "optimizer"))
        path = self.folder / f"{hashlib.md5(repr(key).encode()).hexdigest()}.pkl"
        if path.exists():
            made = pickle.loads(path.read_bytes())
        else:
            try:
                work = build_work(key)
                made = (_merged_ops(work.ops), work.precision)
            except (JoulecastError, KeyError, RuntimeError) as error:
                made = str(error)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(made))
        if isinstance(made, str):
            return None
        ops, precision = made
        return Workload(key.network, "pytorch", key.batch, key.train, None, precision, 0, 0, 0, 0, (), ops)

    def table(self, key: WorkKey) -> Array | None:
        if key not in self.many:
            work = self.work(key)
            return None if work is None else merged(columns(work.ops)).table
        low, high = (7, 13) if key.network.startswith(("bert", "tacotron", "transformer-xl")) else (8, 16)
        pair = [self.work(replace(key, batch=batch)) for batch in (low, high)]
        if pair[0] is None or pair[1] is None:
            return None
        first, second = (columns(work.ops).table for work in pair if work)
        if first.shape != second.shape:
            return None
        return merged(Columns(first + (second - first) * ((key.batch - low) / (high - low)))).table


def _merged_ops(ops: Sequence[Op]) -> tuple[Op, ...]:
    counts: Counter[Any] = Counter()
    first: dict[Any, Any] = {}
    for op in ops:
        plain = (op.name, op.kind, op.phase, op.flops, op.bytes_read, op.bytes_written, op.dtype)
        key = (*plain, tuple(sorted(op.dims.items())))
        counts[key] += op.count
        first.setdefault(key, replace(op, layer="", count=1))
    return tuple(replace(first[key], count=count) for key, count in counts.items())


def traces_of(steps: Sequence[Step], folder: Path) -> Traces:
    def family(key: WorkKey) -> WorkKey:
        return replace(key, batch=0, optimizer=key.optimizer or "momentum")

    batches: dict[WorkKey, set[int]] = {}
    for step in steps:
        batches.setdefault(family(step.key), set()).add(step.key.batch)
    return Traces(folder, frozenset(step.key for step in steps if len(batches[family(step.key)]) > 2))


def _bucketed(table: Array) -> Array:
    """Ops that only move bytes, of one kind and about one size, as one row: nothing depends on their exact size."""
    at = {name: index for index, name in enumerate(FIELDS)}
    moving = table[:, at["cls"]] == MOVING
    rows = table[moving]
    if not len(rows):
        return table
    size = np.floor(np.log2(np.maximum(rows[:, at["moved"]], 1.0)))
    keys = np.stack([rows[:, at["phase"]], rows[:, at["traffic"]], size], axis=1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    count = np.bincount(inverse, weights=rows[:, at["count"]])
    made = np.zeros((len(unique), len(FIELDS)))
    made[:, at["cls"]], made[:, at["phase"]], made[:, at["traffic"]] = MOVING, unique[:, 0], unique[:, 1]
    made[:, at["count"]] = count
    for name in ("moved", "issued", "kernels"):
        made[:, at[name]] = np.bincount(inverse, weights=rows[:, at[name]] * rows[:, at["count"]]) / count
    return np.concatenate([table[~moving], made])


# -- Rows as arrays -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rows:
    """Measured rows, and the pieces of all of them one after another (`row` says whose each is)."""

    steps: list[Step]
    table: Array
    row: np.ndarray[Any, np.dtype[np.int64]]
    specs: dict[str, Array]  # one value a piece
    tf32: Array
    log_s: Array
    gpu: np.ndarray[Any, Any]
    source: np.ndarray[Any, Any]
    software: np.ndarray[Any, np.dtype[np.int64]]  # index into SOFTWARE; -1 for kernels measured alone
    copied: Array  # bytes

    @property
    def gpus(self) -> list[str]:
        return sorted(set(self.gpu.tolist()))


@cache
def _specs() -> dict[str, Array]:
    return {part.key: specs(part) for part in load_hardware() if part.kind == "gpu"}


def rows_of(steps: Sequence[Step], traces: Traces, kernels: Sequence[population_kernels.Kernel] = ()) -> Rows:
    kept, tables, copied = [], [], []
    made: dict[WorkKey, Array | None] = {}
    for step in steps:
        if step.key not in made:
            table = traces.table(step.key)
            made[step.key] = None if table is None else _bucketed(table)
        if (found := made[step.key]) is None or step.gpu not in _specs():
            continue
        kept.append(step)
        tables.append(found)
        copied.append(12.0 * step.key.batch * 224**2 if step.copied else 0.0)
    for kernel in kernels:
        kept.append(kernel.step)
        tables.append(kernel.table)
        copied.append(0.0)
    row = np.repeat(np.arange(len(kept)), [len(table) for table in tables])
    table = np.concatenate(tables)
    known = np.stack([_specs()[step.gpu] for step in kept])
    tf32 = np.array([("off", "conv", "all").index(step.tf32) for step in kept])[row]
    on = (tf32 == 2) | ((tf32 == 1) & (table[:, FIELDS.index("cls")] <= model.DEPTHWISE))
    return Rows(
        steps=kept,
        table=table,
        row=row,
        specs={name: known[row, index] for index, name in enumerate(SPECS)},
        tf32=on.astype(float),
        log_s=np.log([step.seconds for step in kept]),
        gpu=np.array([step.gpu for step in kept]),
        source=np.array([step.source for step in kept]),
        software=np.array([SOFTWARE.index(step.software) if step.software in SOFTWARE else -1 for step in kept]),
        copied=np.array(copied),
    )


def predict(rows: Rows, values: Mapping[str, float], deviations: Mapping[str, Array] | None = None) -> Array:
    """Logarithm of the seconds of every row."""
    alone = rows.software < 0
    factors = {
        factor: np.array([*(values.get(f"{name}:{factor}", 1.0) for name in SOFTWARE), 1.0])[rows.software][rows.row]
        for factor in FACTORS
    }
    factors["year"] = np.array([float(step.year) for step in rows.steps])[rows.row]
    train = np.array([float(step.key.train) for step in rows.steps])[rows.row]
    x = model.piece_seconds(Columns(rows.table), rows.specs, values, tf32=rows.tf32, software=factors, train=train)

    def total(part: Array) -> Array:
        return np.bincount(rows.row, weights=part, minlength=len(rows.steps))

    compute, memory, floor, host = total(x.compute), total(x.memory), total(x.floor), total(x.host)
    if deviations is not None:
        by = np.exp(np.stack([deviations.get(gpu, np.zeros(3)) for gpu in rows.gpu.tolist()]))
        compute, memory, host, floor = compute * by[:, 0], memory * by[:, 1], host * by[:, 2], floor * by[:, 2] ** 0.5
    device = compute + memory + floor * np.where(alone, values["floor_k"], 1.0)
    step = model.step_seconds(np.where(alone, 1e-9, host), device, values["sharpness"]) + rows.copied * values["copy"]
    issued = np.array([source.startswith("neusight kernel") for source in rows.source.tolist()])
    step = (step + values["copy_k"] * issued) * np.where([s.devices > 1 for s in rows.steps], values["multi"], 1.0)
    return np.asarray(np.log(step))


# -- The fit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
    logs: Array  # each parameter in spreads from its first guess
    deviations: dict[str, Array]

    @property
    def values(self) -> dict[str, float]:
        both = {**START, **NUISANCE}
        pairs = zip(both.items(), self.logs, strict=True)
        return {name: guess * math.exp(spread * float(log)) for (name, (guess, spread)), log in pairs}


def fit(rows: Rows, *, used: Array | None = None, start: Fit | None = None, iterations: int = 12) -> Fit:
    """`used` masks rows. Rows of one source count less the more of them there are."""
    many = Counter(rows.source.tolist())
    weight = np.array(
        [4.0 * many[name] ** -0.25 * (0.35 if "kernel" in name else 1.0) for name in rows.source.tolist()]
    )
    weight = weight * (1.0 if used is None else used)
    gpus = rows.gpus
    owner = np.array([gpus.index(gpu) for gpu in rows.gpu.tolist()])
    prior, count = np.array(PRIOR), len(START) + len(NUISANCE)
    logs = np.zeros(count) if start is None else start.logs.copy()
    own = np.zeros((len(gpus), 3))

    def residual(logs: Array, own: Array) -> Array:
        return predict(rows, Fit(logs, {}).values, dict(zip(gpus, own, strict=True))) - rows.log_s

    def cost(error: Array, logs: Array, own: Array) -> float:
        robust = 2 * ROBUST**2 * (np.sqrt(1 + (error / ROBUST) ** 2) - 1)
        return float((weight**2 * robust).sum() / NOISE**2 + (logs**2).sum() + ((own / prior) ** 2).sum())

    error = residual(logs, own)
    best, damping = cost(error, logs, own), 1e-2
    for _ in range(iterations):
        root = weight * (1 + (error / ROBUST) ** 2) ** -0.25 / NOISE
        slopes = np.empty((len(error), count + 3))
        for index in range(count):
            slopes[:, index] = (residual(logs + 1e-3 * np.eye(count)[index], own) - error) / 1e-3
        for index in range(3):  # every GPU's at once: a row knows one GPU
            slopes[:, count + index] = (residual(logs, own + 1e-3 * np.eye(3)[index]) - error) / 1e-3
        slopes *= root[:, None]
        target = error * root
        size = count + 3 * len(gpus)
        matrix, vector = np.zeros((size, size)), np.zeros(size)
        shared = slopes[:, :count]
        matrix[:count, :count] = shared.T @ shared + np.eye(count)
        vector[:count] = shared.T @ target + logs
        for place in range(len(gpus)):
            mine, block = owner == place, slice(count + 3 * place, count + 3 * place + 3)
            particular = slopes[mine, count:]
            matrix[block, block] = particular.T @ particular + np.diag(prior**-2)
            vector[block] = particular.T @ target[mine] + own[place] / prior**2
            matrix[:count, block] = shared[mine].T @ particular
            matrix[block, :count] = matrix[:count, block].T
        for _ in range(6):
            move = -np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), vector)
            tried, tried_own = logs + np.clip(move[:count], -1.5, 1.5), own + move[count:].reshape(-1, 3)
            tried_error = residual(tried, tried_own)
            reached = cost(tried_error, tried, tried_own)
            if reached < best:
                break
            damping *= 5
        else:
            break
        done = best - reached < 1e-3 * best
        logs, own, error, best, damping = tried, tried_own, tried_error, reached, max(damping / 5, 1e-5)
        if done:
            break
    return Fit(logs, dict(zip(gpus, own, strict=True)))


def fold_of(gpus: Sequence[str], folds: int) -> dict[str, int]:
    chips = sorted({chip(gpu) for gpu in gpus}, key=lambda name: hashlib.md5(name.encode()).hexdigest())
    return {name: index % folds for index, name in enumerate(chips)}


def left_out(rows: Rows, whole: Fit, folds: int = 6, iterations: int = 4) -> tuple[Array, dict[str, Fit]]:
    """Logarithm of the seconds of every row by a fit without its chip, and that fit by chip."""
    places, result, fits = fold_of(rows.gpus, folds), np.zeros(len(rows.steps)), {}
    own = np.array([places[chip(gpu)] for gpu in rows.gpu.tolist()])
    for fold in range(folds):
        if not (own == fold).any():
            continue
        made = fit(rows, used=(own != fold).astype(float), start=whole, iterations=iterations)
        result[own == fold] = predict(rows, made.values)[own == fold]
        fits |= {name: made for name, place in places.items() if place == fold}
    return result, fits


def document(made: Fit, rows: Rows, error: Array, power: Mapping[str, float], power_error: Array) -> dict[str, Any]:
    """What `datasets/population.json` holds. `error` is predicted over measured on GPUs left out, as logarithms."""
    step = rows.software >= 0
    amd = np.array([_specs()[gpu][SPECS.index("amd")] > 0 for gpu in rows.gpu.tolist()])
    tuned = rows.software == SOFTWARE.index("vendor-tuned")
    errors: dict[str, list[float]] = {}
    spread = float(np.quantile(np.abs(power_error), 0.9))
    for vendor, mask in (("nvidia", ~amd), ("amd", amd)):
        low, high = bounds(-error[step & mask & ~tuned], _pairs(rows, step & mask & ~tuned))
        errors[f"time {vendor} known"] = [low, high]
        errors[f"time {vendor} unknown"] = [0.94 * low, 1.06 * high]
    low, high = errors["time amd known"]
    errors["time other known"] = errors["time other unknown"] = [0.7 * low, 1.4 * high]
    for name in list(errors):
        wider = [math.exp(math.copysign(math.hypot(math.log(x), spread), math.log(x))) for x in errors[name]]
        errors[name.replace("time", "energy")] = wider
    shipped = model.load_population()  # how devices deviate is fitted afterwards, by population_spread.py
    return {
        "schema": SCHEMA,
        "fitted_on": f"{int(step.sum())} steps and {int((~step).sum())} kernels on {len(rows.gpus)} devices",
        "sources": [SOURCES],
        "parameters": {name: float(f"{value:.5g}") for name, value in made.values.items() if name in START},
        "spread": {**shipped.spread, "power": float(f"{power_error.std():.3g}")},
        "networks": [list(pair) for pair in shipped.networks],
        "power": {name: float(f"{value:.4g}") for name, value in power.items()},
        "errors": {name: [float(f"{value:.4g}") for value in pair] for name, pair in errors.items()},
    }


def _pairs(rows: Rows, mask: Array) -> list[tuple[str, str]]:
    return list(zip(rows.source[mask].tolist(), rows.gpu[mask].tolist(), strict=True))


def bounds(logs: Array, groups: Sequence[Any]) -> tuple[float, float]:
    """Bounds that hold for 90 %; a source on a GPU counts by the root of its rows."""
    many = Counter(groups)
    weight = np.array([many[group] ** -0.5 for group in groups])
    order = np.argsort(logs)
    place = np.cumsum(weight[order]) / weight.sum()
    low, high = np.interp([0.05, 0.95], place, logs[order])
    return float(np.exp(low)), float(np.exp(high))


SOURCES = (
    "fitted on public measurements: ryujaehun/pytorch-gpu-benchmark and its fork by lamikr (MIT), "
    "lambdal/deeplearning-benchmark, NeuSight (Lee et al., ASPLOS 2025, MIT), NVIDIA DeepLearningExamples, MLPerf "
    "Training v0.7 to v5.1 (Apache-2.0), DLPerf (Apache-2.0), DeepBench (Apache-2.0), EC-NAS (MIT), Zeus (Apache-2.0), "
    "timm (Apache-2.0), u39kun/deep-learning-benchmark, jcjohnson/cnn-benchmarks (MIT), Fischer et al. (MIT)"
)


def for_fit(steps: Sequence[Step]) -> list[Step]:
    """Not those that wait for their pictures, nor a network that is not known well enough."""
    return [
        step
        for step in steps
        if step.source != "fischer" and not (step.source == "zeus" and step.key.network == "cifar-shufflenet")
    ]


def main() -> None:
    from population_power import fit_power

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    steps = all_steps(options.measured)
    traces = traces_of(steps, options.cache)
    rows = rows_of(for_fit(steps), traces, population_kernels.sample(options.measured))
    made = fit(rows)
    log_s, _ = left_out(rows, made)
    power, power_error = fit_power(rows_of([step for step in steps if step.watts], traces), made)
    options.out.write_text(json.dumps(document(made, rows, log_s - rows.log_s, power, power_error), indent=1) + "\n")
    print(f"{len(rows.steps)} rows; written to {options.out}")


if __name__ == "__main__":
    main()
