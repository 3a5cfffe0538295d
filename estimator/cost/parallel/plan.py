"""How a training is split over devices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ...base.errors import RequestError
from .anatomy import Anatomy

CHECKPOINTING = ("none", "selective", "full")
_SIZES = ("dp", "tp", "pp", "cp", "ep")
_OTHERS = {"vp": "interleave", "sp": "sequence_parallel", "eo": "expert_overlap"}
_SWITCHES = ("sequence_parallel", "expert_overlap")
SETTINGS = frozenset(_OTHERS)
"""Names in the text of a plan that are no sizes of groups."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the split. The product of dp, tp, pp and cp is the number of devices.

    `dp` data parallel replicas (fully sharded ones too), `tp` tensor, `pp` pipeline, `cp` context and `ep` expert
    parallel sizes; `ep` divides `dp`. `zero` is the ZeRO stage (Rajbhandari et al. 2020): 0 replicates everything, 1
    shards the optimizer state, 2 the gradients too, 3 the weights too (FSDP). `accumulate` is the number of
    micro-batches of one step, `interleave` the number of model chunks per pipeline stage (Narayanan et al. 2021).
    With `sequence_parallel`, a tensor parallel group divides norms and additions too (Korthikanti et al. 2022). With
    `expert_overlap`, tokens travel to experts while another micro-batch is computed (DeepSeek-AI 2024, "DeepSeek-V3",
    section 3.2.1). Where `pp` does not divide the blocks, stages differ by one block.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    zero: int = 0
    checkpointing: str = "none"
    accumulate: int = 1
    interleave: int = 1
    sequence_parallel: bool = True
    expert_overlap: bool = False

    def __post_init__(self) -> None:
        for name in (*_SIZES, "accumulate", "interleave"):
            if getattr(self, name) < 1:
                raise RequestError(f"`parallel` {name} is {getattr(self, name)}; give 1 or more")
        if self.zero not in (0, 1, 2, 3):
            raise RequestError(f"`zero` is {self.zero}; choose one of 0, 1, 2, 3")
        if self.checkpointing not in CHECKPOINTING:
            raise RequestError(f"`checkpointing` is {self.checkpointing!r}; choose one of {', '.join(CHECKPOINTING)}")

    @property
    def devices(self) -> int:
        return self.dp * self.tp * self.pp * self.cp

    def __str__(self) -> str:
        sizes = [f"{name}={size}" for name in _SIZES if (size := getattr(self, name)) > 1] or ["dp=1"]
        if self.interleave > 1:
            sizes.append(f"vp={self.interleave}")
        if self.zero:
            sizes.append(f"zero={self.zero}")
        if self.checkpointing != "none":
            sizes.append(f"{self.checkpointing} checkpointing")
        if self.accumulate > 1:
            sizes.append(f"{self.accumulate} micro-batches")
        return ", ".join(sizes)


def parse_plan(text: str, base: Plan | None = None) -> Plan:
    """The plan in `text`, as in "dp=8,tp=4"; sizes that it does not name are those of `base`.

    "vp" is the number of model chunks of a pipeline stage, "sp" 0 or 1 for sequence parallelism, "eo" 0 or 1 for
    exchanges of experts that are hidden.
    """
    sizes: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if name not in (*_SIZES, *_OTHERS) or not equals or not size.isdigit():
            raise RequestError(f"`parallel` {part.strip()!r} is not SIZE=N; give {', '.join(f'{s}=N' for s in _SIZES)}")
        if name in sizes:
            raise RequestError(f"`parallel` names {name} twice; give it once")
        sizes[name] = int(size)
    values = {_OTHERS.get(name, name): size for name, size in sizes.items()}
    values |= {name: bool(values[name]) for name in _SWITCHES if name in values}
    return replace(base or Plan(), **values)


def stated_sizes(text: str | None) -> frozenset[str]:
    """The names that the text of a plan gives a size."""
    return frozenset(part.partition("=")[0].strip() for part in (text or "").split(",") if part.strip())


def check_plan(plan: Plan, anatomy: Anatomy, devices: int) -> None:
    """Raises RequestError with the nearest valid choice where the split does not fit the network or the devices."""
    if plan.devices != devices:
        raise RequestError(
            f"`parallel` {plan} uses {plan.devices} devices, and there are {devices}; "
            + (_nearest_dp(plan, devices) or _nearest_sizes(plan, devices))
        )
    if plan.tp > 1 and anatomy.heads and anatomy.heads % plan.tp:
        raise RequestError(
            f"{anatomy.heads} attention heads are not divisible by tp={plan.tp}; "
            f"use tp={nearest_divisor(anatomy.heads, plan.tp)}"
        )
    layers = len(anatomy.blocks)
    if plan.pp > 1 and layers < plan.pp * plan.interleave:
        raise RequestError(
            f"{layers} blocks are fewer than pp={plan.pp}"
            + (f" x {plan.interleave} chunks" if plan.interleave > 1 else "")
            + f"; use pp={max(1, layers // plan.interleave)}"
        )
    if plan.dp % plan.ep:
        raise RequestError(f"dp={plan.dp} is not divisible by ep={plan.ep}; use ep={nearest_divisor(plan.dp, plan.ep)}")
    if anatomy.experts and anatomy.expert_count % plan.ep:
        both = math.gcd(anatomy.expert_count, plan.dp)
        raise RequestError(
            f"{anatomy.expert_count} experts are not divisible by ep={plan.ep}; use ep={nearest_divisor(both, plan.ep)}"
        )


def with_devices(plan: Plan, devices: int) -> Plan:
    """`plan` with the data parallel size that uses `devices`, where one does."""
    others = plan.tp * plan.pp * plan.cp
    return replace(plan, dp=devices // others) if devices % others == 0 else plan


def _nearest_dp(plan: Plan, devices: int) -> str:
    fitting = with_devices(plan, devices)
    return f"use dp={fitting.dp}" if fitting.devices == devices else ""


def _nearest_sizes(plan: Plan, devices: int) -> str:
    """The sizes nearest to the plan's whose product divides the devices; tensor parallel groups keep theirs first."""
    tp = nearest_divisor(devices, plan.tp)
    cp = nearest_divisor(devices // tp, plan.cp)
    pp = nearest_divisor(devices // (tp * cp), plan.pp)
    sizes = {"tp": tp, "pp": pp, "cp": cp}
    text = ", ".join(f"{name}={size}" for name, size in sizes.items() if size > 1 or getattr(plan, name) > 1)
    return f"tp x pp x cp must divide {devices}: use {text} and dp={devices // (tp * pp * cp)}"


def nearest_divisor(total: int, size: int) -> int:
    """The divisor of `total` nearest to `size`, the larger of two."""
    divisors = [candidate for candidate in range(1, total + 1) if total % candidate == 0]
    return min(divisors, key=lambda candidate: (abs(candidate - size), -candidate))
