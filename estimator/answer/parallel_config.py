"""The file of `parallel_config`: the fields of a request that it states, and the notes on what no figure contains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..base.errors import HardwareError, RequestError
from ..base.notes import Note, Topic, Weight
from ..cost.names import find_hardware
from ..cost.parallel.cluster import EXAMPLES as CLUSTER_EXAMPLES
from ..cost.parallel.configs import read_config
from ..cost.parallel.plan import nearest_divisor
from ..cost.parallel.stated_run import StatedRun
from ..cost.software import WRITTEN_SCORES
from ..place.schedule import whole_number
from .request import PRECISIONS, Request

_STATED = (
    "parallel",
    "zero",
    "activation_checkpointing",
    "batch_size",
    "accumulate",
    "global_batch",
    "sequence_length",
    "precision",
    "optimizer",
    "clip_gradients",
)


def with_config(request: Request) -> Request:
    """`request` with what the file of `parallel_config` states. Raises RequestError where both state a field."""
    if request.parallel_config is None:
        return request
    if request.split_devices is None:
        raise RequestError(f"`parallel_config` needs `cluster`: give the devices, as in {CLUSTER_EXAMPLES}")
    stated = read_config(request.parallel_config)
    values = _stated_fields(stated, request)
    accumulates = values.get("accumulate") or request.accumulate
    global_batch = values.pop("global_batch", None) if accumulates else None  # it follows from the passes
    found = replace(request, parallel_config=None, software=_software(request, stated), **values)
    if global_batch is not None:
        _check_global_batch(global_batch, stated, found)
    found = _with_micro_batch(found, stated)
    _check_shares(found, stated)
    return _with_batch_of_replicas(found, stated)


def _software(request: Request, stated: StatedRun) -> str | None:
    """The software of the request, otherwise of the file. On NVIDIA GPUs before Ampere, Megatron-LM."""
    if request.software is not None or stated.software is None or request.split_devices is None:
        return request.software
    try:
        part = find_hardware(request.split_devices.hardware)
    except HardwareError:
        return stated.software
    return WRITTEN_SCORES if part.before_ampere else stated.software


def _with_batch_of_replicas(request: Request, stated: StatedRun) -> Request:
    """`request` with the samples of a step: a file's batch and passes are those of a replica, which devices share."""
    plan, cluster = request.plan, request.split_devices
    if plan is None or cluster is None or plan.dp == cluster.devices or request.global_batch is not None:
        return request
    if stated.batch_size is None and stated.accumulate is None:
        return request
    samples = plan.dp * request.passes * whole_number("batch_size", request.batch_size or request.default_batch)
    return replace(request, global_batch=samples, accumulate=None)


def config_notes(request: Request) -> tuple[Note, ...]:
    """What the file of `parallel_config` states and no figure contains."""
    if request.parallel_config is None:
        return ()
    stated, devices = read_config(request.parallel_config), request.device_count
    texts = []
    if stated.software is not None and request.software is None:
        software = _software(request, stated)
        texts.append(f"{software} is assumed for the {stated.kind} file (`software`)")
    texts += [
        f"{name} of the {stated.kind} file is not modelled: transfers to the host's memory are left out"
        for name in stated.not_modelled
    ]
    if stated.unknown_optimizer is not None and request.optimizer is None:
        texts.append(
            f"the optimizer {stated.unknown_optimizer} of the {stated.kind} file is not known: another is counted; "
            "give the nearest one (`optimizer`)"
        )
    if stated.trains_adapters and request.lora is None:
        texts.append(f"the {stated.kind} file trains adapters: all weights are counted as trained; give them (`lora`)")
    if stated.devices not in (None, devices):
        texts.append(f"the {stated.kind} file has {stated.devices} processes: the cluster's {devices} devices are used")
    return tuple(Note(text, Topic.SCHEDULE, Weight.ACT) for text in texts)


def _stated_fields(stated: StatedRun, request: Request) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _STATED:
        value, own = getattr(stated, name), getattr(request, name)
        if value is None:
            continue
        given = own is not None and own is not False
        if given and _full_name(own) != _full_name(value):
            raise RequestError(f"`{name}` {own} and the {stated.kind} file's {value} contradict: give one of them")
        values[name] = value
    return values


def _full_name(value: object) -> str:
    """A value as text; "bf16" and "bfloat16" are the same precision."""
    return PRECISIONS.get(str(value), str(value))


def _with_micro_batch(request: Request, stated: StatedRun) -> Request:
    """`request` with the batch of a pass that DeepSpeed takes where its file gives that of a step alone."""
    plan, whole = request.plan, request.global_batch
    derived = stated.kind == "DeepSpeed" and request.batch_size is None and request.accumulate is None
    if not derived or plan is None or whole is None or whole % plan.dp:
        return request
    return replace(request, batch_size=int(whole) // plan.dp)


def _check_shares(request: Request, stated: StatedRun) -> None:
    """Raises RequestError where the replicas cannot share the file's batch, with what the file or the cluster needs."""
    if request.batch_size is None:
        return
    plan, passes = request.plan, request.step_passes
    if plan is None or passes is None or stated.global_batch is None or passes % plan.dp == 0:
        return
    batch = -(-passes // plan.dp) * plan.dp * (stated.global_batch // passes)
    others = plan.tp * plan.pp * plan.cp
    raise RequestError(
        f"the {stated.kind} file's {stated.global_batch} samples of a step are {passes} micro-batches, and "
        f"dp={plan.dp} of the cluster's {plan.devices} devices cannot share them: write {batch} in the file, or take "
        f"{others * nearest_divisor(passes, plan.dp)} devices"
    )


def _check_global_batch(global_batch: int, stated: StatedRun, request: Request) -> None:
    """Raises RequestError where the samples of a step differ from passes x batch x replicas."""
    cluster, batch_size = request.split_devices, request.batch_size
    if cluster is None or batch_size is None:
        return
    passes = request.passes * (request.plan.dp if request.plan else cluster.devices)
    if global_batch != passes * int(batch_size):
        raise RequestError(
            f"the {stated.kind} file's {global_batch} samples of a step and {passes} passes of {batch_size} on the "
            f"cluster's {cluster.devices} devices contradict: correct one of them"
        )
