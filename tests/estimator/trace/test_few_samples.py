"""A step from real runs of two and four samples: figures of any batch, errors, and further tries."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.trace import step
from joulecast.estimator.trace.step import Listing, Step
from joulecast.estimator.trace.trace import trace

from .listings import listing, op


def test_figures_of_a_batch_follow_from_those_of_two_and_four_samples() -> None:
    two = listing([op(flops=10, bytes_read=100, bytes_written=7, dims={"m": 2, "k": 5})], saved_bytes=50)
    four = listing([op(flops=20, bytes_read=120, bytes_written=7, dims={"m": 4, "k": 5})], saved_bytes=90)
    two.recorder.output_shapes = {"": (2, 8), "odd": (2, 3), "same": (3,)}
    four.recorder.output_shapes = {"": (4, 8), "odd": (4,)}
    ten = step._extrapolated(two, four, 10)
    (found,) = ten.recorder.ops
    # Each figure of 2 samples, and 4 times the difference of another 2.
    assert (found.flops, found.bytes_read, found.bytes_written) == (10 + 4 * 10, 100 + 4 * 20, 7)
    assert found.dims == {"m": 10, "k": 5}
    assert {type(one) for one in (found.flops, found.bytes_read, found.dims["m"], ten.saved_bytes)} == {int}
    assert ten.saved_bytes == 50 + 4 * 40
    assert ten.recorder.output_shapes == {"": (10, 8), "odd": (2, 3), "same": (3,)}


def test_a_batch_is_cut_where_the_first_dimension_is_its_size() -> None:
    x, y, number = torch.zeros(8, 3), torch.zeros(3, 8), torch.zeros(())
    whole = Step(nn.Identity(), (x, [y, number, "text"]), {"z": torch.zeros(8)}, True, None, None)
    cut = step._with_batch(whole, 8, 2)
    assert tuple(cut.args[0].shape) == (2, 3)
    assert cut.args[1][0] is y
    assert cut.args[1][1] is number
    assert cut.args[1][2] == "text"
    assert tuple(cut.kwargs["z"].shape) == (2,)
    longer = Step(nn.Identity(), (torch.zeros(9, 3),), {}, True, None, None)
    assert tuple(step._with_batch(longer, 8, 2).args[0].shape) == (9, 3)


class Routes(nn.Module):
    """Reads which of 64 experts its tokens choose: 64 numbers a token."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.layer = nn.Linear(4, 64, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = nn.functional.one_hot(self.router(x).argmax(-1), 64)
        for _ in chosen.sum((0, 1)).nonzero():
            pass
        return self.layer(x)


def test_a_batch_whose_values_are_too_many_follows_from_four_samples() -> None:
    with torch.device("meta"):
        model, x = Routes(), torch.zeros(16, 2**14, 4)  # 2**24 numbers in a batch, 2**22 in four samples
    work = trace(model, x, layers=False)
    assert work.tracer == "meta"
    assert work.batch_size == 16
    assert work.forward_flops == 16 * 2**14 * 4 * (64 + 4)


class DoesNotFit(nn.Module):
    """Meta and fake tensors have other words for its fault."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = self.first(x)
        out: torch.Tensor = self.second(moved)
        return out


def test_two_tries_that_fail_at_one_place_by_shapes_leave_no_doubt() -> None:
    with torch.device("meta"):
        model, x = DoesNotFit(), torch.zeros(2, 3, 8, 8)
    with pytest.raises(ModelError, match="to have 8 channels, but got 4 channels") as caught:
        trace(model, x, layers=False)
    assert caught.value.is_final


def failing(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


def test_errors_of_other_places_or_about_other_things_are_not_alike() -> None:
    shapes, others = RuntimeError("sizes 3 and 4"), RuntimeError("shape (3, 4)")
    assert step._alike(failing(shapes), failing(others))  # raised in one line
    with pytest.raises(RuntimeError) as elsewhere:
        torch.zeros(2) + torch.zeros(3)
    assert not step._alike(shapes, elsewhere.value)
    assert step._alike(RuntimeError(str(elsewhere.value)), elsewhere.value)  # the same words
    assert not step._alike(failing(RuntimeError("sizes 3 and 4")), failing(RuntimeError("no values")))
    assert not step._alike(RuntimeError("sizes"), RuntimeError("shape"))  # of no place


class KeepsATable(nn.Module):
    """Its table is made once, in a cache; its result needs a real run."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = x + cached_table(4)
        if x.data_ptr() == 0:
            raise RuntimeError("no values")
        out: torch.Tensor = self.layer(moved)
        return out


