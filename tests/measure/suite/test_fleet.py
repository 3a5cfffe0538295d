"""One profile for many machines: the typical machine, the spread between them, and those that are odd."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.profile import read_profile
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload
from joulecast.measure.meters.reading import DomainReading, Reading
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.suite.fleet import (
    UNKNOWN_SPREAD,
    Machine,
    _wider,
    fit_kind,
    kinds_of,
    outlying,
    polished,
    shrunk,
)

LAW = Curves((Term("dense", "*", "macs", 3e-11), Term("*", "*", "bytes", 1.6e-10), Term("*", "*", "launch", 2e-5)))


@lru_cache(maxsize=1)
def networks() -> dict[str, Workload]:
    """Sixteen small networks of four families."""
    found = {}
    for index in range(16):
        width = 16 * (1 + index)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        for _ in range(index % 4):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
        found[f"net{index}"] = trace(model, torch.zeros(8, 3, 32, 32), name=f"net{index}", layers=False)
    return found


def host(node: str, cpu: str = "Test CPU") -> dict[str, object]:
    return {
        "node": node,
        "device": "cpu",
        "cpu_name": cpu,
        "cpu_cores": 2,
        "threads": 2,
        "gpus": [],
        "os": "Linux",
        "machine": "x86_64",
        "libraries": {"torch": "2"},
    }


def records(
    node: str,
    factor: float = 1.0,
    *,
    noise: float = 0.01,
    cases: int = 16,
    cpu: str = "Test CPU",
    watts: float | None = None,
) -> list[Record]:
    """What `measure` would keep on a machine that takes `factor` times as long as the law says, at `watts`."""
    chance = random.Random(node)
    found = []
    for name, work in list(networks().items())[:cases]:
        ops = LAW.seconds(work.ops).sum(axis=1) * factor * math.exp(chance.gauss(0, noise))
        seconds = float(ops.sum()) * 10
        reading = None if watts is None else Reading("rapl", seconds, (package(seconds * watts),))
        window = MeasuredWindow("test", 10, seconds, reading)
        record = Record(
            f"{node}-{name}", "case", name, "2026-01-01", "complete", host(node, cpu), (window,),
            run=node, family=f"family{len(found) % 4}", meter={"name": "none"}, workload=work,
            op_seconds=tuple(ops.tolist()),
        )  # fmt: skip
        found.append(record)
    return found


def package(joules: float) -> DomainReading:
    return DomainReading("package-0", "package", "measured", round(1e6 * joules), True)


def test_the_polish_by_hand() -> None:
    """Machine b is twice as slow as the typical one and c half as slow; case y takes five times as long as x."""
    values = {"a": {"x": 1.0, "y": 5.0}, "b": {"x": 2.0, "y": 10.0}, "c": {"y": 2.5}}
    cases, machines, noise = polished(values)
    assert {name: math.exp(value) for name, value in cases.items()} == pytest.approx({"x": 1.0, "y": 5.0})
    assert {name: math.exp(value) for name, value in machines.items()} == pytest.approx({"a": 1.0, "b": 2.0, "c": 0.5})
    assert noise == pytest.approx(0.0, abs=1e-12)


def test_one_odd_case_moves_neither_cases_nor_machines() -> None:
    values = {name: dict.fromkeys("uvwxyz", 1.0) for name in "abcde"}
    values["c"]["x"] = 9.0
    cases, machines, _ = polished(values)
    assert set(cases.values()) == {0.0}
    assert set(machines.values()) == {0.0}


def test_machines_far_from_the_others_are_outlying() -> None:
    close = {f"m{i}": 0.01 * (i % 5 - 2) for i in range(20)}
    assert outlying({**close, "hot": 0.3, "fast": -0.2}) == {"hot", "fast"}
    assert outlying({**close, "near": 0.045}) == set()  # a difference of less than 5 % is never outlying
    assert outlying({"a": 0.0, "b": 0.0, "c": 1.0}) == set()  # three machines do not say which one is odd


def test_a_machines_factor_is_shrunk_by_its_noise() -> None:
    """Prior 0.1, noise 0.2 in 4 cases: both have variance 0.01, so that half of what was seen is believed."""
    mean, left = shrunk(0.3, 4, 0.1, 0.2)
    assert mean == pytest.approx(0.15)
    assert left == pytest.approx(math.sqrt(0.005))
    assert shrunk(0.3, 4, math.inf, 0.2) == pytest.approx((0.3, 0.1))  # nothing is known of other machines
    assert shrunk(0.3, 4, 0.0, 0.2) == (0.0, 0.0)
    assert shrunk(0.3, 10_000, 0.1, 0.02)[0] == pytest.approx(0.3, rel=1e-3)


def test_the_spread_widens_the_bounds_in_quadrature() -> None:
    wider = _wider(ErrorModel(math.exp(-0.3), math.exp(0.3)), 0.4 / 1.645)
    assert (wider.low, wider.high) == pytest.approx((math.exp(-0.5), math.exp(0.5)))


def test_records_are_grouped_by_the_parts_of_their_machines() -> None:
    found = kinds_of([*records("a", cases=2), *records("b", cases=3, cpu="Other"), *records("c", cases=2)])
    assert [{record.host["node"] for record in kind} for kind in found] == [{"a", "c"}, {"b"}]


@pytest.fixture(scope="module")
def fleet() -> dict[str, float]:
    """Twelve machines that differ by 4 %, and one that is throttled."""
    chance = random.Random(5)
    return {**{f"node{i}": math.exp(chance.gauss(0, 0.04)) for i in range(12)}, "hot": 1.5}


def test_a_kind_has_the_typical_machines_profile_and_names_the_odd_one(fleet: dict[str, float]) -> None:
    kind = fit_kind([record for node, factor in fleet.items() for record in records(node, factor)])
    found = {machine.name: machine for machine in kind.machines}
    middle = sorted(fleet.values())[len(fleet) // 2]
    for node, factor in fleet.items():
        assert found[node].factor == pytest.approx(factor / middle, rel=0.02)
    assert [machine.name for machine in kind.outlying] == ["hot"]
    assert 0.02 < kind.spread < 0.06
    assert kind.hardware == "Test CPU, 2 threads"
    work = networks()["net9"]
    truth = float(LAW.seconds(work.ops).sum()) * middle * 1000
    predicted = kind.profile.predict(work, steps=1000).seconds
    assert predicted.value == pytest.approx(truth, rel=0.1)
    assert predicted.low < truth * math.exp(-1.5 * kind.spread) < truth * math.exp(1.5 * kind.spread) < predicted.high
    assert "not counted: hot" in kind.profile.provenance.notes[0]
    assert "node" not in kind.profile.host


def test_the_profile_of_one_machine_leans_on_its_kind(fleet: dict[str, float]) -> None:
    """A slow machine with four cases: its own profile is nearer to it, and narrower, than that of its kind."""
    others = [record for node, factor in fleet.items() if node != "hot" for record in records(node, factor)]
    new = records("new", 1.10, cases=4)
    kind, own = fit_kind(others), fit_kind([*others, *new], machine="new")
    work = networks()["net12"]
    truth = float(LAW.seconds(work.ops).sum()) * 1.10 * 1000
    of_kind, of_own = (one.profile.predict(work, steps=1000).seconds for one in (kind, own))
    assert abs(of_own.value - truth) < abs(of_kind.value - truth)
    assert own.spread < kind.spread / 2
    assert of_own.low < truth < of_own.high


@pytest.fixture(scope="module")
def powers() -> dict[str, float]:
    """Nine machines of the same speed, whose power differs by about 10 %, and one with another power limit."""
    return {**{f"node{i}": 100 * math.exp(0.03 * (i - 4)) for i in range(9)}, "limited": 50.0}


def test_the_energy_has_a_spread_of_its_own(powers: dict[str, float]) -> None:
    """ln(power) of nodes 0 to 8 is 0.03 times -4 to 4: a standard deviation of 0.03 x sqrt(60 / 8) = 8.2 %."""
    kind = fit_kind([one for node, watts in powers.items() for one in records(node, noise=0.001, watts=watts)])
    found = {machine.name: machine for machine in kind.machines}
    assert kind.spread < 0.002
    assert kind.energy_spread == pytest.approx(0.03 * math.sqrt(60 / 8), rel=0.05)
    assert found["limited"].energy_factor == pytest.approx(0.5, rel=0.03)
    assert found["limited"].factor == pytest.approx(1.0, rel=0.01)
    assert [machine.name for machine in kind.outlying] == ["limited"]
    narrow, wide = kind.profile.time_error, kind.profile.energy_error
    assert math.log(wide.high) >= 1.645 * kind.energy_spread
    assert math.log(narrow.high) < math.log(wide.high) / 2


def test_the_energy_of_one_machine_is_its_own(powers: dict[str, float]) -> None:
    every = [one for node, watts in powers.items() for one in records(node, noise=0.001, watts=watts)]
    kind, own = fit_kind(every), fit_kind(every, machine="node8")
    work = networks()["net9"]
    of_kind, of_own = (one.profile.predict(work, steps=1000) for one in (kind, own))
    assert of_own.seconds.value == pytest.approx(of_kind.seconds.value, rel=0.01)
    assert of_own.energy_kwh.value == pytest.approx(math.exp(0.12) * of_kind.energy_kwh.value, rel=0.03)
    assert own.energy_spread < kind.energy_spread / 4


def test_without_measured_energy_it_differs_as_the_time_does(fleet: dict[str, float]) -> None:
    kind = fit_kind([record for node, factor in fleet.items() for record in records(node, factor)])
    assert kind.energy_spread == kind.spread


def test_few_machines_have_the_spread_of_others() -> None:
    assert fit_kind(records("a")).spread == UNKNOWN_SPREAD
    assert fit_kind([*records("a"), *records("b", 1.01)]).spread == UNKNOWN_SPREAD


def test_no_records_of_a_machine() -> None:
    with pytest.raises(FitError, match="`machine` 'b' has no records; known are a"):
        fit_kind(records("a"), machine="b")
    with pytest.raises(FitError, match="no case was measured"):
        fit_kind([])


def test_the_profile_is_saved_and_read(tmp_path: Path) -> None:
    profile = fit_kind(records("a")).profile
    path = profile.save(tmp_path / "p.json")
    assert read_profile(path).time_error == profile.time_error


def test_the_command_fits_each_kind_and_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from click.testing import CliRunner

    from joulecast.cli.fit import fit as command
    from joulecast.measure.records.store import Store

    monkeypatch.setenv("JOULECAST_STORE", str(tmp_path / "own"))
    store = Store(tmp_path / "shared")
    for node, factor in {"a": 1.0, "b": 1.01, "c": 0.99, "d": 1.02, "hot": 1.4}.items():
        for record in records(node, factor, noise=0.001):
            store.write(record)
    for record in records("e", cpu="Other CPU"):
        store.write(record)
    done = CliRunner().invoke(command, ["--store", str(store.folder), "--group", "hardware"], standalone_mode=False)
    assert done.exception is None, done.exception
    assert "Test CPU, 2 threads: 5 machines" in done.output
    assert "hot is not counted: slower than the others by 3" in done.output
    assert "Other CPU, 2 threads: 1 machine" in done.output
    assert "apart in time (standard deviation)" in done.output
    folder = tmp_path / "own" / "profiles"
    assert sorted(path.name for path in folder.iterdir()) == ["other-cpu-2-threads.json", "test-cpu-2-threads.json"]
    assert read_profile(folder / "test-cpu-2-threads.json").name == "test-cpu-2-threads"
    own = ["--store", str(store.folder), "--machine", "hot", "--name", "mine"]
    assert CliRunner().invoke(command, own, standalone_mode=False).exception is None
    slow, typical = (read_profile(folder / f"{name}.json") for name in ("mine", "test-cpu-2-threads"))
    work = networks()["net3"]
    ratio = slow.predict(work, steps=99).seconds.value / typical.predict(work, steps=99).seconds.value
    assert ratio == pytest.approx(1.4, rel=0.05)


def test_how_an_outlying_machine_is_described() -> None:
    from joulecast.cli.fleet import _oddness

    assert _oddness(Machine("a", 9, 1.3, 1.1, True)).startswith("slower than the others by 30%; look at its cooling")
    assert _oddness(Machine("a", 9, 0.8, None, True)) == "faster than the others by 20%; look at its power limit"
    less = "it takes 50% less energy than the others; look at its power limit and its meter"
    assert _oddness(Machine("a", 9, 1.0, 0.5, True)) == less


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--store", "x"], "--store needs one of --group hardware and --machine NODE"),
        (["--group", "hardware"], "give a file of runs (RUNS) and --name NAME, or --store PLACE"),
        (["runs.csv", "--name", "n", "--group", "hardware"], "--group needs --store"),
        (["runs.csv", "--store", "x", "--group", "hardware"], "RUNS has no use with --store, whose records say it"),
        (["--store", "none", "--group", "hardware"], "there are no records in none"),
        (["--store", "none", "--machine", "a"], "`machine` 'a' has no records in none; known are none"),
    ],
)
def test_mistakes_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: str
) -> None:
    from click.testing import CliRunner

    from joulecast.cli.fit import fit as command

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert error in str(getattr(done.exception, "message", done.exception))


def test_records_of_another_precision_are_left_out_and_named() -> None:
    other = [replace(one, workload=replace(one.workload, precision="bfloat16")) for one in records("b", cases=2)]
    kind = fit_kind([*records("a"), *other])
    assert [machine.name for machine in kind.machines] == ["a"]
    assert "ran in bfloat16, the others in float32" in kind.profile.provenance.notes[1]
