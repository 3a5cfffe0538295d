"""Answers as `estimate` gives them, and reports on them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from joulecast.cli.estimate import estimate, read_request
from joulecast.estimator.answer.answer import Answer
from joulecast.estimator.answer.estimate import find_profile, priced
from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.profile import PowerModel, Profile, Provenance
from joulecast.estimator.model.read_model import TraceOptions, read_model
from joulecast.estimator.trace.workload import Layer, Op, Workload
from joulecast.report.document import Report

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = {width}):
        super().__init__()
        self.first = nn.Linear(16, width)
        self.second = nn.Linear(width, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
"""
# A profile with a start-up time, a size of set that no batch divides, and validation: nothing is proportional.
RUN = ("--input", "16", "--samples", "3210", "--val-samples", "500", "--hardware", "quadro-rtx-6000")


def write_nets(folder: Path, **widths: int) -> dict[str, str]:
    """One file per network, by its name."""
    for name, width in widths.items():
        (folder / f"{name}.py").write_text(NET.format(width=width))
    return {name: str(folder / f"{name}.py") for name in widths}


def answers(*arguments: str) -> tuple[Answer, ...]:
    """What `estimate` with these arguments answers, without printing it."""
    options = dict(estimate.make_context("estimate", list(arguments)).params)
    requests = [read_request(model, options) for model in options["models"]]
    return tuple(
        priced(request, _work(request.name, request.trace_options), find_profile(request)) for request in requests
    )


_READ: dict[str, Workload] = {}


def _work(model: str, options: TraceOptions) -> Workload:
    """Each network is traced once; the tests change the run."""
    key = f"{model} {options}"
    if key not in _READ:
        _READ[key] = read_model(model, options)
    return _READ[key]


def report(answered: Sequence[Answer], **values: object) -> Report:
    made = Report(tuple(answered), "estimate --model net.py --epochs 3", "1.2.3", date(2026, 11, 23))
    return replace(made, **values)  # type: ignore[arg-type]


# -- made up by hand, so that what is expected can be worked out -----------------------------------


def profile(*, startup_s: float = 0.0) -> Profile:
    """One second per 10^9 multiply-adds at 150 W, of which 50 W are static."""
    return Profile(
        name="made-up",
        hardware="A Machine",
        device="gpu",
        framework="pytorch",
        time=Curves((Term("dense", "*", "macs", 1e-9),)),
        power=PowerModel({"compute": 100.0, "memory": 0.0, "launch": 0.0}, static_w=50.0),
        time_error=ErrorModel(low=0.8, high=1.25),
        energy_error=ErrorModel(low=0.5, high=2.0),
        provenance=Provenance(
            time="measured", power="modelled", sources=("a source, 2026",), boundary="the whole machine"
        ),
        startup_s=startup_s,
    )


def workload(name: str = "net", *, layers: Sequence[str] = ("conv",), flops: int = 10**9) -> Workload:
    """One matrix product per layer: `flops` forward in the first layer, half as many in each layer after it."""
    sizes = [flops // 2**index for index in range(len(layers))]
    ops = tuple(Op("mm", "matmul", "forward", path, size, 0, 0) for path, size in zip(layers, sizes, strict=True))
    rows = [
        Layer(path, "Linear", (32, 10), size, 10, path.count(".") + 1, "trace")
        for path, size in zip(layers, sizes, strict=True)
    ]
    return Workload(
        name=name,
        framework="pytorch",
        batch_size=32,
        train=True,
        optimizer="sgd",
        precision="float32",
        parameters=1000,
        trainable_parameters=1000,
        parameter_bytes=4000,
        activation_bytes=4000,
        layers=(Layer("", "Net", (32, 10), sum(sizes), 1000, 0, "trace", leaf=False), *rows),
        ops=ops,
    )


PLACE = ("--pue", "1.5", "--carbon-intensity", "400", "--price", "0.2")
LENGTH = ("--epochs", "100", "--samples", "320")


def made_up(*arguments: str, work: Workload | None = None, startup_s: float = 0.0) -> Answer:
    """An answer from the made-up profile. `LENGTH` and `PLACE` make it 1000 steps of 1 s and 150 J."""
    options = dict(estimate.make_context("estimate", ["--model", "made-up", *arguments]).params)
    work = work or workload()
    return priced(read_request(work.name, options), work, profile(startup_s=startup_s))
