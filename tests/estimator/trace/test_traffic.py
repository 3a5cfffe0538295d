"""Bytes by hand of sparse layouts and of writes by index."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from joulecast.estimator.trace.formulas.counting import count_op
from joulecast.estimator.trace.formulas.traffic import tensor_bytes

aten = torch.ops.aten
F4, I8 = 4, 8


def m(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ids(*shape: int) -> torch.Tensor:
    return m(*shape, dtype=torch.int64)


def moved(op: Any, args: Sequence[Any]) -> tuple[int, int]:
    """Bytes read and written; the ops of this file return their first argument or a copy of it."""
    found = count_op(op, args, {}, args[0])
    assert (found.kind, found.flops) == ("copy", 0)
    return found.bytes_read, found.bytes_written


# 12 x 8, values in 3 places of 2 rows and 3 columns, all in one of the 4 x 4 blocks
DENSE = torch.zeros(12, 8)
DENSE[0, 1] = DENSE[0, 2] = DENSE[3, 0] = 1.0


@pytest.mark.parametrize(
    ("layout", "values", "indices"),
    [
        (torch.sparse_coo, 3, 2 * 3),
        (torch.sparse_csr, 3, 12 + 1 + 3),  # where each row begins, a column for each value
        (torch.sparse_csc, 3, 8 + 1 + 3),  # where each column begins, a row for each value
        (torch.sparse_bsr, 16, 12 // 4 + 1 + 1),  # one block
        (torch.sparse_bsc, 16, 8 // 4 + 1 + 1),
    ],
)
def test_sparse_tensors_move_values_and_indices(layout: torch.layout, values: int, indices: int) -> None:
    with warnings.catch_warnings():  # some releases call these layouts a beta, once a process
        warnings.simplefilter("ignore")
        blocks = (4, 4) if layout in (torch.sparse_bsr, torch.sparse_bsc) else None
        tensor = DENSE.to_sparse(layout=layout, blocksize=blocks)
    assert tensor_bytes(tensor) == F4 * values + I8 * indices


def test_tensors_of_other_libraries_layouts_move_nothing() -> None:
    """oneDNN's layout shows no storage; PyTorch converts it before and after every op that counts."""
    assert tensor_bytes(torch.zeros(4, 4).to_mkldnn()) == 0


def test_an_expanded_dimension_is_read_once_and_an_empty_one_never() -> None:
    assert tensor_bytes(m(1, 8).expand(1000, 8)) == F4 * 8
    assert tensor_bytes(m(8, 0)) == 0
    assert tensor_bytes(m(0, 8)[:, :1].expand(0, 8)) == 0


TABLE = m(1000, 8)


@pytest.mark.parametrize(
    ("op", "args", "read", "written"),
    [
        # 6 of 1000 rows of 8
        (aten.index_fill_.int_Scalar, [TABLE, 0, ids(6), 0.0], I8 * 6, F4 * 48),
        # 2 of 8 columns of 1000
        (aten.index_fill_.int_Scalar, [TABLE, 1, ids(2), 0.0], I8 * 2, F4 * 2000),
        (aten.index_fill_.int_Scalar, [m(), 0, ids(), 0.0], I8, F4),
        (aten.index_fill_.int_Scalar, [m(1, 8), 0, ids(1), 0.0], I8, F4 * 8),
        (aten.index_fill_.int_Scalar, [m(0, 8), 0, ids(0), 0.0], 0, 0),
        (aten.put_.default, [TABLE, ids(6), m(6)], I8 * 6 + F4 * 6, F4 * 6),
        (aten.put_.default, [TABLE, ids(6), m(6), True], I8 * 6 + 2 * F4 * 6, F4 * 6),
        (aten.scatter_.value, [TABLE, 0, ids(6, 8), 1.0], I8 * 48, F4 * 48),
        (aten.scatter_reduce_.two, [TABLE, 0, ids(6, 8), m(6, 8), "sum"], I8 * 48 + 2 * F4 * 48, F4 * 48),
        (aten.index_reduce_.default, [TABLE, 0, ids(6), m(6, 8), "prod"], I8 * 6 + 2 * F4 * 48, F4 * 48),
        # not in place: a copy of the whole first
        (aten.index_copy.default, [m(11, 3), 0, ids(5), m(5, 3)], I8 * 5 + F4 * (15 + 33), F4 * (15 + 33)),
        (aten.scatter_add.default, [m(11, 3), 0, ids(5, 3), m(5, 3)], I8 * 15 + F4 * (15 + 33 + 15), F4 * (15 + 33)),
        (aten.index_copy.default, [TABLE, 0, ids(6), m(6, 8)], I8 * 6 + F4 * (48 + 8000), F4 * (48 + 8000)),
    ],
)
def test_writes_by_index_reach_some_rows(op: Any, args: list[Any], read: int, written: int) -> None:
    assert moved(op, args) == (read, written)


@pytest.mark.parametrize(
    ("indices", "values", "elements"),
    [
        ([ids(6)], m(6, 8), 6 * 8),  # whole rows
        ([ids(6), ids(6)], m(6), 6),  # pairs of row and column
        ([ids(6, 1), ids(3)], m(6, 3), 6 * 3),  # spread over each other
        ([None, ids(2)], m(1000, 2), 1000 * 2),  # columns
    ],
)
def test_index_put_reaches_the_elements_that_its_indices_name(
    indices: list[Any], values: torch.Tensor, elements: int
) -> None:
    index_bytes = sum(I8 * index.numel() for index in indices if index is not None)
    assert moved(aten.index_put_.default, [TABLE, indices, values]) == (
        index_bytes + F4 * values.numel(),
        F4 * elements,
    )


@pytest.mark.parametrize(("values", "reached"), [(m(5), 5), (m(), 1), (m(9000), 8000), (m(0), 0)])
def test_a_mask_reaches_as_many_elements_as_there_are_values(values: torch.Tensor, reached: int) -> None:
    mask = m(1000, 8, dtype=torch.bool)
    assert moved(aten.index_put_.default, [TABLE, [mask], values]) == (8000 + F4 * values.numel(), F4 * reached)
