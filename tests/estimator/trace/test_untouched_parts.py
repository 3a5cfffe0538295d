"""What a trace reaches and puts back, and what still keeps its tensors: by hand."""

from __future__ import annotations

import functools
import gc
import io
import typing
from collections import OrderedDict, deque
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from joulecast.estimator.trace import state_records, survivors
from joulecast.estimator.trace import untouched as parts


class Slotted:
    __slots__ = ("__kept__", "__own", "__weakref__", "plain")


class Below(Slotted):
    __slots__ = "single"


def test_names_of_slots() -> None:
    assert parts._slots(Below) == ["single", "__kept__", "_Slotted__own", "plain"]
    assert parts._slots(nn.Linear) == []

    class Generic(typing.Generic[typing.TypeVar("T")], Slotted):  # a class of Python's comes first
        pass

    assert parts._slots(Generic) == ["__kept__", "_Slotted__own", "plain"]

    class _Private:
        __slots__ = ("__own",)

    assert parts._slots(_Private) == ["_Private__own"]

    class Hidden(Slotted):  # as mpmath's constants hide the slot of its numbers
        __slots__ = ()
        plain = property(lambda self: [7])

    assert parts._slots(Hidden) == ["__kept__", "_Slotted__own"]


def test_lists_get_their_elements_back() -> None:
    for values in ([1.5, "a"], deque([1.5, "a"])):
        before = list(values)
        record = state_records.Elements(values)
        for change in (
            lambda values=values: values.append(3),
            lambda values=values: values.__setitem__(0, 9.0),
            lambda values=values: values.pop(),
            lambda values=values: values.clear(),
            lambda: None,
        ):
            change()
            record.put_back()
            assert list(values) == before


def test_a_stand_in_takes_its_originals_place_in_a_list() -> None:
    x, y, stand_in = torch.zeros(2), torch.zeros(3), torch.zeros(4)
    values = [y, x, y]
    record = state_records.Elements(values)
    record.swap({id(x): stand_in})
    assert [id(one) for one in values] == [id(y), id(stand_in), id(y)]
    record.put_back()
    assert [id(one) for one in values] == [id(y), id(x), id(y)]


def test_sets_get_their_members_back() -> None:
    values = {1, 2}
    record = state_records.Members(values)
    for change in (lambda: values.add(3), lambda: values.remove(1), lambda: values.clear(), lambda: None):
        change()
        record.put_back()
        assert values == {1, 2}


def test_a_set_that_did_not_change_is_not_written() -> None:
    class Counts(set[int]):
        cleared = 0

        def clear(self) -> None:
            Counts.cleared += 1
            super().clear()

    values = Counts((1, 2))
    record = state_records.Members(values)
    record.put_back()
    assert Counts.cleared == 0
    values.add(3)
    record.put_back()
    assert (Counts.cleared, set(values)) == (1, {1, 2})


def test_shared_variables_are_put_back_even_if_they_were_empty() -> None:
    def around() -> Any:
        if False:
            shared = 1

        def read() -> Any:
            return shared

        def write(value: Any) -> None:
            nonlocal shared
            shared = value

        return read, write

    read, write = around()
    (cell,) = read.__closure__
    record = state_records.Cell(cell)
    record.put_back()
    write(3)
    record.put_back()
    with pytest.raises(NameError):
        read()
    write(4)
    record = state_records.Cell(cell)
    write(5)
    record.put_back()
    assert read() == 4
    x, stand_in = torch.zeros(1), torch.zeros(2)
    write(x)
    record = state_records.Cell(cell)
    record.swap({id(x): stand_in})
    assert read() is stand_in
    record.put_back()
    assert read() is x


def test_which_objects_are_not_looked_into() -> None:
    class Own:
        pass

    class OwnList(list[Any]):
        pass

    import threading
    import types

    for kind in (Own, OwnList, nn.Linear, dict, set, deque, types.SimpleNamespace, functools.partial, threading.local):
        assert not parts._closed(kind), kind

    class Trainer:
        pass

    class OwnTrainer(Trainer):
        pass

    for kind in (numpy.ndarray, type(threading.Lock()), type(threading.RLock()), state_records.Cell, threading.Thread):
        assert parts._closed(kind), kind
    for kind in (io.StringIO, torch.optim.SGD, torch.utils.data.DataLoader, Trainer, OwnTrainer):
        assert parts._closed(kind), kind


def test_modules_whose_state_belongs_to_no_model() -> None:
    for name in ("", "torch", "torch.nn", "json.decoder", "numpy.random", "joulecast.estimator"):
        assert parts._is_system(name), name
    for name in ("__main__", "own", "own.torch", "torchvision"):
        assert not parts._is_system(name), name


