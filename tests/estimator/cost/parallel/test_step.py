from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.parallel import collectives
from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.collectives import Exchange
from joulecast.estimator.cost.parallel.memory import RESERVED_BYTES, memory_of
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.predict import predict_split
from joulecast.estimator.cost.parallel.search import choose_plan
from joulecast.estimator.cost.parallel.shard import slowest_stage
from joulecast.estimator.cost.parallel.step import step_cost
from joulecast.estimator.cost.profile import PowerModel

from .decoder import (
    BLOCKS,
    BOUNDARY_BYTES,
    HIDDEN,
    LINKS,
    SECONDS_PER_MAC,
    TOKENS,
    VOCABULARY,
    decoder,
    device,
    nodes,
)

ATTENTION = 2 * TOKENS * TOKENS * HIDDEN
LINEAR = TOKENS * 9 * HIDDEN * HIDDEN  # proj, up and down, forward
BLOCK = ATTENTION + 3 * LINEAR
HEAD = 3 * TOKENS * HIDDEN * VOCABULARY
BLOCK_WEIGHTS = 9 * HIDDEN * HIDDEN
ENDS_WEIGHTS = VOCABULARY * HIDDEN


def cost(plan: Plan, **cluster: float | None):
    return step_cost(device(), dissect(decoder()), plan, nodes(**cluster))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "size", "stride", "expected"),
    [
        ("all_reduce", 4, 1, 2 * 2 * LINKS.node_latency_s + 2 * 3 / 4 * 1e6 / 1e9),
        ("all_gather", 4, 1, 2 * LINKS.node_latency_s + 3 / 4 * 1e6 / 1e9),
        ("reduce_scatter", 8, 1, 3 * LINKS.node_latency_s + 7 / 8 * 1e6 / 1e9),
        ("all_to_all", 2, 1, LINKS.node_latency_s + 1 / 2 * 1e6 / 1e9),
        ("send", 2, 8, LINKS.network_latency_s + 1e6 / 0.25e9),
        ("all_reduce", 1, 1, 0.0),
    ],
)
def test_seconds_of_one_message(kind: str, size: int, stride: int, expected: float):
    cluster = nodes(count=2)
    assert collectives.seconds(Exchange(kind, 1e6, size, stride), cluster) == pytest.approx(expected)
    assert collectives.seconds(Exchange(kind, 1e6, size, stride, 3), cluster) == pytest.approx(3 * expected)


def test_one_device_is_the_workload_itself():
    alone = cost(Plan())
    assert alone.seconds == pytest.approx(SECONDS_PER_MAC * (BLOCKS * BLOCK + HEAD))
    assert alone.waiting_s == 0
    assert alone.joules == pytest.approx(100 * alone.seconds)


def test_tensor_parallelism_divides_products_and_sums_outputs():
    plan = Plan(tp=4)
    split = cost(plan)
    assert split.compute_s == pytest.approx(SECONDS_PER_MAC * (BLOCKS * BLOCK + HEAD) / 4)
    message_s = 2 * 2 * LINKS.node_latency_s + 2 * 3 / 4 * BOUNDARY_BYTES / 1e9
    assert split.tensor_s == pytest.approx(2 * 2 * BLOCKS * message_s)  # attention and MLP, forward and backward
    assert cost(Plan(tp=4, checkpointing="full")).tensor_s == pytest.approx(3 * 2 * BLOCKS * message_s)
    assert split.joules == pytest.approx(100 * split.compute_s + 40 * split.tensor_s)


def test_pipeline_stages_wait_for_the_first_and_last_micro_batch():
    split = cost(Plan(pp=4, accumulate=8), count=1)
    micro_s = SECONDS_PER_MAC * (BLOCK + HEAD)  # the last stage: one block and the head
    send_s = 2 * (LINKS.node_latency_s + BOUNDARY_BYTES / 1e9)
    assert split.compute_s == pytest.approx(SECONDS_PER_MAC * 8 * (BLOCK + HEAD / 4))
    # Eight micro-batches and three waits at the pace of the last stage; the others compute less, and wait.
    assert split.seconds - split.update_s == pytest.approx((8 + 3) * (micro_s + send_s))
    assert split.joules == pytest.approx(100 * (split.compute_s + split.update_s) + 40 * split.waiting_s)
    interleaved = cost(Plan(pp=2, accumulate=8, interleave=2), count=1)
    plain = cost(Plan(pp=2, accumulate=8), count=1)
    assert interleaved.bubble_s < plain.bubble_s


def test_gradients_hide_behind_the_backward_pass_as_far_as_they_can():
    pass_s = SECONDS_PER_MAC * (BLOCKS * BLOCK + HEAD)
    weights = 2 * (BLOCKS * (BLOCK_WEIGHTS + HIDDEN) + 2 * ENDS_WEIGHTS)
    all_s = 3 * 2 * BLOCKS * LINKS.node_latency_s + 2 * 7 / 8 * weights / 1e9
    assert cost(Plan(dp=8)).data_s == pytest.approx((1 - LINKS.overlap) * all_s)
    slow_s = 3 * 2 * BLOCKS * LINKS.node_latency_s + 2 * 7 / 8 * weights / 1e6
    assert cost(Plan(dp=8), gb_per_s=0.001).data_s == pytest.approx(slow_s - LINKS.overlap * pass_s * 2 / 3)


