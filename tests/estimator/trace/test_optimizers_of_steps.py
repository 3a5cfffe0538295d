"""Optimizers in a `training_step`: which are found, which parameters they update, and what stands for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.training_step import (
    TrainingStep,
    configured,
    has_training_step,
    possible_batches,
    step_loss,
    updated_by,
)

SGD = torch.optim.SGD


class Pair(nn.Module):
    """Two layers, of 4 x 3 and 1 x 4 weights, each with its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)
        self.seen: list[Any] = []

    def configure_optimizers(self) -> Any:
        return [SGD(self.one.parameters(), 0.1), SGD(self.two.parameters(), 0.1)]

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.two(self.one(batch)).sum()
        return loss


X = torch.zeros(2, 3)


def optimizers(count: int) -> list[torch.optim.Optimizer]:
    return [SGD([nn.Parameter(torch.zeros(2))], 0.1) for _ in range(count)]


ONE, TWO = optimizers(2)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (ONE, [ONE]),
        ([ONE, TWO], [ONE, TWO]),
        ((ONE, TWO), [ONE, TWO]),
        ({"optimizer": ONE, "lr_scheduler": "cosine"}, [ONE]),
        (([ONE, TWO], ["cosine"]), [ONE, TWO]),
        (({"optimizer": ONE}, {"optimizer": TWO}), [ONE, TWO]),
        (None, []),
        ("sgd", []),
        ({ONE, TWO}, []),
    ],
)
def test_what_configure_optimizers_may_return(value: Any, found: list[Any]) -> None:
    module = nn.Module()
    module.configure_optimizers = lambda: value  # type: ignore[assignment]
    assert configured(module) == found


def test_a_list_of_more_than_100_is_data() -> None:
    module = nn.Module()
    for count, found in ((100, 100), (101, 0)):
        many = optimizers(count)
        module.configure_optimizers = lambda: many  # type: ignore[assignment]  # noqa: B023
        assert len(configured(module)) == found


def test_no_optimizers_without_the_method_and_one_of_all_parameters_where_it_needs_a_trainer() -> None:
    module: nn.Module = Pair()
    module.configure_optimizers = None  # type: ignore[assignment]
    assert configured(module) == []
    module.configure_optimizers = 3  # type: ignore[assignment]
    assert configured(module) == []

    def needs_a_trainer() -> Any:
        raise RuntimeError("no trainer")

    module.configure_optimizers = needs_a_trainer  # type: ignore[assignment]
    (optimizer,) = configured(module)
    assert updated_by(optimizer, module) == ["one.weight", "two.weight"]


def test_an_optimizer_updates_the_parameters_of_all_its_groups_that_the_module_has() -> None:
    module = Pair()
    groups = [{"params": [module.two.weight]}, {"params": [nn.Parameter(torch.zeros(2)), module.one.weight]}]
    assert updated_by(SGD(groups, 0.1), module) == ["two.weight", "one.weight"]


def test_a_training_step_is_a_method() -> None:
    assert has_training_step(Pair())
    assert not has_training_step(nn.Linear(2, 2))
    module = nn.Module()
    module.training_step = None
    assert not has_training_step(module)


def test_a_returned_loss_leaves_the_backward_pass_to_the_trainer() -> None:
    module = Pair()
    loss = TrainingStep(module)(X)
    assert (loss.shape, loss.requires_grad, module.one.weight.grad) == ((), True, None)


class OneArgument(Pair):
    def training_step(self, batch: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().training_step(batch, 0)


class Index(Pair):
    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch_idx)
        return super().training_step(batch, batch_idx)


def test_the_number_of_the_batch_is_given_to_steps_that_take_one() -> None:
    assert TrainingStep(OneArgument())(X).requires_grad
    module = Index()
    TrainingStep(module)(X)
    TrainingStep(module, batch_index=7)(X)
    assert module.seen == [0, 7]


class ByIndex(Pair):
    def training_step(self, batch: torch.Tensor, batch_idx: int, optimizer_idx: int) -> Any:  # type: ignore[override]
        wanted = [name for name, one in self.named_parameters() if one.requires_grad]
        self.seen.append((batch_idx, optimizer_idx, wanted))
        return {"loss": super().training_step(batch, batch_idx)}


def test_a_step_for_each_optimizer_updates_its_parameters_alone() -> None:
    module = ByIndex()
    step = TrainingStep(module)
    assert step(X) is None
    assert module.seen == [(0, 0, ["one.weight"]), (0, 1, ["two.weight"])]
    assert {path: (one.count, one.elements) for path, one in step.updates.items()} == {
        "module.one.weight": (1, 12),
        "module.two.weight": (1, 4),
    }
    assert all(one.requires_grad and one.grad is None for one in module.parameters())
    step(X)
    assert step.updates["module.one.weight"].count == 1  # of the last step


class Manual(Pair):
    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:  # type: ignore[override]
        one, two = self.optimizers()  # type: ignore[operator]
        self.log("loss", 1.0)  # type: ignore[operator]
        self.log_dict({"loss": 1.0}, prog_bar=True)  # type: ignore[operator]
        for _ in range(3):
            self.toggle_optimizer(one)  # type: ignore[operator]
            self.seen.append([name for name, own in self.named_parameters() if own.requires_grad])
            self.manual_backward(super().training_step(batch, 0))  # type: ignore[operator]
            self.clip_gradients(one, 1.0)  # type: ignore[operator]
            one.step()
            one.zero_grad(set_to_none=True)
            self.untoggle_optimizer(one)  # type: ignore[operator]
        self.seen.append([name for name, own in self.named_parameters() if own.requires_grad])
        self.seen.append(two.step(lambda: "closure's"))
        schedule = self.lr_schedulers()  # type: ignore[operator]
        schedule.step()
        self.seen += [schedule.get_last_lr(), one.param_groups[0]["lr"], one.optimizer is one, one.state_dict()]
        self.seen.append([tuple(own.shape) for own in one.param_groups[0]["params"]])


