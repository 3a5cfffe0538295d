"""Weights that a forward reads: their own values, or random ones with a note."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace import values as values_module
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.values import RealNumbers


class Scaled(nn.Module):
    """Multiplies by what `read` finds in a weight of 128 x 64 elements: too many to be known before they are read."""

    def __init__(self, read: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.weight, self.read = nn.Linear(64, 8), nn.Parameter(torch.full((128, 64), 0.25)), read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.found = self.read(self.weight)
        for _ in range(int(self.found)):
            x = x * 2
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("read", "times"),
    [
        (lambda weight: weight.detach().numpy()[3, 5] * 12, 3),
        (lambda weight: weight.data.cpu().numpy().sum() / 512, 4),
        (lambda weight: numpy.asarray(weight.detach()).max() * 8, 2),
        (lambda weight: weight.numpy(force=True).size / 2048, 4),
        (lambda weight: sum(weight.tolist()[0]) / 4, 4),
        (lambda weight: float(weight.norm()) / 4.5, 5),  # 90.5 elements in the root, times 0.25
        (lambda weight: weight[0, 0].item() * 4, 1),
        (lambda weight: 3 if weight.abs().max() < 0.3 else 1, 3),
        (lambda weight: (weight * weight).sum().item() / 256, 2),
        (lambda weight: int((weight > 0.2).sum()) / 4096, 2),
    ],
    ids=["numpy", "cpu", "asarray", "force", "tolist", "norm", "item", "if", "own product", "count"],
)
def test_a_weight_that_is_read_has_its_own_values(read: Callable[[torch.Tensor], Any], times: int) -> None:
    model = Scaled(read)
    work = trace(model, torch.zeros(4, 64), layers=False)
    assert work.tracer == "meta"
    products = [op for op in work.ops if op.name == "mul" and op.phase == "forward"]
    assert [op.dims["elements_out"] for op in products].count(4 * 64) == times
    assert not [note for note in work.warnings if "random" in note]
    assert torch.equal(model.weight, torch.full((128, 64), 0.25))


def test_writing_into_what_was_read_leaves_the_weight_as_it_was() -> None:
    def read(weight: torch.Tensor) -> int:
        weight.detach().numpy()[:] = 7
        return 1

    model = Scaled(read)
    trace(model, torch.zeros(4, 64), layers=False)
    assert torch.equal(model.weight, torch.full((128, 64), 0.25))


@pytest.mark.parametrize("read", [lambda w: w.detach().numpy()[0, 0], lambda w: float(w.norm()) / 100])
def test_a_weight_without_values_has_random_ones_and_a_note_says_so(read: Callable[[torch.Tensor], Any]) -> None:
    with torch.device("meta"):
        model = Scaled(read)
    work = trace(model, torch.zeros(4, 64), layers=False)
    expected = (
        "1 values that the model reads depend on its activations, or on weights without values: "
        "random numbers were used in their place"
    )
    assert expected in work.warnings


def test_activations_are_still_random_where_weights_have_values() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(128, 64)
            nn.init.zeros_(self.layer.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in set(self.layer(x).argmax(1).tolist()):  # all would be 0 with the weights' own values
                x = x * 2
            return self.layer(x)  # type: ignore[no-any-return]

    work = trace(Routed(), torch.zeros(8, 128), layers=False)
    assert len([op for op in work.ops if op.name == "mul" and op.phase == "forward"]) > 3
    assert any("1 values" in note for note in work.warnings)


def test_what_a_layer_makes_of_a_learnt_input_is_an_activation() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.layer = nn.Parameter(torch.ones(128, 64)), nn.Linear(64, 64)
            nn.init.zeros_(self.layer.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in set(self.layer(self.queries + 1).argmax(1).tolist()):
                x = x * 2
            return self.layer(x)  # type: ignore[no-any-return]

    work = trace(Queries(), torch.zeros(8, 64), layers=False)
    assert len([op for op in work.ops if op.name == "mul" and op.phase == "forward"]) > 3


def test_a_weight_with_a_gradient_is_no_array() -> None:
    with pytest.raises(JoulecastError, match=r"Can't call numpy\(\) on Tensor that requires grad"):
        trace(Scaled(lambda weight: weight.numpy()[0, 0]), torch.zeros(4, 64), layers=False)
    frozen = Scaled(lambda weight: weight.numpy()[0, 0] * 4)
    frozen.weight.requires_grad_(False)
    assert trace(frozen, torch.zeros(4, 64), layers=False).tracer == "meta"
    reading = Scaled(lambda weight: weight.numpy()[0, 0] * 4)
    assert trace(reading, torch.zeros(4, 64), layers=False, train=False).tracer == "meta"


def test_a_weight_too_large_to_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "MAX_ELEMENTS", 8191)
    with torch.device("meta"):
        model = Scaled(lambda weight: weight.detach().numpy()[0, 0])
    with pytest.raises(JoulecastError, match="the values of a tensor of 8,192 elements are read"):
        trace(model, torch.zeros(4, 64), layers=False)


@pytest.mark.parametrize(
    "moved",
    [
        lambda table, number: table.to(device=number.device, dtype=torch.float64),
        lambda table, number: table.to(number.device, torch.float64),
        lambda table, number: table.to(number.double()),
        lambda table, number: table.to("cpu", dtype=torch.float64),
        lambda table, number: table.double().cpu(),
    ],
)
def test_a_table_that_goes_where_a_number_is_stays_on_meta(moved: Callable[..., torch.Tensor]) -> None:
    """As the positions of SeamlessM4T, which are made for a number."""
    with torch.device("meta"), RealNumbers():
        number = torch.tensor(0.5)
        table = moved(torch.ones(3, 4), number)
    assert number.device.type == "cpu"
    assert (table.is_meta, table.dtype, tuple(table.shape)) == (True, torch.float64, (3, 4))
    with torch.device("meta"), RealNumbers(), pytest.raises(NotImplementedError):
        torch.ones(3).nonzero()
