"""How a training is split over devices."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ...base.errors import RequestError
from .anatomy import Anatomy

CHECKPOINTING = ("none", "selective", "full")
_SIZES = ("dp", "tp", "pp", "cp", "ep")
_OTHERS = {
    "vp": "interleave",
    "sp": "sequence_parallel",
    "eo": "expert_overlap",
    "etp": "expert_tp",
    "a2a": "plain_all_to_all",
}
_SWITCHES = ("sequence_parallel", "expert_overlap", "plain_all_to_all")
SETTINGS = frozenset(_OTHERS)
"""Names in the text of a plan that are no sizes of groups."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the split. The product of dp, tp, pp and cp is the number of devices.

    `dp` data parallel replicas (fully sharded ones too), `tp` tensor, `pp` pipeline, `cp` context and `ep` expert
    parallel sizes. Tensor parallelism divides experts, too, and `ep` then divides `dp`. With `expert_tp` 1 it does not:
    the devices of its group share the experts like others, and `ep` divides `dp` x `tp` (Megatron-Core's
    expert-tensor-parallel-size). 0 leaves this to `ep`. `zero` is the ZeRO stage (Rajbhandari et al. 2020): 0
    replicates everything, 1 shards the optimizer state, 2 the gradients too, 3 the weights too (FSDP). `accumulate` is
    the number of micro-batches of one step, `interleave` the number of model chunks of a stage (Narayanan et al. 2021).
    With `sequence_parallel`, a tensor parallel group divides norms and additions too (Korthikanti et al. 2022).
    With `expert_overlap`, tokens travel to experts while another micro-batch is computed (DeepSeek-AI 2024,
    "DeepSeek-V3", section 3.2.1). With `plain_all_to_all`, a token is sent to each of its experts, as by NCCL, and not
    once to each node and device that has some of them. Where `pp` does not divide the blocks, stages differ by one
    block.
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
    expert_tp: int = 0
    plain_all_to_all: bool = False

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

    @property
    def divides_experts(self) -> bool:
        """Whether tensor parallelism divides experts: by default where `ep` divides `dp`."""
        return self.expert_tp > 1 or (not self.expert_tp and self.tp > 1 and self.dp % self.ep == 0)

    @property
    def expert_stride(self) -> int:
        """Devices that hold parts of the same experts: neighbours that share experts are that far apart."""
        return self.tp if self.divides_experts else 1

    @property
    def experts_among(self) -> int:
        """Devices that can have different experts, or replicas of them: `ep` divides this."""
        return self.dp * self.tp // self.expert_stride

    @property
    def replicas(self) -> int:
        """Devices that hold the same weights, which ZeRO shards: those of a context parallel group too."""
        return self.dp * self.cp

    @property
    def expert_replicas(self) -> int:
        """Devices that hold the same expert."""
        return self.experts_among // self.ep * self.cp

    def __str__(self) -> str:
        sizes = [f"{name}={size}" for name in _SIZES if (size := getattr(self, name)) > 1] or ["dp=1"]
        if self.tp > 1 and self.ep > 1 and not self.divides_experts:
            sizes.append("etp=1")
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
    exchanges of experts that are hidden, "etp" 1 or the size of tp for tensor parallelism of experts, "a2a" 0 or 1 for
    tokens that are sent to each of their experts.
    """
    sizes: dict[str, Any] = {}
    for part in _parts(text):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if field := _FIELDS.get(name):
            raise RequestError(f"`parallel` {part!r} is a setting of its own: give `{field}` {size}".rstrip())
        if name not in (*_SIZES, *_OTHERS) or not equals or not size.isdigit():
            raise RequestError(f"`parallel` {part!r} is not SIZE=N; give {', '.join(f'{s}=N' for s in _SIZES)}")
        if name in sizes:
            raise RequestError(f"`parallel` names {name} twice; give it once")
        sizes[name] = int(size)
    values = {_OTHERS.get(name, name): size for name, size in sizes.items()}
    values |= {name: bool(values[name]) for name in _SWITCHES if name in values}
    return replace(base or Plan(), **values)


_FIELDS = {"zero": "zero", "fsdp": "fsdp", "full checkpointing": "activation_checkpointing full"} | {
    "selective checkpointing": "activation_checkpointing selective"
}
"""Parts of a split's text that are no sizes, and the fields that set them."""


def _parts(text: str) -> list[str]:
    """The parts of "dp=8,tp=4", which spaces may divide too."""
    return [part.strip() for part in re.split(r",|\s+(?=\w+\s*=)", text.casefold()) if part.strip()] or [text]


def stated_sizes(text: str | None) -> frozenset[str]:
    """The names that the text of a plan gives a size."""
    return frozenset(part.partition("=")[0].strip() for part in _parts(text or "") if part.strip())


