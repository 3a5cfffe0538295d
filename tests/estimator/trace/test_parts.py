"""Values of tensors that are too large to be computed: the rows and sums that a step reads of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.trace import parts, values
from joulecast.estimator.trace.parts import NeedsValuesError
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.values import Following, ReadsValues, Values

CHOICES, EXPERTS = 40, 10


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of more than 100 elements are too large to be computed."""
    monkeypatch.setattr(values, "MAX_ELEMENTS", 100)
    monkeypatch.setattr(parts, "_PART", 100)


def chosen(made: Values) -> torch.Tensor:
    """Which of 40 choices falls on which of 10 experts, as activations would make them."""
    choices = torch.empty(2, 20, device="meta").argmax(-1, keepdim=True) + torch.arange(CHOICES // 2, device="meta")
    return choices.remainder(EXPERTS)


def one_hot(choices: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(choices, EXPERTS)


READS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a row": lambda hot: hot.permute(2, 1, 0)[3],
    "the last row": lambda hot: hot.permute(2, 1, 0)[-1],
    "a column": lambda hot: hot[:, 5],
    "rows by their numbers": lambda hot: hot.permute(2, 1, 0)[torch.tensor([3, 7], device="meta")],
    "no rows": lambda hot: hot.permute(2, 1, 0)[torch.tensor([], dtype=torch.int64, device="meta")].sum(),
    "sums": lambda hot: hot.permute(2, 1, 0).sum(dim=(-1, -2)),
    "sums that keep their dimensions": lambda hot: hot.sum(dim=(0, 1), keepdim=True),
    "a sum over one dimension": lambda hot: hot.sum(dim=2),
    "any over one dimension": lambda hot: hot.bool().any(dim=2),
    "any": lambda hot: hot.transpose(0, 2).bool().any(dim=(1, 2)),
    "after arithmetic": lambda hot: (hot * 2 + hot.amax(2, keepdim=True)).bool().to(torch.int32)[:, 4],
    "of a new dimension": lambda hot: hot.unsqueeze(1)[:, :, 5],
    "expanded by a new dimension": lambda hot: hot.expand(3, 2, 20, 10)[:, :, 4],
    "expanded before the first": lambda hot: hot.permute(2, 1, 0).expand(2, 10, 20, 2)[:, 3],
    "expanded": lambda hot: hot[None].expand(2, -1, -1, -1)[:, :, 5],
    "of the positions": lambda hot: hot.permute(2, 1, 0)[3].nonzero(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_is_read_equals_the_whole(small: None, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
    made = Values("meta")
    with Following(made), ReadsValues(made):
        choices = chosen(made)
        result = read(one_hot(choices))
        value, real = made.of(result), made.of(choices)
    with torch.device("cpu"):
        truth = read_on_cpu(read, real)
    assert value.tolist() == truth.tolist()
    assert value.shape == result.shape


@pytest.mark.parametrize("turn", [torch.t, lambda hot: hot.transpose(0, 1), lambda hot: hot.transpose(-2, -1)])
def test_a_column_of_a_matrix_that_was_turned(small: None, turn: Callable[[torch.Tensor], torch.Tensor]) -> None:
    made = Values("meta")
    with Following(made), ReadsValues(made):
        choices = chosen(made)[0]
        read = turn(one_hot(choices))[4]
        value, real = made.of(read), made.of(choices)
        of_copies = made.of(one_hot(choices).expand(2, 1, 20, 10)[..., 4])
    column = [int(one == 4) for one in real.tolist()]
    assert value.tolist() == column
    assert of_copies.tolist() == [[column], [column]]


def read_on_cpu(read: Callable[[torch.Tensor], torch.Tensor], choices: torch.Tensor) -> torch.Tensor:
    class OnCpu(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **{**(kwargs or {}), **({"device": "cpu"} if "device" in (kwargs or {}) else {})})

    with OnCpu():
        return read(one_hot(choices))


@pytest.mark.parametrize(
    "read",
    [
        lambda hot: hot.sum(),
        lambda hot: hot.cumsum(0)[1],
        lambda hot: hot.flatten()[3],
        lambda hot: hot.permute(2, 1, 0)[torch.tensor([3]), torch.tensor([3])],
        lambda hot: torch.stack([hot, hot]).sum(dim=(0, 1)),
        lambda hot: hot[1],
        lambda hot: hot.sum(dim=(1, 2)),
        lambda hot: hot.sum(dim=()),
        lambda hot: hot.sum(dim=(0, 1, 2)),
        lambda hot: hot.expand(10, 2, 20, 10)[1],
        lambda hot: hot[None].expand(3, 2, 20, 10)[1],
    ],
    ids=[
        *("all", "cumulated", "another shape", "two indices", "two tensors", "a row that is too large"),
        *("sums of such rows", "no dimensions", "every dimension", "a dimension of copies", "a repeated dimension"),
    ],
)
def test_what_needs_the_whole_is_refused(small: None, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
    made = Values("meta")
    with Following(made), ReadsValues(made):
        result = read(one_hot(chosen(made)))
        with pytest.raises(NeedsValuesError, match=r"the values of a tensor of \d+ elements are read"):
            made.of(result)


def test_a_sum_over_too_many_elements_is_refused(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_MOST", 399)
    made = Values("meta")
    with Following(made), ReadsValues(made), pytest.raises(NeedsValuesError, match="400 elements"):
        made.of(one_hot(chosen(made)).sum(dim=(0, 1)))


class Experts(nn.Module):
    """A loop over the experts that a router chooses; the last number stands for none."""

    def __init__(self, experts: int, width: int = 64) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(experts))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        choices = self.router(tokens).topk(2, dim=-1).indices
        mask = nn.functional.one_hot(choices, len(self.experts) + 1).permute(2, 1, 0)
        result = torch.zeros_like(tokens)
        for number in (mask.sum(dim=(-1, -2)) > 0).nonzero():
            _, rows = torch.where(mask[number].squeeze(0))
            result.index_add_(0, rows, self.experts[int(number)](tokens[rows]))
        return result


def test_many_experts_cost_their_tokens() -> None:
    tokens = 2**14
    model = Experts(experts=300)  # 2 x 2**14 x 301 numbers are 9.9 million
    work = trace(model, torch.zeros(tokens, 64), train=False, layers=False)
    by_experts = sum(op.flops for op in work.ops if op.layer.startswith("experts."))
    assert by_experts == 2 * tokens * 64 * 64
    assert work.tracer == "meta"
