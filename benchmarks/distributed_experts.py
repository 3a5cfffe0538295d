"""Published trainings of mixtures of experts, each as what joulecast would be asked: a config, a cluster, a split.

benchmarks/published/experts.json has the networks (sizes that differ from the defaults of their class in transformers),
steps with their splits, and whole runs. They are in no fit. What a source does not state is in its reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed_runs import PUBLISHED, tracer_version

from joulecast.estimator.answer.answer import Answer
from joulecast.estimator.answer.estimate import answer
from joulecast.estimator.answer.request import Request
from joulecast.estimator.cost.stacks import load_stacks
from joulecast.estimator.trace.fp8 import as_fp8
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

Array = np.ndarray[Any, np.dtype[np.float64]]
_SEQUENCE = 4096  # of all steps
_MICRO_BATCHES = (1, 2)  # that are tried for whole runs
_NETWORK = "400gb-ib"  # of H100 and H800 nodes, a device


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((PUBLISHED / "experts.json").read_text())
    return document


def work_of(network: str, sequence: int, batch: int, precision: str, cache: Path) -> Workload:
    """One pass with weights in 16 bits, from the cache where the tracer has not changed."""
    if precision == "fp8":
        return as_fp8(work_of(network, sequence, batch, "bf16", cache))
    import transformers

    sizes = dict(published()["networks"][network])
    key = repr((sizes, sequence, batch, tracer_version(), transformers.__version__))
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if path.exists():
        return Workload.from_json(json.loads(path.read_text()))
    sizes.pop("parameters_b")
    config = transformers.AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    config.use_cache = False
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        ids = torch.zeros(batch, sequence, dtype=torch.long)
    work = trace(model, {"input_ids": ids, "labels": ids}, train=True, optimizer="adamw", layers=False)
    cache.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(work.to_json()))
    return work


def step_of(row: Mapping[str, Any], cache: Path) -> Answer:
    """A step with the split that its source states."""
    return answer(
        Request(
            model=work_of(row["network"], _SEQUENCE, row["micro_batch"], row["precision"], cache),
            steps=1,
            batch_size=row["micro_batch"],
            global_batch=row["samples"],
            cluster=f"{row['devices'] // 8}x8xh100-sxm:{_NETWORK}",
            parallel=row["parallel"],
            zero=row["zero"],
            activation_checkpointing=row["checkpointing"],
            software=row["software"],
            overhead=0.0,
            restart_hours=0.0,
        )
    )


def device_hours(row: Mapping[str, Any], cache: Path) -> float:
    """Of a whole run, with the split, the software and the overhead that joulecast chooses: the faster micro-batch."""
    return min(_device_hours(row, batch, cache) for batch in _MICRO_BATCHES)


def _device_hours(row: Mapping[str, Any], batch: int, cache: Path) -> float:
    found = answer(
        Request(
            model=work_of(row["network"], row["sequence"], batch, row["precision"], cache),
            tokens=row["tokens_t"] * 1e12,
            batch_size=batch,
            global_batch=row["samples"],
            cluster=f"{row['devices'] // 8}x8x{row['gpu']}:{_NETWORK}",
        )
    )
    return found.seconds.value * float(row["devices"]) / 3600


def mixtures(cache: Path) -> Iterator[tuple[str, Array, tuple[float, float]]]:
    """Predicted over published: steps of each source and precision, then device hours of whole runs."""
    stacks = load_stacks()
    found: dict[str, list[float]] = {}
    for row in published()["steps"]:
        ratio = step_of(row, cache).split.cost.seconds / row["step_s"]  # type: ignore[union-attr]
        found.setdefault(f"{row['source']} {row['precision']}", []).append(ratio)
    for source, ratios in found.items():
        yield f"experts: {source}, steps", np.array(ratios), stacks.time_error
    hours = []
    for row in published()["runs"]:
        hours.append(device_hours(row, cache) / row["device_hours"])
        print(f"  {row['run']}: {hours[-1]:.2f} of the published device hours", flush=True)
    yield "experts: whole runs, device hours", np.array(hours), stacks.assumed_time_error
