"""The default loss reaches every output, and the batch is what was asked for: by hand."""

from __future__ import annotations

import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.losses import training_loss
from joulecast.estimator.trace.trace import trace

Pair = namedtuple("Pair", "left right")


@dataclass
class Result:
    left: Any
    right: Any


class TwoHeads(nn.Module):
    """A body of 8 x 8 and two heads of 8 x 4, each of which costs its weight's and its input's gradient."""

    def __init__(self, out: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.body, self.left, self.right = (nn.Linear(8, size, bias=False) for size in (8, 4, 4))
        self.out = out

    def forward(self, x: torch.Tensor) -> Any:
        body = self.body(x)
        return self.out(self.left(body), self.right(body))


BOTH = 2 * (64 + 2 * 32 + 2 * 32)
ONE = 2 * (64 + 2 * 32)


@pytest.mark.parametrize(
    ("out", "backward"),
    [
        (lambda a, b: (a, b), BOTH),
        (lambda a, b: [a, [b]], BOTH),
        (lambda a, b: {"boxes": a, "masks": b}, BOTH),
        (lambda a, b: Pair(a, b), BOTH),
        (lambda a, b: Result(a, b), BOTH),
        (lambda a, b: SimpleNamespace(a=a, b=b), BOTH),
        (lambda a, b: torch.distributions.Normal(a, b.exp(), validate_args=False), BOTH),
        (lambda a, b: (a, None, b.detach()), ONE),
        (lambda a, b: {"loss_a": a.mean(), "loss_b": b.mean()}, BOTH),
        (lambda a, b: (a.mean(), b), ONE),  # a loss and what it was computed on
        (lambda a, b: {"loss": a.mean(), "logits": b}, ONE),
        (lambda a, b: OrderedDict(logits=a, past_key_values=((b, b),)), ONE),
        (lambda a, b: OrderedDict(start_logits=a, end_logits=b), BOTH),
        (lambda a, b: {"hidden_states": (a, b)}, BOTH),  # nothing else to put a loss on
    ],
)
def test_every_head_gets_a_gradient(out: Callable[..., Any], backward: int) -> None:
    work = trace(TwoHeads(out), torch.zeros(2, 8), layers=False)
    assert sum(op.flops * op.count for op in work.ops if op.phase == "backward") == backward


IDS, WIDE_IDS, PIXELS = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, 6, dtype=torch.int64), torch.zeros(2, 5)
ENTROPY, SQUARE = math.log(4), 9.0  # of four equal scores of 3: -log(1/4), and 3 squared


@pytest.mark.parametrize(
    ("shape", "inputs", "value"),
    [
        ((2, 4), PIXELS, ENTROPY),  # a row of scores for each sample
        ((2, 4), IDS, ENTROPY),
        ((2, 5, 4), IDS, ENTROPY),  # a row of scores for each position of a sequence of numbers
        ((2, 5, 4), PIXELS, SQUARE),  # positions of anything else
        ((2, 5, 4), IDS[0], SQUARE),
        ((2, 5, 4), WIDE_IDS, SQUARE),
        ((4,), IDS, SQUARE),
        ((2, 3, 5, 4), IDS, SQUARE),
    ],
)
def test_cross_entropy_is_for_class_scores_and_mean_square_for_all_else(
    shape: tuple[int, ...], inputs: torch.Tensor, value: float
) -> None:
    scores = torch.full(shape, 3.0, requires_grad=True)
    assert training_loss(None, scores, ((inputs,), {})).item() == pytest.approx(value)
    assert training_loss(None, scores.half(), ((), {"x": inputs})).item() == pytest.approx(value)


def test_the_default_loss_is_the_sum_over_the_outputs() -> None:
    """Two heads of class scores; and, where the output has scalars, they alone."""
    scores, image = torch.full((2, 4), 3.0, requires_grad=True), torch.full((2, 1, 4, 4), 3.0, requires_grad=True)
    inputs = ((PIXELS,), {})
    assert training_loss(None, (scores, image, scores.exp()), inputs).item() == pytest.approx(2 * ENTROPY + SQUARE)
    assert training_loss(None, (scores, image.mean(), image.sum()), inputs).item() == pytest.approx(3 + 3 * 32)
    assert training_loss(None, {"loss": image.sum(), "other_loss": image.mean()}, inputs).item() == pytest.approx(96)
    held = {"loss": torch.zeros(()), "scores": scores}  # a loss that depends on no parameter is none
    assert training_loss(None, held, inputs).item() == pytest.approx(ENTROPY)
    each = {"loss": image.mean((1, 2, 3)), "scores": scores}  # nor is one for each sample: an output like any other
    assert training_loss(None, each, inputs).item() == pytest.approx(SQUARE + ENTROPY)


def test_the_loss_of_complex_outputs_is_the_mean_square_of_both_parts() -> None:
    scores = torch.full((2, 4), 3 + 4j, requires_grad=True)
    assert training_loss(None, scores, ((PIXELS,), {})).item() == pytest.approx((9 + 16) / 2)


