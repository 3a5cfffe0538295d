"""State that a model keeps between calls is the same after a trace, and training continues as without one."""

from __future__ import annotations

import copy
import functools
import gc
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import joulecast as jc
from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.trace import trace

from .snapshots import left_beside, meta_tensors, picture

TABLES: dict[Any, Any] = {}
LATEST: Any = None
LOCAL = threading.local()


@functools.lru_cache(maxsize=8)
def cached_table(size: int, device: torch.device) -> tuple[torch.Tensor, int]:
    return torch.ones(size, device=device), size


class Base(nn.Module):
    """Two layers, and a value between them that a subclass keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x


class KeepsAttribute(Base):
    table = None  # of the class, until the first call

    def between(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.ones(8, device=x.device)
        return x * self.table


class KeepsInContainers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, Any] = {"old": torch.ones(3), "inner": {"deep": [1, 2]}}
        self.items: list[Any] = [torch.ones(2)]
        self.recent: deque[Any] = deque([1, 2, 3], maxlen=3)
        self.sizes: set[int] = set()

    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.names.setdefault("mask", torch.ones(8, device=x.device))
        self.names["inner"]["deep"].append(x.detach())
        self.names.pop("old", None)
        self.items.append(x)
        self.recent.append(x)
        self.sizes.add(len(x))
        return x * self.names["mask"]


class Notes:
    __slots__ = ("calls", "table")

    def __init__(self) -> None:
        self.calls = 0


class KeepsInObject(Base):
    def __init__(self) -> None:
        super().__init__()
        self.notes = Notes()

    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.notes.calls += 1
        if not hasattr(self.notes, "table"):
            self.notes.table = torch.ones(8, device=x.device)
        return x * self.notes.table


class KeepsInClass(Base):
    shared: Any = None
    by_size: ClassVar[dict[int, Any]] = {}

    def between(self, x: torch.Tensor) -> torch.Tensor:
        cls = type(self)
        if cls.shared is None:
            cls.shared = torch.ones(8, device=x.device)
        return x * cls.shared * cls.by_size.setdefault(8, torch.ones(8, device=x.device))


class KeepsInGlobal(Base):
    def between(self, x: torch.Tensor) -> torch.Tensor:
        global LATEST
        if LATEST is None:
            LATEST = torch.ones(8, device=x.device)
        return x * LATEST * TABLES.setdefault("scale", torch.ones(8, device=x.device))


class KeepsInLruCache(Base):
    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * cached_table(8, x.device if x.is_meta else torch.device("cpu"))[0] * unkeyed_table(8)


@functools.cache
def unkeyed_table(size: int) -> torch.Tensor:
    return torch.ones(size)


class KeepsInDefault(Base):
    def between(self, x: torch.Tensor, kept: dict[str, Any] = {}) -> torch.Tensor:  # noqa: B006
        return x * kept.setdefault("table", torch.ones(8, device=x.device))


class KeepsInThread(Base):
    def between(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(LOCAL, "table"):
            LOCAL.table = torch.ones(8, device=x.device)
        return x * LOCAL.table


class KeepsWeakly(Base):
    def __init__(self) -> None:
        super().__init__()
        self.of: Any = weakref.WeakKeyDictionary()

    def __deepcopy__(self, memo: Any) -> KeepsWeakly:
        twin = KeepsWeakly()
        twin.load_state_dict(self.state_dict())
        return twin

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.of.setdefault(self.first, torch.ones(8, device=x.device))


class KeepsInClosure(Base):
    def __init__(self) -> None:
        super().__init__()
        table, seen = None, []

        def scaled(x: torch.Tensor) -> torch.Tensor:
            nonlocal table
            if table is None:
                table = torch.ones(8, device=x.device)
            seen.append(x)
            return x * table

        self.scaled = scaled

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(x)


class WritesTensor(Base):
    """A queue and a counter that are tensors but not buffers, and an array."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.calls, self.counts = torch.zeros(4, 8), torch.zeros(()), np.zeros(3)
        self.leaf = torch.ones(8, requires_grad=True)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.queue[:2] = x[:2].detach()
        self.calls += 1
        self.counts[0] += 1
        return x * self.leaf


