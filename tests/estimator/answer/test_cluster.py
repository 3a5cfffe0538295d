"""Requests for a cluster: the split in the answer, and fields that contradict each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import joulecast as jc
from joulecast.cli.estimate import estimate as command
from joulecast.estimator.answer.estimate import answer
from joulecast.estimator.cost.parallel.cluster import parse_cluster

from ..cost.parallel.decoder import decoder

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_hidden_layers": 4,
    "vocab_size": 1000,
}


def ask(**fields: object) -> jc.Answer:
    return answer(jc.Request(**{"model": decoder(), "steps": 10, "cluster": "2x8xa100-sxm4-80gb:200gb", **fields}))


def test_a_cluster_gives_the_hardware_and_the_devices():
    found = ask(parallel="dp=2,tp=8", zero=1)
    assert found.profile.hardware == jc.load_profile("a100-sxm4-80gb").hardware
    assert found.estimate.devices == found.schedule.devices == 16
    assert found.split is not None
    assert (found.split.plan.dp, found.split.plan.tp, found.split.plan.zero) == (2, 8, 1)
    document = found.to_json()["split"]
    assert (document["dp"], document["tp"], document["micro_batches"]) == (2, 8, 8)
    assert document["cluster"] == "2x8xa100-sxm4-80gb:200gb"
    assert document["step_s"]["total"] * 10 == pytest.approx(found.seconds.value)
    assert not any("is not modelled" in note for note in found.warnings)


def test_without_a_split_the_fastest_is_chosen():
    found = ask()
    assert found.split is not None
    assert found.split.chosen
    assert found.seconds.value <= ask(parallel="dp=2,tp=8").seconds.value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": None, "parallel": "tp=2"}, "`parallel` needs `cluster`"),
        ({"cluster": None, "zero": 3}, "`zero` needs `cluster`"),
        ({"devices": 8}, "`devices` 8 and `cluster` .* of 16 devices contradict"),
        ({"zero": 5}, "`zero` is 5; choose one of 0, 1, 2, 3"),
        ({"activation_checkpointing": "some"}, "`activation_checkpointing` 'some' is not one of none, selective, full"),
        ({"parallel": "dp=4,tp=2"}, "uses 8 devices, and there are 16; use dp=8"),
        ({"cluster": "2x8xa100-sxm4-80gb", "parallel": "dp=16"}, "has no network figure for 2 nodes"),
    ],
)
def test_fields_that_contradict_are_one_line(fields: dict[str, object], message: str):
    with pytest.raises(jc.JoulecastError, match=message):
        ask(**fields)


def test_the_command_line_names_its_options(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    arguments = ["--model", str(tmp_path / "config.json"), "--sequence-length", "128", "--steps", "10", "--json"]
    cluster = ["--cluster", "dgx-h100", "--parallel", "dp=4,tp=2", "--zero", "1"]
    done = CliRunner().invoke(command, [*arguments, *cluster])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["devices"] == parse_cluster("dgx-h100").devices == 8
    assert document["split"]["tp"] == 2
    assert document["split"]["memory_bytes"]["total"] > 0
    contradicting = CliRunner().invoke(command, [*arguments, *cluster, "--fsdp"])
    assert contradicting.exit_code == 2
    assert "--fsdp and --zero 1 contradict" in contradicting.output


def test_fused_kernels_are_assumed_on_a_cluster_and_the_interval_stays_wide():
    assumed, stated, eager = ask(), ask(software="fused"), ask(software="eager")
    assert assumed.seconds.value == stated.seconds.value < eager.seconds.value
    assert assumed.seconds.high / assumed.seconds.low > stated.seconds.high / stated.seconds.low
    note = "the software is not given: fused kernels are assumed on a cluster (`software` fused)"
    assert note in assumed.warnings
    assert note not in stated.warnings
