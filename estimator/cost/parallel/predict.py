"""The cost of a run that is split over a cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...base.digits import short
from ...base.errors import HardwareError
from ...base.interval import Interval
from ...base.notes import Note, Topic, Weight
from ...base.units import JOULES_PER_KWH
from ...trace.fp8 import FP8
from ...trace.workload import Workload
from ..estimate import Estimate, Share, shares
from ..names import find_hardware
from ..profile import PowerModel, Profile
from ..software import OVERLAPPED_TENSORS, TRAINING_STACKS, WRITTEN_SCORES
from ..stacks import load_stacks
from ..waiting import Interruptions, with_interruptions, with_overhead, with_slow_data
from .anatomy import Anatomy, dissect
from .cluster import Cluster
from .memory import Memory
from .node import rest_w
from .plan import Plan, check_plan
from .routed import with_routed_experts
from .search import OLDER_CHECKPOINTING, Choice, choose_plan, choose_settings
from .step import StepCost, waiting_w

COMMUNICATION, BUBBLE, STRAGGLERS = "communication", "pipeline bubble", "stragglers"
UNEXPLAINED = "not explained by parts"
# 90 % bounds on logarithms of measured over predicted: of communication and waiting time (links, algorithms and
# stragglers differ between clusters), and of FP8, whose 16 published trainings are of three sources; they take 0.8 to
# 1.15 times the prediction.
_WAITING_DOUBT = math.log(2.0)
POWER_DOUBT = math.log(1.12)
"""The same of the mean power where the time is as predicted."""
POWER_SLOPE = -0.15
"""Steps that take longer than predicted draw less: the logarithm of measured over predicted power changes by this share
of that of the time. Mean of EC-NAS, Zeus and the node power of MLPerf Training 4.0 (benchmarks/energy_errors.py)."""
_FP8_DOUBT = math.log(1.25)
_WORTH_A_NOTE = 0.1  # share of the step


@dataclass(frozen=True, slots=True)
class Split:
    """How a run is split: the plan, whether joulecast chose it, and what one device needs and does.

    `rest_w` is what a node draws in addition to its accelerators, `idle_node_w` what an idle node draws in all (both
    modelled). `idle_hosts` nodes are kept ready for failures; `storage_w` is the power of storage and other machines.
    """

    plan: Plan
    cluster: Cluster
    chosen: bool
    memory: Memory
    cost: StepCost
    rest_w: float = 0.0
    idle_node_w: float = 0.0
    idle_hosts: int = 0
    storage_w: float = 0.0
    interruptions: Interruptions | None = None

    @property
    def all_rest_w(self) -> float:
        """Watts of all nodes without their accelerators."""
        return self.rest_w * self.cluster.nodes

    @property
    def shared_w(self) -> float:
        """Watts of what runs in addition to the nodes that train: idle hosts and storage."""
        return self.idle_hosts * self.idle_node_w + self.storage_w

    def to_json(self) -> dict[str, object]:
        plan, cost, memory = self.plan, self.cost, self.memory
        return {
            "cluster": self.cluster.name,
            "nodes": self.cluster.nodes,
            "devices_per_node": self.cluster.devices_per_node,
            "chosen": self.chosen,
            **{name: getattr(plan, name) for name in ("dp", "tp", "pp", "cp", "ep", "zero", "checkpointing")},
            "etp": plan.expert_stride,
            "vp": plan.interleave,
            "micro_batches": plan.accumulate,
            "node_rest_w": self.rest_w,
            "idle_hosts": self.idle_hosts,
            "idle_node_w": self.idle_node_w,
            "storage_w": self.storage_w,
            "interruptions": self.interruptions.to_json() if self.interruptions else None,
            "step_s": {
                "total": cost.seconds,
                "compute": cost.compute_s,
                "optimizer": cost.update_s,
                "tensor": cost.tensor_s,
                "pipeline": cost.pipeline_s,
                "expert": cost.expert_s,
                "context": cost.context_s,
                "data": cost.data_s,
                "bubble": cost.bubble_s,
                "stragglers": cost.straggling_s,
                "unexplained": cost.unexplained_s,
                "input": cost.input_s,
            },
            "memory_bytes": {
                "total": memory.total,
                **{name: getattr(memory, name) for name in type(memory).__dataclass_fields__},
            },
        }


def predict_split(
    profile: Profile,
    work: Workload,
    cluster: Cluster,
    *,
    steps: int,
    accumulation: int = 1,
    plan: Plan | None = None,
    base: Plan | None = None,
    zeros: Sequence[int] = (),
    checkpointings: Sequence[str] = (),
    passes: int | None = None,
    software_known: bool = True,
    data_s: float = 0.0,
    overhead: float | None = None,
    restart_hours: float = 0.0,
) -> tuple[Estimate, Split]:
    """The cost of `steps` optimizer steps of `work` on every device of `cluster`, and the split.

    `work` is one step of one device of a data parallel training: `accumulation` passes. A split keeps the samples of a
    step (`passes` on all replicas together, by default those of `accumulation` on every device), so each of its
    replicas runs more passes. Without `plan` the fastest split that fits is chosen; `base` gives its ZeRO stage,
    checkpointing and interleaving. `zeros` and `checkpointings` are the choices that a given plan leaves open. The data
    of a step takes `data_s` to arrive, evaluation and checkpoints add `overhead` (None: as in published runs), and an
    interruption costs `restart_hours`.

    With software for language models the interval comes from published trainings that were left out of the fit, and is
    wider where the software is only assumed. On NVIDIA GPUs before Ampere both the time and the interval are those of
    published trainings there. Raises RequestError for a split that does not fit.
    """
    profile = profile.for_precision(work.precision)
    if profile.software in TRAINING_STACKS:
        work = with_routed_experts(work)
    anatomy = dissect(work, accumulation)
    known = profile.software in TRAINING_STACKS and bool(anatomy.heads) and profile.provenance.time == "datasheet"
    older = known and _is_older(cluster)
    dated = is_dated(profile, cluster)
    per_device = None if passes else accumulation
    passes = passes or accumulation * cluster.devices
    if plan is None:
        choice = choose_plan(
            work, anatomy, profile, cluster, passes=passes, per_device=per_device, base=base, older=dated
        )
    else:
        check_plan(plan, anatomy, cluster.devices, passes, work.batch_size // accumulation)
        plan = replace(plan, accumulate=passes // plan.dp)
        choice = choose_settings(
            work,
            anatomy,
            profile,
            cluster,
            plan,
            zeros=zeros or (plan.zero,),
            checkpointings=[one for one in checkpointings if not dated or one in OLDER_CHECKPOINTING]
            or (plan.checkpointing,),
        )
    if older and cluster.nodes > 1:
        choice = replace(choice, cost=slowed(choice.cost, load_stacks().older_slowdown))
    board_w = choice.cost.joules / choice.cost.seconds if choice.cost.seconds else profile.power.static_w
    limit_w, idle_w = _limit_w(cluster, profile), profile.power.static_w
    rest = rest_w(cluster, board_w, limit_w)
    idle_node_w = cluster.devices_per_node * idle_w + rest_w(cluster, idle_w, limit_w)
    split = Split(choice.plan, cluster, plan is None, choice.memory, choice.cost, rest, idle_node_w)
    tuned = is_tuned(profile, choice.plan, stated=plan is not None)
    alone = profile.predict(work, steps=steps)
    if known:
        alone = _with_known_errors(alone, software_known, fp8=work.precision == FP8, older=older)
        estimate = _estimate(profile, alone, choice, cluster, steps, split, waiting_doubt=0.0)
    else:
        estimate = _estimate(profile, alone, choice, cluster, steps, split)
    left = _rest_notes(choice.plan, zeros, checkpointings) if plan is not None else []
    notes = (*left, *_layout_notes(anatomy, choice), *_older_notes(choice))
    estimate = replace(estimate, warnings=(*estimate.warnings, *notes))
    estimate = with_slow_data(estimate, data_s * steps, waiting_w(profile.power))
    estimate, interruptions = with_interruptions(
        with_overhead(estimate, overhead, None if older or tuned or not known else load_stacks().long_runs),
        restart_hours,
    )
    return estimate, replace(split, cost=_fed(choice.cost, data_s, profile.power), interruptions=interruptions)


def is_tuned(profile: Profile, plan: Plan, *, stated: bool) -> bool:
    """Whether published trainings were as fast as the steps of this split: those that state tp or pp, and pipelines of
    Megatron-Core (Nemotron-4 340B, Llama 3.1 405B, DeepSeek-V3)."""
    if stated:
        return plan.tp > 1 or plan.pp > 1
    return plan.pp > 1 and profile.software == OVERLAPPED_TENSORS


def _is_older(cluster: Cluster) -> bool:
    try:
        return find_hardware(cluster.hardware).before_ampere
    except HardwareError:
        return False


def is_dated(profile: Profile, cluster: Cluster) -> bool:
    """Whether Megatron-LM runs as it did on GPUs before Ampere: published trainings there had full checkpointing,
    neither sequence parallelism nor interleaved schedules."""
    return profile.software == WRITTEN_SCORES and _is_older(cluster)


def slowed(cost: StepCost, times: float) -> StepCost:
    """`cost` of a step that takes `times` as long, with the power that slower steps draw."""
    return replace(
        cost,
        unexplained_s=cost.unexplained_s + (times - 1.0) * cost.seconds,
        joules=cost.joules * times ** (1 + POWER_SLOPE),
    )


def _fed(cost: StepCost, data_s: float, power: PowerModel) -> StepCost:
    """`cost` with the wait for data that takes `data_s` a step."""
    input_s = max(data_s - cost.seconds, 0.0)
    return replace(cost, input_s=input_s, joules=cost.joules + input_s * waiting_w(power))


def _limit_w(cluster: Cluster, profile: Profile) -> float:
    """Watts that one device may draw: from the hardware table, otherwise the largest of the profile."""
    try:
        return find_hardware(cluster.hardware).power_w
    except HardwareError:
        return profile.power.static_w + max(profile.power.weights_w.values(), default=0.0)


def _estimate(
    profile: Profile,
    alone: Estimate,
    choice: Choice,
    cluster: Cluster,
    steps: int,
    split: Split,
    waiting_doubt: float = _WAITING_DOUBT,
) -> Estimate:
    """The split run, with the relative interval of one device's run and the doubt about waiting."""
    cost = choice.cost
    startup_s = profile.startup_s if steps else 0.0
    seconds = cost.seconds * steps + startup_s
    joules = (cost.joules * steps + startup_s * profile.power.static_w) * cluster.devices
    doubt = waiting_doubt * cost.waiting_s / cost.seconds if cost.seconds else 0.0
    return replace(
        alone,
        seconds=_like(alone.seconds, seconds, doubt),
        energy_kwh=_like(alone.energy_kwh, joules / JOULES_PER_KWH, doubt),
        breakdown=_breakdown(profile, alone, choice, cluster, steps),
        layers=_scaled(alone.layers, joules / JOULES_PER_KWH, seconds),
        devices=cluster.devices,
        warnings=(*_other_notes(alone.warnings), *_notes(split, profile)),
    )