class WritesParameters(Base):
    """Clips its weights in forward, as critics of Wasserstein GANs do."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.second.weight.data.clamp_(-0.01, 0.01)
        with torch.no_grad():
            self.second.bias.mul_(0.5)
        return x


class Draws(Base):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.numbers, self.arrays = random.Random(4), np.random.default_rng(5)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        scale = random.random() + np.random.rand() + self.numbers.random() + self.arrays.random()
        noise = torch.rand(8, generator=self.generator)
        return F.dropout(x, 0.5) * scale * noise.to(x.device)


class Toggles(Base):
    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.second.eval()
        self.first.bias.requires_grad_(False)
        self.second.register_forward_hook(lambda module, args, output: None)
        torch.set_default_dtype(torch.float64)
        return x


class Changes(Base):
    """Replaces its own layers, as code that fuses layers in its first call does."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.second, nn.Linear):
            self.second = nn.Sequential(nn.Linear(8, 3, device=x.device))
            self.extra = nn.Parameter(torch.ones(1, device=x.device))
            self.register_buffer("late", torch.ones(1, device=x.device))
        return x


class Lazy(Base):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LazyLinear(8)


class Norms(Base):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


class Recomputes(Base):
    def __init__(self, reentrant: bool = True) -> None:
        super().__init__()
        self.body, self.reentrant = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), reentrant

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


class Fails(KeepsAttribute):
    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.later = torch.ones(3, device=x.device)
        random.random()
        if not x.isfinite().all() or x.device.type == "meta" or type(x) is not torch.Tensor:
            raise RuntimeError("this model cannot be traced")
        return super().between(x)


KINDS: list[Callable[[], nn.Module]] = [
    *(Base, KeepsAttribute, KeepsInContainers, KeepsInObject, KeepsInClass, KeepsInGlobal, KeepsInLruCache),
    *(KeepsInDefault, KeepsInThread, KeepsWeakly, KeepsInClosure, WritesTensor, WritesParameters, Draws, Toggles),
    *(Changes, Lazy, Norms, Recomputes, functools.partial(Recomputes, False), Fails),
]


def named(kind: Any) -> str:
    return getattr(kind, "__name__", "RecomputesNew")


@pytest.fixture(autouse=True)
def fresh() -> None:
    nothing_kept()


def nothing_kept() -> None:
    global LATEST
    LATEST = None
    TABLES.clear()
    cached_table.cache_clear()
    unkeyed_table.cache_clear()
    LOCAL.__dict__.clear()
    KeepsInClass.shared = None
    KeepsInClass.by_size.clear()
    KeepsInDefault.between.__defaults__[0].clear()


@pytest.fixture(scope="module")
def known() -> list[torch.Tensor]:
    """The meta tensors of other modules' tests."""
    return meta_tensors()


def surroundings() -> Any:
    generators = (random.getstate(), torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()))
    kept = picture(TABLES), picture(LATEST), picture(LOCAL.__dict__), picture(KeepsInClass.shared)
    defaults = picture(KeepsInDefault.between.__defaults__), picture(KeepsInClass.by_size), KeepsAttribute.table
    caches = cached_table.cache_info().currsize, unkeyed_table.cache_info().currsize
    return generators, kept, defaults, caches, torch.get_default_dtype(), torch.is_grad_enabled()


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_a_trace_leaves_everything_as_it_was(
    kind: Callable[[], nn.Module], train: bool, layers: bool, known: list[torch.Tensor]
) -> None:
    model = kind()
    if kind is not Lazy:
        model.first.weight.grad = torch.ones_like(model.first.weight)
    inputs = torch.randn(4, 8)
    before, around = picture(model), surroundings()
    try:
        trace(model, inputs, train=train, layers=layers)
    except JoulecastError:
        assert kind is Fails
    assert surroundings() == around
    assert picture(model) == before
    if left_beside(known):
        gc.collect()
        assert not left_beside(known)


@pytest.mark.parametrize("how", ["trace", "budget", "budget on the first batch"])
@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_training_ends_bit_for_bit_as_without_joulecast(kind: Callable[[], nn.Module], how: str) -> None:
    torch.manual_seed(0)
    alone = kind()
    alone.first(torch.zeros(2, 8))  # lazy layers get their shape
    watched = copy.deepcopy(alone)
    nothing_kept()
    without = trained(alone, None)
    nothing_kept()
    assert trained(watched, how) == without