def test_sharded_weights_are_gathered_twice_in_every_pass():
    weights = 2 * (BLOCKS * (BLOCK_WEIGHTS + HIDDEN) + 2 * ENDS_WEIGHTS)
    passes = 3
    once_s = 3 * BLOCKS * LINKS.node_latency_s + 7 / 8 * weights / 1e9
    split = cost(Plan(dp=8, zero=3, accumulate=passes))
    assert split.data_s == pytest.approx((1 - LINKS.overlap) * 3 * passes * once_s)


def test_full_checkpointing_computes_the_blocks_again():
    again = cost(Plan(checkpointing="full")).compute_s - cost(Plan()).compute_s
    last = TOKENS * 4 * HIDDEN * HIDDEN  # the result of `mlp.down` is not needed
    assert again == pytest.approx(SECONDS_PER_MAC * BLOCKS * (ATTENTION + LINEAR - last))
    selective = cost(Plan(checkpointing="selective")).compute_s - cost(Plan()).compute_s
    assert selective == pytest.approx(SECONDS_PER_MAC * BLOCKS * ATTENTION)


def test_memory_by_part():
    work, anatomy = decoder(), dissect(decoder())
    weights = BLOCKS * (BLOCK_WEIGHTS + HIDDEN) + 2 * ENDS_WEIGHTS
    memory = memory_of(work, anatomy, slowest_stage(anatomy, Plan()), Plan())
    assert memory.weights == memory.gradients == 2 * weights
    assert memory.optimizer == 4 * 3 * weights  # two moments and an FP32 copy
    assert memory.activations == BLOCKS * 10 * BOUNDARY_BYTES
    assert memory.logits == 3 * 2 * TOKENS * VOCABULARY
    assert memory.buffers == RESERVED_BYTES
    plan = Plan(dp=4, zero=3, checkpointing="full")
    sharded = memory_of(work, anatomy, slowest_stage(anatomy, plan), plan)
    assert sharded.weights == sharded.gradients == 2 * weights / 4
    assert sharded.optimizer == 12 * weights / 4
    assert sharded.activations == BLOCKS * BOUNDARY_BYTES + 10 * BOUNDARY_BYTES
    stages = Plan(pp=2, accumulate=4)
    first = memory_of(work, anatomy, slowest_stage(anatomy, stages), stages)
    assert first.activations == 2 * (BLOCKS // 2) * 10 * BOUNDARY_BYTES  # two micro-batches under way


def test_the_fastest_split_that_fits_is_chosen():
    work, anatomy = decoder(), dissect(decoder())
    free = choose_plan(work, anatomy, device(), nodes(), passes=8)
    assert free.plan.dp == 8  # little to exchange: data parallel is fastest
    assert free.cost.seconds <= cost(Plan(dp=2, tp=4, accumulate=4)).seconds
    weights = BLOCKS * (BLOCK_WEIGHTS + HIDDEN) + 2 * ENDS_WEIGHTS
    limit = int(RESERVED_BYTES + 10 * weights)  # too little for a whole optimizer state
    tight = choose_plan(work, anatomy, device(limit), nodes(), passes=8)
    assert tight.memory.total <= limit
    assert tight.plan != free.plan
    assert free.memory.total == int(free.memory.total)
    assert choose_plan(work, anatomy, device(int(free.memory.total)), nodes(), passes=8).plan == free.plan
    with pytest.raises(RequestError, match=r"no split fits in 1.5 GB per device; the smallest"):
        choose_plan(work, anatomy, device(1_500_000_000), nodes(), passes=8)
    with pytest.raises(RequestError, match=r"no split fits in 2 GB per device; the smallest .* needs 2 GB"):
        choose_plan(work, anatomy, device(int(RESERVED_BYTES)), nodes(), passes=8)
    with pytest.raises(RequestError, match=r"use devices with more memory$"):  # less than the framework's own
        choose_plan(replace(work, batch_size=1), anatomy, device(1_500_000_000), nodes(), passes=8)
    with pytest.raises(RequestError, match="whole number of the 3 micro-batches"):
        choose_plan(work, anatomy, device(), nodes(devices=5), passes=3)


def test_where_no_split_fits_the_smallest_cluster_that_does_is_named():
    """Of one device each: sharded state is 16 bytes a weight, and so much more is left for a third of it."""
    work, anatomy = decoder(), dissect(decoder())
    weights = BLOCKS * (BLOCK_WEIGHTS + HIDDEN) + 2 * ENDS_WEIGHTS
    plan = Plan(dp=3, zero=3, checkpointing="full")
    rest = memory_of(work, anatomy, slowest_stage(anatomy, plan), plan).total - 16 * weights / 3
    room = device(math.ceil(rest + 16 * weights / 3))
    for count in (1, 2):
        with pytest.raises(RequestError, match=r"use `cluster` 3x1xmade-up$"):
            choose_plan(work, anatomy, room, nodes(count, devices=1), passes=count, per_device=1)
    assert choose_plan(work, anatomy, room, nodes(3, devices=1), passes=3, per_device=1).plan.devices == 3
    # A batch of 8 passes cannot be shared by three replicas, and four can.
    with pytest.raises(RequestError, match=r"use `cluster` 4x1xmade-up$"):
        choose_plan(work, anatomy, room, nodes(1, devices=1), passes=8)
    assert choose_plan(work, anatomy, room, nodes(4, devices=1), passes=8).plan.devices == 4


def test_a_run_on_a_cluster():
    work = decoder(passes=2)
    estimate, split = predict_split(device(), work, nodes(), steps=10, accumulation=2, plan=Plan(dp=2, tp=4))
    assert split.plan.accumulate == 8  # 2 passes x 8 devices over 2 replicas
    assert not split.chosen
    assert estimate.devices == 8
    assert estimate.seconds.value == pytest.approx(10 * split.cost.seconds)
    assert estimate.energy_kwh.value == pytest.approx(10 * 8 * split.cost.joules / JOULES_PER_KWH)
    assert sum(part.energy_kwh for part in estimate.breakdown) == pytest.approx(estimate.energy_kwh.value)
    assert sum(part.energy_kwh for part in estimate.layers) == pytest.approx(estimate.energy_kwh.value)
    assert {"communication", "compute"} <= {part.name for part in estimate.breakdown}
    alone = device().predict(work, steps=10)
    assert estimate.seconds.high / estimate.seconds.value > alone.seconds.high / alone.seconds.value
    assert split.to_json()["memory_bytes"]["total"] == split.memory.total  # type: ignore[index]


def test_16_bit_arithmetic_draws_its_own_watts():
    plain = device()
    hot = replace(plain, half_power=PowerModel({"compute": 260.0, "memory": 0.0, "launch": 0.0}, 40.0))
    one = nodes(devices=1)
    usual, _ = predict_split(plain, decoder(), one, steps=1, plan=Plan())
    found, _ = predict_split(hot, decoder(), one, steps=1, plan=Plan())  # the decoder computes in bfloat16
    assert found.energy_kwh.value == pytest.approx(3 * usual.energy_kwh.value)  # 300 W, not 100 W
    assert found.seconds == usual.seconds


def test_a_chosen_split_is_named_in_a_note():
    estimate, split = predict_split(device(), decoder(), nodes(), steps=1)
    assert split.chosen
    assert any(f"split chosen by joulecast: {split.plan}" in note for note in estimate.warnings)


def test_software_that_is_no_stack_for_language_models_hides_less() -> None:
    """Of gradients that take less time than computing, a tenth stays visible with an overlap of 0.9, 0.7 with 0.3."""
    anatomy, plan = dissect(decoder()), Plan(dp=2)
    links = replace(LINKS, overlap=0.9, other_overlap=0.3)
    cluster = replace(nodes(devices=2), links=links)
    hidden = step_cost(replace(device(), software="fused"), anatomy, plan, cluster)
    shown = step_cost(replace(device(), software="eager"), anatomy, plan, cluster)
    assert (1 - 0.9) * shown.data_s == pytest.approx((1 - 0.3) * hidden.data_s)


@pytest.mark.parametrize(
    ("software", "plan", "shown"),
    [
        ("megatron-core", Plan(tp=2), 0.25),
        ("megatron", Plan(tp=2, sequence_parallel=False), 1.0),
        ("megatron", Plan(tp=2), 1 - 0.75 / 2),  # the backward pass's, which is one of two
        ("megatron", Plan(tp=2, checkpointing="full"), 1 - 0.75 / 3),
        ("eager", Plan(tp=2), 1.0),
    ],
)
def test_megatron_computes_while_tensor_parallel_devices_exchange(software: str, plan: Plan, shown: float) -> None:
    anatomy = dissect(decoder())
    all_of_it = step_cost(device(), anatomy, plan, nodes(devices=2))
    cluster = replace(nodes(devices=2), links=replace(LINKS, tensor_overlap=0.75))
    found = step_cost(replace(device(), software=software), anatomy, plan, cluster)
    assert found.tensor_s == pytest.approx(shown * all_of_it.tensor_s)
    assert all_of_it.tensor_s > 0


def test_a_step_without_an_optimizer() -> None:
    work = decoder()
    bare = replace(work, ops=tuple(op for op in work.ops if op.phase != "optimizer"))
    found = step_cost(device(), dissect(bare), Plan(), nodes(devices=1))
    assert found.update_s == 0.0
    assert found.joules == pytest.approx(100 * SECONDS_PER_MAC * (BLOCKS * BLOCK + HEAD))
