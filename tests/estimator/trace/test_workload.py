"""Sums, frames and documents of a workload, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.workload import Layer, Op, Workload

OPS = (
    Op("mm", "matmul", "forward", "fc", 10, 1, 2, dims={"b": 1, "m": 2}, count=3),
    Op("mm", "matmul", "backward", "fc", 100, 10, 20, "float16"),
    Op("sgd", "optimizer", "optimizer", "fc", 1000, 100, 200),
)
LAYER = Layer("fc", "Linear", (4, 2), 30, 8, 1, "trace", False)
WORK = Workload(
    "net", "keras", 4, True, "sgd", "float16", 8, 6, 32, 64, (LAYER,), OPS, {"odd": 33}, 7, 9, ("a note",), 5, "fake"
)


def test_sums_count_equal_ops_as_often_as_they_run() -> None:
    assert [op.bytes_moved for op in OPS] == [3, 30, 300]
    assert WORK.forward_flops == 30
    assert WORK.flops == 30 + 100 + 1000
    assert WORK.bytes_moved == 9 + 30 + 300
    assert WORK.unsupported_byte_share == pytest.approx(33 / 339)
    assert replace(WORK, ops=()).unsupported_byte_share == 0.0


def test_a_forward_pass_alone() -> None:
    alone = WORK.forward_only()
    assert (alone.train, alone.optimizer, alone.ops) == (False, None, OPS[:1])
    assert replace(alone, train=True, optimizer="sgd", ops=OPS) == WORK


def test_frames_have_a_row_for_each_op_and_layer() -> None:
    ops = WORK.ops_frame()
    assert ops["flops"].tolist() == [10, 100, 1000]
    assert ops["count"].tolist() == [3, 1, 1]
    assert WORK.layers_frame().to_dict("records")[0]["output_shape"] == (4, 2)


def test_a_document_holds_everything() -> None:
    document = json.loads(json.dumps(WORK.to_json()))
    assert Workload.from_json(document) == WORK
    old = {key: value for key, value in document.items() if key not in ("warnings", "tracer", "optimizer_state_bytes")}
    assert Workload.from_json(old) == replace(WORK, warnings=(), tracer="meta", optimizer_state_bytes=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "joulecast.workload/2"}, "has schema 'joulecast.workload/2', this one reads"),
        ({"schema": None}, "has schema None"),
        ({"ops": [["mm"]]}, "is corrupt .an op has 1 fields, expected 10"),
        ({"ops": [[*range(11)]]}, "an op has 11 fields"),
        ({"ops": None}, "is corrupt"),
        ({"layers": [{}]}, "is corrupt"),
        ({"nonsense": 1}, "is corrupt"),
    ],
)
def test_documents_that_cannot_be_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JoulecastError, match=message):
        Workload.from_json({**WORK.to_json(), **changes})
