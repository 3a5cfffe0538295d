"""A made-up machine for trainings: a profile with a known law, and meters that read what a test sets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.profile import PowerModel, Profile, Provenance
from joulecast.estimator.cost.roofline import Roofline
from joulecast.measure.meters.reading import PowerTrace, TracePoint
from joulecast.trainers.budget import Budget

from .bench import OP_S, Bench

WATTS = 100.0


def made_up_machine(folder: Path, op_s: float) -> Path:
    """The profile of hardware that takes `op_s` for any op and draws 100 W."""
    profile = Profile(
        name="made-up",
        hardware="made-up",
        device="cpu",
        framework="pytorch",
        time=Roofline({"float32": 1e30}, 1e30, {"float32": 1.0}, 1.0, op_s),
        power=PowerModel({"compute": 0.0, "memory": 0.0, "launch": 0.0}, WATTS),
        time_error=ErrorModel(0.8, 1.25),
        energy_error=ErrorModel(0.8, 1.25),
        provenance=Provenance("measured", "measured", ("made up for tests",)),
    )
    return profile.save(folder / f"machine-{op_s}.json")


def write_power(folder: Path, watts: float, seconds: float = 600.0) -> str:
    """The name of a meter that reads `watts` and fails after `seconds`."""
    path = folder / f"power-{watts}-{seconds}.csv"
    points = tuple(TracePoint(at, (round(watts * at * 1e6),)) for at in (0.0, seconds / 2, seconds))
    with path.open("w", encoding="utf-8") as file:
        PowerTrace(("package-0",), ("package-0",), points).write_csv(file)
    return f"replay:{path}"


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[float], Path]:
    return functools.partial(made_up_machine, tmp_path)


@pytest.fixture
def constant_power(tmp_path: Path) -> Callable[..., str]:
    return functools.partial(write_power, tmp_path)


@pytest.fixture
def bench(tmp_path: Path, machine: Callable[[float], Path]) -> Callable[..., Bench]:
    def make(*limits: str, **options: Any) -> Bench:
        return Bench(tmp_path, *limits, **{"hardware": machine(OP_S), "log_every": 10, **options})

    return make


@pytest.fixture
def budget(machine: Callable[[float], Path], constant_power: Callable[..., str]) -> Callable[..., Budget]:
    """For real trainings: 0.1 ms an op are predicted, so some ms a step, and 1000 W are measured."""

    def make(*limits: str, **options: Any) -> Budget:
        settings = {"hardware": machine(1e-4), "meter": constant_power(1000.0), "pue": 1.0, "log_every": 5}
        return Budget(*limits, **{**settings, **options})

    return make


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibrations of the user who runs the tests are not used."""
    monkeypatch.setenv("JOULECAST_STORE", str(tmp_path_factory.getbasetemp() / "store"))