def test_values_and_what_modules_import() -> None:
    for value in (1, 1.0, 1j, "a", b"a", True, None, [], {}, set(), (), frozenset(), deque(), torch.zeros(1)):
        assert state_records.is_value(value)
    for value in (len, torch, nn.Linear, nn.Linear(1, 1), object()):
        assert not state_records.is_value(value)


def test_attributes_of_an_object() -> None:
    layer = nn.Linear(1, 1)
    assert state_records.own_dict(layer) is layer.__dict__
    assert state_records.own_dict(object()) is None
    assert state_records.own_dict(nn.Linear) is None  # a view of a class body


def test_torchs_own_state_is_put_back() -> None:
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with parts._torch_state():
                assert torch.is_grad_enabled() is grad
                torch.set_default_dtype(torch.float64)
                torch.set_grad_enabled(not grad)
            assert torch.get_default_dtype() is torch.float32
            assert torch.is_grad_enabled() is grad
    with torch.inference_mode():
        with parts._torch_state():
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()


def test_entries_with_a_tensor_are_deleted_whatever_the_dictionary() -> None:
    class Refuses(dict[Any, Any]):
        def __delitem__(self, key: Any) -> None:
            raise TypeError("no")

    x = torch.zeros(1)
    for names in ({"a": x, "b": 1}, Refuses(a=x, b=1), OrderedDict(a=x, b=1)):
        survivors._delete(names, {id(x)})
        assert list(names.items()) == [("b", 1)]


class ListOf(list[Any]):
    def __setitem__(self, *_: Any) -> None:
        raise TypeError("no")


class Box:
    def __init__(self, value: Any) -> None:
        self.value, self.other = value, 1


def nested(tensor: torch.Tensor, depth: int) -> Any:
    value: Any = tensor
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (lambda t: [t, 1], lambda keeper: keeper == [1]),
        (lambda t: ListOf([t, 1]), lambda keeper: list(keeper) == [1]),
        (lambda t: {"a": t, "b": 1}, lambda keeper: keeper == {"b": 1}),
        (lambda t: Box(t), lambda keeper: vars(keeper) == {"other": 1}),
        (lambda t: [nested(t, 1), 1], lambda keeper: keeper == [1]),
        (lambda t: [nested(t, 3), 1], lambda keeper: keeper == [1]),
        (lambda t: [nested(t, 4), 1], lambda keeper: len(keeper) == 2),  # deeper than it looks
    ],
)
def test_tensors_are_taken_from_what_keeps_them(keep: Any, kept: Any, only_new_objects: None) -> None:
    tensor = torch.empty(3, device="meta")
    keeper = keep(tensor)
    found = [tensor]
    survivors._release(found)
    assert len(found) == 1
    assert kept(keeper)


def test_a_cache_that_keeps_tensors_is_emptied(only_new_objects: None) -> None:
    @functools.lru_cache
    def cached(size: int) -> torch.Tensor:
        return torch.empty(size, device="meta")

    cached(3)
    found = [cached(3)]
    survivors._release(found)
    assert cached.cache_info().currsize == 0


def test_tensors_of_a_trace_that_something_keeps_are_released_or_named() -> None:
    gc.collect()
    kept: list[Any] = []
    found = survivors.Survivors()
    kept.append(torch.empty(3, device="meta"))
    assert found.released() == []
    assert kept == []
    old = torch.empty(3, device="meta")
    found = survivors.Survivors()
    assert found.released() == []
    assert gc.get_freeze_count() == 0
    deep: list[Any] = []
    found = survivors.Survivors()
    deep.append(nested(torch.empty(3, device="meta"), 5))
    assert found.released() == ["tensors of the trace that are still kept by a tuple: 1"]
    assert old.is_meta


def test_objects_that_were_frozen_before_stay_frozen(only_new_objects: None) -> None:
    before = gc.get_freeze_count()
    assert before > 0
    found = survivors.Survivors()
    kept = [torch.empty(3, device="meta"), torch.zeros(3)]
    assert found.released() == []
    assert gc.get_freeze_count() >= before
    assert [tensor.device.type for tensor in kept] == ["cpu"]  # real tensors stay


def test_without_new_stand_ins_nothing_is_collected(monkeypatch: pytest.MonkeyPatch, only_new_objects: None) -> None:
    collected: list[int] = []
    found = survivors.Survivors()
    monkeypatch.setattr(survivors.gc, "collect", lambda: collected.append(1))
    assert found.released() == []
    assert collected == []


def test_stand_ins_that_are_only_garbage_are_collected(monkeypatch: pytest.MonkeyPatch, only_new_objects: None) -> None:
    found = survivors.Survivors()
    cycle: list[Any] = [torch.empty(3, device="meta")]
    cycle.append(cycle)
    del cycle
    monkeypatch.setattr(survivors, "_release", None)  # is not called
    assert found.released() == []


