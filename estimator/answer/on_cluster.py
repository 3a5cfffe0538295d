"""A request on a cluster: the profile of its boards, the software that is assumed, and the split of the model."""

from __future__ import annotations

from dataclasses import replace

from ..base.errors import HardwareError, RequestError
from ..base.notes import Note, Topic, Weight
from ..cost.datasheet import datasheet_profile
from ..cost.estimate import Estimate
from ..cost.hardware import Hardware
from ..cost.library import shipped_profiles
from ..cost.memory import memory_needed
from ..cost.names import find_hardware
from ..cost.parallel.cluster import Cluster, crowded, usual_cluster
from ..cost.parallel.experts import experts_of
from ..cost.parallel.plan import CHECKPOINTING, Plan, stated_sizes
from ..cost.parallel.predict import Split, is_dated, predict_split
from ..cost.parallel.search import ZERO_STAGES
from ..cost.profile import Profile
from ..cost.software import TRAINING_STACKS
from ..cost.waiting import LOST_HOURS
from ..place.schedule import Schedule
from ..trace.workload import Workload
from .request import Request

_FUSED, _MEGATRON, _CORE, _EAGER, _COMPILED = "fused", "megatron", "megatron-core", "eager", "compiled"
LARGE = 100e9
"""Parameters from which published trainings on GPUs with FP8 had pipelines. Megatron-Core was chosen for them on three
steps of Nemotron-4 340B, and judged on Llama 3.1 405B and DeepSeek-V3."""
_ASSUMED = {
    _FUSED: f"fused kernels are assumed on a cluster (`software` {_FUSED})",
    _MEGATRON: (
        f"Megatron-LM is assumed (`software` {_MEGATRON}), because FlashAttention-2 needs Ampere GPUs or later"
    ),
    _CORE: (
        f"Megatron-Core is assumed (`software` {_CORE}), because published trainings of more than "
        f"{LARGE / 1e9:.0f} billion parameters on such GPUs were as fast"
    ),
    _EAGER: f"eager PyTorch is assumed for a model that reads no sequences (`software` {_EAGER})",
    _COMPILED: f"torch.compile is assumed for a model that reads no sequences (`software` {_COMPILED})",
}


def board_profile(profile: Profile, work: Workload, software: str | None) -> Profile:
    """The profile without what the nodes and the software of a cluster add themselves.

    A shipped measurement of one GPU does not know training stacks: its datasheet replaces it. Watts that were measured
    with the host's CPUs are replaced by those of the board, because the CPUs of the node are added.
    """
    if profile.name in shipped_profiles() and (software or _assumed_software(work, profile)) in TRAINING_STACKS:
        return datasheet_profile(find_hardware(profile.hardware))
    part = _known_part(profile.hardware)
    if part is None or profile.device != "gpu" or not _covers_host(profile):
        return profile
    board = datasheet_profile(part)
    note = f"the watts of {profile.name} were measured with its host's CPUs: those of the board are from the datasheet"
    basis = replace(
        profile.provenance,
        power=board.provenance.power,
        boundary=board.provenance.boundary,
        notes=(*profile.provenance.notes, note),
    )
    return replace(
        profile,
        power=board.power,
        half_power=board.half_power,
        energy_error=board.energy_error,
        provenance=basis,
    )


def predict_on_cluster(
    request: Request, cluster: Cluster, work: Workload, profile: Profile, schedule: Schedule, data_s: float
) -> tuple[Estimate, Split]:
    """The cost of the request's run, and how the cluster's devices share the model.

    The data of a step takes `data_s` to arrive.
    """
    _check_same_part(request, profile, cluster)
    if schedule.validation_steps:
        raise RequestError("`val_samples` is not modelled on a `cluster` yet: leave it out")
    assumed = _assumed_software(work, profile) if _is_software_open(request, profile) else None
    running = _with_assumed(profile, assumed)
    dated = is_dated(running, cluster)
    estimate, split = predict_split(
        running,
        work,
        cluster,
        steps=schedule.steps,
        accumulation=schedule.accumulation,
        plan=_as_of_its_time(request.plan, request, dated) if request.plan else None,
        base=_as_of_its_time(request.base_plan, request, dated),
        zeros=ZERO_STAGES if request.zero is None else (),
        checkpointings=CHECKPOINTING if request.activation_checkpointing is None else (),
        passes=request.step_passes,
        software_known=request.software is not None,
        data_s=data_s,
        overhead=request.overhead,
        restart_hours=LOST_HOURS if request.restart_hours is None else request.restart_hours,
    )
    split = replace(split, idle_hosts=request.spare_nodes, storage_w=request.storage_w or 0.0)
    warnings = (*estimate.warnings, *_notes(assumed, split, work), *_crowded(cluster))
    return replace(estimate, warnings=warnings), split


