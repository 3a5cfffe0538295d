"""Published steps and kernels as arrays: one row a measurement, its pieces one after another. Traces are kept."""

from __future__ import annotations

import hashlib
import pickle
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import population_kernels
from population_networks import WorkKey, build_work
from population_runs import Step

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.cost import piece_time as model
from joulecast.estimator.cost.hardware import load_hardware
from joulecast.estimator.cost.piece_time import FACTORS, software_factors
from joulecast.estimator.cost.pieces import FIELDS, MOVING, TRAFFIC, Columns, columns, merged
from joulecast.estimator.cost.population import SPECS, specs
from joulecast.estimator.cost.software import SOFTWARE
from joulecast.estimator.trace.workload import Op, Workload

Array = np.ndarray[Any, np.dtype[np.float64]]


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


def half_of(gpu: str) -> int:
    """Chips in two halves: forms are chosen on one and judged on the other."""
    return zlib.crc32(chip(gpu).encode()) % 2


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
    moving = (table[:, at["cls"]] == MOVING) & (table[:, at["scalar"]] == 0)
    rows = table[moving]
    if not len(rows):
        return table
    size = np.floor(np.log2(np.maximum(rows[:, at["moved"]], 1.0)))
    of_optimizer = rows[:, at["traffic"]] == TRAFFIC.index("optimizer")
    half = np.where(of_optimizer, rows[:, at["half"]], 0.0)
    same = [rows[:, at[name]] for name in ("phase", "traffic", "per_row", "passes")]
    keys = np.stack([*same, half, size], axis=1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    count = np.bincount(inverse, weights=rows[:, at["count"]])
    made = np.zeros((len(unique), len(FIELDS)))
    made[:, at["cls"]] = MOVING
    for index, name in enumerate(("phase", "traffic", "per_row", "passes", "half")):
        made[:, at[name]] = unique[:, index]
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

    def only(self, kept: np.ndarray[Any, np.dtype[np.bool_]]) -> Rows:
        """The rows where `kept` is True."""
        pieces = kept[self.row]
        return Rows(
            steps=[step for step, stays in zip(self.steps, kept.tolist(), strict=True) if stays],
            table=self.table[pieces],
            row=(np.cumsum(kept) - 1)[self.row[pieces]],
            specs={name: values[pieces] for name, values in self.specs.items()},
            tf32=self.tf32[pieces],
            log_s=self.log_s[kept],
            gpu=self.gpu[kept],
            source=self.source[kept],
            software=self.software[kept],
            copied=self.copied[kept],
        )


@cache
def all_specs() -> dict[str, Array]:
    return {part.key: specs(part) for part in load_hardware() if part.kind == "gpu"}


def rows_of(steps: Sequence[Step], traces: Traces, kernels: Sequence[population_kernels.Kernel] = ()) -> Rows:
    kept, tables, copied = [], [], []
    made: dict[WorkKey, Array | None] = {}
    for step in steps:
        if step.key not in made:
            table = traces.table(step.key)
            made[step.key] = None if table is None else _bucketed(table)
        if (found := made[step.key]) is None or step.gpu not in all_specs():
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
    known = np.stack([all_specs()[step.gpu] for step in kept])
    tf32 = np.array([("off", "conv", "all").index(step.tf32) for step in kept])[row]
    on = (tf32 == 2) | ((tf32 == 1) & model.by_cudnn(table[:, FIELDS.index("cls")]))
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


def software_of(rows: Rows, values: Mapping[str, Any], xp: Any = np) -> dict[str, Array]:
    """What software changes, one value a piece; kernels measured alone are as eager PyTorch's."""
    names = (*SOFTWARE, "eager")
    by_name = [software_factors(name, values) for name in names]
    made = {
        factor: xp.array([one[factor] for one in by_name])[rows.software][rows.row]
        for factor in (*FACTORS, "optimizer", "foreach", "as_written", "last", "scalar")
    }
    short = np.array([step.software == "kernel" and "sustained" not in step.source for step in rows.steps])[rows.row]
    year = np.array([float(step.year) for step in rows.steps])[rows.row]
    return {**made, "year": year, "burst": xp.where(short, values.get("burst", 1.0), 1.0)}


def seconds_of(rows: Rows, values: Mapping[str, Any], xp: Any = np) -> model.Seconds:
    """Seconds of every piece."""
    train = np.array([float(step.key.train) for step in rows.steps])[rows.row]
    software = software_of(rows, values, xp)
    return model.piece_seconds(
        Columns(rows.table), rows.specs, values, tf32=rows.tf32, software=software, train=train, xp=xp
    )


def for_fit(steps: Sequence[Step]) -> list[Step]:
    """Not those that wait for their pictures, nor a network that is not known well enough."""
    return [
        step
        for step in steps
        if step.source != "fischer" and not (step.source == "zeus" and step.key.network == "cifar-shufflenet")
    ]