class Mixin:
    counts: list[int] = [0]  # noqa: RUF012
    number = 0


class Model(nn.Linear, Mixin):
    """torch's own class comes before one of the user's."""


class Keyed(dict[str, Any]):
    pass


def around(value: list[int]) -> Any:
    def inner() -> list[int]:
        return value

    return inner


def default(x: int, values: list[int] = [0], *, named: list[int] = [0]) -> tuple[list[int], list[int]]:  # noqa: B006
    return values, named


SHARED = [0]


def uses_a_global() -> list[int]:
    return SHARED


class Method:
    def __init__(self) -> None:
        self.values = [0]

    def call(self) -> list[int]:
        return self.values


METHOD, KEYED, LISTED = Method(), Keyed(a=[0]), [[0]]
SLOTTED = Slotted()
SLOTTED.plain = [0]
FUNCTION = around([9])
FUNCTION.kept = [0]
IN_CELL = around([0])


@pytest.mark.parametrize(
    ("root", "values"),
    [
        (Model(2, 2), Mixin.counts),
        (Model, Mixin.counts),
        (default, default(1)[0]),
        (default, default(1)[1]),
        (IN_CELL, IN_CELL()),
        (FUNCTION, FUNCTION.kept),
        (uses_a_global, SHARED),
        (METHOD.call, METHOD.values),
        (functools.partial(print, LISTED), LISTED[0]),
        (functools.partial(print, end=LISTED), LISTED[0]),
        (functools.partial(IN_CELL), IN_CELL()),
        (KEYED, KEYED["a"]),
        ((1, (LISTED,)), LISTED[0]),
        (deque([LISTED]), LISTED[0]),
        (SLOTTED, SLOTTED.plain),
    ],
)
def test_what_a_trace_reaches_is_put_back(root: Any, values: list[int]) -> None:
    assert values == [0]
    with parts.untouched(root):
        values.append(1)
    assert values == [0]


class Unrelated:
    counts: list[int] = []  # noqa: RUF012


lower_case = [0]
globals()["__dunder"] = [0]


def test_classes_and_names_of_python_among_globals_are_not_visited() -> None:
    """A class that no object belongs to may be anything; what modules define with two underscores is Python's."""
    with parts.untouched(uses_a_global):
        for values in (Unrelated.counts, globals()["__dunder"], lower_case):
            values.append(1)
    assert Unrelated.counts == [1]
    assert globals()["__dunder"] == [0, 1]
    assert lower_case == [0]
    Unrelated.counts.clear()
    globals()["__dunder"].pop()


def test_a_modules_globals_are_recorded_once_and_those_of_torch_never() -> None:
    class Elsewhere:
        __module__ = "a_module_that_is_gone"

    record = parts.Reached((uses_a_global, default, METHOD.call, nn.functional.relu, Elsewhere()))
    found = [one for one in record._records if isinstance(one, state_records.Globals)]
    assert [one._names is globals() for one in found] == [True]


def test_a_record_ends_at_the_largest_number_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts.MAX_OBJECTS == 300_000
    values: list[Any] = [[], [], []]
    for most, notes in ((3, ["the model reaches more than 3 objects: not all were recorded"]), (4, [])):
        monkeypatch.setattr(parts, "MAX_OBJECTS", most)
        record = parts.Reached((values,))
        assert len(record._seen) == most
        assert record.notes == notes


def test_globals_get_their_values_back_and_keep_definitions() -> None:
    def one() -> None: ...
    def two() -> None: ...

    names: dict[str, Any] = {"number": 1, "gone": 2, "function": one, "both": one, "same": 3, "other": one, "lost": one}
    record = state_records.Globals(names)
    names.update(number=5, function=two, both=7, added=8, imported=two)
    del names["gone"], names["lost"]
    names["other"] = torch
    record.put_back()
    restored = {"number": 1, "gone": 2, "both": one, "same": 3, "lost": one}
    assert names == {**restored, "function": two, "other": torch, "imported": two}
    names["number"] = two  # a value that became a function
    record.put_back()
    assert names["number"] == 1


def test_numbers_of_classes_and_modules_are_put_back() -> None:
    global NEW
    with parts.untouched(Model(2, 2), uses_a_global):
        Mixin.number = 5
        Mixin.added = 6  # type: ignore[attr-defined]
        NEW = 7
    assert Mixin.number == 0
    assert not hasattr(Mixin, "added")
    assert "NEW" not in globals()
    with parts.untouched(uses_a_global):
        globals()["imported"] = len  # what was defined or imported meanwhile stays
    assert globals().pop("imported") is len