def needed_cluster(request: Request, work: Workload, profile: Profile, schedule: Schedule) -> str | None:
    """The cluster that `devices` form where one of them cannot hold the training; None where it can, or is unknown."""
    alone = request.cluster is not None or schedule.devices == 1 or request.activation_checkpointing is not None
    if alone or schedule.validation_steps or not work.train or profile.device != "gpu" or not profile.memory_bytes:
        return None
    part = _known_part(profile.hardware)
    if part is None or memory_needed(work) <= profile.memory_bytes:
        return None
    return usual_cluster(part.key, schedule.devices)


def _as_of_its_time(plan: Plan, request: Request, dated: bool) -> Plan:
    """`plan`, without the sequence parallelism that Megatron-LM has since 2022 where it runs as before."""
    if not dated or "sp" in stated_sizes(request.parallel):
        return plan
    return replace(plan, sequence_parallel=False)


def _notes(assumed: str | None, split: Split, work: Workload) -> list[Note]:
    texts = []
    if assumed is not None:
        texts.append(f"the software is not given: {_ASSUMED[assumed]}")
    if split.plan.ep > 1 and not experts_of(work.ops):
        texts.append("no experts were found: `parallel` ep adds their exchange and divides nothing")
    return [Note(text, Topic.SCHEDULE, Weight.ACT) for text in texts]


def _crowded(cluster: Cluster) -> list[Note]:
    usual = crowded(cluster)
    if usual is None:
        return []
    text = f"{cluster.name} puts {cluster.devices_per_node} devices into one node, without a network: usual nodes are "
    return [Note(f"{text}{usual}", Topic.SCHEDULE, Weight.ACT)]


def _check_same_part(request: Request, profile: Profile, cluster: Cluster) -> None:
    """Raises RequestError where the profile is that of another part than the cluster's, as far as both are known."""
    own, wanted = _known_part(profile.hardware), _known_part(cluster.hardware)
    if own is not None and wanted is not None and own.key != wanted.key:
        given = profile.name if isinstance(request.hardware, Profile) else request.hardware
        raise RequestError(
            f"`hardware` {given} ({own.name}) and `cluster` {request.cluster} of {wanted.name} contradict: leave out "
            "`hardware`"
        )


def _known_part(name: str) -> Hardware | None:
    """The part in the hardware tables; None where it is in none."""
    try:
        return find_hardware(name)
    except HardwareError:
        return None


def _covers_host(profile: Profile) -> bool:
    """Whether the profile's watts are of the GPU and its host's CPUs."""
    return any(word in profile.provenance.boundary for word in ("CPU", "rapl", "perf_event"))


def _is_software_open(request: Request, profile: Profile) -> bool:
    """Whether joulecast assumes the software: a measured profile has its own."""
    return request.software is None and profile.provenance.time == "datasheet"


def _with_assumed(profile: Profile, software: str | None) -> Profile:
    """The profile with the assumed software, if there is one, and the bounds of unknown software."""
    if software is None:
        return profile
    return replace(profile.for_software(software), time_error=profile.time_error, energy_error=profile.energy_error)


def _assumed_software(work: Workload, profile: Profile) -> str:
    """Fused kernels for models that read sequences, as in published trainings on clusters; for others PyTorch.

    FlashAttention-2 needs an NVIDIA GPU of Ampere or later, which are those with bfloat16 (its README): before them,
    attention writes its scores. Large models on GPUs with FP8 run with Megatron-Core.
    """
    if work.tokens_per_sample > 1 or any(op.kind == "attention" for op in work.ops):
        part = _known_part(profile.hardware)
        if part is not None and part.before_ampere:
            return _MEGATRON
        return _CORE if part is not None and part.fp8_tflops and work.parameters > LARGE else _FUSED
    return _COMPILED if work.compiled else _EAGER
