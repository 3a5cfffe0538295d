"""Seconds per op, measured inside real training steps of a whole network.

A layer looped alone runs from hot caches and reused memory, about a quarter faster than inside a network, so ops are
timed while the network trains. The ops of the real run are matched with those of `trace`, one by one and in order.
Devices split attention and recurrent layers into different kernels, so each is timed as the one op that the trace
lists. An optimizer's kernels are charged to the parameters that they update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import median
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from ...estimator.trace.formulas import GATES, op_name
from ...estimator.trace.losses import training_loss
from ...estimator.trace.recorder import Recorder
from ...estimator.trace.step import PRECISIONS
from ...estimator.trace.workload import Op, Workload

Key = tuple[str, str, str]  # phase, name, layer

# Names of a GPU's own kernels, and what the trace calls them.
_TRACED_AS = {
    f"{library}_batch_norm{direction}": f"native_batch_norm{direction}"
    for library in ("cudnn", "miopen")
    for direction in ("", "_backward")
}

# At most this much of the time between ops belongs to an op: Python's modules, autograd's nodes, freed memory.
_BETWEEN_OPS_S = 30e-6


class OpClock(Protocol):
    """Time stamps and the time between two of them; on a GPU, the device's time and not the queue's."""

    def stamp(self) -> Any: ...
    def seconds(self, began: Any, ended: Any) -> float: ...
    def wait(self) -> None:
        """Waits until the device has finished all its work."""
        ...


class CpuClock:
    def stamp(self) -> int:
        return time.perf_counter_ns()

    def seconds(self, began: int, ended: int) -> float:
        return (ended - began) / 1e9

    def wait(self) -> None:
        """A CPU's ops are finished when they return."""


class CudaClock:
    """CUDA events, resolved after the step."""

    def stamp(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, began: Any, ended: Any) -> float:
        return float(began.elapsed_time(ended)) / 1e3

    def wait(self) -> None:
        torch.cuda.synchronize()


@dataclass(slots=True)
class TimedOp:
    """One op of the real run: its name in the trace and its time."""

    key: Key
    spans: list[tuple[Any, Any]]  # stamps before and after each kernel
    seconds: float = 0.0


