"""What a trace puts back, record by record, and what still keeps its tensors: by hand."""

from __future__ import annotations

import functools
import gc
from collections import OrderedDict, deque
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.trace import untouched as parts


class Slotted:
    __slots__ = ("__own", "__weakref__", "plain")


class Below(Slotted):
    __slots__ = "single"


def test_names_of_slots() -> None:
    assert parts._slots(Below) == ["single", "_Slotted__own", "plain"]
    assert parts._slots(nn.Linear) == []


def test_lists_get_their_elements_back() -> None:
    for values in ([1.5, "a"], deque([1.5, "a"])):
        before = list(values)
        record = parts._Elements(values)
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
    record = parts._Elements(values)
    record.swap({id(x): stand_in})
    assert [id(one) for one in values] == [id(y), id(stand_in), id(y)]
    record.put_back()
    assert [id(one) for one in values] == [id(y), id(x), id(y)]


def test_sets_get_their_members_back() -> None:
    values = {1, 2}
    record = parts._Members(values)
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
    record = parts._Members(values)
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
    record = parts._Cell(cell)
    record.put_back()
    write(3)
    record.put_back()
    with pytest.raises(NameError):
        read()
    write(4)
    record = parts._Cell(cell)
    write(5)
    record.put_back()
    assert read() == 4
    x, stand_in = torch.zeros(1), torch.zeros(2)
    write(x)
    record = parts._Cell(cell)
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

    import numpy

    for kind in (Own, OwnList, nn.Linear, dict, set, deque, types.SimpleNamespace, functools.partial, threading.local):
        assert not parts._closed(kind), kind
    for kind in (numpy.ndarray, type(threading.Lock()), parts._Cell, threading.Thread):
        assert parts._closed(kind), kind


def test_values_and_what_modules_import() -> None:
    for value in (1, 1.0, 1j, "a", b"a", True, None, [], {}, set(), (), frozenset(), deque(), torch.zeros(1)):
        assert parts._is_value(value)
    for value in (len, torch, nn.Linear, nn.Linear(1, 1), object()):
        assert not parts._is_value(value)


def test_attributes_of_an_object() -> None:
    layer = nn.Linear(1, 1)
    assert parts._own_dict(layer) is layer.__dict__
    assert parts._own_dict(object()) is None
    assert parts._own_dict(nn.Linear) is None  # a view of a class body


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
        parts._delete(names, {id(x)})
        assert list(names.items()) == [("b", 1)]


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
        (lambda t: {"a": t, "b": 1}, lambda keeper: keeper == {"b": 1}),
        (lambda t: Box(t), lambda keeper: vars(keeper) == {"other": 1}),
        (lambda t: [nested(t, 1), 1], lambda keeper: keeper == [1]),
        (lambda t: [nested(t, 3), 1], lambda keeper: keeper == [1]),
        (lambda t: [nested(t, 4), 1], lambda keeper: len(keeper) == 2),  # deeper than it looks
    ],
)
def test_tensors_are_taken_from_what_keeps_them(keep: Any, kept: Any) -> None:
    tensor = torch.empty(3, device="meta")
    keeper = keep(tensor)
    found = [tensor]
    parts._release(found)
    assert len(found) == 1
    assert kept(keeper)


def test_a_cache_that_keeps_tensors_is_emptied() -> None:
    @functools.lru_cache
    def cached(size: int) -> torch.Tensor:
        return torch.empty(size, device="meta")

    cached(3)
    found = [cached(3)]
    parts._release(found)
    assert cached.cache_info().currsize == 0


def test_tensors_of_a_trace_that_something_keeps_are_released_or_named() -> None:
    gc.collect()
    kept: list[Any] = []
    survivors = parts._Survivors()
    kept.append(torch.empty(3, device="meta"))
    assert survivors.released() == []
    assert kept == []
    old = torch.empty(3, device="meta")
    survivors = parts._Survivors()
    assert survivors.released() == []
    assert gc.get_freeze_count() == 0
    deep: list[Any] = []
    survivors = parts._Survivors()
    deep.append(nested(torch.empty(3, device="meta"), 5))
    assert survivors.released() == ["1 tensors of the trace are still kept by a tuple"]
    assert old.is_meta


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
