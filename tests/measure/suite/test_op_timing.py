"""Op times and the trace: every op of a real step is found, and their sum is the step."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Op, Workload
from joulecast.measure.suite.cases import Case, random_case
from joulecast.measure.suite.op_timing import (
    Stopwatch,
    TimedOp,
    TrainingStep,
    match,
    normalise,
    op_times,
    stopwatch_overhead_s,
)
from joulecast.measure.suite.rounds import BuiltCase, prepare

KINDS = (
    *("convolutions", "transformers", "patches", "recurrent", "unet"),
    *("perceptrons", "signals", "upscaler", "tables", "volumes"),
)


def _timed(ready: BuiltCase) -> list[TimedOp]:
    watch = Stopwatch(ready.step.model, ready.step.clock)
    return ready.step.run_timed(watch, ready.work.tracer != "real")


def _case(model: nn.Module, *inputs: torch.Tensor, optimizer: str = "sgd") -> Case:
    return Case("case", "case", lambda: (model, (inputs, {})), optimizer)


def _by_name(work: Workload, seconds: Any) -> dict[str, float]:
    totals: dict[str, float] = {}
    for op, value in zip(work.ops, seconds, strict=True):
        totals[op.name] = totals.get(op.name, 0.0) + value
    return totals


# -- real steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_op_of_the_trace_is_found_in_the_real_step(kind: str):
    ready = prepare(random_case(kind, 3))
    keys = [event.key for event in _timed(ready)]
    found = match(ready.work.ops, keys)
    assert None not in found
    # A device may add a copy here and there: gradients that come in another layout than their parameter.
    extra = [key for index, key in enumerate(keys) if index not in found]
    assert {name for _, name, _ in extra} <= {"copy_", "clone", "_to_copy"}
    assert len(extra) <= 0.05 * len(keys)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_one_op_forward_and_one_backward(cell: type[nn.Module]):
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = cell(16, 32, num_layers=2, batch_first=True), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.cell(x)[0][:, -1])
            return result

    ready = prepare(_case(Tagger(), torch.randn(4, 20, 16)))
    events = _timed(ready)
    assert [event.key for event in events] == [(op.phase, op.name, op.layer) for op in ready.work.ops]
    recurrent = [event for event in events if event.key[2] == "cell" and event.key[0] != "optimizer"]
    assert [event.key[0] for event in recurrent if cell.__name__.lower() in event.key[1]] == ["forward", "backward"]
    assert all(event.seconds > 0 for event in recurrent)


class CountingClock:
    """Every kernel takes one second."""

    def __init__(self) -> None:
        self.now = 0

    def stamp(self) -> int:
        self.now += 1
        return self.now

    def seconds(self, began: int, ended: int) -> float:
        return float(ended - began)

    def wait(self) -> None: ...


def test_a_kernel_on_temporaries_counts_for_the_parameter_before_it() -> None:
    """As in Adam: the root of the second moment is a new tensor that belongs to no parameter."""
    first, second, temporary = torch.ones(3), torch.ones(4), torch.ones(5)
    watch = Stopwatch(nn.Identity(), CountingClock())
    watch.updating("adam", [("a.weight", first), ("b.weight", second)], {})
    with torch.no_grad(), watch:
        torch.sqrt(temporary)  # before any parameter: it belongs to none
        first.add_(1)
        torch.sqrt(temporary)
        torch.sqrt(temporary)
        second.add_(1)
        torch._foreach_add_([first, second], 1)  # one kernel for both: half each
    assert [(event.key, event.seconds) for event in watch.resolve()] == [
        (("optimizer", "adam", "a"), 3.5),
        (("optimizer", "adam", "b"), 1.5),
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_updates_are_charged_to_their_parameters(optimizer: str):
    """The large matrix's update takes longer than the others, whichever comes first."""
    for sizes, largest in (((1500, 1500, 8), 0), ((8, 1500, 1500), 2)):
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        ready = prepare(_case(nn.Sequential(*layers), torch.randn(4, sizes[0]), optimizer=optimizer))
        runs = [[event for event in _timed(ready) if event.key[0] == "optimizer"] for _ in range(5)]
        assert [event.key[1] for event in runs[0]] == [optimizer] * 4
        fastest = [
            min(run[index].seconds for run in runs) for index in range(4)
        ]  # on a busy machine, one may be delayed
        assert fastest.index(max(fastest)) == largest


