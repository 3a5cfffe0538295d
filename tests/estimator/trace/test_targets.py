"""Targets that a model takes to compute its own loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from joulecast.estimator.trace.targets import missing_targets, with_targets
from joulecast.estimator.trace.trace import trace


class Language(nn.Module):
    """Scores the last token only where it gets no targets, as nanoGPT does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)

    def forward(self, idx, targets=None):
        x = self.embed(idx)
        if targets is None:
            return self.head(x[:, -1:]), None
        return self.head(x), F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


class Scores(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.layer, self.loss = nn.Conv2d(3, 5, 1), loss

    def forward(self, image, label=None):
        scores = self.layer(image)
        return scores if label is None else self.loss(scores, label)


IDX = torch.zeros(2, 16, dtype=torch.int64)
IMAGE = torch.zeros(2, 3, 4, 6)


def test_a_token_for_each_token():
    model = Language()
    kwargs, (note,) = with_targets(model, (IDX,), {})
    assert (kwargs["targets"].shape, kwargs["targets"].dtype) == (IDX.shape, torch.int64)
    assert note == "the model computes its loss from `targets`: 16 int64 a sample are given to it"
    assert trace(model, ((IDX,), kwargs), layers=False).flops > 10 * trace(model, IDX, layers=False).flops


@pytest.mark.parametrize(
    ("loss", "shape", "dtype"),
    [
        (lambda scores, label: F.cross_entropy(scores.mean((2, 3)), label), (2,), torch.int64),
        (F.cross_entropy, (2, 4, 6), torch.int64),
        (lambda scores, label: F.mse_loss(scores[:, :3], label), (2, 3, 4, 6), torch.float32),
    ],
)
def test_classes_of_samples_or_places_or_numbers(loss, shape, dtype):
    kwargs, (_,) = with_targets(Scores(loss), (IMAGE,), {})
    assert (tuple(kwargs["label"].shape), kwargs["label"].dtype) == (shape, dtype)


def test_nothing_is_given_where_no_targets_fit_or_none_are_needed():
    assert with_targets(Scores(lambda scores, label: scores), (IMAGE,), {}) == ({}, ())
    given = {"idx": IDX, "targets": IDX}
    assert with_targets(Language(), (), given) == (given, ())
    assert with_targets(nn.Linear(3, 4), (torch.zeros(2, 3),), {}) == ({}, ())
    assert missing_targets(Language(), (IDX, IDX), {}) == ""


def test_a_trace_without_the_targets_says_so():
    note = "the model was called without `targets`: what it computes from them is not counted"
    assert note in trace(Language(), IDX, layers=False).warnings
    assert note not in trace(Language(), (IDX, IDX), layers=False).warnings
    assert note not in trace(Language(), IDX, layers=False, loss=lambda output: output[0].sum()).warnings
    assert note not in trace(Language(), IDX, layers=False, train=False).warnings