def trained(model: nn.Module, how: str | None) -> list[bytes]:
    """Weights, buffers and gradients after three steps; gradients are cleared after a step, not before it."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    data = [torch.randn(4, 8) for _ in range(3)]
    optimizer = torch.optim.SGD((p for p in model.parameters()), 0.1)
    if how == "trace":
        try:
            trace(model, data[0], layers=True)
        except JoulecastError:
            assert isinstance(model, Fails)

    def steps(done: Callable[[], None]) -> None:
        for batch in data:
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            done()

    if how in (None, "trace"):
        steps(lambda: None)
    else:
        inputs = (data[0],) if how == "budget" else None
        budget = jc.Budget("1 kWh", hardware="i7-4770", meter="none")
        with budget.watch(model, inputs, steps=3, optimizer=optimizer) as run:
            steps(run.step)
    torch.set_default_dtype(torch.float32)
    state = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return [tensor.numpy().tobytes() for tensor in state]


class FillsWhenRead:
    """Fills a slot when it is first read, as SQLAlchemy's objects do, and cannot fill another."""

    __slots__ = ("never", "value")

    def __getattr__(self, name: str) -> Any:
        if name == "never":
            raise TypeError("cannot be read yet")
        self.value = 7
        return self.value


def test_slots_that_are_filled_when_they_are_read_stay_empty() -> None:
    class Keeps(Base):
        def __init__(self) -> None:
            super().__init__()
            self.lazy = FillsWhenRead()

    net = Keeps()
    trace(net, torch.zeros(2, 8))
    with pytest.raises(AttributeError):
        object.__getattribute__(net.lazy, "value")


class Number:
    __slots__ = ("value",)


class Constant(Number):
    """Computes in each call what its base keeps in a slot, as mpmath's constants do."""

    __slots__ = ()
    value = property(lambda self: object())  # type: ignore[assignment]


def test_properties_in_place_of_slots_are_not_written() -> None:
    class Keeps(Base):
        def __init__(self) -> None:
            super().__init__()
            self.pi = Constant()

    net = Keeps()
    assert trace(net, torch.zeros(2, 8)).tracer == "meta"


class Refuses(dict[str, Any]):
    """An output that entries cannot be deleted from, as those of transformers."""

    def __delitem__(self, key: str) -> None:
        raise TypeError("no")


class FailsLate(Base):
    """Fails after layers whose outputs their own autograd nodes keep."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.latest = Refuses(hidden=torch.relu(x))
        raise ValueError("late")


def test_a_step_that_fails_leaves_no_tensors_and_names_its_own_error() -> None:
    before = meta_tensors()
    with pytest.raises(JoulecastError, match="ValueError: late"):
        trace(FailsLate(), torch.zeros(4, 8))
    assert not left_beside(before)


def test_values_of_inputs_are_those_of_the_user() -> None:
    """Inputs in a dictionary too, which the trace fills with stand-ins meanwhile."""

    class ByValue(Base):
        def forward(self, x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
            for _ in range(int(repeats)):
                x = self.first(x)
            return x

    inputs = {"x": torch.zeros(4, 8), "repeats": torch.tensor(5)}
    work = trace(ByValue(), inputs, batch_size=4, layers=False)
    assert work.tracer == "meta"
    assert work.forward_flops == 5 * 4 * 8 * 8
    assert int(inputs["repeats"]) == 5


def test_an_error_that_is_the_context_of_its_own_cause_ends() -> None:
    class Raises(Base):
        def between(self, x: torch.Tensor) -> torch.Tensor:
            first, second = ValueError("first"), KeyError("second")
            first.__cause__, second.__context__ = second, first
            raise first

    with pytest.raises(JoulecastError, match="first"):
        trace(Raises(), torch.zeros(2, 8))


def scripted() -> nn.Module:
    """Of a class of its own: instances of one class share the record of their runs."""

    class Scripted(torch.jit.ScriptModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        @torch.jit.script_method
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = torch.tanh(self.layer(x))
            return x

    return Scripted()


@pytest.mark.filterwarnings("ignore")
def test_scripted_code_computes_as_without_a_trace() -> None:
    """PyTorch counts the runs of scripted code, and computes its gradients otherwise after some of them."""

    def after_training(is_traced: bool) -> bytes:
        torch.manual_seed(0)
        model = scripted()
        data = [torch.randn(2, 64) for _ in range(3)]
        if is_traced:
            trace(model, data[0], layers=False)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for batch in data:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
        return bytes(next(model.parameters()).detach().numpy().tobytes())

    assert after_training(False) == after_training(False)
    assert after_training(True) == after_training(False)
