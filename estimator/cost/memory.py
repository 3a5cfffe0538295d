"""The memory of one device that trains the whole model (modelled); `parallel/memory.py` has that of a split."""

from __future__ import annotations

from ..trace.workload import Op, Workload


def memory_needed(work: Workload) -> int:
    """Bytes of weights, gradients, optimizer state and kept activations (modelled).

    All activations are kept when the backward pass begins. It has no gradients of weights yet, but those of the loss,
    which are as large as the scores: the larger of the two counts.
    """
    if not work.train or work.optimizer is None:
        return work.parameter_bytes + work.input_bytes
    from ..trace.optimizers import optimizer_named

    per_parameter = work.parameter_bytes / work.parameters if work.parameters else 0
    gradients = work.trainable_parameters * per_parameter
    known = work.optimizer_state_bytes
    state = known if known is not None else gradients * optimizer_named(work.optimizer).state
    of_loss = sum(op.bytes_written * op.count for op in work.ops if _is_gradient_of_loss(op))
    return int(work.parameter_bytes + max(gradients, of_loss) + state + work.activation_bytes + work.input_bytes)


def _is_gradient_of_loss(op: Op) -> bool:
    return op.phase == "backward" and (op.kind == "loss" or op.name == "_log_softmax_backward_data")
