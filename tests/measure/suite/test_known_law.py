"""From counters to weights: a machine whose power follows eq. 2.2.1 is metered, recorded and fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload
from joulecast.measure.meters.contamination import SystemCounters
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.testing import FakePowercap, FakeZone
from joulecast.measure.records.records import Record
from joulecast.measure.records.store import Store
from joulecast.measure.suite.calibrate import alike, anchored, fit_profile, idle_power_w
from joulecast.measure.suite.cases import Case
from joulecast.measure.suite.op_timing import CpuClock, Stopwatch, TimedOp
from joulecast.measure.suite.rounds import Bench, BuiltCase, CasePlan, measure_case, measure_idle

TIME = Curves(
    (Term("dense", "*", "macs", 3e-11), Term("*", "*", "bytes", 1.6e-10), Term("*", "*", "launch", 2e-5)),
)
WEIGHTS_W = {"compute": 65.0, "memory": 28.0, "launch": 9.0}
STATIC_W = 22.0
HOST = {
    "device": "cpu",
    "cpu_name": "Test CPU",
    "cpu_cores": 2,
    "threads": 2,
    "gpus": [],
    "machine": "x86_64",
    "os": "Linux",
    "libraries": {"torch": "2"},
}


class LawfulStep:
    """Training steps on the fake machine: time and counters advance as the law says."""

    def __init__(self, work: Workload, tree: FakePowercap) -> None:
        self.model, self.clock = nn.Identity(), CpuClock()
        self._work, self._tree = work, tree
        self._seconds = TIME.seconds(work.ops)

    def run(self, steps: int = 1) -> float:
        return sum(self._run() for _ in range(steps))

    def _run(self) -> float:
        by_component = dict(zip(TIME.components, self._seconds.sum(axis=0).tolist(), strict=True))
        whole_s = sum(by_component.values())
        watts = STATIC_W + sum(WEIGHTS_W[name] * seconds / whole_s for name, seconds in by_component.items())
        self._tree.advance(whole_s, {"package-0": 0.8 * watts, "package-0/dram": 0.2 * watts})
        return whole_s

    def run_timed(self, watch: Stopwatch, fuse: bool) -> list[TimedOp]:
        per_op = self._seconds.sum(axis=1).tolist()
        return [
            TimedOp((op.phase, op.name, op.layer), [], seconds)
            for op, seconds in zip(self._work.ops, per_op, strict=True)
        ]


def _networks() -> dict[str, tuple[nn.Module, Any]]:
    """From networks limited by arithmetic to networks limited by traffic and by starts."""
    found: dict[str, tuple[nn.Module, Any]] = {}
    for width in (8, 32, 128, 512):
        convolution = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.Flatten())
        found[f"convolutions {width}"] = convolution, torch.empty(4, 3, 12, 12)
        layers = [nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.GELU()) for _ in range(4)]
        found[f"perceptron {width}"] = nn.Sequential(*layers), torch.empty(64, width)
        narrow = [nn.Sequential(nn.Conv1d(width, width, 3, groups=width), nn.Tanh()) for _ in range(6)]
        found[f"depthwise {width}"] = nn.Sequential(*narrow, nn.Flatten()), torch.empty(8, width, 400)
        lookup = nn.Sequential(nn.Embedding(2000, width), nn.LayerNorm(width), nn.Linear(width, 10))
        found[f"lookup {width}"] = lookup, torch.zeros(16, 8, dtype=torch.int64)
    return found


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """All networks, measured by the suite's own rounds on the fake tree, through the store."""
    tmp_path: Path = tmp_path_factory.mktemp("machine")
    tree = FakePowercap(tmp_path / "powercap", [FakeZone("package-0", children=(FakeZone("dram"),))])
    meter = SampledMeter(RaplSource(tree.root, clock=tree.clock), interval_s=None)
    counters = SystemCounters(root=tmp_path, clock=lambda: tree.clock.now_ns / 1e9)
    bench = Bench(meter, counters, HOST, CasePlan(window_s=0.05, rounds=1), overhead_s=0.0, run="run")
    store = Store(tmp_path / "store")

    def at_rest(seconds: float) -> None:
        tree.advance(seconds, {"package-0": 0.8 * STATIC_W, "package-0/dram": 0.2 * STATIC_W})

    store.write(*measure_idle(bench, 5.0, store.new_id("idle"), at_rest))
    for name, (model, inputs) in _networks().items():
        work = trace(model.to("meta"), inputs, name=name, layers=False)
        step: Any = LawfulStep(work, tree)
        ready = BuiltCase(Case(name, name, lambda: (nn.Identity(), ((), {}))), work, step)
        store.write(*measure_case(ready, bench, store.new_id(name)))
    return list(store.records())