def check_plan(
    plan: Plan, anatomy: Anatomy, devices: int, passes: int | None = None, samples_per_pass: int = 1
) -> None:
    """Raises RequestError with the nearest split that fits where `plan` does not fit the network or the devices.

    `passes` is the number of micro-batches of one step on all replicas together, None where every replica has its own.
    """
    fault = _fault(plan, anatomy, devices, passes)
    if fault is None:
        return
    choices = []
    alone = _fault(plan, anatomy, devices, None) is None and passes is not None
    if alone and passes is not None:
        # Of the same number of devices, the batch alone has to change: to the next one that the replicas share.
        choices.append(f"`global_batch` {-(-passes // plan.dp) * plan.dp * samples_per_pass}")
    nearest = _nearest_plan(plan, anatomy, devices, passes)
    if nearest is not None:
        choices.append(_sizes(nearest, plan))
    raise RequestError(f"{fault}use {', or '.join(choices)}" if choices else f"{fault}leave out `parallel`")


def _fault(plan: Plan, anatomy: Anatomy, devices: int, passes: int | None) -> str | None:
    """What does not fit, up to the word before the advice; None where the split fits."""
    if plan.devices != devices:
        others = plan.tp * plan.pp * plan.cp
        rule = "" if devices % others == 0 else f"tp x pp x cp must divide {devices}: "
        return f"`parallel` {plan} uses {plan.devices} devices, and there are {devices}; {rule}"
    if plan.tp > 1 and anatomy.heads and anatomy.heads % plan.tp:
        return f"{anatomy.heads} attention heads are not divisible by tp={plan.tp}; "
    layers = len(anatomy.blocks)
    if plan.pp > 1 and layers < plan.pp * plan.interleave:
        chunks = f" x {plan.interleave} chunks" if plan.interleave > 1 else ""
        return f"{layers} blocks are fewer than pp={plan.pp}{chunks}; "
    if plan.expert_tp not in (0, 1, plan.tp):
        return f"etp={plan.expert_tp} is neither 1 nor tp={plan.tp}; "
    if plan.experts_among % plan.ep:
        among = f"dp={plan.dp}" if plan.experts_among == plan.dp else f"dp={plan.dp} x tp={plan.tp}"
        return f"{among} is not divisible by ep={plan.ep}; "
    if anatomy.experts and anatomy.expert_count % plan.ep:
        return f"{anatomy.expert_count} experts are not divisible by ep={plan.ep}; "
    if passes is not None and passes % plan.dp:
        return f"the {passes} micro-batches of a step are not divisible by dp={plan.dp}; "
    return None


def _nearest_plan(plan: Plan, anatomy: Anatomy, devices: int, passes: int | None) -> Plan | None:
    """The split that fits and whose sizes are nearest to those of `plan`, by their ratios; tp keeps its size first."""
    fitting: list[Plan] = []
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    for tp, pp, cp in product(divisors, repeat=3):
        if devices % (tp * pp * cp):
            continue
        dp = devices // (tp * pp * cp)
        expert_tp = min(plan.expert_tp, tp)
        among = dp if plan.tp == 1 or plan.divides_experts else dp * tp
        ep = nearest_divisor(math.gcd(anatomy.expert_count, among) if anatomy.experts else among, plan.ep)
        for chunks in sorted({1, plan.interleave}):
            one = replace(plan, dp=dp, tp=tp, pp=pp, cp=cp, ep=ep, interleave=chunks, expert_tp=expert_tp)
            if _fault(one, anatomy, devices, passes) is None:
                fitting.append(one)
    return min(fitting, key=lambda one: _distance(one, plan), default=None)


_NEARBY = ("tp", "cp", "pp", "ep", "interleave")


def _distance(one: Plan, plan: Plan) -> tuple[float, ...]:
    """The sum of ratios, how many sizes change, that of cp, that of a tp that was given, then larger sizes first."""
    steps = {name: abs(math.log2(getattr(one, name) / getattr(plan, name))) for name in _NEARBY}
    changed = sum(step > 0 for step in steps.values())
    stated_tp = steps["tp"] if plan.tp > 1 else 0.0
    return (round(sum(steps.values()), 6), changed, steps["cp"], stated_tp, *(-getattr(one, name) for name in _NEARBY))


def _sizes(one: Plan, given: Plan) -> str:
    """The sizes of `one` as they are typed: dp or ep alone where nothing else differs from `given`."""
    if replace(one, dp=given.dp) == given:
        return f"dp={one.dp}"
    if replace(one, ep=given.ep) == given:
        return f"ep={one.ep}"
    names = [name for name in ("tp", "pp", "cp", "ep") if getattr(one, name) > 1 or getattr(given, name) > 1]
    sizes = [f"{name}={getattr(one, name)}" for name in names]
    if one.expert_tp != given.expert_tp:
        sizes.append(f"etp={one.expert_tp}")
    if given.interleave > 1:
        sizes.append(f"vp={one.interleave}")
    return f"{', '.join(sizes)} and dp={one.dp}"


def with_devices(plan: Plan, devices: int) -> Plan:
    """`plan` with the data parallel size that uses `devices`, where one does."""
    others = plan.tp * plan.pp * plan.cp
    return replace(plan, dp=devices // others) if devices % others == 0 else plan


def nearest_divisor(total: int, size: int) -> int:
    """The divisor of `total` nearest to `size`, the larger of two."""
    divisors = [candidate for candidate in range(1, total + 1) if total % candidate == 0]
    return min(divisors, key=lambda candidate: (abs(candidate - size), -candidate))