class Stopwatch(Recorder):
    """While entered, times every op as `events`, in the order and with the names of the trace."""

    def __init__(self, module: nn.Module, clock: OpClock) -> None:
        super().__init__(module)
        self.clock = clock
        self.events: list[TimedOp] = []
        self._parameters: dict[int, int] = {}  # storage -> index, of the tensors that the optimizer uses
        self._touched: list[int] = []
        self._updates: list[TimedOp] = []
        self._fused: list[tuple[range, str, str]] = []  # autograd nodes of a fused call, name, layer
        self._fused_events: dict[int, TimedOp] = {}

    def restart(self) -> None:
        self.events, self.phase = [], "forward"
        self._fused, self._fused_events, self._updates = [], {}, []
        self._layer_of_node.clear()
        self._stack.clear()

    def updating(self, name: str, parameters: Sequence[tuple[str, torch.Tensor]], state: Mapping[Any, Any]) -> None:
        """Starts the optimizer's phase; `state` maps a parameter to its state tensors."""
        self.phase = "optimizer"
        self._parameters, self._touched = {}, []
        for index, (path, tensor) in enumerate(parameters):
            owned = [tensor, tensor.grad, dict(state.get(tensor, {}))]
            for own in _tensors(owned):
                self._parameters[own.untyped_storage().data_ptr()] = index
            self._updates.append(TimedOp(("optimizer", name, path.rpartition(".")[0]), []))
        self.events.extend(self._updates)

    def fused(self, name: str, layer: str, span: tuple[Any, Any], nodes: range) -> None:
        """Adds a call that the trace lists as one op, with the autograd nodes that it made."""
        self.events.append(TimedOp(("forward", name, layer), [span]))
        self._fused.append((nodes, name, layer))

    def resolve(self) -> list[TimedOp]:
        """The events with their seconds, after waiting for the device."""
        self.clock.wait()
        for event in self.events:
            event.seconds += sum(self.clock.seconds(*span) for span in event.spans)
        return self.events

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        layer = self._note_node()
        began = self.clock.stamp()
        output = func(*args, **kwargs)
        span = (began, self.clock.stamp())
        if self.phase == "optimizer":
            self._update(span, (*args, *kwargs.values()))
        elif (event := self._fused_event()) is not None:
            event.spans.append(span)
        elif not self.costs_nothing(func):
            name = op_name(func)
            self.events.append(TimedOp((self.phase, _TRACED_AS.get(name, name), layer), [span]))
        return output

    def _fused_event(self) -> TimedOp | None:
        """The fused call whose gradient is running, if there is one."""
        if self.phase != "backward" or not self._fused:
            return None
        node = torch._C._current_autograd_node()
        number = node._sequence_nr() if node is not None else -1
        for index, (nodes, name, layer) in enumerate(self._fused):
            if number in nodes:
                if index not in self._fused_events:
                    event = TimedOp(("backward", f"{name}_backward", layer), [])
                    self._fused_events[index] = event
                    self.events.append(event)
                return self._fused_events[index]
        return None

    def _update(self, span: tuple[Any, Any], values: tuple[Any, ...]) -> None:
        """Charges one kernel of the optimizer to the parameters whose tensors it uses."""
        storages = {tensor.untyped_storage().data_ptr() for tensor in _tensors(values)}
        touched = sorted({self._parameters[key] for key in storages if key in self._parameters})
        self._touched = touched or self._touched  # a kernel of temporaries only belongs to the previous parameter
        if len(self._touched) == 1:
            self._updates[self._touched[0]].spans.append(span)
        elif self._touched:
            self.clock.wait()
            seconds = self.clock.seconds(*span) / len(self._touched)
            for index in self._touched:
                self._updates[index].seconds += seconds


class _FusedCalls(TorchFunctionMode):
    """Times each attention and recurrent call as a whole; the stopwatch is off meanwhile."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is F.scaled_dot_product_attention:
            name = "attention"
        elif name not in GATES or len(args) != 9:
            return func(*args, **kwargs)
        first = torch._C._autograd._get_sequence_nr()
        with _disable_current_modes():
            began = self._watch.clock.stamp()
            output = func(*args, **kwargs)
            span = (began, self._watch.clock.stamp())
        nodes = range(first, torch._C._autograd._get_sequence_nr())
        self._watch.fused(name, self._watch.layer, span, nodes)
        return output


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


# -- training steps --------------------------------------------------------------------------------

_OPTIMIZERS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-4),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-4, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-5),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-5),
}


class TrainingStep:
    """Real training steps of one network on one batch, as `trace` describes them.

    Trains `model` in place, on its device, with the arguments of one call; with a `precision`, under autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        optimizer: str = "sgd",
        precision: str | None = None,
    ) -> None:
        self.model = model.train()
        self.args, self.kwargs = args, kwargs
        self.optimizer_name = optimizer
        self._autocast = None if precision is None else PRECISIONS[precision]
        named = [(path, tensor) for path, tensor in model.named_parameters() if tensor.requires_grad]
        self._optimizer = _OPTIMIZERS[optimizer]([tensor for _, tensor in named])
        self._named = named
        self._device = named[0][1].device.type if named else "cpu"
        self.clock: OpClock = CudaClock() if self._device == "cuda" else CpuClock()

    def run(self, steps: int = 1) -> float:
        """Seconds of so many steps. As in a training, nothing waits for the device between them."""
        self.clock.wait()
        began = time.perf_counter()
        for _ in range(steps):
            self._loss().backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
        self.clock.wait()
        return time.perf_counter() - began

    def run_timed(self, watch: Stopwatch, fuse: bool = True) -> list[TimedOp]:
        """The ops of one step with their seconds."""
        watch.restart()
        with ExitStack() as forward:
            forward.enter_context(watch.watching_modules())
            if fuse:
                forward.enter_context(_FusedCalls(watch))
            forward.enter_context(watch)
            loss = self._loss()
        watch.phase = "backward"
        with watch:
            loss.backward()
        trained = [(path, tensor) for path, tensor in self._named if tensor.grad is not None]
        watch.updating(self.optimizer_name, trained, self._optimizer.state)
        with watch:
            self._optimizer.step()
        events = watch.resolve()
        self._optimizer.zero_grad()
        return events

    def _loss(self) -> torch.Tensor:
        with torch.autocast(self._device, dtype=self._autocast, enabled=self._autocast is not None):
            output = self.model(*self.args, **self.kwargs)
            return training_loss(None, output, (self.args, self.kwargs))


