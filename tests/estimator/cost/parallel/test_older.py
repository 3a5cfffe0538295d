"""How much longer published trainings took than the modelled parts, and what runs on NVIDIA GPUs before Ampere."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.cluster import Cluster, parse_cluster, usual_cluster
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.predict import (
    POWER_SLOPE,
    UNEXPLAINED,
    is_dated,
    is_tuned,
    predict_split,
    slowed,
)
from joulecast.estimator.cost.parallel.search import choose_plan
from joulecast.estimator.cost.parallel.step import StepCost
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.cost.stacks import load_stacks
from joulecast.estimator.cost.waiting import OVERHEAD, PRACTICE

from .decoder import decoder

V100, A100 = "2x8xv100-sxm2-32gb:100gb", "2x8xa100-sxm4-80gb:100gb"


def of(text: str, software: str = "megatron") -> tuple[Profile, Cluster]:
    cluster = parse_cluster(text)
    return datasheet_profile(find_hardware(cluster.hardware)).for_software(software), cluster


@pytest.mark.parametrize(
    ("name", "before"),
    [("v100-sxm2-32gb", True), ("t4", True), ("gtx-1080-ti", True), ("a100-sxm4-80gb", False), ("mi250x", False)],
)
def test_gpus_before_ampere(name: str, before: bool) -> None:
    assert find_hardware(name).before_ampere is before


def test_a_slower_step_draws_less_power() -> None:
    cost = StepCost(1.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0, joules=400.0)
    found = slowed(cost, 2.0)
    assert (found.seconds, found.unexplained_s, found.waiting_s) == (4.0, 2.0, 0.5)
    assert found.joules == pytest.approx(400 * 2**0.85)
    assert slowed(cost, 1.0) == cost


def test_several_nodes_take_as_much_longer_as_published_trainings() -> None:
    profile, cluster = of(V100)
    plan = Plan(dp=16, sequence_parallel=False)
    found, split = predict_split(profile, decoder(), cluster, steps=10, plan=plan, overhead=0.0)
    stacks, cost = load_stacks(), split.cost
    assert stacks.older_slowdown > 1.2
    assert cost.seconds / (cost.seconds - cost.unexplained_s) == pytest.approx(stacks.older_slowdown)
    low, high = (abs(math.log(bound)) for bound in stacks.older_time_error)
    assert math.log(found.seconds.high / found.seconds.value) == pytest.approx(high, abs=0.01)
    assert math.log(found.seconds.value / found.seconds.low) == pytest.approx(low, abs=0.01)
    assert any("took" in note and "before Ampere" in note for note in found.warnings)
    shares = {part.name: part for part in found.breakdown}
    assert shares[UNEXPLAINED].seconds == pytest.approx(10 * 16 * cost.unexplained_s)
    assert sum(part.energy_kwh for part in found.breakdown) == pytest.approx(found.energy_kwh.value, rel=0.01)
    usual = stacks.older_slowdown ** -(1 + POWER_SLOPE)
    waiting = sum(part.energy_kwh for name, part in shares.items() if name in ("communication", "stragglers"))
    whole = 10 * 16 * cost.joules / 3.6e6
    assert shares[UNEXPLAINED].energy_kwh == pytest.approx((whole - waiting) * (1 - usual))


def test_one_node_and_newer_gpus_are_not_slowed() -> None:
    for text, older in (("8xv100-sxm2-32gb", True), (A100, False)):
        profile, cluster = of(text)
        found, split = predict_split(profile, decoder(), cluster, steps=1, plan=Plan(dp=cluster.devices))
        assert split.cost.unexplained_s == 0.0
        assert UNEXPLAINED not in {part.name for part in found.breakdown}
        stacks = load_stacks()
        bound = (stacks.older_time_error if older else stacks.time_error)[1]
        assert found.seconds.high / found.seconds.value == pytest.approx(bound, rel=0.01)


def test_long_runs_take_as_much_longer_as_published_ones() -> None:
    """Half of a run of two days is beyond the first day."""
    profile, cluster = of(A100)
    plain, split = predict_split(profile, decoder(), cluster, steps=1, plan=Plan(dp=16), overhead=0.0)
    steps = round(2 * 86_400 / split.cost.seconds)
    found, _ = predict_split(profile, decoder(), cluster, steps=steps, plan=Plan(dp=16))
    share = load_stacks().long_runs / 2
    assert share > 0.05
    assert found.seconds.value == pytest.approx(plain.seconds.value * steps * (1 + share), rel=1e-4)
    shares = {part.name: part for part in found.breakdown}
    assert shares[PRACTICE].seconds == pytest.approx(plain.seconds.value * steps * 16 * share, rel=1e-4)
    note = (
        "published pre-trainings took longer than their fastest steps (other splits and software, evaluation, "
        f"checkpoints): {share:.1%} is added"
    )
    assert any(one.startswith(note) for one in found.warnings)
    plan = Plan(dp=2, tp=8)
    tuned, own = predict_split(profile, decoder(), cluster, steps=steps, plan=plan)
    assert tuned.seconds.value < own.cost.seconds * steps * (1 + OVERHEAD)
    older, old = predict_split(*of(V100)[:1], decoder(), of(V100)[1], steps=steps, plan=Plan(dp=16))
    assert older.seconds.value < old.cost.seconds * steps * (1 + OVERHEAD)


def test_pipelines_of_megatron_core_take_as_long_as_their_steps() -> None:
    core, fused = (of(A100, software)[0] for software in ("megatron-core", "fused"))
    pipeline, flat = Plan(dp=8, pp=2), Plan(dp=8, tp=2)
    assert is_tuned(core, pipeline, stated=False)
    assert not is_tuned(fused, pipeline, stated=False)
    assert not is_tuned(core, flat, stated=False)
    assert is_tuned(fused, pipeline, stated=True)
    assert is_tuned(fused, flat, stated=True)
    assert not is_tuned(core, Plan(dp=16, zero=3), stated=True)


def test_eager_pytorch_is_not_slowed() -> None:
    profile, cluster = of(V100, "eager")
    _, split = predict_split(profile, decoder(), cluster, steps=1, plan=Plan(dp=16))
    assert split.cost.unexplained_s == 0.0


def test_the_search_tries_what_there_was() -> None:
    """From too little memory to enough: neither selective checkpointing nor ZeRO-3 nor an interleaved schedule."""
    profile, cluster = of(V100)
    assert is_dated(profile, cluster)
    assert not is_dated(*of(V100, "fused"))
    assert not is_dated(*of(A100))
    work = decoder(passes=4)
    anatomy = dissect(work, 4)
    found = set()
    for memory_bytes in range(2_000_000_000, 2_012_000_000, 200_000):
        try:
            own = replace(profile, memory_bytes=memory_bytes)
            plan = choose_plan(work, anatomy, own, cluster, passes=64, older=True).plan
        except RequestError:
            continue
        found.add((plan.zero, plan.checkpointing, plan.interleave))
    assert len(found) > 1
    assert {zero for zero, _, _ in found} <= {0, 1}
    assert {checkpointing for _, checkpointing, _ in found} <= {"none", "full"}
    assert {interleave for _, _, interleave in found} == {1}


@pytest.mark.parametrize(
    ("hardware", "devices", "text"),
    [
        ("v100-sxm2-32gb", 1000, "125xdgx-1-v100"),
        ("v100-sxm2-32gb", 12, "2x6xv100-sxm2-32gb:50gb"),
        ("h100-sxm", 8, "1xdgx-h100"),
        ("h100-sxm", 3, "1x3xh100-sxm"),
        ("h100-sxm", 11, "11x1xh100-sxm:400gb"),
        ("t4", 64, "8x8xt4:12.5gb"),  # 100 Gbit/s of a node for eight
        ("t4", 9, "3x3xt4:33.3333gb"),
    ],
)
def test_the_nodes_that_devices_usually_form(hardware: str, devices: int, text: str) -> None:
    assert usual_cluster(hardware, devices) == text
    cluster = parse_cluster(text)
    assert (cluster.hardware, cluster.devices) == (hardware, devices)