def _with_known_errors(alone: Estimate, software_known: bool, *, fp8: bool = False, older: bool = False) -> Estimate:
    """`alone` with the bounds of whole steps on clusters, communication included.

    The error of energy is that of time and that of power, which has a part that follows from the time's.
    """
    stacks = load_stacks()
    bounds = stacks.time_error if software_known else stacks.assumed_time_error
    bounds = stacks.older_time_error if older else bounds
    times = [math.hypot(math.log(bound), _FP8_DOUBT if fp8 else 0.0) for bound in bounds]
    energies = [math.hypot((1 + POWER_SLOPE) * bound, POWER_DOUBT) for bound in times]

    def around(value: float, logs: list[float]) -> Interval:
        return Interval(value, value * math.exp(-logs[0]), value * math.exp(logs[1]))

    return replace(
        alone, seconds=around(alone.seconds.value, times), energy_kwh=around(alone.energy_kwh.value, energies)
    )


def _like(alone: Interval, value: float, doubt: float) -> Interval:
    """`value` with the bounds of `alone` relative to its own value, and `doubt` on a logarithmic scale."""
    if not alone.value:
        return Interval.exact(value)
    low, high = (abs(math.log(bound / alone.value)) for bound in (alone.low, alone.high))
    return Interval(value, value * math.exp(-math.hypot(low, doubt)), value * math.exp(math.hypot(high, doubt)))