# -- matching --------------------------------------------------------------------------------------


def match(ops: Sequence[Op], keys: Sequence[Key]) -> list[int | None]:
    """For each op of the trace, the index of the matching op of the real run, or None.

    Both lists are in the order of execution; a device may omit some copies and add others.
    """
    wanted = [(op.phase, op.name, op.layer) for op in ops]
    if wanted == list(keys):
        return list(range(len(wanted)))
    found: list[int | None] = [None] * len(wanted)
    for block in SequenceMatcher(None, wanted, list(keys), autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            found[block.a + offset] = block.b + offset
    return found


def normalise(op_s: Sequence[float | None], step_s: float) -> tuple[list[float | None], float]:
    """Op times that add up to the step's time, and the share of the step that they covered before.

    The missing time is spent between the ops. It is first spread evenly over them, at most 30 us each; one factor over
    all ops corrects the rest.
    """
    known = [seconds for seconds in op_s if seconds is not None]
    total = sum(known)
    if not known or total <= 0:
        return list(op_s), 0.0
    between = min(max(step_s - total, 0.0) / len(known), _BETWEEN_OPS_S)
    factor = step_s / (total + between * len(known))
    return [None if s is None else (s + between) * factor for s in op_s], total / step_s


@dataclass(frozen=True, slots=True)
class OpTimes:
    """Times of the ops of one step: `seconds` for each op of the workload, adding up to the step.

    `covered` is the share of the step that the ops covered before the correction, and `unmatched` counts ops of the
    trace that the real run did not have.
    """

    seconds: tuple[float | None, ...]
    covered: float
    unmatched: int


def op_times(work: Workload, runs: Sequence[Sequence[TimedOp]], step_s: float, overhead_s: float) -> OpTimes:
    """The median over `runs` (each the events of one timed step) for each op of `work`."""
    keys = [event.key for event in runs[-1]]
    runs = [run for run in runs if [event.key for event in run] == keys]
    medians = [
        max(median(run[i].seconds - overhead_s * len(run[i].spans) for run in runs), 0.0) for i in range(len(keys))
    ]
    found = match(work.ops, keys)
    raw = [None if index is None else medians[index] for index in found]
    seconds, covered = normalise(raw, step_s)
    return OpTimes(tuple(seconds), covered, sum(index is None for index in found))


def stopwatch_overhead_s(device: str = "cpu", calls: int = 2000) -> float:
    """The time that the stopwatch adds to an op on `device` ("cpu" or "gpu").

    A tiny op timed with it, minus the same op without it.
    """
    on_gpu = device == "gpu"
    tiny = torch.ones(1, device="cuda" if on_gpu else "cpu")
    model = nn.Identity()
    clock: OpClock = CudaClock() if on_gpu else CpuClock()

    def plain() -> float:
        clock.wait()
        began = clock.stamp()
        for _ in range(calls):
            torch.neg(tiny)
        ended = clock.stamp()
        clock.wait()
        return clock.seconds(began, ended) / calls

    def timed() -> float:
        watch = Stopwatch(model, clock)
        with watch:
            for _ in range(calls):
                torch.neg(tiny)
        return median(event.seconds for event in watch.resolve())

    with torch.no_grad():
        plain()
        return max(min(timed() for _ in range(5)) - min(plain() for _ in range(5)), 0.0)