def test_op_times_add_up_to_the_step_and_the_heavy_op_is_the_heavy_one():
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Tanh(), nn.Linear(1024, 4))
    ready = prepare(_case(model, torch.randn(256, 1024)))
    runs = [_timed(ready) for _ in range(5)]
    found = op_times(ready.work, runs, 0.125, overhead_s=0.0)
    assert found.unmatched == 0
    assert math.fsum(value or 0.0 for value in found.seconds) == pytest.approx(0.125)
    # 256 x 1024 x 1024 multiply-adds forward and back, beside an element-wise tanh and a sliver of a head.
    totals = _by_name(ready.work, found.seconds)
    assert totals["addmm"] + totals["mm"] > totals["tanh"] + totals["tanh_backward"]


def test_the_stopwatch_leaves_training_as_it_is():
    """Timed and untimed steps from the same start give the same weights."""
    results = []
    for timed in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        model(torch.zeros(2, 3, 8, 8))
        step = TrainingStep(model, (torch.ones(2, 3, 8, 8).cumsum(-1),), {}, "adam")
        for _ in range(3):
            if timed:
                step.run_timed(Stopwatch(model, step.clock))
            else:
                step.run()
        results.append([parameter.detach().clone() for parameter in model.parameters()])
    for plain, watched in zip(*results, strict=True):
        torch.testing.assert_close(plain, watched)


def test_the_stopwatch_costs_less_than_a_kernel_launch_of_a_gpu():
    assert 0 <= stopwatch_overhead_s(200) < 1e-3


# -- by hand -----------------------------------------------------------------------------------------


def _op(name: str) -> Op:
    return Op(name, "copy", "forward", "", 0, 1, 1)


def test_ops_that_a_device_adds_or_leaves_out_do_not_shift_the_others():
    ops = [_op(name) for name in ("mm", "relu", "clone", "mm", "sum")]
    keys = [("forward", name, "") for name in ("mm", "extra", "relu", "mm", "sum")]
    assert match(ops, keys) == [0, 2, None, 3, 4]


def test_missing_time_goes_to_every_op_alike_up_to_30_us():
    # 3 ops, 30 us missing: 10 us each.
    assert normalise([1e-3, 2e-3, None, 3e-3], 6.03e-3)[0] == pytest.approx([1.01e-3, 2.01e-3, None, 3.01e-3])


def test_what_the_step_did_not_take_is_one_factor():
    seconds, covered = normalise([1.0, 3.0], 2.0)
    assert seconds == pytest.approx([0.5, 1.5])
    assert covered == pytest.approx(2.0)


@given(
    op_s=st.lists(st.one_of(st.none(), st.floats(1e-7, 10.0)), min_size=1, max_size=50),
    step_s=st.floats(1e-5, 100.0),
)
def test_normalised_times_always_add_up_and_keep_their_order(op_s: list[float | None], step_s: float):
    found, _ = normalise(op_s, step_s)
    assert [value is None for value in found] == [value is None for value in op_s]
    known = [(before, after) for before, after in zip(op_s, found, strict=True) if before and after]
    if known:
        assert math.fsum(after for _, after in known) == pytest.approx(step_s)
        ordered = [after for _, after in sorted(known)]
        assert ordered == sorted(ordered)


def test_a_random_case_traces_to_the_same_work_every_time():
    works = []
    for _ in range(2):
        model, inputs = random_case("patches", 5).build()
        works.append(trace(model, inputs, layers=False))
    assert works[0] == works[1]
