"""Nested (jagged) tensors, and gradients of few rows: counts by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

ROWS = (5, 9)
ALL = sum(ROWS)


def products(work: Workload, phase: str) -> int:
    return sum(op.flops for op in work.ops if op.phase == phase and op.kind == "matmul")


class OfRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        nested = torch.nested.nested_tensor([a, b], layout=torch.jagged)
        return self.last(self.first(nested).relu()).values()


def test_layers_of_nested_tensors_work_on_the_rows_that_there_are() -> None:
    work = trace(OfRows(), tuple(torch.zeros(rows, 16) for rows in ROWS), batch_size=2, layers=False)
    assert work.tracer == "meta"
    assert products(work, "forward") == ALL * (16 * 32 + 32 * 4)
    assert products(work, "backward") == ALL * (16 * 32 + 2 * 32 * 4)  # the data need no gradient
    assert all(type(op.flops) is int and type(op.bytes_read) is int for op in work.ops)


class AttendsToRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.last = nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        nested = self.project(torch.nested.nested_tensor_from_jagged(x, begins))
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in nested.chunk(3, -1))
        return self.last(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)).values()


def test_attention_of_nested_tensors_counts_rows_of_the_average_length() -> None:
    inputs = (torch.zeros(ALL, 16), torch.tensor([0, *ROWS[:1], ALL]))
    work = trace(AttendsToRows(), inputs, batch_size=2, layers=False)
    found = {op.phase: op.flops for op in work.ops if op.kind == "attention"}
    scores = 2 * 2 * 7 * 7 * (8 + 8)  # rows, heads, and scores of the average length
    assert found == {"forward": scores, "backward": scores * 5 // 2}
    assert products(work, "backward") == ALL * (16 * 48 + 2 * 16 * 4)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_bag_with_sparse_gradients_needs_no_real_run(mode: str) -> None:
    model = nn.Sequential(nn.EmbeddingBag(50, 8, mode=mode, sparse=True), nn.Linear(8, 2))
    work = trace(model, torch.zeros(4, 6, dtype=torch.int64), layers=False)
    assert work.tracer == "meta"
    update = next(op for op in work.ops if op.phase == "optimizer" and op.layer == "0")
    assert update.dims["elements"] <= 4 * 6 * 8  # the rows of the bags, not the table's 400


def test_nested_tensors_work_after_a_trace_of_some() -> None:
    """PyTorch makes one nested tensor on the meta device and keeps it in a global of its own."""
    data, begins = torch.randn(ALL, 16, requires_grad=True), torch.tensor([0, *ROWS[:1], ALL])
    for _ in range(2):
        trace(AttendsToRows(), (data, begins), batch_size=2, layers=False)
        nested = torch.nested.nested_tensor_from_jagged(data, begins)
        assert torch.equal(nested.values(), data)
        nested.values().sum().backward()
