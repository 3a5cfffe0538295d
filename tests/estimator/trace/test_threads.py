"""A trace on stand-ins computes their few values with one thread; one with real tensors keeps the user's threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import ModelError
from joulecast.estimator.trace.trace import trace


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


class AsWideAsThreads(nn.Module):
    """Its output has a column for each thread."""

    def __init__(self, *, needs_values: bool = False, fails: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.needs_values, self.fails = needs_values, fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.needs_values and x.data_ptr() == 0:
            raise RuntimeError("no values")
        if self.fails:
            raise ValueError("of the model")
        return self.linear(x).expand(-1, torch.get_num_threads())


@pytest.mark.parametrize(("needs_values", "tracer", "threads"), [(False, "meta", 1), (True, "real", 3)])
def test_threads_of_a_trace(needs_values: bool, tracer: str, threads: int) -> None:
    work = trace(AsWideAsThreads(needs_values=needs_values), torch.zeros(2, 4), layers=False)
    assert work.tracer == tracer
    assert work.layers[0].output_shape == (2, threads)
    assert torch.get_num_threads() == 3


def test_a_failed_trace_restores_the_threads() -> None:
    with pytest.raises(ModelError, match="of the model"):
        trace(AsWideAsThreads(fails=True), torch.zeros(2, 4), layers=False)
    assert torch.get_num_threads() == 3
