"""The memory of one device of a split, by hand."""

from __future__ import annotations

from dataclasses import replace

from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.memory import RESERVED_BYTES, memory_of
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.shard import slowest_stage

from .decoder import BLOCKS, BOUNDARY_BYTES, TOKENS, VOCABULARY, decoder
from .parts import memory, op


def test_memory_of_splits() -> None:
    whole = memory(Plan())
    for plan in (Plan(tp=2), Plan(cp=2), Plan(tp=4, cp=2)):
        part = memory(plan)
        assert part.activations == whole.activations / (plan.tp * plan.cp)
        assert part.logits == whole.logits / (plan.tp * plan.cp)
    assert memory(Plan(cp=2)).weights == whole.weights
    # A context parallel group holds the same weights, so that ZeRO shards them among it too.
    for zero in (1, 2, 3):
        among = memory(Plan(dp=4, zero=zero))
        for plan in (Plan(dp=2, cp=2, zero=zero), Plan(cp=4, zero=zero)):
            part = memory(plan)
            assert (part.weights, part.gradients, part.optimizer) == (among.weights, among.gradients, among.optimizer)
    for zero, weights, gradients, optimizer in ((0, 1, 1, 1), (1, 1, 1, 4), (2, 1, 4, 4), (3, 4, 4, 4)):
        part = memory(Plan(dp=4, zero=zero))
        assert part.weights == whole.weights / weights
        assert part.gradients == whole.gradients / gradients
        assert part.optimizer == whole.optimizer / optimizer
        gathered = 2 * whole.weights / BLOCKS if zero == 3 else 0
        assert part.buffers == RESERVED_BYTES + gathered
    assert whole.total == sum(getattr(whole, name) for name in type(whole).__dataclass_fields__)
    # stages under way: as many micro-batches as stages, and no more than there are
    half = whole.activations / 2
    assert memory(Plan(pp=2, accumulate=8)).activations == 2 * half
    assert memory(Plan(pp=2, accumulate=1)).activations == half
    # Two chunks a stage: 2 + 1 / 2 micro-batches, where there are as many.
    assert memory(Plan(pp=2, accumulate=8, interleave=2)).activations == 2.5 * half
    assert memory(Plan(pp=2, accumulate=2, interleave=2)).activations == 2 * half
    full = memory(Plan(pp=2, accumulate=8, checkpointing="full"))
    assert full.activations == 2 * 2 * BOUNDARY_BYTES + 10 * BOUNDARY_BYTES


def test_memory_of_five_replicas_and_of_a_step_that_keeps_little() -> None:
    assert memory(Plan(dp=5, zero=3)).weights == memory(Plan()).weights / 5 == 111_513.6
    little = replace(decoder(), activation_bytes=0)
    found = dissect(little)
    assert memory_of(little, found, slowest_stage(found, Plan()), Plan()).activations == 0


def test_weights_in_single_precision_are_their_own_copy() -> None:
    mixed, single = memory(Plan()), memory(Plan(), element_bytes=4)
    assert mixed.optimizer == single.optimizer * 3 / 2  # two moments, and with 16 bit a copy
    assert single.weights == 2 * mixed.weights
    work = replace(decoder(), optimizer=None, train=False)
    found = dissect(work)
    assert memory_of(work, found, slowest_stage(found, Plan()), Plan()).optimizer == 0


def test_a_head_that_is_no_larger_than_a_blocks_output_has_no_logits() -> None:
    assert memory(Plan()).logits == 3 * 2 * TOKENS * VOCABULARY
    assert memory(Plan(), boundary_elements=TOKENS * VOCABULARY).logits == 0
    assert memory(Plan(), boundary_elements=TOKENS * VOCABULARY - 1).logits == 3 * 2 * TOKENS * VOCABULARY
    assert memory(Plan(), after=(op("copy", elements_out=10**6),)).logits == 3 * 2 * 10**6
    assert memory(Plan(), after=(op("copy", phase="backward", elements_out=10**6),)).logits == 0
    assert memory(Plan(), after=()).logits == 0