def test_a_step_with_its_own_optimizers_and_what_they_offer() -> None:
    module = Manual()
    step = TrainingStep(module)
    assert step(X) is None
    toggled, free, result, rates, rate, own, state, shapes = module.seen[2:]
    assert module.seen[:2] == [["one.weight"]] * 2
    assert toggled == ["one.weight"]
    assert free == ["one.weight", "two.weight"]
    assert (result, rates, rate, own, state, shapes) == ("closure's", [0.001], 0.001, True, {}, [(4, 3)])
    # The second optimizer has no gradient to apply: its parameter was frozen in each backward pass.
    assert {path: one.count for path, one in step.updates.items()} == {"module.one.weight": 3}
    for name in ("log", "optimizers", "manual_backward", "toggle_optimizer"):
        assert not hasattr(module, name)


def test_one_optimizer_is_not_in_a_list() -> None:
    class One(Pair):
        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), 0.1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.seen.append(self.optimizers())  # type: ignore[operator]
            return super().training_step(batch, batch_idx)

    module = One()
    TrainingStep(module)(X)
    assert not isinstance(module.seen[0], list)
    stepped = TrainingStep(module, [["one.weight"], ["two.weight"]])
    stepped(X)
    assert isinstance(module.seen[1], list)
    assert len(module.seen[1]) == 2
    TrainingStep(module, [])(X)
    assert module.seen[2] == []


class Keeps(Pair):
    """Optimizers as attributes: one, a list, a dictionary, and one with more entries than optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.single = SGD(self.one.parameters(), 0.1)
        self.listed = [SGD(self.one.parameters(), 0.1), SGD(self.two.parameters(), 0.1)]
        self.named = {"g": SGD(self.one.parameters(), 0.1), "d": SGD(self.two.parameters(), 0.1)}
        self.with_schedule = {"optimizer": SGD(self.one.parameters(), 0.1), "every": 10}

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        loss.backward()
        self.seen = [self.single, self.listed, self.named, self.with_schedule]
        self.named["d"].step()
        self.single.step()
        return loss


def test_optimizers_that_the_module_keeps_are_replaced_in_their_containers_and_put_back() -> None:
    module = Keeps()
    before = [module.single, module.listed, module.named, module.with_schedule]
    step = TrainingStep(module)
    step(X)
    single, listed, named, with_schedule = module.seen
    assert not isinstance(single, torch.optim.Optimizer)
    assert (type(listed), len(listed)) == (list, 2)
    assert list(named) == ["g", "d"]
    assert (type(with_schedule), len(with_schedule)) == (list, 1)
    assert {path: one.count for path, one in step.updates.items()} == {"module.two.weight": 1, "module.one.weight": 1}
    after = [module.single, module.listed, module.named, module.with_schedule]
    assert all(one is other for one, other in zip(before, after, strict=True))


LOSS = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("output", "value"),
    [
        (LOSS, 1.0),
        ({"loss": LOSS, "other": 5 * LOSS}, 1.0),
        ((LOSS, 2 * LOSS), 3.0),
        ({"generator": 2 * LOSS, "critic": 3 * LOSS}, 5.0),
        ([torch.ones(3, requires_grad=True), 4 * LOSS], 4.0),  # scores are no loss
        ([torch.full((1,), 7.0), 4 * LOSS], 4.0),  # without a gradient
    ],
)
def test_losses_that_a_step_may_return(output: Any, value: float) -> None:
    assert step_loss(output).item() == value


@pytest.mark.parametrize("output", [None, {"loss": None}, {"log": 3.0}, [torch.ones(3, requires_grad=True)]])
def test_a_step_without_a_loss(output: Any) -> None:
    with pytest.raises(JoulecastError, match="training_step returned no loss and ran no backward pass"):
        step_loss(output)


def test_batches_that_a_step_may_take() -> None:
    data = torch.zeros(5, 3)
    labelled, alone, twice = possible_batches((data,), {}, 5)
    assert labelled[0] is data
    assert (labelled[1].shape, labelled[1].dtype) == ((5,), torch.int64)
    assert alone is data
    assert twice == (data, data)
    assert list(possible_batches((), {"x": data}, 5)) == [{"x": data}]
    assert list(possible_batches((data,), {"x": data}, 5)) == [{"x": data}]
    assert list(possible_batches((data, 3), {}, 5)) == [(data, 3)]
    assert list(possible_batches(("text",), {}, 5)) == ["text"]


class Accumulated(Pair):
    """A training step that runs its backward passes itself, one after the other."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.passes = passes

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:  # type: ignore[override]
        for _ in range(self.passes):
            self.two(self.one(batch)).square().sum().backward()


@pytest.mark.parametrize("passes", [1, 3])
def test_memory_is_that_of_the_largest_backward_pass(passes: int) -> None:
    # Each pass keeps the inputs of its three products, of 2 x 3, 2 x 4 and 2 x 1 numbers, and then frees them.
    assert trace(TrainingStep(Accumulated(passes)), X).activation_bytes == 4 * (6 + 8 + 2)
