"""A run with a clock and counters that the test moves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joulecast.estimator.trace.workload import Op, Workload
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.testing import FakePowercap, FakeZone
from joulecast.trainers.budget import Budget
from joulecast.trainers.run import Length, Run

OP_S = 0.1
STEP_OPS = 5


def step_of(ops: int = STEP_OPS) -> Workload:
    """One step of `ops` equal ops, so of 0.5 s on the machine of 0.1 s an op, 50 J at its 100 W."""
    forward = Op("relu", "activation", "forward", "", 0, 4, 4, count=ops)
    return Workload("net", "pytorch", 1, True, "sgd", "float32", 10, 10, 40, 0, (), (forward,))


class Bench:
    """A run on a fake powercap tree; `train` advances the time of both."""

    def __init__(self, folder: Path, *limits: str, length: Length | None = None, **options: Any) -> None:
        self.tree = FakePowercap(Path(tempfile.mkdtemp(dir=folder)), [FakeZone("package-0")])
        self.logged: list[dict[str, float]] = []
        peers = options.pop("peers", None)
        log = options.pop("log", self.log)
        if "meter" not in options:
            options["meter"] = SampledMeter(RaplSource(self.tree.root, clock=self.tree.clock), interval_s=None)
        budget = Budget(*limits, pue=1.0, **options)
        self.run = Run(budget.terms, length or Length(100), log=log, peers=peers, clock=self.seconds)

    def seconds(self) -> float:
        return self.tree.clock()[0] / 1e9

    def log(self, figures: Mapping[str, float]) -> None:
        self.logged.append(dict(figures))

    def train(self, steps: int, step_s: float = 0.5, watts: float = 40.0) -> None:
        for _ in range(steps):
            self.tree.advance(step_s, {"package-0": watts})
            self.run.step()

    def validate(self, seconds: float, watts: float = 40.0) -> None:
        self.run.validation_begins()
        self.tree.advance(seconds, {"package-0": watts})
        self.run.validation_ends()
