"""Gates of a router: experts in a list of modules cost the tokens that their gates choose, however these are made."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from joulecast.estimator.trace.trace import trace

TOKENS, WIDTH, HIDDEN, EXPERTS, ACTIVE = 512, 16, 32, 8, 2
PER_TOKEN = 2 * WIDTH * HIDDEN


def chosen(scores: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = scores.topk(ACTIVE, dim=-1)
    return values, indices


def hot(scores: Tensor) -> Tensor:
    return F.one_hot(chosen(scores)[1], EXPERTS).sum(1)


def scattered(scores: Tensor, fill: float = 0.0) -> Tensor:
    values, indices = chosen(scores)
    return torch.full_like(scores, fill).scatter(1, indices, values)


def scattered_in_place(scores: Tensor) -> Tensor:
    values, indices = chosen(scores)
    return torch.zeros_like(scores).scatter_(1, indices, values)


def written(scores: Tensor) -> Tensor:
    values, indices = chosen(scores)
    gates = torch.zeros_like(scores)
    gates[torch.arange(len(scores), device=scores.device)[:, None], indices] = values
    return gates


def normalised(gates: Tensor) -> Tensor:
    return gates / gates.sum(-1, keepdim=True)


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "scattered": scattered,
    "scattered in place": scattered_in_place,
    "a softmax over those that are left": lambda scores: scattered(scores, -math.inf).softmax(-1),
    "written by index": written,
    "one-hot vectors times scores": lambda scores: normalised(hot(scores) * scores.softmax(-1)),
    "filled elsewhere": lambda scores: scores.softmax(-1).masked_fill(hot(scores) == 0, 0.0),
    "where": lambda scores: torch.where(hot(scores) > 0, scores.softmax(-1), torch.zeros_like(scores)),
    "a threshold": lambda scores: torch.where(scores >= chosen(scores)[0][:, -1:], scores, torch.zeros_like(scores)),
    "below a threshold filled": lambda scores: (
        scores.masked_fill(scores < chosen(scores)[0][:, -1:], -math.inf).softmax(-1).to(torch.float64)
    ),
    "an einsum": lambda scores: torch.einsum(
        "nk,nke->ne", chosen(scores)[0], F.one_hot(chosen(scores)[1], EXPERTS).float()
    ),
    "a sum over the choices": lambda scores: (
        chosen(scores)[0].unsqueeze(-1) * F.one_hot(chosen(scores)[1], EXPERTS)
    ).sum(1),
}


def sorted_rows(gates: Tensor) -> list[Tensor]:
    """As a dispatcher sorts them: the rows of all pairs, split at the sums over each expert's column."""
    pairs = torch.nonzero(gates)
    order = pairs.sort(0)[1]
    rows = pairs[order[:, 1], 0]
    return list(rows.split((gates > 0).sum(0).tolist()))


READS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "sorted pairs": sorted_rows,
    "columns": lambda gates: [column.nonzero().squeeze(-1) for column in gates.unbind(1)],
    "masks": lambda gates: [gates[:, number] > 0 for number in range(EXPERTS)],
    "where": lambda gates: [torch.where(gates[..., number] != 0)[0] for number in range(EXPERTS)],
}


class Routed(nn.Module):
    def __init__(self, gates: Callable[[Tensor], Tensor], reads: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(EXPERTS)
        )
        self.gates, self.reads = gates, reads

    def forward(self, tokens: Tensor) -> Tensor:
        result = torch.zeros_like(tokens)
        for expert, rows in zip(self.experts, self.reads(self.gates(self.router(tokens))), strict=True):
            result[rows] += expert(tokens[rows])
        return result


@pytest.mark.parametrize("reads", READS.values(), ids=READS)
@pytest.mark.parametrize("gates", GATES.values(), ids=GATES)
def test_experts_cost_the_tokens_that_their_gates_choose(
    gates: Callable[[Tensor], Tensor], reads: Callable[[Tensor], list[Tensor]]
) -> None:
    work = trace(Routed(gates, reads), torch.zeros(TOKENS, WIDTH), layers=False)
    by_experts = [op for op in work.ops if op.layer.startswith("experts.")]
    assert sum(op.flops for op in by_experts if op.phase == "forward") == TOKENS * ACTIVE * PER_TOKEN
    # The tokens need no gradient: the first of the two layers has one product in backward, the second has two.
    assert sum(op.flops for op in by_experts if op.phase == "backward") == 3 * TOKENS * ACTIVE * PER_TOKEN // 2
    assert work.tracer == "meta"
    assert "random numbers were used" in " ".join(work.warnings)


class WrittenTwice(nn.Module):
    """A second write makes the places of the first unknown: then every place counts."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.expert = nn.Linear(WIDTH, EXPERTS), nn.Linear(WIDTH, HIDDEN)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.router(tokens)
        gates = scattered_in_place(scores)
        gates.add_(scores)
        rows = gates[:, 0].nonzero().squeeze(-1)
        return self.expert(tokens[rows])  # type: ignore[no-any-return]


def test_other_writes_make_the_places_unknown_again() -> None:
    work = trace(WrittenTwice(), torch.zeros(TOKENS, WIDTH), train=False, layers=False)
    assert sum(op.flops for op in work.ops if op.layer == "expert") == TOKENS * WIDTH * HIDDEN
