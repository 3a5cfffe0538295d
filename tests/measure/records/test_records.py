"""Records as documents: a round trip keeps everything, corrupt ones are rejected, labels are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.trace import trace
from joulecast.measure.meters.reading import DomainReading, Reading
from joulecast.measure.records.records import (
    MeasuredWindow,
    Record,
    describe_host,
    hardware_name,
    same_machine,
)

HOST = {"device": "cpu", "cpu_name": "Test CPU", "cpu_cores": 4, "threads": 4, "gpus": [], "machine": "x86_64"}
WORK = trace(nn.Linear(8, 4).to("meta"), torch.empty(16, 8), name="linear", layers=False)


def reading(joules: float | None, label: Any = "measured") -> Reading:
    if joules is None:
        domain = DomainReading("package-0", "package", "missing", None, True, reason="no counter")
    else:
        domain = DomainReading("package-0", "package", label, round(joules * 1e6), True)
    return Reading("rapl", 2.0, (domain,))


def record(**changes: Any) -> Record:
    window = MeasuredWindow("training steps", 10, 2.0, reading(84.0))
    plain = Record(
        id="20261123T120000Z-linear-abc123",
        kind="case",
        name="linear",
        created="2026-11-23T12:00:00.000+00:00",
        status="complete",
        host=HOST,
        windows=(window, window),
        run="run",
        family="linear",
        meter={"name": "rapl", "domains": [], "notes": []},
        workload=WORK,
        op_seconds=tuple(0.01 for _ in WORK.ops),
    )
    return replace(plain, **changes)


def test_a_record_survives_its_document():
    before = record(figures={"rounds": 2.0}, settings={"optimizer": "sgd"}, flags=("doubt",))
    assert Record.from_json(json.loads(json.dumps(before.to_json()))) == before


@given(
    joules=st.one_of(st.none(), st.floats(1e-3, 1e6)),
    seconds=st.floats(1e-6, 1e6),
    steps=st.integers(0, 10**6),
    flags=st.lists(st.text(max_size=30), max_size=3),
)
def test_any_window_survives_its_document(joules: float | None, seconds: float, steps: int, flags: list[str]):
    before = MeasuredWindow("w", steps, seconds, reading(joules), tuple(flags), {"loss": 2.5})
    assert MeasuredWindow.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_energy_is_the_sum_of_the_windows_and_is_never_partial():
    assert record().energy_j == pytest.approx(168.0)
    half = (*record().windows, MeasuredWindow("training steps", 10, 2.0, reading(None)))
    assert record(windows=half).energy_j is None
    assert record(windows=half).label == "missing"


def test_evidence_of_a_measured_record():
    observation = record().observation()
    assert observation is not None
    assert (observation.steps, observation.seconds, observation.energy_j) == (20, 4.0, pytest.approx(168.0))
    assert observation.meter == "rapl"
    assert observation.hardware == "Test CPU, 4 threads"


@pytest.mark.parametrize("unmeasured", [reading(84.0, "modelled"), reading(None), None])
def test_energy_that_nothing_measured_is_no_evidence(unmeasured: Reading | None):
    observation = record(windows=(MeasuredWindow("training steps", 10, 2.0, unmeasured),)).observation()
    assert observation is not None
    assert observation.energy_j is None
    assert observation.meter is None
    assert observation.seconds == 2.0


def test_what_holds_no_steps_or_failed_is_no_evidence():
    idle = MeasuredWindow("idle", 0, 5.0, reading(100.0))
    assert record(windows=(idle,)).observation() is None
    assert record(status="failed").observation() is None
    assert record(workload=None, op_seconds=None).observation() is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "joulecast.record/99"}, "joulecast.record/99"),
        ({"windows": [{"name": "w"}]}, "corrupt"),
        ({"windows": None}, "corrupt"),
        ({"workload": {"schema": "other"}}, "corrupt"),
        ({"status": "perhaps"}, "perhaps"),
        ({"surprise": 1}, "corrupt"),
    ],
)
def test_a_document_that_is_no_record_is_refused_in_one_line(change: dict[str, Any], said: str):
    with pytest.raises(JoulecastError) as caught:
        Record.from_json({**record().to_json(), **change}, origin="record x.json")
    assert said in str(caught.value)
    assert "x.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "text", 3, {}])
def test_other_json_is_refused(document: Any):
    with pytest.raises(JoulecastError, match="schema None"):
        Record.from_json(document)


def test_machines_are_told_apart_by_parts_and_threads():
    assert same_machine(HOST, {**HOST, "os": "another kernel"})
    for change in ({"threads": 2}, {"cpu_name": "Other"}, {"gpus": ["RTX"]}, {"device": "gpu"}):
        assert not same_machine(HOST, {**HOST, **change})


def test_hardware_is_named_after_what_computed():
    assert hardware_name({**HOST, "threads": 1}) == "Test CPU, 1 thread"
    assert hardware_name({**HOST, "gpus": ["RTX"]}) == "Test CPU, 4 threads"
    assert hardware_name({**HOST, "gpus": ["RTX"], "device": "gpu"}) == "RTX"
    assert hardware_name({**HOST, "gpus": ["RTX", "RTX"], "device": "gpu"}) == "2 x RTX"


def test_this_host_is_described_with_its_libraries():
    host = describe_host(threads=3)
    assert host["threads"] == 3
    assert host["libraries"]["torch"] == metadata.version("torch")
    assert json.loads(json.dumps(host)) == host