def test_an_own_loss_gets_what_its_second_parameter_is_named_for() -> None:
    scores = torch.full((2, 4, 3), 3.0, requires_grad=True)
    got: list[Any] = []

    def total(output: torch.Tensor) -> torch.Tensor:
        return output.sum()

    def with_option(output: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return scale * output.sum()

    def with_target(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        got.append((target.shape, target.dtype))
        return output.sum()

    def shaped_alike(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.shape != output.shape:
            raise ValueError("shapes")
        return (output - labels).sum()

    def with_inputs(output: torch.Tensor, given: Any) -> torch.Tensor:
        got.append(given)
        return output.sum()

    inputs = ((PIXELS, IDS), {})
    assert training_loss(total, scores, inputs).item() == 72
    assert training_loss(with_option, scores, inputs).item() == 144
    assert training_loss(with_target, scores, inputs).item() == 72
    assert got.pop() == ((2, 3), torch.int64)  # a class for each sample and position
    assert training_loss(shaped_alike, scores, inputs).item() == 72
    training_loss(with_inputs, scores, inputs)
    training_loss(with_inputs, scores, ((PIXELS,), {}))
    training_loss(with_inputs, scores, ((PIXELS,), {"ids": IDS}))
    several, one, named = got
    assert (several[0] is PIXELS, several[1] is IDS, one is PIXELS) == (True, True, True)
    assert (named[0][0] is PIXELS, named[1]["ids"] is IDS) == (True, True)
    for wrong in (lambda output: 1.0, lambda output: output):
        with pytest.raises(JoulecastError, match="return a tensor with one element"):
            training_loss(wrong, scores, inputs)


def test_a_loss_may_take_targets_or_the_inputs() -> None:
    net = nn.Linear(8, 8)
    for loss in (F.cross_entropy, nn.CrossEntropyLoss(), F.mse_loss, nn.L1Loss(), lambda output, x: (output - x).sum()):
        work = trace(net, torch.zeros(2, 8), loss=loss, layers=False)
        assert sum(op.flops for op in work.ops if op.phase == "backward") == 2 * 64
    with pytest.raises(JoulecastError, match="`loss` returned a tensor of shape 2x8; return a tensor with one element"):
        trace(net, torch.zeros(2, 8), loss=lambda output: output)
    with pytest.raises(JoulecastError, match="`loss` returned a tensor without a gradient"):
        trace(net, torch.zeros(2, 8), loss=lambda output: output.detach().sum())
    with pytest.raises(JoulecastError, match="`loss` takes output, target, weights; give a function of"):
        trace(net, torch.zeros(2, 8), loss=lambda output, target, weights: output.sum())


def test_the_batch_size_may_be_given() -> None:
    work = trace(nn.LSTM(4, 8), torch.zeros(50, 3, 4), batch_size=3)
    assert (work.batch_size, work.forward_flops) == (3, 50 * 3 * 4 * 8 * (4 + 8))
    assert [layer.flops for layer in work.layers] == [work.forward_flops]


class TakesBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, batch: Any) -> torch.Tensor:
        return self.layer(batch["x"])


def test_a_model_with_one_parameter_takes_a_dictionary_whole() -> None:
    work = trace(TakesBatch(), {"x": torch.zeros(2, 8), "y": torch.zeros(2)})
    assert (work.batch_size, work.forward_flops) == (2, 2 * 8 * 4)
    by_name = trace(nn.Linear(8, 4), {"input": torch.zeros(2, 8)})
    assert by_name.forward_flops == 2 * 8 * 4


class TakesImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.layer(image).mean((1, 2)) for image in images])


def test_a_list_of_images_is_a_batch() -> None:
    work = trace(TakesImages(), ([torch.zeros(3, 2, 5), torch.zeros(3, 4, 5)],))
    assert (work.batch_size, work.forward_flops) == (2, (10 + 20) * 3 * 4)


class Codebook(nn.Module):
    """A result and an auxiliary loss, which does not see the decoder."""

    def __init__(self, from_result: bool) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 4, bias=False), nn.Linear(4, 16, bias=False)
        self.from_result = from_result

    def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = self.encode(data)
        result = self.decode(code)
        return result, (result if self.from_result else code).square().mean()


@pytest.mark.parametrize("from_result", [False, True])
def test_a_result_beside_an_auxiliary_loss_gets_a_gradient(from_result: bool) -> None:
    work = trace(Codebook(from_result), torch.zeros(2, 8), layers=False)
    backward = dict.fromkeys(("encode", "decode"), 0)
    for op in work.ops:
        if op.phase == "backward" and op.layer in backward:
            backward[op.layer] += op.flops
    # The input needs no gradient: one product in the encoder, two in the decoder.
    assert backward == {"encode": 2 * 8 * 4, "decode": 2 * 2 * 4 * 16}
    # A loss that is computed from the result is the only one.
    assert any(op.name == "_log_softmax" for op in work.ops) == (not from_result)
