"""Published trainings of language models on NVIDIA GPUs before Ampere, which took longer than their parts explain.

Steps come from benchmarks/published/steps.csv and, where the measured data is at hand, bigscience's rows on
V100. `older_slowdown` is the factor on several nodes, `older_time_error` the bounds; clusters of one owner are left out
together. GPT-3 is in neither: it is judged as a whole run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed_runs import Net, Run, anatomy_of, bigscience, published_steps

from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.parallel.cluster import parse_cluster
from joulecast.estimator.cost.parallel.node import rest_w
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.predict import slowed
from joulecast.estimator.cost.parallel.search import choose_plan
from joulecast.estimator.cost.parallel.step import step_cost
from joulecast.estimator.cost.stacks import load_stacks
from joulecast.estimator.cost.waiting import overhead

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Older:
    """Measured over predicted seconds of a source's steps, without the slowdown; `several` where nodes are more."""

    source: str
    owner: str
    several: bool
    ratios: Array


def older_sources(measured: Path, cache: Path) -> list[Older]:
    found: dict[tuple[str, str, bool], list[float]] = {}
    for owner, run in (*published_steps(), *(("Jean Zay", run) for run in bigscience(measured))):
        if not find_hardware(run.gpu).before_ampere:
            continue
        assert run.plan is not None
        cluster = parse_cluster(run.cluster)
        profile = datasheet_profile(find_hardware(run.gpu)).for_software(run.software).for_precision(run.half)
        cost = step_cost(profile, anatomy_of(run, cache)[1], run.plan, cluster)
        found.setdefault((run.source, owner, cluster.nodes > 1), []).append(run.seconds / cost.seconds)
    return [Older(*key, np.array(ratios)) for key, ratios in found.items()]


def slowdown_of(sources: list[Older]) -> float:
    """The factor on several nodes: every source counts as much."""
    return float(np.exp(np.mean([np.median(np.log(one.ratios)) for one in sources if one.several])))


def left_out_ratios(sources: list[Older]) -> Mapping[str, Array]:
    """Measured over predicted seconds of each source, the slowdown from other owners' clusters."""
    found = {}
    for one in sources:
        others = [other for other in sources if other.owner != one.owner]
        found[one.source] = one.ratios / (slowdown_of(others) if one.several else 1.0)
    return found


def shipped_ratios(sources: list[Older]) -> Mapping[str, Array]:
    slowdown = load_stacks().older_slowdown
    return {one.source: one.ratios / (slowdown if one.several else 1.0) for one in sources}


def gpt3(cache: Path) -> tuple[float, float]:
    """Predicted over published device hours and MWh of GPT-3 175B (Patterson et al. 2021, table 4), split searched."""
    hours, mwh, watts, pue = 3.14e23 / 24.6e12 / 3600, 1287.0, 330.0, 1.10
    cluster = parse_cluster("125xdgx-1-v100")
    profile = datasheet_profile(find_hardware(cluster.hardware)).for_software("megatron").for_precision("float16")
    net = Net("gpt", 96, 12288, 96, 50257, dropout=0.1)
    run = Run("GPT-3", net, "", cluster.hardware, cluster.name, 2048, 1, None, 1000, 1.0, "megatron", "float16")
    work, anatomy = anatomy_of(run, cache)
    base = Plan(sequence_parallel=False)
    choice = choose_plan(work, anatomy, profile, cluster, passes=1000, base=base, older=True)
    cost = slowed(choice.cost, load_stacks().older_slowdown)
    device_s = cost.seconds * cluster.devices / (1000 * 2048) * 300e9
    device_s *= 1 + overhead(device_s / cluster.devices)
    board_w = cost.joules / cost.seconds
    node_w = board_w + rest_w(cluster, board_w, find_hardware(cluster.hardware).power_w) / cluster.devices_per_node
    assert abs(hours * watts * pue / 1e6 / mwh - 1) < 0.01  # the published figures agree with each other
    return device_s / 3600 / hours, device_s * node_w * pue / JOULES_PER_KWH / 1000 / mwh
