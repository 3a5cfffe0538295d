"""Failures of joulecast itself during a run: training continues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.trace.workload import Workload
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.nvml import NvmlSource
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.meters.testing import FakeGpu, FakeNvml, FakePowercap, FakeZone
from joulecast.trainers.budget import Budget
from joulecast.trainers.energy import Energy
from joulecast.trainers.run import Length, Run

from .bench import Bench, step_of


def test_a_failing_trace_is_told_once_and_training_goes_on(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Workload:
        raise RuntimeError("exotic\nmodel")

    made = bench("1 s", length=Length(20))
    made.run.predict(broken)
    assert caplog.messages == ["the prediction failed (exotic model); training continues without it"]
    made.train(10)
    assert made.run.estimate is None
    assert made.run.stopping is not None  # 5 s measured, and the limit of 1 s holds without a prediction


def test_a_meter_that_fails_is_told_once_and_its_joules_are_missing(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    made = bench("2 kWh")
    made.run.predict(step_of)
    made.run.start()
    made.train(50)
    made.tree.fail("package-0")
    made.train(50)
    made.run.finish()
    assert sum("the energy meter failed" in line for line in caplog.messages) == 1
    before, after = made.logged[4], made.logged[-1]
    assert before["joulecast/energy_measured_j"] == pytest.approx(1000)
    assert not [name for name in after if name.startswith("joulecast/energy")]
    assert after["joulecast/forecast_energy_kwh"] == pytest.approx(2000 / 3.6e6, rel=0.1)  # at the watts it had seen
    assert made.run.forecast is not None
    assert (made.run.forecast.energy_label, made.run.forecast.energy_so_far_j) == ("missing", None)


def test_a_counter_that_is_not_updated_yet_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, told = FakeNvml([FakeGpu(watts=200.0)]), []
    with SampledMeter(NvmlSource(nvml, environ={})) as meter:
        energy = Energy(meter, lambda what, error: told.append(str(error)))
        energy.start()
        assert energy.so_far_j() is None  # the counter stands still until the driver updates it
        assert told == []
        nvml.advance(1.0)
        assert energy.so_far_j() == pytest.approx(200.0)
        energy.close()
    monkeypatch.setattr("joulecast.trainers.energy._FIRST_UPDATE_S", 0.0)
    with SampledMeter(NvmlSource(nvml, environ={})) as meter:
        energy = Energy(meter, lambda what, error: told.append(str(error)))
        energy.start()
        assert energy.so_far_j() is None
        energy.close()
    assert len(told) == 1
    assert "did not move" in told[0]


class BrokenMeter:
    """Fails at the calls that the test chooses."""

    name = "broken"
    domains = ()
    notes = ()

    def __init__(self, where: str) -> None:
        self.where = where
        self.reading = None

    def open(self, *, trace: bool = False) -> BrokenMeter:
        return self._or_fail("open")

    def so_far(self) -> Any:
        return self._or_fail("so_far")

    def close(self) -> Any:
        return self._or_fail("close")

    def _or_fail(self, what: str) -> Any:
        if what == self.where:
            raise OSError(f"{what}: no such counter")
        return self


@pytest.mark.parametrize("where", ["open", "so_far", "close"])
def test_a_meter_may_raise_whatever_it_likes(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture, where: str
) -> None:
    made = bench("2 kWh", meter=BrokenMeter(where))
    made.run.predict(step_of)
    made.run.start()
    made.train(100)
    made.run.finish()
    made.run.settle()
    assert sum("the energy meter failed" in line for line in caplog.messages) == 1
    assert len(made.logged) == 11
    assert not [name for row in made.logged for name in row if name.startswith("joulecast/energy")]


def test_without_a_meter_the_predictions_watts_are_used_and_labelled(bench: Callable[..., Bench]) -> None:
    made = bench("2 kWh", "10 kJ", meter="none")
    made.run.predict(step_of)
    made.run.start()
    made.train(50, step_s=1.0)
    # Twice as long as predicted at the predicted 100 W: 100 J a step, and 10 kJ in all.
    assert made.logged[-1]["joulecast/energy_modelled_j"] == pytest.approx(5000)
    assert made.logged[-1]["joulecast/forecast_energy_kwh"] == pytest.approx(10_000 / 3.6e6, rel=0.02)
    made.train(20, step_s=1.5)
    assert "energy modelled" in str(made.run.stopping)


def test_a_meter_that_cannot_give_a_total_is_not_called_measured(
    bench: Callable[..., Bench], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "joulecast")
    tree = FakePowercap(tmp_path / "sys/class/powercap", [FakeZone("package-0", (FakeZone("dram"),))])
    tree.fail("package-0/dram")
    nvml = FakeNvml([], driver=False)
    with select_meter("auto", sysfs=tmp_path / "sys", pynvml=nvml, environ={}, interval_s=None) as meter:
        made = bench("2 kWh", meter=meter)
        made.run.predict(step_of)
        made.run.start()
        made.train(50)
    (line,) = [line for line in caplog.messages if "will take" in line]
    assert "measured" not in line
    assert "Input/output error" in line
    assert "energy is modelled with the predicted watts" in line
    assert made.logged[-1]["joulecast/energy_modelled_j"] == pytest.approx(2500)  # 25 s at the predicted 100 W


def test_with_neither_meter_nor_prediction_energy_has_no_verdict(bench: Callable[..., Bench]) -> None:
    made = bench("1 J", meter="none")
    made.train(100)
    made.run.finish()
    assert made.run.stopping is None
    assert set(made.logged[-1]) == {
        "joulecast/seconds",
        "joulecast/forecast_seconds",
        "joulecast/forecast_seconds_low",
        "joulecast/forecast_seconds_high",
    }


def test_a_logger_that_fails_is_told_once(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    def full(figures: Mapping[str, float]) -> None:
        raise OSError("no space left on device")

    made = bench("80 s", log=full)
    made.run.predict(step_of)
    made.run.start()
    made.train(30, step_s=2.0)
    assert sum("the logger failed (no space left" in line for line in caplog.messages) == 1
    assert made.run.stopping is not None  # and the budget is still guarded


def test_a_length_that_nobody_can_tell(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    def unknown() -> Length:
        raise ValueError("different accumulation in different epochs")

    run = Run(Budget("1 h", meter="none").terms, unknown)
    assert run.length.steps is None
    assert any("the number of steps failed" in line for line in caplog.messages)


def test_it_may_end_before_it_began(bench: Callable[..., Bench]) -> None:
    made = bench("1 h")
    made.run.finish()
    made.run.finish()
    made.run.settle()
    assert made.logged == []
