"""One measured window: its step, its power and its document."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.fit.observation import Observation

from ..synthetic import network

ROW = Observation(network(2, 8), steps=4, seconds=8.0, energy_j=40.0, flags=("throttled",))


def test_a_step_is_its_share_of_the_window_and_power_is_energy_over_time() -> None:
    assert (ROW.step_seconds, ROW.power_w) == (2.0, 5.0)
    assert replace(ROW, energy_j=None).power_w is None
    assert replace(ROW, energy_j=0.0).power_w == 0.0


def test_what_is_left_out_of_an_observation() -> None:
    plain = Observation(ROW.workload, 1, 1.0)
    assert (plain.energy_j, plain.op_seconds, plain.meter) == (None, None, "caller")
    assert (plain.hardware, plain.framework, plain.family, plain.host, plain.flags) == (None, None, "", {}, ())


def test_a_document_has_every_field_in_plain_json() -> None:
    document = ROW.to_json()
    assert {name: value for name, value in document.items() if name != "workload"} == {
        "schema": "joulecast.observation/1",
        "steps": 4,
        "seconds": 8.0,
        "energy_j": 40.0,
        "op_seconds": None,
        "meter": "caller",
        "hardware": None,
        "framework": None,
        "family": "",
        "host": {},
        "flags": ["throttled"],
    }
    timed = replace(ROW, op_seconds=(None, *[1.0] * 6))
    assert timed.to_json()["op_seconds"] == [None, *[1.0] * 6]
    assert Observation.from_json(timed.to_json()) == timed
    assert Observation.from_json(document) == ROW


def test_a_document_needs_its_workload_steps_and_seconds_alone() -> None:
    document = {name: ROW.to_json()[name] for name in ("schema", "workload", "steps", "seconds")}
    row = Observation.from_json(document)
    assert (row.energy_j, row.op_seconds, row.meter, row.flags) == (None, None, None, ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": None}, "observation has schema None, this version reads 'joulecast.observation/1'; measure again"),
        ({"colour": 1}, "observation is corrupt (TypeError("),
        ({"workload": 3}, "observation is corrupt ("),
        ({"flags": 3}, "observation is corrupt (TypeError("),
        ({"op_seconds": 3}, "observation is corrupt (TypeError("),
        ({"meter": None}, "has 40.0 J but names no meter; write the meter that read it"),
        ({"meter": "", "energy_j": 0.0}, "has 0.0 J but names no meter"),
    ],
)
def test_a_document_that_is_no_observation(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError) as raised:
        Observation.from_json({**ROW.to_json(), **changes})
    assert message in str(raised.value)