@pytest.fixture(scope="module")
def profile(records: list[Record]) -> Profile:
    return fit_profile(records, power=_no_power)


def test_records_of_another_meter_or_precision_stay_out_and_are_named(records: list[Record]) -> None:
    first, second, *_ = [record for record in records if record.kind == "case"]
    older = replace(first, name="older", created="2000-01-01T00:00:00Z", meter={"name": "nvml"})
    assert second.workload is not None
    half = replace(second, name="half", workload=replace(second.workload, precision="bfloat16"))
    kept, left_out = alike([*records, older, half])
    assert kept == records
    assert left_out == [
        "older is not in this profile: its meter was nvml, now rapl",
        "half is not in this profile: it ran in bfloat16, the others in float32",
    ]
    many = [replace(half, name=f"half {number}") for number in range(4)]
    notes = fit_profile([*records, older, *many], power=_no_power).provenance.notes
    named = tuple(alike([*records, older, *many])[1][:3])
    assert notes[-4:] == (*named, "2 more records are not in this profile")
    assert named[0] == left_out[0]


def test_energy_of_a_gpu_counts_only_where_the_gpu_was_metered(records: list[Record]) -> None:
    on_cpu = next(record for record in records if record.kind == "case")
    on_gpu = replace(on_cpu, host={**on_cpu.host, "device": "gpu"})
    energies = [observation.energy_j for one in (on_cpu, on_gpu) if (observation := one.observation()) is not None]
    assert energies == [on_cpu.energy_j, None]


def _no_power() -> Any:
    raise AssertionError("energy was measured: nothing else may stand for it")


def test_weights_of_a_known_law_come_back_within_5_percent(profile: Profile) -> None:
    assert profile.power.weights_w == pytest.approx(WEIGHTS_W, rel=0.05)
    assert profile.power.static_w == pytest.approx(STATIC_W, rel=0.05)
    assert profile.provenance.power == "measured"


def test_energy_of_a_network_never_measured_follows_the_law(profile: Profile) -> None:
    model = nn.Sequential(nn.Conv2d(3, 48, 5), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 64, 100)).to("meta")
    work = trace(model, torch.empty(32, 3, 12, 12), layers=False)
    by_component = TIME.seconds(work.ops).sum(axis=0)
    watts = [WEIGHTS_W[name] + STATIC_W for name in TIME.components]
    truth_kwh = float(by_component @ watts) * 1000 / 3.6e6
    assert profile.predict(work, steps=1000).energy_kwh.value == pytest.approx(truth_kwh, rel=0.05)


def test_the_power_of_the_machine_at_rest_is_measured(records: list[Record]) -> None:
    assert idle_power_w(records) == pytest.approx(STATIC_W, rel=1e-4)


def test_anchoring_leaves_every_prediction_as_it_was(profile: Profile) -> None:
    power = profile.power
    for idle_w in (0.0, 5.0, 30.0, 1000.0):
        moved = anchored(power, idle_w)
        assert min(*moved.weights_w.values(), moved.static_w) >= 0
        for name in WEIGHTS_W:
            whole = moved.weights_w[name] + moved.static_w
            assert whole == pytest.approx(power.weights_w[name] + power.static_w)


def test_disturbed_energies_do_not_reach_the_fit(records: list[Record]) -> None:
    """A case measured twice, the second time with another process on the cores: the clean one is used."""
    victim = next(record for record in records if record.kind == "case")
    windows = tuple(
        replace(window, seconds=20 * window.seconds, flags=("other processes used 90% of a core",))
        for window in victim.windows
    )
    again = replace(victim, id=victim.id + "-again", windows=windows)
    profile = fit_profile([*records, again], power=_no_power)
    assert profile.power.weights_w == pytest.approx(WEIGHTS_W, rel=0.05)
