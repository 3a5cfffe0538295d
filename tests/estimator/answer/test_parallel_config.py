"""What the file of `parallel_config` states becomes fields of the request, or an error where both contradict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulecast.estimator.answer.parallel_config import config_notes, with_config
from joulecast.estimator.answer.request import Request
from joulecast.estimator.base.errors import RequestError


def stated(folder: Path, document: dict[str, object], **fields: object) -> Request:
    path = folder / "deepspeed.json"
    path.write_text(json.dumps(document))
    return with_config(Request(cluster="dgx-h100", parallel_config=path, **fields))  # type: ignore[arg-type]


def test_without_a_file_the_request_is_the_same() -> None:
    request = Request(cluster="dgx-h100", zero=1)
    assert with_config(request) is request


def test_a_file_needs_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="`parallel_config` needs `cluster`: give the devices, as in dgx-h100"):
        with_config(Request(parallel_config=tmp_path / "none.json"))


def test_what_the_file_states_becomes_a_field(tmp_path: Path) -> None:
    found = stated(tmp_path, {"train_batch_size": 64, "gradient_clipping": 1.0, "bf16": {"enabled": True}})
    assert (found.global_batch, found.accumulate, found.clip_gradients, found.precision) == (64, None, True, "bf16")
    assert (found.batch_size, found.step_passes) == (8, 8)  # as DeepSpeed divides it among eight replicas
    assert found.parallel_config is None


def test_the_samples_of_a_step_follow_from_the_passes(tmp_path: Path) -> None:
    parts = {"train_batch_size": 64, "gradient_accumulation_steps": 4}
    assert stated(tmp_path, parts).global_batch is None  # the batch of a pass is not stated
    whole = stated(tmp_path, {**parts, "train_micro_batch_size_per_gpu": 2})  # 8 devices x 4 passes x 2
    assert (whole.global_batch, whole.accumulate, whole.batch_size) == (None, 4, 2)


def test_a_files_batch_that_its_replicas_cannot_share_names_both_ways_out(tmp_path: Path) -> None:
    parts = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2}  # four micro-batches, eight replicas
    message = r"8 samples of a step are 4 micro-batches, .* write 16 in the file, or take 4 devices"
    with pytest.raises(RequestError, match=message):
        stated(tmp_path, parts)
    assert stated(tmp_path, {**parts, "train_batch_size": 16}).step_passes == 8
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps(parts))
    assert with_config(Request(cluster="4xh100-sxm", parallel_config=path)).step_passes == 4


def test_an_optimizer_that_is_not_known_is_named_in_a_note(tmp_path: Path) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps({"train_batch_size": 8, "optimizer": {"type": "Foo"}}))
    (note,) = config_notes(Request(cluster="dgx-h100", parallel_config=path))
    assert str(note).startswith("the optimizer Foo of the DeepSpeed file is not known")
    assert config_notes(Request(cluster="dgx-h100", parallel_config=path, optimizer="sgd")) == ()


def test_a_files_batch_is_that_of_a_replica(tmp_path: Path) -> None:
    """Two pipeline stages on eight devices are four replicas: 4 x 4 passes x 2 samples."""
    parts = {"gradient_accumulation_steps": 4, "train_micro_batch_size_per_gpu": 2, "pipeline": {"stages": 2}}
    for document in (parts, {**parts, "train_batch_size": 32}):
        found = stated(tmp_path, document)
        assert (found.global_batch, found.accumulate, found.batch_size, found.step_passes) == (32, None, 2, 16)
    alone = stated(tmp_path, {"pipeline": {"stages": 2}, "zero_optimization": {"stage": 1}}, batch_size=2)
    assert alone.global_batch is None


@pytest.mark.parametrize(
    ("cluster", "given", "software"),
    [
        ("dgx-h100", None, "megatron-core"),
        ("8xmi250x", None, "megatron-core"),
        ("8xv100-sxm2-32gb", None, "megatron"),
        ("dgx-h100", "fused", "fused"),
    ],
)
def test_software_of_a_megatron_file(tmp_path: Path, cluster: str, given: str | None, software: str) -> None:
    path = tmp_path / "run.sh"
    path.write_text("pretrain_gpt.py --tensor-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 8")
    request = Request(cluster=cluster, parallel_config=path, software=given)
    assert with_config(request).software == software
    notes = [str(note) for note in config_notes(request)]
    assert notes == ([] if given else [f"{software} is assumed for the Megatron-LM file (`software`)"])


@pytest.mark.parametrize(("tp", "passes"), [(1, 32), (2, 16)])
def test_a_step_of_another_size_than_its_passes_is_refused(tmp_path: Path, tp: int, passes: int) -> None:
    document = {
        "train_batch_size": 72,
        "gradient_accumulation_steps": 4,
        "train_micro_batch_size_per_gpu": 2,
        "tensor_parallel": {"autotp_size": tp},
    }
    message = (
        f"the DeepSpeed file's 72 samples of a step and {passes} passes of 2 on the cluster's 8 devices contradict: "
        "correct one of them"
    )
    with pytest.raises(RequestError, match=message):
        stated(tmp_path, document)


def test_a_field_that_both_state_must_agree(tmp_path: Path) -> None:
    document = {"train_batch_size": 64, "bf16": {"enabled": True}}
    assert stated(tmp_path, document, precision="bfloat16").precision == "bf16"
    with pytest.raises(
        RequestError, match="`precision` fp16 and the DeepSpeed file's bf16 contradict: give one of them"
    ):
        stated(tmp_path, document, precision="fp16")
