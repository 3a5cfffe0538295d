"""Contents of objects and single records of what a trace reaches: put back, by hand."""

from __future__ import annotations

import gc
import random
import weakref
from collections import OrderedDict
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from joulecast.estimator.trace import state_records
from joulecast.estimator.trace import untouched as parts


class Slotted:
    __slots__ = ("__kept__", "__own", "__weakref__", "plain")


def test_arrays_up_to_64_mib_that_can_be_written_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_records._MAX_ARRAY_BYTES == 64 * 1024 * 1024
    monkeypatch.setattr(state_records, "_MAX_ARRAY_BYTES", 24)
    fits, large, fixed = numpy.zeros(3), numpy.zeros(4), numpy.zeros(3)
    fixed.flags.writeable = False
    objects = numpy.zeros(3, dtype=object)
    record = state_records.content_of(fits)
    assert record is not None
    fits[1] = numpy.nan
    record.put_back()
    assert fits.tolist() == [0.0] * 3
    for value in (large, fixed, objects, numpy.float64(3), "text"):
        assert state_records.content_of(value) is None
    for number in (1.0, -1.0, 2.0):
        one = numpy.ones(1)
        record = state_records.content_of(one)
        assert record is not None
        one[0] = number
        record.put_back()
        assert one.tolist() == [1.0]


@pytest.mark.parametrize(
    ("source", "draw"),
    [
        (random.Random(3), lambda source: source.random()),
        (numpy.random.RandomState(3), lambda source: source.rand()),
        (numpy.random.default_rng(3), lambda source: source.random()),
        (torch.Generator().manual_seed(3), lambda source: torch.rand((), generator=source).item()),
    ],
)
def test_sources_of_random_numbers_are_put_back(source: Any, draw: Any) -> None:
    record = state_records.content_of(source)
    assert record is not None
    first = draw(source)
    assert draw(source) != first
    record.put_back()
    assert draw(source) == first


def test_each_try_starts_from_the_same_random_numbers_and_none_is_used_up() -> None:
    def drawn() -> list[float]:
        return [random.random(), float(numpy.random.rand()), torch.rand(()).item()]

    states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with parts.untouched() as reached:
        tries = []
        for _ in range(2):
            with reached.attempt():
                tries.append(drawn())
    assert tries[0] == tries[1]
    own = torch.Generator().manual_seed(0)
    first = random.Random(0).random(), numpy.random.RandomState(0).rand(), torch.rand((), generator=own).item()
    assert tries[0] == list(first)
    after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert states == after


def test_a_tensors_gradient_flag_and_attributes_are_put_back() -> None:
    grad = torch.ones(2)
    for tensor, gradient in ((torch.zeros(2, requires_grad=True), grad), (torch.zeros(2), None)):
        tensor.grad = gradient
        tensor.own = 1  # type: ignore[attr-defined]
        flag = tensor.requires_grad
        record = state_records.TensorState(tensor)
        tensor.grad = torch.zeros(2)
        tensor.requires_grad_(not flag)
        tensor.own, tensor.added = 2, 3  # type: ignore[attr-defined]
        record.put_back()
        assert tensor.grad is gradient
        assert tensor.requires_grad is flag
        assert vars(tensor) == {"own": 1}
    state_records.TensorState(torch.zeros(2, requires_grad=True) * 2).put_back()  # no leaf has no gradient


def test_slots_are_put_back_and_emptied() -> None:
    owner = Slotted()
    owner.plain = 1
    record = state_records.Slots(owner, ["plain", "_Slotted__own"])
    owner.plain = 2
    object.__setattr__(owner, "_Slotted__own", 3)
    record.put_back()
    assert owner.plain == 1
    assert not hasattr(owner, "_Slotted__own")
    del owner.plain
    record.put_back()
    assert owner.plain == 1
    x, stand_in = torch.zeros(1), torch.zeros(2)
    owner.plain = x
    record = state_records.Slots(owner, ["plain"])
    record.swap({id(x): stand_in})
    assert owner.plain is stand_in
    record.swap({})
    assert owner.plain is stand_in


def test_a_class_keeps_its_methods_and_gets_its_values_back() -> None:
    class Own:
        number, gone, table = 1, 2, {"a": 1}

        def method(self) -> int:
            return 1

    def other(self: Any) -> int:
        return 2

    table = Own.table
    record = state_records.ClassBody(Own)
    Own.number, Own.table, Own.method = 5, {}, other  # type: ignore[method-assign]
    Own.new, Own.late = 3, other  # type: ignore[attr-defined]
    del Own.gone
    record.put_back()
    assert (Own.number, Own.gone, Own.table is table) == (1, 2, True)
    assert not hasattr(Own, "new")
    assert Own.method is other  # what a library patched in
    Own.number, Own.method = other, 3  # type: ignore[assignment, method-assign]
    record.put_back()
    assert Own.number == 1
    assert callable(Own.method)
    assert Own.late is other  # type: ignore[attr-defined]


def test_dictionaries_keep_their_order_and_refuse_nothing() -> None:
    x, stand_in = torch.zeros(1), torch.zeros(2)
    for names in ({"a": x, "b": 1}, OrderedDict(a=x, b=1)):
        record = state_records.Items(names)
        record.swap({id(x): stand_in})
        assert names["a"] is stand_in
        for change in (
            lambda names=names: names.pop("a"),
            lambda names=names: names.update(c=1),
            lambda names=names: names.update(b=2),
            lambda names=names: names.update(a=names.pop("a")),
            lambda: None,
        ):
            change()
            record.put_back()
            assert list(names.items()) == [("a", x), ("b", 1)]


def test_failed_calls_keep_nothing_alive(only_new_objects: None) -> None:
    class Kept:
        pass

    alive: list[weakref.ref[Kept]] = []

    def fails() -> None:
        kept = Kept()
        alive.append(weakref.ref(kept))
        raise ValueError("no")

    def fails_again() -> None:
        kept = Kept()
        alive.append(weakref.ref(kept))
        try:
            fails()
        except ValueError as error:
            raise RuntimeError("no") from error

    with pytest.raises(RuntimeError) as caught:
        fails_again()
    cause = caught.value.__cause__
    assert cause is not None
    cause.__cause__ = caught.value  # an endless chain
    assert [reference() is None for reference in alive] == [False, False]
    parts._clear_frames(caught.value)
    gc.collect()
    assert [reference() is None for reference in alive] == [True, True]
    cause.__cause__ = None
    parts._clear_frames(None)


def test_actions_are_undone_once_the_last_first() -> None:
    done: list[int] = []
    reached = parts.Reached(())
    reached.undo(lambda: done.append(1))
    reached.undo(lambda: done.append(2))
    reached.put_back()
    reached.put_back()
    assert done == [2, 1]


def test_a_lazy_modules_class_is_put_back() -> None:
    module = nn.LazyLinear(2)
    record = state_records.ModuleClass(module)
    module.__class__ = nn.Linear
    record.put_back()
    assert type(module) is nn.LazyLinear