@functools.lru_cache
def cached_table(size: int) -> torch.Tensor:
    return torch.ones(size)


def test_the_next_try_does_not_find_tensors_of_the_last_in_a_cache() -> None:
    cached_table.cache_clear()
    assert trace(KeepsATable(), torch.zeros(2, 4), layers=False).tracer == "real"
    assert cached_table(4).tolist() == [1, 1, 1, 1]


class ReadsItsWeights(nn.Module):
    """Only a real run can read it: numpy needs the values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(300, 300)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() == 0:
            raise RuntimeError("no values")
        out: torch.Tensor = self.layer(x)
        return out


@pytest.mark.parametrize("batch", [1, 4, 5, 12])
def test_a_real_run_is_of_the_batch_up_to_four_and_gives_the_figures_of_any(batch: int) -> None:
    work = trace(ReadsItsWeights(), torch.zeros(batch, 300), layers=False)
    assert work.tracer == "real"
    assert work.forward_flops == batch * 300 * 300
    assert work.batch_size == batch
    assert "the model needs real values, so one step was run on the CPU to list its ops" in work.warnings


@pytest.mark.parametrize(("batch", "runs"), [(1, [1]), (2, [2]), (4, [4]), (5, [2, 4]), (9, [2, 4])])
def test_a_batch_of_more_than_four_samples_is_two_real_runs(
    monkeypatch: pytest.MonkeyPatch, batch: int, runs: list[int]
) -> None:
    seen: list[int] = []
    run = step._run

    def noted(one: Step, tracer: str, *others: Any) -> Listing:
        if tracer == "real":
            seen.append(len(one.args[0]))
        return run(one, tracer, *others)

    monkeypatch.setattr(step, "_run", noted)
    trace(ReadsItsWeights(), torch.zeros(batch, 300), layers=False)
    assert seen == runs


def test_why_a_run_is_tried_again_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    one = Step(nn.Linear(3, 4), (), {}, True, None, None)
    with caplog.at_level(logging.DEBUG, "joulecast.trace"):
        step._log_retry(one, "meta", ValueError("  first line\nsecond line"))
    assert caplog.messages == ["Linear: not on meta tensors: ValueError: first line"]


@pytest.mark.parametrize(("tracer", "enabled"), [("meta", True), ("fake", False), ("real", True)])
def test_nothing_is_logged_about_a_run_on_fake_tensors(tracer: str, enabled: bool) -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    with step._quiet(tracer):
        assert logger.isEnabledFor(logging.CRITICAL) is enabled
        warnings.warn("not shown", stacklevel=1)
    assert logger.level == level
    with pytest.raises(UserWarning, match="an error in these tests"):
        warnings.warn("an error in these tests", stacklevel=1)


def test_a_model_too_large_for_a_real_run_shows_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ReadsItsWeights()  # 90,300 parameters
    monkeypatch.setattr(step, "MAX_REAL_PARAMETERS", 90_300)
    assert step._can_run_for_real(model)
    monkeypatch.setattr(step, "MAX_REAL_PARAMETERS", 90_299)
    assert not step._can_run_for_real(model)
    with pytest.raises(JoulecastError):
        trace(model, torch.zeros(2, 300), layers=False)
    monkeypatch.undo()
    assert not step._can_run_for_real(nn.Linear(2, 2, device="meta"))
    assert step._can_run_for_real(nn.LazyLinear(2))
    assert step.MAX_REAL_PARAMETERS == 10**9


def test_batch_norm_on_one_value_names_the_batch_size() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(JoulecastError, match="give a batch size of 2 or more"):
        trace(model, torch.zeros(1, 3), layers=False)
