"""What a cluster changes in a request's profile and plan, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.answer.estimate import _assumptions, answer
from joulecast.estimator.answer.on_cluster import _as_of_its_time, _assumed_software, board_profile, needed_cluster
from joulecast.estimator.answer.request import Request
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.cost.parallel.plan import Plan

from ..cost.parallel.decoder import decoder

T4, LARGE = load_profile("t4"), replace(decoder(), parameter_bytes=15 * 10**9)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "2x8xt4:12.5gb"),
        ({"device": "cpu"}, None),
        ({"memory_bytes": None}, None),
        ({"hardware": "a card of my own"}, None),
    ],
)
def test_the_cluster_that_a_training_needs(changes: dict[str, object], expected: str | None) -> None:
    request = Request(model=LARGE, steps=10, devices=16)
    profile = replace(T4, **changes)  # type: ignore[arg-type]
    assert needed_cluster(request, LARGE, profile, request.schedule(LARGE)) == expected


def test_inference_and_checkpointed_trainings_need_none() -> None:
    forward = LARGE.forward_only()
    for work, fields in ((forward, {}), (LARGE, {"activation_checkpointing": "full"})):
        request = Request(model=LARGE, steps=10, devices=16)
        request = replace(request, model=None, **fields)  # type: ignore[arg-type]
        assert needed_cluster(request, work, T4, request.schedule(LARGE)) is None


@pytest.mark.parametrize(
    ("parallel", "dated", "sequence_parallel"),
    [(None, False, True), (None, True, False), ("tp=2,sp=1", True, True), ("tp=2,vp=2", True, False)],
)
def test_dated_software_has_no_sequence_parallelism_unless_it_is_stated(
    parallel: str | None, dated: bool, sequence_parallel: bool
) -> None:
    request = Request(cluster="dgx-h100", parallel=parallel)
    assert _as_of_its_time(Plan(tp=2), request, dated) == Plan(tp=2, sequence_parallel=sequence_parallel)


def test_watts_of_the_host_are_replaced_where_the_part_is_known() -> None:
    """The profile of the RTX 3090 was measured with its host's CPUs."""
    measured, eager = load_profile("rtx-3090"), "eager"
    assert board_profile(measured, decoder(), eager).provenance.power == "datasheet"
    for changes in ({"hardware": "a card of my own"}, {"device": "cpu"}):
        own = replace(measured, name="own", **changes)  # type: ignore[arg-type]
        assert board_profile(own, decoder(), eager) is own
    alone = replace(measured, name="own", provenance=replace(measured.provenance, boundary="the GPU board"))
    assert board_profile(alone, decoder(), eager) is alone


@pytest.mark.parametrize(("checkpointing", "found"), [(None, "none"), ("none", "none"), ("full", "full")])
def test_a_stated_checkpointing_stays_and_the_fastest_is_chosen_otherwise(
    checkpointing: str | None, found: str
) -> None:
    run = {"model": decoder(), "steps": 10, "cluster": "2x8xa100-sxm4-80gb:200gb", "parallel": "tp=8"}
    split = answer(Request(**run, activation_checkpointing=checkpointing)).split  # type: ignore[arg-type]
    assert split is not None
    assert split.plan.checkpointing == found


@pytest.mark.parametrize(
    ("part", "parameters", "software"),
    [
        ("h100-sxm", 101_000_000_000, "megatron-core"),
        ("h100-sxm", 99_000_000_000, "fused"),
        ("a100-sxm4-80gb", 101_000_000_000, "fused"),  # no FP8
        ("v100-sxm2-32gb", 101_000_000_000, "megatron"),
    ],
)
def test_large_models_on_gpus_with_fp8_are_assumed_to_run_with_megatron_core(
    part: str, parameters: int, software: str
) -> None:
    work = replace(decoder(), parameters=parameters)
    assert _assumed_software(work, load_profile(part)) == software


@pytest.mark.parametrize(
    ("fields", "optimizer", "batch"),
    [
        ({"cluster": "dgx-h100"}, "adamw", 1),
        ({"devices": "8"}, "adamw", 1),
        ({}, "sgd", 32),
        ({"devices": 1}, "sgd", 32),
    ],
)
def test_several_devices_that_read_tokens_have_adamw_and_one_sequence_each(
    fields: dict[str, object], optimizer: str, batch: int
) -> None:
    request = Request(tokens=1e6, **fields)  # type: ignore[arg-type]
    assert (request.default_optimizer, request.default_batch) == (optimizer, batch)
    request = replace(request, batch_size=1)
    assert Request(steps=1, cluster="dgx-h100").default_optimizer == "sgd"
    notes = [str(note) for note in _assumptions(request, decoder())]
    assert notes == (["the optimizer is not given: adamw is assumed (`optimizer`)"] if optimizer == "adamw" else [])
    assert _assumptions(replace(request, optimizer="lion"), decoder()) == []
    assert _assumptions(replace(request, train=False), decoder()) == []


def test_what_a_stated_split_leaves_open_is_named() -> None:
    run = {"model": decoder(), "steps": 10, "cluster": "2x8xa100-sxm4-80gb:200gb", "parallel": "tp=8"}
    found = answer(Request(**run))  # type: ignore[arg-type]
    assert found.split is not None
    note = (
        f"chosen for the stated split: ZeRO stage {found.split.plan.zero} (`zero`) and no checkpointing "
        "(`activation_checkpointing`)"
    )
    assert note in found.warnings
    stated = answer(Request(**run, zero=1, activation_checkpointing="full"))  # type: ignore[arg-type]
    assert not any(one.startswith("chosen for the stated split") for one in stated.warnings)


@pytest.mark.parametrize(
    ("fields", "noted"),
    [
        ({"devices": 8}, True),
        ({"devices": 8, "batch_size": 1}, False),
        ({}, False),
        ({"devices": 8, "train": False}, False),
    ],
)
def test_a_batch_of_one_sequence_that_is_not_given_is_noted(fields: dict[str, object], noted: bool) -> None:
    request = Request(tokens=1e6, **fields)  # type: ignore[arg-type]
    notes = [str(note) for note in _assumptions(request, replace(decoder(), batch_size=1))]
    assert ("the batch is not given: one sequence for each device and pass (`batch_size`)" in notes) is noted
