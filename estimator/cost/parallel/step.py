"""The time and energy of one optimizer step of a split training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...trace.workload import Op
from ..fusion import ELEMENT_BYTES, as_fused
from ..profile import PowerModel, Profile
from ..software import FLASH_STACKS
from ..stacks import Links
from .anatomy import Anatomy
from .cluster import Cluster
from .collectives import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    EXPERT_SHARE,
    REDUCE_SCATTER,
    SEND,
    Exchange,
    seconds,
)
from .plan import Plan
from .shard import Stage, slowest_stage

Prices = tuple[tuple[float, float], tuple[float, float]]
"""Seconds and joules of a micro-batch, and of the optimizer."""
_WAITING = "launch"  # the component of eq. 2.2.1 in which a device waits


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one optimizer step, and the joules of a device: both of the mean pipeline stage.

    `compute_s` are the passes of all micro-batches, `tensor_s`, `pipeline_s`, `expert_s`, `context_s` and `data_s` the
    communication that computing does not hide, `bubble_s` the time without a micro-batch (also of a stage with less
    work than the slowest), `update_s` the optimizer, `straggling_s` the wait for the slowest node, `input_s` the wait
    for data. `unexplained_s` is what published trainings took in addition, of which the parts are not known.
    """

    compute_s: float
    tensor_s: float
    pipeline_s: float
    expert_s: float
    data_s: float
    bubble_s: float
    update_s: float
    straggling_s: float
    joules: float
    input_s: float = 0.0
    unexplained_s: float = 0.0
    context_s: float = 0.0

    @property
    def exchanged_s(self) -> float:
        return self.tensor_s + self.pipeline_s + self.expert_s + self.context_s + self.data_s

    @property
    def waiting_s(self) -> float:
        return self.exchanged_s + self.bubble_s + self.straggling_s + self.input_s

    @property
    def seconds(self) -> float:
        return self.compute_s + self.update_s + self.unexplained_s + self.waiting_s


def step_cost(profile: Profile, anatomy: Anatomy, plan: Plan, cluster: Cluster, stage: Stage | None = None) -> StepCost:
    """The cost of one step of `plan` on `cluster`, priced by `profile` (of one of its devices).

    `stage` is the slowest of the plan, where the caller has it.
    """
    stage = stage or slowest_stage(anatomy, plan, profile.software)
    return cost_at(prices_of(profile, stage), profile, anatomy, plan, cluster, stage)


def prices_of(profile: Profile, stage: Stage) -> Prices:
    return price(profile, stage.passes), price(profile, stage.updates)


def cost_at(prices: Prices, profile: Profile, anatomy: Anatomy, plan: Plan, cluster: Cluster, stage: Stage) -> StepCost:
    """`step_cost` where the prices of the stage's ops are known: `plan` may differ in its schedule."""
    links = cluster.links.of(profile.software)
    if profile.runs_fp8 and profile.software in FLASH_STACKS:
        links = replace(links, expert_share=EXPERT_SHARE)
    cluster = replace(cluster, links=links)
    return combined(anatomy, plan, cluster, stage, *prices, waiting_w(profile.power))


def combined(
    anatomy: Anatomy,
    plan: Plan,
    cluster: Cluster,
    stage: Stage,
    passes: tuple[float, float],
    updates: tuple[float, float],
    idle_w: float,
) -> StepCost:
    """The step of `stage`, whose micro-batch and whose optimizer take these seconds and joules.

    All stages work at the pace of the slowest. That the first micro-batch passes the others sooner is left out: it made
    the error of published trainings larger.
    """
    (pass_s, pass_j), (update_s, update_j) = passes, updates
    tensor_s = sum(seconds(one, cluster) for one in tensor_exchanges(anatomy, plan, stage))
    tensor_s *= 1.0 - _hidden_share(plan, cluster.links)
    pipeline_s = sum(seconds(one, cluster) for one in pipeline_exchanges(anatomy, plan, cluster.devices_per_node))
    expert_s = sum(
        seconds(one, with_expert_links(cluster))
        for one in expert_exchanges(anatomy, plan, stage, cluster.devices_per_node)
    )
    if plan.expert_overlap:
        expert_s = _not_hidden(expert_s, pass_s, cluster.links.overlap)
    context_s = sum(seconds(one, cluster) for one in context_exchanges(anatomy, plan, stage))
    context_s = _not_hidden(context_s, pass_s, cluster.links.overlap)
    micro_s = pass_s + tensor_s + pipeline_s + expert_s + context_s
    exchanges = data_exchanges(anatomy, plan, stage, cluster.links.gradients_as_weights)
    data_s = _exposed(plan, sum(seconds(one, cluster) for one in exchanges), pass_s, cluster.links.overlap)
    own = plan.accumulate * stage.mean_work
    bubble_s = ((plan.pp - 1) / plan.interleave + plan.accumulate - own) * micro_s
    exchanged_s = own * (tensor_s + pipeline_s + expert_s + context_s) + data_s
    straggling_s = (cluster.slowdown - 1.0) * (own * pass_s + update_s + exchanged_s + bubble_s)
    waiting_s = exchanged_s + bubble_s + straggling_s
    return StepCost(
        compute_s=own * pass_s,
        tensor_s=own * tensor_s,
        pipeline_s=own * pipeline_s,
        expert_s=own * expert_s,
        data_s=data_s,
        bubble_s=bubble_s,
        update_s=update_s,
        straggling_s=straggling_s,
        context_s=own * context_s,
        joules=own * pass_j + update_j + waiting_s * idle_w,
    )


