"""Choosing a split: the fastest one that fits in the devices' memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...base.digits import short
from ...base.errors import RequestError
from ...trace.workload import Workload
from ..profile import Profile
from .anatomy import Anatomy
from .cluster import Cluster, with_nodes
from .kept import kept_per_block
from .memory import Memory, memory_of
from .plan import CHECKPOINTING, Plan
from .shard import Stage, slowest_stage, with_zero, without_zero
from .step import StepCost, cost_at, price, step_cost

ZERO_STAGES = (0, 1, 3)
"""Those that are tried: stage 2 is no faster than 1 and saves less than 3."""
OLDER_STAGES, OLDER_CHECKPOINTING = (0, 1), ("none", "full")
"""What published trainings on GPUs before Ampere had: ZeRO-3 came in 2021, selective checkpointing in 2022."""
_CHUNKS = (2, 4, 8)
"""Model chunks of a stage that are tried."""
_MOST_MISSING = 0.125
"""Of uneven pipelines, those are tried whose stages would hold at most this share more blocks if all were full."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A split with the memory of its fullest device and the cost of its step."""

    plan: Plan
    memory: Memory
    cost: StepCost


def choose_plan(
    work: Workload,
    anatomy: Anatomy,
    profile: Profile,
    cluster: Cluster,
    *,
    passes: int,
    per_device: int | None = None,
    base: Plan | None = None,
    older: bool = False,
) -> Choice:
    """The fastest split of `passes` micro-batches of `work` per step that fits.

    `passes` is the number of micro-batches of one step on all replicas together, and `per_device` that of each device
    where a larger cluster would have more. What `base` sets (ZeRO, checkpointing, interleaving) stays. With `older`,
    only what trainings on GPUs before Ampere had is tried. Raises RequestError with the smallest cluster of such nodes
    that fits when no split does.
    """
    best: Choice | None = None
    least: tuple[Plan, float] | None = None
    kept = {name: kept_per_block(anatomy, profile.software, name) for name in CHECKPOINTING}
    tried = (OLDER_STAGES, OLDER_CHECKPOINTING) if older else (ZERO_STAGES, CHECKPOINTING)
    stages: dict[Plan, Stage] = {}  # ZeRO changes their updates alone
    pass_prices: dict[Plan, tuple[float, float]] = {}
    for plan in splits(anatomy, cluster, passes, base or Plan(), *tried):
        sizes = replace(plan, zero=0)
        if sizes not in stages:
            stages[sizes] = without_zero(anatomy, sizes, profile.software)
        stage = with_zero(stages[sizes], anatomy, plan)
        update_price: tuple[float, float] | None = None
        for one in (plan,) if older else schedules(plan, len(anatomy.blocks)):
            memory = memory_of(work, anatomy, stage, one, kept[one.checkpointing])
            if least is None or memory.total < least[1]:
                least = one, memory.total
            if profile.memory_bytes is not None and memory.total > profile.memory_bytes:
                continue
            if sizes not in pass_prices:
                pass_prices[sizes] = price(profile, stage.passes)
            update_price = update_price or price(profile, stage.updates)
            prices = pass_prices[sizes], update_price
            choice = Choice(one, memory, cost_at(prices, profile, anatomy, one, cluster, stage))
            if best is None or choice.cost.seconds < best.cost.seconds:
                best = choice
    if best is not None:
        return best
    if least is None:
        raise RequestError(
            f"no split of {cluster.devices} devices gives each replica a whole number of the {passes} micro-batches of "
            "a step; change `global_batch`, `accumulate` or `batch_size`"
        )
    larger = _larger_cluster(work, anatomy, profile, cluster, passes, per_device, base or Plan(), tried)
    ways = [f"`cluster` {larger.name}"] if larger else []
    ways += ["a smaller `batch_size`"] if work.batch_size > 1 else []
    raise RequestError(
        f"no split fits in {short((profile.memory_bytes or 0) / 1e9)} GB per device; the smallest ({least[0]}) needs "
        f"{short(least[1] / 1e9)} GB: use {' or '.join(ways) or 'devices with more memory'}"
    )


_ONE_BY_ONE, _DOUBLED = 32, 6
"""Numbers of nodes that are tried in turn from the least that could do, and then as often twice as many."""


