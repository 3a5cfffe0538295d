"""Bytes that one device needs, by part."""

from __future__ import annotations

from dataclasses import dataclass

from ...trace.optimizers import optimizer_named
from ...trace.workload import Workload
from .anatomy import Anatomy
from .plan import Plan
from .shard import Stage

# Memory of the framework, its kernels and the communication library, in addition to the tensors.
RESERVED_BYTES = 2.0e9
# Tensors of this many bytes per logit: the logits, their softmax and its gradient.
_LOGIT_COPIES = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Modelled bytes of one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.buffers


def memory_of(work: Workload, anatomy: Anatomy, stage: Stage, plan: Plan, kept: float | None = None) -> Memory:
    """The memory of one device of the largest stage.

    A mixed-precision training keeps an FP32 copy of its weights with the optimizer's state. With pipeline parallelism
    the first stage holds the activations of as many micro-batches as there are stages (1F1B), and of more where the
    schedule is interleaved (Korthikanti et al. 2022, section 4.2.3). `kept` is what
    fused kernels keep of a block (`kept_per_block`), None where they keep what the traced step does.
    """
    size = anatomy.element_bytes
    # Devices that share experts hold different ones, so that fewer replicas remain to shard an expert among.
    experts, replicas = stage.expert_parameters, plan.expert_replicas
    sharded = (stage.parameters - experts) / plan.replicas + experts / replicas
    share = sharded / max(stage.parameters, 1)
    weights = stage.parameters * size
    state = optimizer_named(work.optimizer).state if work.optimizer else 0
    master = 1 if size < 4 and work.optimizer else 0
    optimizer = stage.parameters * 4 * (state + master)
    logits = _logit_elements(anatomy) * _LOGIT_COPIES * size / (plan.tp * plan.cp)
    traced = max(work.activation_bytes - _logit_elements(anatomy) * size, 0) / len(anatomy.blocks)
    per_block = (traced if kept is None else kept) / (plan.tp * plan.cp)
    held = min(plan.pp + (plan.pp - 1) / plan.interleave if plan.interleave > 1 else plan.pp, plan.accumulate)
    if plan.checkpointing == "full":
        activations = held * stage.blocks * anatomy.boundary_bytes / (plan.tp * plan.cp) + per_block
    else:
        activations = held * stage.blocks * per_block
    gathered = 0.0
    if plan.zero == 3:  # one block's weights are gathered while the next one is fetched
        gathered = 2 * weights / max(stage.blocks, 1)
    return Memory(
        weights=weights * share if plan.zero == 3 else weights,
        gradients=weights * share if plan.zero >= 2 else weights,
        optimizer=optimizer * share if plan.zero >= 1 else optimizer,
        activations=activations,
        logits=logits,
        buffers=RESERVED_BYTES + gathered,
    )


def _logit_elements(anatomy: Anatomy) -> int:
    """The largest result after the last block, where it is larger than what a block passes on."""
    sizes = [op.dims.get("elements_out", 0) for op in anatomy.after if op.phase == "forward"]
    sizes += [op.dims["m"] * op.dims["n"] for op in anatomy.after if op.kind == "matmul" and op.phase == "forward"]
    largest = max(sizes, default=0)
    return largest if largest > anatomy.boundary_elements else 0
