"""A machine that was slower than it can be, and step times corrected for it; truth by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.trace import trace
from joulecast.measure.meters.contamination import SystemCounters
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.records.records import MeasuredWindow, Record, describe_host
from joulecast.measure.suite.calibrate import observations
from joulecast.measure.suite.cases import Case
from joulecast.measure.suite.drift import REFERENCE_S, Drift, Reference, corrected, drift_of
from joulecast.measure.suite.rounds import Bench, CasePlan, measure_case, prepare

WORK = trace(nn.Linear(4, 2), torch.zeros(3, 4), name="linear", layers=False)


def _record(name: str, windows: Sequence[tuple[float, float | None]]) -> Record:
    """Windows of one step, each given by its seconds and its reference's."""
    made = tuple(
        MeasuredWindow("training steps", 1, seconds, figures={} if reference is None else {REFERENCE_S: reference})
        for seconds, reference in windows
    )
    return Record(
        id=name,
        kind="case",
        name=name,
        created="2026-01-01T00:00:00Z",
        status="complete",
        host={"device": "cpu", "cpu_name": "x"},
        windows=made,
        workload=WORK,
    )


def _drifting(follows: float, cases: int = 60, seed: int = 0) -> tuple[list[Record], list[float]]:
    """Cases of 4 windows on a machine whose speed wanders between 1 and 1.6 times its quiet time; their true times."""
    random, records, true = np.random.default_rng(seed), [], []
    for number in range(cases):
        quiet_s = float(random.uniform(0.01, 2.0))
        slow = np.exp(random.uniform(0.0, math.log(1.6)) + random.normal(0.0, 0.1, 4)).clip(1.0)
        windows = [(quiet_s * float(x) ** follows, 1e-3 * float(x)) for x in slow]
        records.append(_record(f"case {number}", windows))
        true.append(quiet_s)
    return records, true


def _errors(records: Sequence[Record], true: Sequence[float], drift: Drift | None) -> list[float]:
    made = observations(records, drift)
    return [abs(one.seconds / one.steps / quiet_s - 1) for one, quiet_s in zip(made, true, strict=True)]


@pytest.mark.parametrize("follows", [1.0, 0.6])
def test_a_simulated_drift_is_taken_out(follows: float) -> None:
    records, true = _drifting(follows)
    drift = drift_of(records)
    assert drift is not None
    assert drift.follows == pytest.approx(follows, abs=0.1)
    assert np.mean(_errors(records, true, None)) > 0.15
    assert np.mean(_errors(records, true, drift)) < 0.04


def test_steps_that_do_not_follow_the_reference_stay_as_they_were() -> None:
    records, true = _drifting(0.0)
    drift = drift_of(records)
    assert drift is not None
    assert drift.follows == pytest.approx(0.0, abs=0.01)
    assert _errors(records, true, drift) == pytest.approx([0.0] * len(records), abs=0.01)
    assert drift.note is not None
    assert "not corrected" in drift.note


def test_the_factor_is_the_median_reference_over_the_quiet_one_to_the_power_learnt() -> None:
    drift = Drift(quiet_s=2.0, low=1.0, high=2.0, follows=0.5)
    assert drift.factor(_record("slow", [(1.0, 2.0), (1.0, 8.0), (1.0, 32.0)])) == pytest.approx(2.0)  # (8 / 2) ** 0.5
    assert drift.factor(_record("faster than quiet", [(1.0, 1.0)])) == 1.0
    assert drift.factor(_record("older record", [(1.0, None)])) == 1.0


def test_the_quiet_time_is_the_low_end_of_all_windows() -> None:
    records = [_record(str(number), [(1.0, 1.0 + number / 10)]) for number in range(11)]  # 1.0 to 2.0
    drift = drift_of(records)
    assert drift is not None
    assert drift.quiet_s == pytest.approx(1.1)
    assert (drift.low, drift.high) == (pytest.approx(1.05 / 1.1), pytest.approx(1.95 / 1.1))
    assert drift.follows == 0.0  # one window a case: nothing to learn from


def test_records_without_a_reference_have_no_drift() -> None:
    assert drift_of([_record("old", [(1.0, None)])]) is None
    assert drift_of([]) is None


def test_a_quiet_machine_gets_no_note() -> None:
    drift = drift_of([_record(str(number), [(1.0, 1.0), (1.0, 1.01)]) for number in range(5)])
    assert drift is not None
    assert drift.note is None
    noisy = drift_of([_record(str(number), [(1.0, 1.0), (1.5, 1.5)]) for number in range(20)])
    assert noisy is not None
    # 20 cases, each with two windows ln(1.5) apart: sum of squares 20 * ln(1.5)**2 / 2 = 1.644, over 1.644 + 0.1.
    assert noisy.follows == pytest.approx(1.644 / 1.744, abs=1e-3)
    assert noisy.note == (
        "this machine took 1.00 to 1.50 times its quiet time for the same work while it was measured; "
        "step times are divided by that to the power of 0.94"
    )


def test_a_correction_keeps_the_power_and_divides_every_time() -> None:
    one = Observation(workload=WORK, steps=2, seconds=6.0, energy_j=30.0, op_seconds=(1.0, None))
    half = corrected(one, 2.0)
    assert (half.seconds, half.energy_j, half.op_seconds) == (3.0, 15.0, (0.5, None))
    assert corrected(replace(one, energy_j=None, op_seconds=None), 2.0).seconds == 3.0
    assert corrected(one, 1.0) is one


def test_every_window_of_a_case_has_its_reference(tmp_path: Path) -> None:
    case = Case("linear", "linear", lambda: (nn.Linear(8, 2), ((torch.randn(4, 8),), {})))
    with select_meter("none") as meter:
        host = describe_host(torch.get_num_threads())
        bench = Bench(meter, SystemCounters(tmp_path), host, CasePlan(0.0, 0.0, 1), 0.0, "run", reference=Reference())
        record, _ = measure_case(prepare(case), bench, "id")
        without, _ = measure_case(prepare(case), replace(bench, reference=None), "id")
    assert all(0 < window.figures[REFERENCE_S] < 1 for window in record.windows)
    assert all(REFERENCE_S not in window.figures for window in without.windows)
    assert Record.from_json(record.to_json()).windows[0].figures == record.windows[0].figures