def _breakdown(profile: Profile, alone: Estimate, choice: Choice, cluster: Cluster, steps: int) -> tuple[Share, ...]:
    """The components of eq. 2.2.1 while devices compute, in the proportions of one device's run, and the waiting."""
    cost, devices = choice.cost, cluster.devices
    total_kwh = cost.joules * steps * devices / JOULES_PER_KWH
    waits = {COMMUNICATION: cost.exchanged_s, BUBBLE: cost.bubble_s, STRAGGLERS: cost.straggling_s}
    seconds = {name: wait_s * steps * devices for name, wait_s in waits.items()}
    energy = {name: spent * waiting_w(profile.power) / JOULES_PER_KWH for name, spent in seconds.items()}
    if cost.unexplained_s:
        usual = (cost.seconds - cost.unexplained_s) / cost.seconds
        seconds[UNEXPLAINED] = cost.unexplained_s * steps * devices
        energy[UNEXPLAINED] = (total_kwh - sum(energy.values())) * (1 - usual ** (1 + POWER_SLOPE))
    rest = total_kwh - sum(energy.values())
    whole_kwh = sum(part.energy_kwh for part in alone.breakdown)
    whole_s = alone.seconds.value or 1.0
    busy_s = (cost.compute_s + cost.update_s) * steps * devices
    for part in alone.breakdown:
        seconds[part.name] = part.seconds / whole_s * busy_s
        energy[part.name] = part.energy_kwh / whole_kwh * rest if whole_kwh else 0.0
    kept = {name for name in seconds if seconds[name] or energy[name]}
    return shares({name: seconds[name] for name in kept}, {name: energy[name] for name in kept})