def with_expert_links(cluster: Cluster) -> Cluster:
    """`cluster` with the rates that exchanges of experts reach."""
    share = cluster.links.expert_share
    if not share:
        return cluster
    return replace(cluster, links=replace(cluster.links, link_share=share, network_share=share))


def waiting_w(power: PowerModel) -> float:
    """Watts of a device that waits for others."""
    return power.static_w + power.weights_w.get(_WAITING, 0.0)


def tensor_exchanges(anatomy: Anatomy, plan: Plan, stage: Stage) -> list[Exchange]:
    """Per micro-batch: each sharded module of each block sums its output, forward and backward.

    Shoeybi et al. 2019, "Megatron-LM", section 3. Full checkpointing repeats the forward sums. With sequence
    parallelism the same bytes are gathered and scattered. Experts that it does not divide sum nothing.
    """
    if plan.tp == 1:
        return []
    sums = len(anatomy.sharded) * stage.blocks
    if not plan.divides_experts and anatomy.only_experts:
        sums -= stage.expert_blocks
    return [Exchange(ALL_REDUCE, anatomy.boundary_bytes / plan.cp, plan.tp, 1, sums * _times(plan))]


def _times(plan: Plan) -> int:
    """How often a module's output is summed: forward, backward, and forward again where it is recomputed."""
    return 3 if plan.checkpointing == "full" else 2


def _hidden_share(plan: Plan, links: Links) -> float:
    """The share of tensor-parallel communication that runs while the device computes.

    With sequence parallelism, Megatron-LM gathers and scatters while it computes gradients (Korthikanti et al. 2022,
    section 4.2.2).
    """
    return links.tensor_overlap + (links.backward_overlap / _times(plan) if plan.sequence_parallel else 0.0)


def pipeline_exchanges(anatomy: Anatomy, plan: Plan, per_node: int) -> list[Exchange]:
    """Per micro-batch: one block's output to the next stage and its gradient back, for each chunk.

    Where the stages are on several nodes, those that wait for the network set the pace.
    """
    if plan.pp == 1:
        return []
    stride = plan.tp * plan.cp * plan.dp
    if stride * plan.pp > per_node:
        stride = max(stride, per_node)
    message = anatomy.boundary_bytes / (plan.tp * plan.cp)
    return [Exchange(SEND, message, 2, stride, 2 * plan.interleave)]


