"""How large a tensor's values are known, drawn or refused: by hand, without a model."""

from __future__ import annotations

import pytest
import torch

from joulecast.estimator.trace import values as values_module
from joulecast.estimator.trace.parts import NeedsValuesError
from joulecast.estimator.trace.values import MAX_ELEMENTS, MAX_FLOATS, Values


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_limits() -> None:
    """8 million whole numbers, 4,096 floating-point ones; 64 million elements in all."""
    assert (MAX_ELEMENTS, MAX_FLOATS, values_module._MAX_TOTAL) == (8_388_608, 4_096, 536_870_912)
    assert (values_module._MAX_FOLLOWED_FLOATS, values_module._SMALL) == (2_097_152, 65_536)
    assert values_module._MAX_DEPTH * 7 < 1000 - 400  # frames: most stay for the model's own calls


@pytest.mark.parametrize(
    ("original", "known"),
    [
        (torch.ones(MAX_FLOATS), True),
        (torch.ones(MAX_FLOATS + 1), False),
        (torch.ones(MAX_FLOATS + 1, dtype=torch.complex64), False),
        (torch.ones(MAX_FLOATS + 1, dtype=torch.int64), True),
        (torch.ones(1, dtype=torch.bool).expand(MAX_ELEMENTS), True),
        (torch.ones(1, dtype=torch.bool).expand(MAX_ELEMENTS + 1), False),
        (torch.eye(2).to_sparse(), False),
        (meta(3), False),  # an activation has no values
    ],
)
def test_small_numbers_and_whole_ones_are_known(original: torch.Tensor, known: bool) -> None:
    values, stand_in = Values("meta"), meta(1)
    values.know(stand_in, original)
    assert (values.known(stand_in) is not None) is known


def test_whole_numbers_without_values_are_neither_padding_nor_a_size() -> None:
    values, stand_in = Values("meta"), meta(3, dtype=torch.int64)
    values.know(stand_in, meta(3, dtype=torch.int64))
    assert values.of(stand_in).tolist() == [2, 2, 2]


def test_what_is_known_is_a_copy() -> None:
    values, stand_in, original = Values("meta"), meta(2), torch.tensor([1.0, 2.0])
    values.know(stand_in, original)
    original.zero_()
    assert values.of(stand_in).tolist() == [1.0, 2.0]
    assert values.drawn == 0


def test_activations_are_drawn_between_0_and_1_once() -> None:
    values, activation = Values("meta"), meta(100)
    drawn = values.of(activation)
    assert 0 <= drawn.min() < 0.1
    assert 0.9 < drawn.max() <= 1
    assert values.of(activation) is drawn
    assert values.drawn == 1
    assert drawn.tolist() == torch.rand(100, generator=torch.Generator().manual_seed(0)).tolist()
    assert values.of(meta(3, dtype=torch.int64)).tolist() == [0, 0, 0]
    assert Values("meta").of(meta(100)).tolist() == drawn.tolist()  # the same in every trace


def test_a_real_tensor_is_its_own_value() -> None:
    tensor = torch.ones(2)
    assert Values("meta").of(tensor) is tensor


def test_large_activations_are_refused() -> None:
    values = Values("meta")
    assert values.of(meta(1).expand(MAX_ELEMENTS)).numel() == MAX_ELEMENTS
    with pytest.raises(NeedsValuesError, match="the values of a tensor of 8,388,609 elements are read"):
        values.of(meta(1).expand(MAX_ELEMENTS + 1))


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.bool, False), (torch.float32, 1.0), (torch.bfloat16, 1.0), (torch.int64, 1)]
)
def test_a_number_that_is_too_expensive_is_one_that_changes_little(dtype: torch.dtype, value: float) -> None:
    values = Values("meta")
    assert values.scalar(meta(MAX_ELEMENTS + 1, dtype=dtype)) == value
    known = meta(dtype=dtype)
    values.know(known, torch.zeros((), dtype=dtype).fill_(1) if dtype is not torch.bool else torch.tensor(True))
    assert values.scalar(known) == 1
