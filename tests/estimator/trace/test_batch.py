"""Arguments, tensors, samples and tokens that are found in the inputs of a call."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.batch import (
    call_arguments,
    is_list_of_samples,
    leads_with_batch,
    samples_in,
    tensors_in,
    tokens_per_sample,
)

X, Y = torch.zeros(4, 3), torch.zeros(4, 5)
IDS = torch.zeros(4, 7, dtype=torch.int64)


class Plain(nn.Module):
    def forward(self, x: Any, y: Any = None) -> Any:
        return x


class Whole(nn.Module):
    def forward(self, batch: Any) -> Any:
        return batch


class Keywords(nn.Module):
    def forward(self, **inputs: Any) -> Any:
        return inputs


class Two(nn.Module):
    def forward(self, first: Any, second: Any) -> Any:
        return first


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (X, (X,), {}),
        ((X, Y), (X, Y), {}),
        ([X, Y], (X, Y), {}),
        (((X,), {"y": Y}), (X,), {"y": Y}),
        (((X,),), ((X,),), {}),
    ],
)
def test_arguments(inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert call_arguments(inputs, Plain()) == (args, kwargs)


def test_a_named_tuple_is_one_argument() -> None:
    batch = Pair(X, Y)
    assert call_arguments(batch, Plain()) == ((batch,), {})


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        (Whole(), True),
        (Plain(), False),  # a parameter has the name of a key
        (Keywords(), False),
        (Two(), False),  # one argument would not be enough
    ],
)
def test_a_mapping_is_the_batch_or_its_keywords(model: nn.Module, whole: bool) -> None:
    batch = {"x": X, "label": Y}
    assert call_arguments(batch, model) == (((batch,), {}) if whole else ((), batch))


def test_a_forward_without_a_signature_takes_keywords() -> None:
    model = nn.Module()
    model.forward = type("Opaque", (), {"__call__": lambda *_: None, "__signature__": "none"})()
    assert call_arguments({"x": X}, model) == ((), {"x": X})


@dataclass
class Graph:
    nodes: torch.Tensor
    edges: Any


class Holder:
    def __init__(self) -> None:
        self.x, self.__hidden, self.__private__ = X, Y, IDS


def test_tensors_are_found_wherever_inputs_keep_them_in_order() -> None:
    nested = {"a": [X, (Y, None, 3, "text")], "g": Graph(IDS, [X])}
    assert [id(tensor) for tensor in tensors_in(nested)] == [id(X), id(Y), id(IDS), id(X)]
    assert {id(tensor) for tensor in tensors_in(Holder())} == {id(X), id(Y)}
    for other in (nn.Linear(2, 2), Graph, len, "text", None):
        assert list(tensors_in(other)) == []


def test_endless_nesting_ends() -> None:
    loop: list[Any] = [X]
    loop.append(loop)
    assert all(tensor is X for tensor in tensors_in(loop))


class Box:
    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass
class Field:
    value: Any


CONTAINERS = [lambda part: [part], lambda part: (part,), lambda part: {"key": part}, Box, Field]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_tensor_is_found_in_six_containers_and_not_in_seven(container: Callable[[Any], Any]) -> None:
    value: Any = X
    for _ in range(6):
        value = container(value)
    assert [id(tensor) for tensor in tensors_in(value)] == [id(X)]
    assert list(tensors_in(container(value))) == []


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_level_counts_whatever_it_is_made_of(container: Callable[[Any], Any]) -> None:
    """Five lists and one of each kind are six levels; a second one is too many."""
    value: Any = container([[[[[X]]]]])
    assert [id(tensor) for tensor in tensors_in(value)] == [id(X)]
    assert list(tensors_in(container(value))) == []
    assert list(tensors_in([value])) == []


def test_private_fields_are_looked_into_and_those_of_python_are_not() -> None:
    box = Box(None)
    vars(box).update(_own=X, __made=Y)
    assert [id(tensor) for tensor in tensors_in(box)] == [id(X)]


def test_tensors_come_in_order() -> None:
    nested = [X, {"a": Y, "b": (IDS, Field(X))}, Box(Y)]
    assert [id(tensor) for tensor in tensors_in(nested)] == [id(one) for one in (X, Y, IDS, X, Y)]


def test_two_arguments_are_positions_and_keywords_only_as_a_tuple_and_a_dictionary() -> None:
    for inputs in (((X,), {"y": Y}, IDS), ([X], {"y": Y}), ((X,), [Y]), (X, {"y": Y})):
        assert call_arguments(inputs, Plain()) == (tuple(inputs), {})


def test_a_model_that_shows_no_parameters_gets_keywords() -> None:
    class Hidden(nn.Module):
        forward = print  # type: ignore[assignment]

    class Broken(nn.Module):
        @property
        def forward(self) -> Any:  # type: ignore[override]
            return 3

    batch = {"sample": X}
    assert call_arguments(batch, Broken()) == ((), batch)
    assert call_arguments(batch, Hidden()) == ((), batch)


def test_a_parameter_with_a_default_is_not_required() -> None:
    class Flag(nn.Module):
        def forward(self, batch: Any, flag: bool = False) -> Any:
            return batch

    class AllDefaults(nn.Module):
        def forward(self, batch: Any = None) -> Any:
            return batch

    class NoParameter(nn.Module):
        def forward(self) -> Any:
            return None

    class OnlyKeyword(nn.Module):
        def forward(self, *, batch: Any) -> Any:
            return batch

    batch = {"sample": X}
    for model in (Flag(), AllDefaults()):
        assert call_arguments(batch, model) == ((batch,), {})
    for model in (NoParameter(), OnlyKeyword()):
        assert call_arguments(batch, model) == ((), batch)


IMAGES = [torch.zeros(3, 4, 5), torch.zeros(3, 6, 5)]


@pytest.mark.parametrize(
    ("inputs", "samples"),
    [
        (((X,), {}), 4),
        (((), {"x": X}), 4),
        (((torch.zeros(()), X), {}), 4),  # a scalar has no batch
        (((torch.zeros(1, 9),), {}), 1),
        (((torch.zeros(6), X), {}), 6),  # the first tensor
        ((([], X), {}), 4),  # an empty list has no samples
        ((((IMAGES[0], IMAGES[1]),), {}), 3),  # a tuple is several inputs
        (((IMAGES,), {}), 2),
        ((([{"boxes": X}, {"boxes": X}, {"boxes": X}],), {}), 3),  # a dictionary for each sample
        ((([X, Y],), {}), 4),  # several inputs, not several samples
    ],
)
def test_samples(inputs: Any, samples: int) -> None:
    assert samples_in(inputs) == samples


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (((torch.zeros(0, 3),), {}), "the batch dimension is 0; give a batch of 1 or more"),
        (((torch.zeros(()),), {}), "no tensor with a batch dimension"),
        ((("text",), {}), "no tensor with a batch dimension"),
        (((), {}), "no tensor with a batch dimension"),
    ],
)
def test_inputs_without_samples(inputs: Any, message: str) -> None:
    with pytest.raises(JoulecastError, match=message):
        samples_in(inputs)


@pytest.mark.parametrize(
    ("values", "is_list"),
    [
        (IMAGES, True),
        ([IMAGES[0], IMAGES[0]], True),  # images of one size
        ([{}, {}], True),
        ([torch.zeros(1, 4, 5)] * 2, True),
        ([torch.zeros(4, 4, 5)] * 2, True),
        ([torch.zeros(2, 4, 5)] * 2, False),  # no image has 2 channels
        ([torch.zeros(5, 4, 5)] * 2, False),
        ([torch.zeros(3, 4)] * 2, False),
        ([torch.zeros(3, 4, 5, 6)] * 2, False),
        ([torch.zeros(3, 4, 5), torch.zeros(2, 4, 5)], True),  # of different lengths
        ([torch.zeros(3, 4, 5), torch.zeros(3, 4)], False),
        ([{}, X], False),
        ([torch.zeros(5, 8), torch.zeros(9, 8)], True),  # sequences of different lengths
        ([X, X], False),
        ([X, Y], False),  # same batch, other widths
        ([X, "text"], False),
    ],
)
def test_lists_of_samples(values: list[Any], is_list: bool) -> None:
    assert is_list_of_samples(values) is is_list


@pytest.mark.parametrize(
    ("inputs", "tokens"),
    [
        (((IDS,), {}), 7),
        (((X,), {"input_ids": IDS}), 7),
        (((X,), {}), 1),  # numbers, not tokens
        (((IDS.bool(),), {}), 7),  # a mask of the tokens
        (((torch.zeros(4, 6, 7, dtype=torch.int64), IDS), {}), 7),
        (((IDS, torch.zeros(4, 9, dtype=torch.int64)), {}), 7),
        (((torch.zeros(4, dtype=torch.int64),), {}), 1),
    ],
)
def test_tokens(inputs: Any, tokens: int) -> None:
    assert tokens_per_sample(inputs) == tokens


@pytest.mark.parametrize(
    ("inputs", "leads"),
    [
        (((X, Y), {"ids": IDS}), True),
        (((X, torch.zeros(500, 4, 2)), {}), False),  # time first
        (((X, torch.zeros(())), {}), False),
        ((("text",), {}), False),
        (((X, torch.zeros(4)), {}), True),
        (((X,), {"y": torch.zeros(3, 4)}), False),
        (((torch.zeros(3, 4), X), {}), False),
    ],
)
def test_whether_every_tensor_begins_with_the_batch(inputs: Any, leads: bool) -> None:
    assert leads_with_batch(inputs, 4) is leads
