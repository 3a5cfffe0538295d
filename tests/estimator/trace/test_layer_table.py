"""Where fvcore's counts stand in the layer table, and when a note says that they differ: by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.trace import layer_table
from joulecast.estimator.trace import trace as trace_module
from joulecast.estimator.trace.step import Step
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.untouched import untouched
from joulecast.estimator.trace.workload import Layer, Workload

MACS = 100 * 100  # a sample, of the one layer


def traced(monkeypatch: pytest.MonkeyPatch, counts: Mapping[str, int], batch: int = 4) -> Workload:
    """A network of one linear layer for which fvcore gives `counts`."""
    monkeypatch.setattr(layer_table, "fvcore_forward_flops", lambda model, args, kwargs: counts)
    return trace(nn.Sequential(nn.Linear(100, 100, bias=False)), torch.zeros(batch, 100))


@pytest.mark.parametrize(
    ("theirs", "source"),
    [(10_000, "fvcore"), (10_098, "fvcore"), (9_902, "fvcore"), (10_105, "trace"), (9_895, "trace"), (0, "trace")],
)
def test_a_layers_count_is_fvcores_where_both_agree_within_one_percent(
    monkeypatch: pytest.MonkeyPatch, theirs: int, source: str
) -> None:
    work = traced(monkeypatch, {"": MACS, "0": theirs})
    rows = {layer.path: layer for layer in work.layers}
    assert rows["0"].source == source
    assert rows["0"].flops == 4 * (theirs if source == "fvcore" else MACS)
    assert (rows[""].source, rows[""].flops) == ("fvcore", 4 * MACS)


@pytest.mark.parametrize(
    ("theirs", "told"), [(10_000, False), (10_095, False), (9_905, False), (10_106, True), (9_895, True)]
)
def test_a_note_names_both_counts_where_they_differ_by_more_than_one_percent(
    monkeypatch: pytest.MonkeyPatch, theirs: int, told: bool
) -> None:
    work = traced(monkeypatch, {"": theirs, "0": MACS})
    notes = [note for note in work.warnings if "fvcore" in note]
    expected = f"fvcore counts {theirs:,} forward multiply-adds a sample in eval mode, the trace 10,000"
    assert notes == ([expected] if told else [])


def test_no_note_where_fvcore_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    work = traced(monkeypatch, {"": 0})
    assert work.warnings == ()
    assert {layer.source for layer in work.layers} == {"trace"}


def test_fvcore_is_left_out_above_20_g_multiply_adds_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution of 3 x 3 on 1,000 x 1,000 pixels: 9 G multiply-adds for each 1,000 pairs of channels."""
    asked: list[Any] = []

    def count(model: nn.Module, args: Any, kwargs: Any) -> dict[str, int]:
        asked.append(args[0].shape)
        return {"": 0}

    monkeypatch.setattr(layer_table, "fvcore_forward_flops", count)
    for c_out, runs in ((1000, True), (3000, False)):
        asked.clear()
        net = nn.Conv2d(1, c_out, 3, padding=1, bias=False)
        trace(net, torch.zeros(8, 1, 1000, 1000, device="meta"), train=False)
        assert asked == ([torch.Size([1, 1, 1000, 1000])] if runs else []), c_out


def test_fvcores_largest_sample_is_of_20_g_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inputs' first dimension that is not the batch: all samples are run, and counted, at once."""
    assert layer_table._FVCORE_MAX_FLOPS == 20 * 10**9
    model = nn.Linear(3, 4, bias=False)
    args = (torch.zeros(2, 6, 3),)
    for most, runs in ((600, True), (599, False)):
        monkeypatch.setattr(layer_table, "_FVCORE_MAX_FLOPS", most)
        with untouched(model, args, {}, None) as reached:
            step = Step(model, args, {}, True, None, None)
            counts, notes = layer_table.fvcore_counts(step, 6, 600, reached, batch_first=False)
        assert (counts is not None) is runs
        assert bool(notes) is runs  # 600 are not the layer's 144


@pytest.mark.parametrize(
    ("most", "layers", "runs"), [(10_000, True, True), (9_999, True, False), (10_000, False, False)]
)
def test_fvcore_is_left_out_above_a_number_of_parameters_and_on_request(
    monkeypatch: pytest.MonkeyPatch, most: int, layers: bool, runs: bool
) -> None:
    monkeypatch.setattr(trace_module, "FVCORE_MAX_PARAMETERS", most)
    work = trace(nn.Sequential(nn.Linear(100, 100, bias=False)), torch.zeros(4, 100), layers=layers)
    assert {layer.source for layer in work.layers} == {"fvcore" if runs else "trace"}
    assert layer_table.FVCORE_MAX_PARAMETERS == 200 * 10**6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU())
        self.unused = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.inner(x) @ torch.zeros(8, 8, device=x.device))
        return out


def test_a_row_counts_the_module_and_all_below_it() -> None:
    rows = trace(Block(), torch.zeros(3, 8)).layers
    assert [(row.path, row.kind, row.depth, row.leaf) for row in rows] == [
        ("", "Block", 0, False),
        ("inner", "Sequential", 1, False),
        ("inner.0", "Linear", 2, True),
        ("inner.1", "ReLU", 2, True),
        ("head", "Linear", 1, True),
    ]
    assert {row.path: row.flops for row in rows} == {
        "": 3 * (64 + 64 + 16),  # a product of its own between the two layers
        "inner": 3 * 64,
        "inner.0": 3 * 64,
        "inner.1": 0,
        "head": 3 * 16,
    }
    assert {row.path: row.parameters for row in rows} == {
        "": 64 + 72 + 18,
        "inner": 64,
        "inner.0": 64,
        "inner.1": 0,
        "head": 18,
    }
    assert all(isinstance(row, Layer) and row.output_shape[0] == 3 for row in rows)