def _scaled(parts: tuple[Share, ...], kwh: float, seconds: float) -> tuple[Share, ...]:
    """`parts` in their proportions, adding up to `kwh`."""
    total = sum(part.energy_kwh for part in parts)
    total_s = sum(part.seconds for part in parts)
    return tuple(
        replace(
            part,
            energy_kwh=part.energy_kwh / total * kwh if total else 0.0,
            seconds=part.seconds / total_s * seconds if total_s else 0.0,
        )
        for part in parts
    )


def _other_notes(notes: tuple[str, ...]) -> list[str]:
    """The notes of one device's run without the one on its memory, which the split changes."""
    return [note for note in notes if not note.startswith("needs about ")]


def _rest_notes(plan: Plan, zeros: Sequence[int], checkpointings: Sequence[str]) -> list[Note]:
    """What was chosen for sizes that are stated."""
    chosen = [f"ZeRO stage {plan.zero} (`zero`)"] if len(zeros) > 1 and plan.replicas > 1 else []
    if len(checkpointings) > 1:
        how = "no" if plan.checkpointing == "none" else plan.checkpointing
        chosen.append(f"{how} checkpointing (`activation_checkpointing`)")
    text = f"chosen for the stated split: {' and '.join(chosen)}"
    return [Note(text, Topic.SCHEDULE, Weight.ROUGH)] if chosen else []


def _layout_notes(anatomy: Anatomy, choice: Choice) -> list[Note]:
    plan, cost, blocks = choice.plan, choice.cost, len(anatomy.blocks)
    notes = []
    if blocks % plan.pp:
        text = (
            f"{blocks} blocks on {plan.pp} pipeline stages: the largest has {-(-blocks // plan.pp)} and sets the pace"
        )
        notes.append(Note(text, Topic.SCHEDULE, Weight.ROUGH))
    if cost.expert_s > _WORTH_A_NOTE * cost.seconds and not plan.expert_overlap:
        text = (
            f"exchanging tokens between experts takes {cost.expert_s / cost.seconds:.0%} of the time; `parallel` eo=1 "
            "hides it behind another micro-batch, for software that does so"
        )
        notes.append(Note(text, Topic.SCHEDULE, Weight.ACT))
    return notes


def _older_notes(choice: Choice) -> list[Note]:
    cost = choice.cost
    if not cost.unexplained_s:
        return []
    times = cost.seconds / (cost.seconds - cost.unexplained_s)
    text = (
        f"published trainings on several nodes of NVIDIA GPUs before Ampere took {times:.2f} times as long as the "
        "modelled parts explain: included"
    )
    return [Note(text, Topic.SCHEDULE, Weight.ROUGH)]


def _notes(split: Split, profile: Profile) -> list[Note]:
    notes = []
    if split.chosen:
        text = f"split chosen by joulecast: {split.plan} on {split.cluster.name}; `parallel` sets another"
        notes.append(Note(text, Topic.SCHEDULE, Weight.ROUGH))
    needed, there = split.memory.total, profile.memory_bytes
    if there is not None and needed > there:
        text = (
            f"{split.plan} needs about {short(needed / 1e9)} GB per device (modelled), more than the device's "
            f"{short(there / 1e9)} GB: use `checkpointing` full, a higher `zero` stage, or larger tp or pp"
        )
        notes.append(Note(text, Topic.MODEL, Weight.STOP))
    if split.cost.waiting_s > 0.3 * split.cost.seconds:
        share = split.cost.waiting_s / split.cost.seconds
        text = f"devices wait for each other {share:.0%} of the time (communication and pipeline bubbles)"
        notes.append(Note(text, Topic.SCHEDULE, Weight.ACT))
    return notes