def _larger_cluster(
    work: Workload,
    anatomy: Anatomy,
    profile: Profile,
    cluster: Cluster,
    passes: int,
    per_device: int | None,
    base: Plan,
    tried: tuple[Sequence[int], Sequence[str]],
) -> Cluster | None:
    """The smallest cluster of the same nodes on which a split fits; None where none of those tried is enough."""
    room = profile.memory_bytes or 0.0
    alone = slowest_stage(anatomy, Plan(), profile.software)
    state = memory_of(work, anatomy, alone, Plan(), 0.0)
    least = math.ceil((state.weights + state.gradients + state.optimizer) / (room * cluster.devices_per_node))
    first = max(cluster.nodes + 1, least)
    last = first + _ONE_BY_ONE - 1
    kept = {name: kept_per_block(anatomy, profile.software, name) for name in CHECKPOINTING}
    for nodes in (*range(first, last + 1), *(last * 2**times for times in range(1, _DOUBLED + 1))):
        larger = with_nodes(cluster, nodes)
        plans = splits(anatomy, larger, per_device * larger.devices if per_device else passes, base, *tried)
        for plan in plans:
            stage = slowest_stage(anatomy, plan, profile.software)
            if memory_of(work, anatomy, stage, plan, kept[plan.checkpointing]).total <= room:
                return larger
    return None


def choose_settings(
    work: Workload,
    anatomy: Anatomy,
    profile: Profile,
    cluster: Cluster,
    plan: Plan,
    *,
    zeros: Sequence[int],
    checkpointings: Sequence[str],
) -> Choice:
    """The fastest ZeRO stage and checkpointing with which the sizes of `plan` fit; the smallest where none fits."""
    kept = {name: kept_per_block(anatomy, profile.software, name) for name in checkpointings}
    choices = [
        priced(
            work,
            anatomy,
            profile,
            cluster,
            replace(plan, zero=zero, checkpointing=checkpointing),
            kept[checkpointing],
        )
        for zero in (zeros if plan.replicas > 1 else zeros[:1])
        if not (zero == 3 and plan.pp > 1 and len(zeros) > 1)
        for checkpointing in checkpointings
    ]
    room = profile.memory_bytes
    fitting = [choice for choice in choices if room is None or choice.memory.total <= room]
    if fitting:
        return min(fitting, key=lambda choice: choice.cost.seconds)
    return min(choices, key=lambda choice: choice.memory.total)


def priced(
    work: Workload, anatomy: Anatomy, profile: Profile, cluster: Cluster, plan: Plan, kept: float | None
) -> Choice:
    """`plan` with its memory and cost; `kept` as `memory_of` takes it."""
    stage = slowest_stage(anatomy, plan, profile.software)
    return Choice(plan, memory_of(work, anatomy, stage, plan, kept), step_cost(profile, anatomy, plan, cluster, stage))


def splits(
    anatomy: Anatomy,
    cluster: Cluster,
    passes: int,
    base: Plan,
    stages: Sequence[int] = ZERO_STAGES,
    checkpointings: Sequence[str] = CHECKPOINTING,
) -> Iterator[Plan]:
    """All splits that divide the devices evenly and the blocks nearly so; tensor parallelism stays inside a node.

    ZeRO `stages` and `checkpointings` are tried where `base` sets none.
    """
    layers, heads = len(anatomy.blocks), anatomy.heads
    checkpointings = checkpointings if base.checkpointing == "none" else (base.checkpointing,)
    stages = stages if base.zero == 0 else (base.zero,)
    for tp in _divisors(cluster.devices_per_node):
        if tp > 1 and (not heads or heads % tp):
            continue
        if cluster.devices % tp:
            continue
        for pp in _divisors(cluster.devices // tp):
            if layers < pp * base.interleave or -layers % pp > _MOST_MISSING * layers:
                continue
            dp = cluster.devices // (tp * pp)
            if passes % dp:
                continue
            sizes = replace(base, dp=dp, tp=tp, pp=pp, accumulate=passes // dp)
            for zero in stages if dp > 1 else (0,):
                if zero == 3 and pp > 1:
                    continue
                for shared in _shared_experts(anatomy, sizes):
                    for checkpointing in checkpointings:
                        yield replace(shared, zero=zero, checkpointing=checkpointing)


def _shared_experts(anatomy: Anatomy, sizes: Plan) -> Iterator[Plan]:
    """`sizes` with the expert parallel groups that share the experts evenly.

    Tensor parallelism divides experts where `sizes` does not state otherwise: trying both takes twice the time.
    """
    if sizes.expert_tp not in (0, 1, sizes.tp):
        return
    among = sizes.dp * sizes.tp if sizes.expert_tp == 1 else sizes.dp
    for ep in _divisors(math.gcd(anatomy.expert_count, among)):
        yield replace(sizes, ep=ep)


def schedules(plan: Plan, layers: int) -> Iterator[Plan]:
    """`plan`, and with interleaved stages where these take whole rounds of micro-batches and nearly even chunks."""
    yield plan
    if plan.pp == 1 or plan.interleave > 1 or plan.accumulate % plan.pp:
        return
    for chunks in _CHUNKS:
        pieces = plan.pp * chunks
        if pieces <= layers and -layers % pieces <= _MOST_MISSING * layers:
            yield replace(plan, interleave=chunks)


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
