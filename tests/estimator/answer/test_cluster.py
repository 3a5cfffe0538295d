"""Requests for a cluster: the split in the answer, and fields that contradict each other."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import joulecast as jc
from joulecast.cli.estimate import estimate as command
from joulecast.cli.table import print_answers
from joulecast.estimator.answer.estimate import answer
from joulecast.estimator.answer.parallel_config import with_config
from joulecast.estimator.answer.request import Request
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.parallel.cluster import parse_cluster
from joulecast.estimator.cost.parallel.node import REST_SHARE
from joulecast.estimator.cost.stacks import load_stacks
from joulecast.estimator.cost.waiting import overhead
from joulecast.estimator.trace.fp8 import as_fp8
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

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
    lost_s = document["interruptions"]["seconds"]
    assert document["step_s"]["total"] * 10 + lost_s == pytest.approx(found.seconds.value)
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
        ({"idle_hosts": -1}, "`idle_hosts` -1 cannot be used: give the number of nodes, 0 or more"),
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
    micro = CliRunner().invoke(command, [*arguments, *cluster, "--micro-batch", "1"])
    named = CliRunner().invoke(command, [*arguments, *cluster, "--batch-size", "1"])
    assert micro.stdout == named.stdout != done.stdout
    contradicting = CliRunner().invoke(command, [*arguments, *cluster, "--fsdp"])
    assert contradicting.exit_code == 2
    assert "--fsdp and --zero 1 contradict" in contradicting.output
    alone = CliRunner().invoke(command, [*arguments, "--fsdp"])
    assert "--fsdp needs --cluster: give the devices" in alone.output


def test_fused_kernels_are_assumed_on_a_cluster_and_the_interval_stays_wide():
    assumed, stated, eager = ask(), ask(software="fused"), ask(software="eager")
    assert assumed.seconds.value == stated.seconds.value < eager.seconds.value
    assert assumed.seconds.high / assumed.seconds.low > stated.seconds.high / stated.seconds.low
    note = "the software is not given: fused kernels are assumed on a cluster (`software` fused)"
    assert note in assumed.warnings
    assert note not in stated.warnings


def convolutions() -> Workload:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10))
    net(torch.zeros(1, 3, 32, 32))
    return trace(net, torch.zeros(32, 3, 32, 32), layers=False)


def test_eager_pytorch_is_assumed_for_models_that_read_no_sequences():
    """A cluster of one device takes as long as that device alone."""
    fields = {"model": convolutions(), "steps": 10}
    alone = answer(jc.Request(**fields, hardware="a100-sxm4-80gb"))
    found = answer(jc.Request(**fields, cluster="1xa100-sxm4-80gb"))
    assert found.seconds.value == pytest.approx(alone.seconds.value, rel=0.01)
    assert found.seconds.high == pytest.approx(alone.seconds.high, rel=0.01)
    note = "the software is not given: eager PyTorch is assumed for a model that reads no sequences (`software` eager)"
    assert note in found.warnings
    compiled = answer(jc.Request(**{**fields, "model": replace(convolutions(), compiled=True)}, cluster="dgx-a100"))
    assert [note for note in compiled.warnings if "torch.compile is assumed" in note]


def test_hardware_of_another_part_than_the_cluster_s_is_refused():
    with pytest.raises(jc.RequestError) as caught:
        ask(hardware="t4")
    assert str(caught.value) == (
        "`hardware` t4 (Tesla T4) and `cluster` 2x8xa100-sxm4-80gb:200gb of A100 SXM4 80GB contradict: leave out "
        "`hardware`"
    )
    own = jc.load_profile("a100-sxm4-80gb")
    assert ask(hardware=own).seconds == ask(hardware="a100-sxm4-80gb").seconds == ask().seconds
    with pytest.raises(jc.RequestError, match=r"`hardware` my-t4 \(Tesla T4\) and `cluster`"):
        ask(hardware=replace(jc.load_profile("t4"), name="my-t4"))
    assert ask(hardware="tflops=19,fp16_tflops=312,bandwidth=2000,watts=400").seconds.value > 0


def test_expert_parallelism_of_a_model_without_experts_has_a_note():
    note = "no experts were found: `parallel` ep adds their exchange and divides nothing"
    assert note in ask(parallel="dp=16,ep=8").warnings
    assert note not in ask(parallel="dp=16").warnings


def stated_in(tmp_path: Path, name: str, text: str, **fields: object) -> jc.Answer:
    (tmp_path / name).write_text(text)
    return ask(parallel_config=tmp_path / name, **fields)


def test_a_file_that_states_another_batch_than_its_parts_is_refused(tmp_path: Path):
    own = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}
    fields = {"model": "net.py", "inputs": "3,8,8"}
    request = jc.Request(**fields, steps=10, cluster="2x8xa100-sxm4-80gb:200gb")
    for total, ok in ((96, True), (7, False)):
        (tmp_path / "ds.json").write_text(json.dumps({**own, "train_batch_size": total}))
        asked = replace(request, parallel_config=tmp_path / "ds.json")
        if ok:
            assert with_config(asked).passes == 3
        else:
            with pytest.raises(jc.RequestError, match="7 samples of a step and 48 passes of 2 on the cluster's 16 dev"):
                with_config(asked)


def test_what_a_file_states_and_no_figure_contains_has_a_note(tmp_path: Path):
    zero = '{"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}'
    note = "offload_param of the DeepSpeed file is not modelled: transfers to the host's memory are left out"
    assert note in stated_in(tmp_path, "ds.json", zero).warnings
    accelerate = "distributed_type: FSDP\nnum_processes: {}\n"
    other = "the Accelerate file has 8 processes: the cluster's 16 devices are used"
    assert other in stated_in(tmp_path, "a.yaml", accelerate.format(8)).warnings
    assert other not in stated_in(tmp_path, "a.yaml", accelerate.format(16)).warnings
    with pytest.raises(jc.RequestError, match=r"^`parallel_config` needs `cluster`: give the devices"):
        stated_in(tmp_path, "a.yaml", accelerate.format(8), cluster=None, hardware="t4")


def test_energy_has_a_boundary_and_pue_multiplies_whole_nodes():
    found = ask(parallel="dp=2,tp=8", pue=1.2)
    assert found.split is not None
    assert found.node_energy_kwh is not None
    rest_w = REST_SHARE * (6500 - 8 * 400)  # DGX A100: 6.5 kW rated, boards of 400 W
    assert found.split.rest_w == pytest.approx(rest_w)
    extra = 2 * rest_w * found.seconds.value / JOULES_PER_KWH
    assert found.node_energy_kwh.value == pytest.approx(found.energy_kwh.value + extra)
    assert found.facility_energy_kwh.value == pytest.approx(1.2 * found.node_energy_kwh.value)
    document = found.to_json()
    assert document["node_energy_kwh"]["value"] == found.node_energy_kwh.value
    assert set(document["boundaries"]) == {"energy_kwh", "node_energy_kwh", "facility_energy_kwh"}


def test_rent_is_given_with_electricity_and_compared_with_budgets():
    listed, given = ask(parallel="dp=16"), ask(parallel="dp=16", device_hour=2.49, budget="1 USD")
    assert listed.rent is not None
    assert not listed.rent.given
    assert given.bill is not None
    assert given.bill.value == pytest.approx(16 * 2.49 * given.seconds.value / 3600)
    assert given.cost.value == listed.cost.value
    assert given.verdicts[0].figure == given.bill.high
    document = given.to_json()["rent"]
    assert (document["value"], document["per_device_hour"], document["given"]) == (given.bill.value, 2.49, True)
    assert "embodied_kg" not in given.to_json()
    made = ask(parallel="dp=16", embodied=True)
    assert made.to_json()["embodied_kg"]["value"] > 0
    assert made.co2e_kg == listed.co2e_kg


def test_a_configuration_is_the_same_as_its_options(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "ds.json").write_text(
        json.dumps(
            {
                "train_micro_batch_size_per_gpu": 2,
                "train_batch_size": 64,
                "bf16": {"enabled": True},
                "zero_optimization": {"stage": 2},
                "optimizer": {"type": "Adam"},
            }
        )
    )
    common = ["--model", str(tmp_path / "config.json"), "--sequence-length", "128", "--tokens", "1e6", "--json"]
    common += ["--cluster", "dgx-h100"]
    flags = [
        "--parallel",
        "tp=1,pp=1",
        "--zero",
        "2",
        "--batch-size",
        "2",
        "--global-batch",
        "64",
        "--precision",
        "bf16",
        "--optimizer",
        "adam",
    ]
    answers = []
    for options in (flags, ["--parallel-config", str(tmp_path / "ds.json")]):
        done = CliRunner().invoke(command, [*common, *options])
        assert done.exit_code == 0, done.output
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert answers[0]["split"]["micro_batches"] == 4  # 64 samples: 32 passes of 2, over 8 replicas
    assert answers[0]["steps"] == 123  # 1e6 tokens in steps of 64 x 128
    clash = CliRunner().invoke(command, [*common, "--zero", "1", "--parallel-config", str(tmp_path / "ds.json")])
    assert "`zero` 1 and the DeepSpeed file's 2 contradict" in str(clash.exception)


def test_what_a_split_leaves_open_is_chosen():
    found = ask(parallel="tp=8")
    assert found.split is not None
    assert (found.split.plan.dp, found.split.plan.tp) == (2, 8)  # the data parallel size follows from the devices


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"global_batch": 10, "batch_size": 1, "parallel": "dp=16"},
            "the 10 micro-batches .* use `global_batch` 16, or tp=8 and",
        ),
        ({"parallel": "tp=3"}, "tp x pp x cp must divide 16"),
        ({"parallel": "tp=32"}, "tp x pp x cp must divide 16"),
        ({"parallel": "tp=16,dp=1"}, "8 attention heads are not divisible by tp=16; use tp=8"),
        ({"device_hour": -1.0}, "`device_hour` -1.0 cannot be used"),
        ({"restart_hours": -1.0}, "`restart_hours` -1.0 cannot be used: give the hours that an interruption costs"),
        ({"overhead": 10}, "`overhead` 10 cannot be used: give a share of the steps from 0 to 1; 0.1 is 10 %"),
        ({"overhead": -0.1}, "`overhead` -0.1 cannot be used"),
        ({"storage_w": float("nan")}, "`storage_w` nan cannot be used: give the watts of storage"),
        ({"input_bound": 0}, "`input_bound` 0 cannot be used: give a number above 0"),
        ({"idle_hosts": 1.5}, "`idle_hosts` 1.5 cannot be used: give a whole number"),
        ({"cluster": None, "idle_hosts": 1}, "`idle_hosts` needs `cluster`"),
        ({"cluster": None, "storage_w": 5.0}, "`storage_w` needs `cluster`"),
        ({"cluster": None, "restart_hours": 1.0}, "`restart_hours` needs `cluster`"),
        ({"cluster": None, "overhead": 0.1}, "`overhead` needs `cluster`"),
        ({"global_batch": 4, "accumulate": 2}, "`global_batch` and `accumulate` contradict"),
    ],
)
def test_obvious_mistakes_name_the_nearest_valid_choice(fields: dict[str, object], message: str):
    with pytest.raises(jc.JoulecastError, match=message):
        ask(**fields)


def test_a_step_is_no_faster_than_its_data() -> None:
    free, bound = ask(parallel="dp=16", restart_hours=0), ask(parallel="dp=16", restart_hours=0, input_bound=4)
    per_step = bound.schedule.samples_per_step
    assert bound.seconds.value == pytest.approx(10 * per_step / (4 * 2))  # two nodes of 4 samples per second
    assert free.split is not None
    assert bound.split is not None
    document = bound.to_json()["split"]["step_s"]
    assert document["total"] == pytest.approx(per_step / 8)
    assert document["input"] == pytest.approx(per_step / 8 - free.split.cost.seconds)
    assert ask(parallel="dp=16", restart_hours=0, input_bound=1e9).seconds == free.seconds


def test_without_a_cluster_all_devices_are_one_node() -> None:
    bound = ask(cluster=None, devices=4, hardware="a100-sxm4-80gb", input_bound=0.5)
    assert bound.seconds.value == pytest.approx(10 * bound.schedule.samples_per_step / 0.5)


def test_validation_waits_for_its_data_too() -> None:
    fields = {"cluster": None, "hardware": "a100-sxm4-80gb", "steps": None, "epochs": 1, "samples": 8, "val_samples": 4}
    bound = ask(**fields, input_bound=0.5)
    size = bound.workload.batch_size
    passes = -(-8 // size) + -(-4 // size)
    assert bound.seconds.value == pytest.approx(passes * size / 0.5)


def test_interruptions_are_in_time_energy_and_json() -> None:
    none, some = ask(parallel="dp=16", restart_hours=0), ask(parallel="dp=16", restart_hours=100)
    lost = 419 / (54 * 24 * 16_384) * 16 * 100
    assert some.seconds.value == pytest.approx(none.seconds.value * (1 + lost))
    assert some.energy_kwh.value == pytest.approx(none.energy_kwh.value * (1 + lost))
    document = some.to_json()["split"]["interruptions"]
    assert document["hours_each"] == 100
    assert document["seconds"] == pytest.approx(none.seconds.value * lost)
    assert any("interruptions are expected, 100 h each: 3.2% more time" in note for note in some.warnings)


def test_a_stated_overhead_replaces_that_of_published_runs() -> None:
    days = {"parallel": "dp=16", "restart_hours": 0, "steps": 200_000_000}
    none, some, usual = ask(**days, overhead=0), ask(**days, overhead=0.5), ask(**days)
    assert some.seconds.value == pytest.approx(1.5 * none.seconds.value)
    assert some.energy_kwh.value == pytest.approx(1.5 * none.energy_kwh.value)
    assert usual.seconds.value == pytest.approx(
        none.seconds.value * (1 + overhead(none.seconds.value, load_stacks().long_runs))
    )
    assert usual.seconds.value > none.seconds.value
    said = [
        any("published pre-trainings took longer" in note for note in found.warnings) for found in (none, some, usual)
    ]
    assert said == [False, False, True]


def test_idle_hosts_and_storage_are_multiplied_by_pue_and_shown_apart() -> None:
    plain = ask(parallel="dp=16", pue=1.5)
    found = ask(parallel="dp=16", pue=1.5, idle_hosts=3, storage_w=5000)
    assert found.split is not None
    assert found.node_energy_kwh == plain.node_energy_kwh
    assert found.shared_energy_kwh is not None
    # An idle node of eight A100s at their idle power, and the rest of a DGX A100.
    idle_w = 8 * found.profile.power.static_w + REST_SHARE * (6500 - 8 * 400)
    assert found.split.idle_node_w == pytest.approx(idle_w)
    shared_kwh = (3 * idle_w + 5000) * found.seconds.value / JOULES_PER_KWH
    assert found.shared_energy_kwh.value == pytest.approx(shared_kwh)
    assert found.facility_energy_kwh.value == pytest.approx(plain.facility_energy_kwh.value + 1.5 * shared_kwh)
    document = found.to_json()
    assert document["shared_energy_kwh"]["value"] == pytest.approx(shared_kwh)
    assert document["boundaries"]["facility_energy_kwh"] == "whole nodes, idle hosts and storage, times a PUE of 1.5"
    assert (document["split"]["idle_hosts"], document["split"]["storage_w"]) == (3, 5000)
    assert "shared_energy_kwh" not in plain.to_json()


def test_fp8_needs_units_for_it() -> None:
    work = as_fp8(replace(decoder(), precision="bfloat16"))
    assert jc.estimate(work, steps=10, hardware="h100-sxm").seconds.value > 0
    for where in ({"cluster": "dgx-a100"}, {"hardware": "a100-sxm4-80gb"}, {"hardware": "rtx-3090"}):
        with pytest.raises(jc.JoulecastError, match=r"`precision` fp8: .* has no FP8 units .*: use bf16"):
            jc.estimate(work, steps=10, **where)


def test_fp8_on_a_cluster_has_a_wider_interval() -> None:
    plain = replace(decoder(), precision="bfloat16")
    eight, half = (jc.estimate(work, steps=10, cluster="dgx-h100", parallel="dp=8") for work in (as_fp8(plain), plain))
    assert eight.seconds.high / eight.seconds.low > 1.1 * half.seconds.high / half.seconds.low


def test_training_stacks_of_a_cluster_rest_on_the_datasheet_and_not_on_one_gpus_measurement() -> None:
    alone = jc.estimate(decoder(), steps=10, hardware="h100-sxm")
    assert alone.profile.provenance.time == "measured"
    assumed = jc.estimate(decoder(), steps=10, cluster="dgx-h100", parallel="dp=8")
    stated = jc.estimate(decoder(), steps=10, cluster="dgx-h100", parallel="dp=8", software="fused")
    assert assumed.profile.provenance.time == stated.profile.provenance.time == "datasheet"
    assert assumed.seconds.value == stated.seconds.value
    assert any("fused kernels are assumed" in str(note) for note in assumed.estimate.warnings)


def test_the_table_says_what_pue_multiplies(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    print_answers([ask(idle_hosts=1)], layers=False)
    print_answers([ask(idle_hosts=2, storage_w=100)], layers=False)
    print_answers([ask()], layers=False)
    first, second, third = re.findall(r"^(?:Shared .*\n)?with PUE .*$", capsys.readouterr().out, re.MULTILINE)
    assert re.search(r"  1 idle host at 1\.54 kW\n.*  nodes' and shared energy x 1\.58$", first)
    assert re.search(r"  2 idle hosts at 1\.54 kW, storage at 100 W\n", second)
    assert third.endswith("  nodes' energy x 1.58")


@pytest.mark.parametrize(
    ("cluster", "assumed"),
    [("8xv100-sxm2-32gb", "megatron"), ("8xt4", "megatron"), ("8xa100-sxm4-80gb", "fused"), ("8xmi250x", "fused")],
)
def test_gpus_before_ampere_are_assumed_to_run_without_flash_attention(cluster: str, assumed: str) -> None:
    answer = jc.estimate(decoder(), steps=10, cluster=cluster, parallel="dp=8")
    stated = jc.estimate(decoder(), steps=10, cluster=cluster, parallel="dp=8", software=assumed)
    assert answer.seconds.value == stated.seconds.value
    assert any(f"`software` {assumed}" in str(note) for note in answer.estimate.warnings)


def test_watts_that_were_measured_with_the_host_are_not_counted_twice_on_a_cluster() -> None:
    measured = jc.load_profile("rtx-3090")
    assert "CPU packages" in measured.provenance.boundary
    images = replace(decoder(), tokens_per_sample=1, ops=tuple(op for op in decoder().ops if op.kind != "attention"))
    answer = jc.estimate(images, steps=10, cluster="8xrtx-3090", parallel="dp=8")
    assert answer.profile.provenance.power == "datasheet"
    assert answer.estimate.energy_kwh.value * 3.6e6 / answer.seconds.value < 8 * 350  # the boards' limit
    assert any("measured with its host's CPUs" in str(note) for note in answer.notes)


def large() -> Workload:
    """A training whose weights fill a T4 of 16 GB."""
    return replace(decoder(), parameter_bytes=15 * 10**9)


def test_devices_that_cannot_hold_a_training_share_it() -> None:
    fields = {"model": large(), "steps": 10, "hardware": "t4"}
    found = answer(jc.Request(**fields, devices=16))
    assert found.split is not None
    assert found.split.cluster.name == "2x8xt4:12.5gb"
    assert found.estimate.devices == found.schedule.devices == 16
    same = answer(jc.Request(**fields, cluster="2x8xt4:12.5gb"))
    assert (found.seconds, found.facility_energy_kwh) == (same.seconds, same.facility_energy_kwh)
    note = (
        "one device cannot hold this training: 2x8xt4:12.5gb is assumed for the 16 devices, with a split; `cluster` "
        "states others"
    )
    assert note in found.warnings
    assert note not in same.warnings


@pytest.mark.parametrize(
    "fields",
    [
        {"model": decoder()},  # fits
        {"devices": 1},
        {"val_samples": 64, "samples": 64, "steps": None, "epochs": 1},  # not modelled on a cluster
    ],
    ids=["fits", "one", "validation"],
)
def test_devices_that_share_nothing(fields: dict[str, object]) -> None:
    found = answer(jc.Request(**{"model": large(), "steps": 10, "hardware": "t4", "devices": 16, **fields}))
    assert found.split is None
    if found.schedule.devices > 1:
        assert any("communication between the 16 devices is not modelled" in note for note in found.warnings)


def test_devices_without_a_split_that_fits_are_a_lower_bound() -> None:
    wide = replace(large(), ops=tuple(replace(op, count=op.count * 10**6) for op in large().ops))
    found = answer(jc.Request(model=wide, steps=10, hardware="t4", devices=2))
    assert found.split is None
    assert any(note.startswith("as 1x2xt4: no split fits in 16 GB per device") for note in found.warnings)


@pytest.mark.parametrize(
    ("options", "half"),
    [
        ({"tokens": 1e9, "cluster": "8xh100-sxm"}, True),
        ({"steps": 10, "cluster": "8xh100-sxm", "sequence_length": 64}, True),
        ({"steps": 10, "cluster": "8xh100-sxm"}, False),
        ({"steps": 10, "cluster": "8xh100-sxm", "software": "megatron-core"}, True),
        ({"tokens": 1e9, "cluster": "8xh100-sxm", "software": "compiled"}, False),
        ({"tokens": 1e9, "devices": 8}, False),
    ],
)
def test_training_stacks_on_a_cluster_keep_weights_in_16_bits(options: dict[str, Any], half: bool) -> None:
    assert Request(model="net.py:Net", precision="bf16", **options).trace_options.half_weights is half
