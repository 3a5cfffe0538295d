"""The layers of a recorded step, and what becomes of its listing in a workload, by hand."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace import layer_table as layer_table_module
from joulecast.estimator.trace import scans
from joulecast.estimator.trace.layer_table import _ancestors, fvcore_counts, layer_table
from joulecast.estimator.trace.recorder import LOSS_LAYER, _first_shape
from joulecast.estimator.trace.step import Step, Trained
from joulecast.estimator.trace.trace import _accumulated, _arithmetic, _notes, _update, trace
from joulecast.estimator.trace.untouched import untouched

from .listings import listing, op


def test_the_first_shape_of_an_output() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(4)
    assert _first_shape(x) == (2, 3)
    assert _first_shape((None, [y, x])) == (4,)
    assert _first_shape(OrderedDict(a=3.0, b={"c": x})) == (2, 3)
    assert _first_shape([]) is _first_shape(None) is _first_shape("text") is _first_shape({"a": 1}) is None


def test_a_module_that_raises_leaves_the_layers_above_it() -> None:
    class Raises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = Raises(), nn.Linear(3, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                self.bad(x)
            except ValueError:
                x = x + 1
            out: torch.Tensor = self.good(x) * 2
            return out

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Tries()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x) - 1
            return out

    work = trace(Whole(), torch.zeros(2, 3), train=False, layers=False)
    layers = {one.name: one.layer for one in work.ops}
    assert layers["mm"] == "inner.good"
    assert (layers["mul"], layers["sub"]) == ("inner", "")
    assert {layer.path for layer in work.layers} == {"", "inner", "inner.good"}


def test_the_loss_is_a_layer_of_its_own() -> None:
    work = trace(nn.Linear(3, 4), torch.zeros(2, 3), layers=False)
    assert {one.layer for one in work.ops if one.kind == "loss"} == {LOSS_LAYER}
    assert {one.layer for one in work.ops if one.name == "mm"} == {""}


def test_a_path_and_all_above_it() -> None:
    assert list(_ancestors("a.b.c")) == ["a.b.c", "a.b", "a", ""]
    assert list(_ancestors("")) == [""]


def test_rows_of_modules_that_ran() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    elements = {id(parameter): parameter.numel() for parameter in model.parameters()}
    found = listing(
        [
            *(op(flops=10, layer="0.0"), op(flops=5, layer="0.0"), op(flops=2, layer="0"), op(flops=100, layer="1")),
            op(flops=1000, layer="0.0", phase="backward"),
        ],
        elements=elements,
    )
    found.recorder.output_shapes = {"": (2, 2), "0": (2, 4), "0.0": (2, 4), "1": (2, 4)}
    rows = {row.path: row for row in layer_table(model, found, None, 2)}
    assert list(rows) == ["", "0", "0.0", "1"]  # the last one never ran
    assert {path: row.flops for path, row in rows.items()} == {"": 117, "0": 17, "0.0": 15, "1": 100}
    assert {path: row.parameters for path, row in rows.items()} == {"": 26, "0": 16, "0.0": 16, "1": 0}
    assert {path: row.depth for path, row in rows.items()} == {"": 0, "0": 1, "0.0": 2, "1": 1}
    assert {path: row.leaf for path, row in rows.items()} == {"": False, "0": False, "0.0": True, "1": True}
    assert {row.source for row in rows.values()} == {"trace"}
    assert rows["0"].output_shape == (2, 4)


@pytest.mark.parametrize(
    ("shape", "batch_first", "ran"),
    [((6, 3), True, (1, 3)), ((6, 3), False, (1, 3)), ((2, 6, 3), False, (2, 6, 3))],
)
def test_fvcore_runs_one_sample_where_inputs_begin_with_the_batch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], batch_first: bool, ran: tuple[int, ...]
) -> None:
    seen: list[Any] = []
    counted = layer_table_module.fvcore_forward_flops
    monkeypatch.setattr(
        layer_table_module,
        "fvcore_forward_flops",
        lambda model, args, kwargs: seen.append((args[0].shape, kwargs["label"].shape)) or counted(model, args, {}),
    )
    model, args = nn.Sequential(nn.Linear(3, 4, bias=False)), (torch.zeros(shape),)
    kwargs = {"label": torch.zeros(shape[:1])}
    macs = args[0].numel() * 4
    with untouched(model, args, kwargs, None) as reached:
        counts, notes = fvcore_counts(
            Step(model, args, kwargs, True, None, None), 6, macs, reached, batch_first=batch_first
        )
    assert seen == [(ran, ran[:1])]
    assert (counts, notes) == ({"": macs / 6, "0": macs / 6}, [])


# -- from the listing to the workload ------------------------------------------------------------------


def test_gradients_are_added_from_the_second_micro_batch_on() -> None:
    found = listing([op(flops=3, count=2)], trained=(Trained("a.b.w", 6, 4, "float32", (2, 3)),))
    assert _accumulated(found, 1) == [op(flops=3, count=2)]
    first, add = _accumulated(found, 4)
    assert first.count == 8
    assert (add.name, add.kind, add.phase, add.layer, add.flops) == ("add_", "elementwise", "backward", "a.b", 0)
    assert (add.bytes_read, add.bytes_written, add.count) == (48, 24, 3)
    assert add.dims == {"elements_in": 6, "elements_out": 6}


def test_an_update_between_clipping_and_a_moving_average() -> None:
    once = Trained("a.w", 6, 4, "float32", (2, 3))
    assert [one.name for one in _update("sgd", once, False, False)] == ["sgd"]
    ops = _update("sgd", once, True, True)
    assert [one.name for one in ops] == ["clip_grad_norm_", "sgd", "ema"]
    assert {one.layer for one in ops} == {"a"}
    thrice = Trained("a.w", 6, 4, "float32", (2, 3), 3)
    assert [one.count for one in _update("sgd", thrice, True, True)] == [3, 3, 3]
    rows = Trained("a.w", 3, 4, "float32", (2, 3))  # of a sparse gradient: the average is of the whole
    assert [one.dims["elements"] for one in _update("sgd", rows, True, True)] == [3, 3, 6]


def test_the_format_of_a_workload_is_that_of_most_multiply_adds() -> None:
    half = op(flops=10, dtype="bfloat16", count=3)
    assert _arithmetic([op(flops=29), half]) == "bfloat16"
    assert _arithmetic([op(flops=16), half, op(flops=15)]) == "float32"
    assert _arithmetic([op(dtype="bfloat16")]) == "float32"
    assert _arithmetic([]) == "float32"


def test_notes_on_what_a_step_left_out() -> None:
    model = nn.Linear(3, 4)
    training, inference = (Step(model, (), {}, train, None, None) for train in (True, False))
    both = tuple(Trained(name, 1, 4, "float32", (1,)) for name in ("weight", "bias"))
    assert _notes(training, listing([], trained=both)) == []
    assert _notes(training, listing([], trained=both[:1])) == [
        "1 trainable parameter tensors get no gradient from the loss"
    ]
    assert _notes(training, listing([], trained=both, has_output=False)) == [
        "the model's output has no tensor to put a loss on"
    ]
    own = Step(model, (), {}, True, None, lambda output: output.sum())
    assert _notes(own, listing([], trained=both, has_output=False)) == []
    assert _notes(inference, listing([], has_output=False)) == []
    assert _notes(inference, listing([], values_drawn=3)) == [
        "3 values that the model reads depend on its activations, or on weights without values: "
        "random numbers were used in their place"
    ]


def test_figures_of_a_workload() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2).double().float())
    model[1].bias.requires_grad_(False)
    work = trace(model, torch.zeros(5, 3), optimizer="momentum", accumulate=3, ema=True, layers=False)
    assert (work.parameters, work.trainable_parameters, work.parameter_bytes) == (22, 20, 88)
    assert (work.batch_size, work.input_bytes) == (15, 3 * 60)
    assert work.optimizer_state_bytes == 2 * 80  # a velocity and an average
    idle = trace(model, torch.zeros(5, 3), train=False, layers=False)
    assert (idle.optimizer, idle.optimizer_state_bytes, idle.batch_size) == (None, 0, 5)


@pytest.mark.parametrize(("value", "valid"), [(1, True), (0, False)])
def test_at_least_one_micro_batch_and_an_equal_share(value: int, valid: bool) -> None:
    for option in ("accumulate", "expert_imbalance"):
        options: dict[str, Any] = {option: value}
        if valid:
            trace(nn.Linear(3, 4), torch.zeros(2, 3), layers=False, **options)
            continue
        with pytest.raises(JoulecastError, match=f"{option} is 0; give 1"):
            trace(nn.Linear(3, 4), torch.zeros(2, 3), layers=False, **options)


# -- scans -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(scans.METHODS))
def test_a_method_that_computes_a_scan_is_one_op_and_put_back(name: str) -> None:
    def walk(self: Any, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(x.shape[0], 4, device=x.device)
        for position in range(x.shape[1]):
            state = state @ gate + x[:, position]
        return state

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = getattr(self, name)(x, self.gate)
            return out

    setattr(Layer, name, walk)
    work = trace(Layer(), torch.zeros(2, 7, 4), train=False, layers=False)
    assert [(one.name, one.kind, one.flops) for one in work.ops] == [(name, "scan", 7 * 2 * 16)]
    assert vars(Layer)[name] is walk


def test_scans_that_the_code_names() -> None:
    assert {"_rnn_scan", "selective_scan", "mlstm_recurrent_sequence_native"} == scans.METHODS


def test_an_optional_input_that_a_part_of_the_model_needs_is_named():
    class TwoTowers(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual, self.words = nn.Linear(4, 3), nn.Embedding(10, 3)

        def forward(self, image=None, text=None):
            return self.visual(image) if text is None else self.visual(image) + self.words(text).mean(1)

    image, text = torch.zeros(2, 4), torch.zeros(2, 5, dtype=torch.int64)
    note = (
        "1 trainable parameter tensors get no gradient from the loss; "
        "the model was called without text: give all of its `inputs` by name"
    )
    assert note in trace(TwoTowers(), image).warnings
    assert not any("gradient" in one for one in trace(TwoTowers(), (image, text)).warnings)
