"""How a cluster's devices share the model, as tables of a page: the plan, a step's time, memory, energy and money."""

from __future__ import annotations

from dataclasses import dataclass

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer

_TIMES = (
    ("forward and backward", "compute_s"),
    ("optimizer", "update_s"),
    ("tensor parallel communication", "tensor_s"),
    ("pipeline communication", "pipeline_s"),
    ("expert communication", "expert_s"),
    ("context communication", "context_s"),
    ("gradients and weights, not hidden", "data_s"),
    ("pipeline bubble", "bubble_s"),
    ("stragglers", "straggling_s"),
    ("not explained by parts", "unexplained_s"),
    ("waiting for data", "input_s"),
)
_MEMORY = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def split_tables(answer: Answer) -> tuple[Table, ...]:
    """Empty without a cluster."""
    if answer.split is None:
        return ()
    return (_plan(answer), _step(answer), _memory(answer), _boundaries(answer))


def split_sentence(answer: Answer) -> str:
    split = answer.split
    if split is None:
        return ""
    who = "chosen by joulecast: the fastest that fits" if split.chosen else "as asked for"
    return f"{split.plan} on {split.cluster.name}, {who}."


def _plan(answer: Answer) -> Table:
    split = answer.split
    assert split is not None
    plan = split.plan
    names = {
        "data parallel": plan.dp,
        "tensor parallel": plan.tp,
        "pipeline stages": plan.pp,
        "context parallel": plan.cp,
        "expert parallel": plan.ep,
        "ZeRO stage": plan.zero,
        "micro-batches per step": plan.accumulate,
    }
    rows = [(name, f"{size:,}") for name, size in names.items()]
    return Table("The split", ("size", "value"), (*rows, ("activation checkpointing", plan.checkpointing)))


def _step(answer: Answer) -> Table:
    split = answer.split
    assert split is not None
    cost = split.cost
    parts = [(name, getattr(cost, field)) for name, field in _TIMES]
    rows = [
        (name, _seconds(value), figures.share(value / cost.seconds if cost.seconds else 0.0))
        for name, value in parts
        if value > 0
    ]
    return Table("One step", ("part", "time", "share"), (*rows, ("all", _seconds(cost.seconds), figures.share(1.0))))


def _memory(answer: Answer) -> Table:
    split = answer.split
    assert split is not None
    rows = [(name, figures.size(getattr(split.memory, name))) for name in _MEMORY]
    rows.append(("all", figures.size(split.memory.total)))
    there = answer.profile.memory_bytes
    rows += [("of the device", figures.size(there))] if there else []
    return Table("Memory of a device, modelled", ("part", "size"), tuple(rows))


def _boundaries(answer: Answer) -> Table:
    nodes = answer.node_energy_kwh
    assert nodes is not None
    rows = [
        ("accelerator boards", *figures.energy(answer.energy_kwh)),
        ("whole nodes, modelled", *figures.energy(nodes)),
        *([("idle hosts and storage", *figures.energy(shared))] if (shared := answer.shared_energy_kwh) else []),
        (f"with a PUE of {figures.number(answer.site.pue)}", *figures.energy(answer.facility_energy_kwh)),
        ("electricity", *figures.money(answer.cost, answer.site.currency)),
    ]
    if answer.rent and answer.bill:
        rate = f"rent at {figures.number(answer.rent.per_device_hour)} {answer.rent.currency} a device and hour"
        rows.append((rate, *figures.money(answer.bill, answer.rent.currency)))
    if answer.embodied:
        rows.append(("making the hardware, not part of CO2e", *figures.carbon(answer.embodied.kg)))
    return Table("Energy and money by boundary", ("boundary", "expected", "90 % interval"), tuple(rows))


def _seconds(value: float) -> str:
    factor, unit = figures.scale(value, figures.TIMES)
    return f"{figures.number(value / factor)} {unit}"