def expert_exchanges(anatomy: Anatomy, plan: Plan, stage: Stage, per_node: int) -> list[Exchange]:
    """Per micro-batch: tokens to their experts and back, forward and backward (all-to-all).

    A token is sent once to each node that has some of its experts, and there once to each such device (DeepSeek-AI
    2024, "DeepSeek-V3", section 3.2.2). Its experts are any with equal chances. In a plain all-to-all it is sent to
    each of them: in its own node, to the share of them that is there.
    """
    if plan.ep == 1:
        return []
    stride = plan.expert_stride * plan.cp
    message = anatomy.boundary_bytes / (plan.tp * plan.cp)
    times = 4 * (stage.expert_blocks if anatomy.experts else stage.blocks)
    members = min(plan.ep, max(1, per_node // stride))  # of a group, in one node
    nodes = math.ceil(plan.ep / members)
    copies, sent = anatomy.reached(plan.ep), anatomy.reached(nodes)
    if plan.plain_all_to_all:
        copies, sent = anatomy.per_token / nodes, anatomy.per_token
    inside = Exchange(ALL_TO_ALL, copies * message, members, stride, times)
    between = Exchange(ALL_TO_ALL, sent * message, nodes, stride * members, times)
    return [one for one in (inside, between) if one.size > 1]


def context_exchanges(anatomy: Anatomy, plan: Plan, stage: Stage) -> list[Exchange]:
    """Per micro-batch: keys and values of the whole sequence for each device's queries, and their gradients back.

    A ring of devices passes them on (Liu et al. 2023, "Ring Attention", section 3), or all gather them (Grattafiori et
    al. 2024, "The Llama 3 Herd of Models", section 3.3.2): the same bytes. Full checkpointing repeats the forward pass.
    """
    if plan.cp == 1:
        return []
    message = _keys_and_values(anatomy) / plan.tp
    gathered = Exchange(ALL_GATHER, message, plan.cp, plan.tp, _times(plan) * stage.blocks)
    return [gathered, Exchange(REDUCE_SCATTER, message, plan.cp, plan.tp, stage.blocks)]


def _keys_and_values(anatomy: Anatomy) -> float:
    """Bytes of the keys and values of the mean block's attention, of the whole sequence."""
    each = {id(block): _read_by_attention(block) for block in anatomy.blocks}
    return sum(each[id(block)] for block in anatomy.blocks) / len(anatomy.blocks)


def _read_by_attention(block: Sequence[Op]) -> float:
    """What forward attention reads in addition to its queries."""
    ops = [op for op in as_fused(block) if op is not None and op.kind == "attention" and op.phase == "forward"]
    return sum(op.count * op.bytes_read * _keys_share(op) for op in ops if "q" in op.dims)


def _keys_share(op: Op) -> float:
    """Of the bytes that an attention op reads, those of keys and values."""
    queries = op.dims["b"] * op.dims["q"] * op.dims["d"] * ELEMENT_BYTES.get(op.dtype, 4)
    return max(1.0 - queries / op.bytes_read, 0.0) if op.bytes_read else 0.0


def data_exchanges(anatomy: Anatomy, plan: Plan, stage: Stage, as_weights: bool = False) -> list[Exchange]:
    """Per step: the gradients of all replicas; sharded weights are gathered too (Rajbhandari et al. 2020).

    Experts that devices share have fewer replicas. `as_weights`: gradients have the precision of the weights.
    """
    pieces = max(stage.blocks, 1)
    own = (stage.parameters - stage.expert_parameters, plan.replicas, plan.tp)
    shared = (stage.expert_parameters, plan.expert_replicas, plan.expert_stride * plan.ep)
    found: list[Exchange] = []
    for parameters, replicas, stride in (own, shared):
        message = parameters * anatomy.gradient_bytes(as_weights) / pieces
        if not parameters or replicas == 1:
            continue
        if plan.zero < 2:
            found.append(Exchange(ALL_REDUCE, message, replicas, stride, pieces))
            continue
        scatters, gathers = (plan.accumulate, 2 * plan.accumulate) if plan.zero == 3 else (1, 1)
        found.append(Exchange(REDUCE_SCATTER, message, replicas, stride, pieces * scatters))
        found.append(Exchange(ALL_GATHER, message, replicas, stride, pieces * gathers))
    return found


def _exposed(plan: Plan, data_s: float, pass_s: float, overlap: float) -> float:
    """What computing does not hide: of fully sharded weights in every micro-batch, else in the last backward."""
    return _not_hidden(data_s, pass_s * plan.accumulate if plan.zero == 3 else pass_s * 2 / 3, overlap)


def _not_hidden(exchange_s: float, computing_s: float, overlap: float) -> float:
    """What is left of an exchange of which the share `overlap` can run during `computing_s`."""
    return max(exchange_s - overlap * computing_s, (1 - overlap) * exchange_s)


def price(profile: Profile, ops: Sequence[Op]) -> tuple[float, float]:
    """Seconds and joules of the ops on one device."""
    if not ops:
        return 0.0, 0.0
    by_component = profile.time.seconds(ops).sum(axis=0)
    watts = profile.power.watts(profile.time.components) + profile.power.static_w
    return float(by_component.sum()), float(np.dot(by_component, watts))
