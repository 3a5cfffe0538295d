"""The notes on a prediction: what it is outside of, what differs from the profile, and what is not modelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.digits import short
from ..base.notes import Note, Topic, Weight
from ..trace.workload import Workload
from .bounds import Range
from .memory import memory_needed

if TYPE_CHECKING:
    from .profile import Profile

_IN_RANGE_DECADES = 0.05  # nearer than this to the measured range counts as inside
_RANGE_WORDS = {
    "flops": "computes {} multiply-adds per step",
    "bytes": "moves {} per step",
    "ops": "has {} ops per step",
    "batch_size": "has a batch size of {}",
    "op_flops": "has ops of {} multiply-adds",
    "op_bytes": "has ops that move {}",
}
_RANGE_UNITS = {"flops": "", "bytes": "B", "ops": "", "batch_size": "", "op_flops": "", "op_bytes": "B"}
_ENGINES = {"keras": "tensorflow"}  # what runs a framework's models


def engine(framework: str) -> str:
    """What runs a framework's models."""
    return _ENGINES.get(framework, framework)


def notes_on(profile: Profile, work: Workload, devices: int) -> list[str]:
    """The notes on `work`, run by `devices` devices that share nothing."""
    return [
        *(Note.of(note, Topic.MODEL) for note in work.warnings),
        *_range_notes(profile, work),
        *_mismatches(profile, work),
        *_model_notes(profile, work),
        *_device_notes(profile, devices),
        *_memory_notes(profile, work),
    ]


def startup_notes(startup_s: float, running_s: float) -> tuple[str, ...]:
    """A note where most of the time is the start-up of the run."""
    if startup_s <= running_s:
        return ()
    text = (
        f"{short(startup_s)} s of this time is the start-up of a run, once however many steps it has; the steps take "
        f"{short(running_s)} s (Estimate.step_seconds is one step's time)"
    )
    return (Note(text, Topic.SCHEDULE, Weight.ROUGH),)


def _range_notes(profile: Profile, work: Workload) -> list[Note]:
    notes = _outside(profile, work)
    missing = sorted({op.kind for op in work.ops} - set(profile.kinds)) if profile.kinds else []
    if missing:
        text = f"the {profile.name} profile has no measurements of: {', '.join(missing)}"
        notes.append(Note(text, Topic.RANGE, Weight.ROUGH))
    if profile.is_sum_of_layers(work):
        text = f"the {profile.name} profile was measured on single layers; in a network they can take 1.5 times that"
        notes.append(Note(text, Topic.RANGE, Weight.ROUGH))
    return notes


def _outside(profile: Profile, work: Workload) -> list[Note]:
    """One note for each feature outside of its measured range, the furthest first."""
    found = profile.outside_by_feature(work)
    beyond, values = ({name: pair[place] for name, pair in found.items()} for place in (0, 1))
    names = sorted((name for name in beyond if beyond[name] > _IN_RANGE_DECADES), key=lambda name: -beyond[name])
    return [
        Note(
            f"this run {_RANGE_WORDS[name].format(' '.join(_scaled(values[name], _RANGE_UNITS[name])).rstrip())}; "
            f"the {profile.name} profile covers {_covered(profile.ranges[name], _RANGE_UNITS[name])}",
            Topic.RANGE,
            Weight.ACT if place == 0 else Weight.ROUGH,
        )
        for place, name in enumerate(names)
    ]


def _covered(bound: Range, unit: str) -> str:
    """ "18 to 64 GB", "800 MB to 2 GB", or "256 only" where one value was measured."""
    (low, low_unit), (high, high_unit) = _scaled(bound.low, unit), _scaled(bound.high, unit)
    if bound.low == bound.high:
        return f"{high} {high_unit}".rstrip() + " only"
    start = low if low_unit == high_unit else f"{low} {low_unit}".rstrip()
    return f"{start} to {high} {high_unit}".rstrip()


def _scaled(value: float, unit: str) -> tuple[str, str]:
    """1.46e9 bytes are ("1.46", "GB")."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}", prefix + unit
    return f"{value:.3g}", unit


def _mismatches(profile: Profile, work: Workload) -> list[Note]:
    """Where a measured profile's framework or precision differs from the workload's."""
    if profile.provenance.time != "measured":
        return []
    texts = []
    if engine(work.framework) != engine(profile.framework):
        texts.append(f"measured with {profile.framework}; this model uses {work.framework}")
    if profile.precision and work.precision != profile.precision:
        texts.append(f"measured in {profile.precision}; this model runs in {work.precision}")
    return [Note(f"the {profile.name} profile was {text}", Topic.PROFILE, Weight.ROUGH) for text in texts]


def _model_notes(profile: Profile, work: Workload) -> list[Note]:
    texts = []
    if work.unsupported:
        names = ", ".join(sorted(work.unsupported))
        texts.append(f"no formula for {names} ({work.unsupported_byte_share:.1%} of the bytes): costed by bytes alone")
    if profile.device == "gpu" and any(op.kind == "scan" and not op.name.startswith("triton::") for op in work.ops):
        texts.append(
            "scans over time are priced as fused kernels (mamba-ssm, flash-linear-attention): without that package "
            "a step takes many times as long, 16 times for a Mamba-2 of transformers on an H100"
        )
    return [Note(text, Topic.MODEL, Weight.ROUGH) for text in texts]


def _device_notes(profile: Profile, devices: int) -> list[Note]:
    if devices == 1:
        return []
    text = f"communication between the {devices} devices is not modelled: the time is a lower bound"
    text += "; give them as `cluster`" if profile.device == "gpu" else ""
    return [Note(text, Topic.SCHEDULE, Weight.ROUGH)]


def _memory_notes(profile: Profile, work: Workload) -> list[Note]:
    if not profile.memory_bytes or (needed := memory_needed(work)) <= profile.memory_bytes:
        return []
    recompute = "" if _recomputes(work) else "recompute activations (`activation_checkpointing` full) "
    text = (
        f"needs about {short(needed / 1e9)} GB per device (modelled: weights, gradients, optimizer state and "
        f"activations), more than the device's {short(profile.memory_bytes / 1e9)} GB: reduce the batch size, "
        f"{recompute}or give the devices as `cluster`, which finds a split that fits"
    )
    return [Note(text, Topic.MODEL, Weight.STOP)]


def _recomputes(work: Workload) -> bool:
    """Whether the backward pass, of twice the forward's multiply-adds at most, computes the forward again."""
    flops = {
        phase: sum(op.flops * op.count for op in work.ops if op.phase == phase) for phase in ("forward", "backward")
    }
    return flops["backward"] > 2.5 * flops["forward"]
