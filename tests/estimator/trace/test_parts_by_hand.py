"""Losses, optimizers, recurrent shapes, attention's layout and fvcore's inputs: edges by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace import autocast
from joulecast.estimator.trace.fused import GROUPED, _heads_inside, _RecurrentShape, with_imbalance
from joulecast.estimator.trace.fvcore_flops import fvcore_forward_flops, zeros_for
from joulecast.estimator.trace.losses import _needed_parameters, differentiable, training_loss
from joulecast.estimator.trace.optimizers import optimizer_of, state_bytes, update_ops
from joulecast.estimator.trace.shapes import output_shapes
from joulecast.estimator.trace.trace import _is_compiled
from joulecast.estimator.trace.training_step import TrainingStep
from joulecast.estimator.trace.workload import Op


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


# -- losses ------------------------------------------------------------------------------------------

SCORES = torch.full((2, 4), 3.0, requires_grad=True)
INPUTS = ((torch.zeros(2, 5),), {})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda a, b, c: a,
            r"`loss` takes a, b, c; give a function of the output, or of the output and a target "
            r"\(a parameter named target or targets\) or the inputs",
        ),
        (lambda out: out, "`loss` returned a tensor of shape 2x4; return a tensor with one element"),
        (lambda out: 3.0, "`loss` returned a float; return a tensor with one element"),
        (lambda out: out.detach().sum(), "`loss` returned a tensor without a gradient; compute it from"),
    ],
)
def test_losses_that_cannot_be_used(loss: Any, message: str) -> None:
    with pytest.raises(JoulecastError, match=message):
        training_loss(loss, SCORES, INPUTS)


def test_a_loss_of_no_element_and_one_with_optional_parameters_only() -> None:
    with pytest.raises(JoulecastError, match="`loss` returned a tensor of shape 0; return a tensor with one element"):
        training_loss(lambda out: out[:0, 0], SCORES, INPUTS)
    assert training_loss(lambda *given: sum(one.sum() for one in given), SCORES, INPUTS).item() == 24
    assert training_loss(lambda out=None: out.sum(), SCORES, INPUTS).item() == 24


def test_an_output_without_a_gradient_has_no_loss() -> None:
    for output in (None, torch.zeros(2), {"loss": torch.zeros(())}):
        with pytest.raises(JoulecastError, match="no output of the model depends on its parameters; give a loss"):
            training_loss(None, output, INPUTS)
    with pytest.raises(JoulecastError, match="no output of the model depends on its parameters; give another loss"):
        training_loss(lambda out, target: out, {"a": torch.zeros(2)}, INPUTS)


def test_what_a_loss_needs() -> None:
    def own(a: Any, b: Any, /, *rest: Any, c: Any = 1, **more: Any) -> None: ...
    def default(a: Any, b: Any = 2) -> None: ...
    def keyword(a: Any, *, b: Any) -> None: ...

    assert _needed_parameters(own) == ["a", "b"]
    assert _needed_parameters(default) == ["a"]
    assert _needed_parameters(keyword) == ["a"]
    assert _needed_parameters(nn.MSELoss()) == ["input", "target"]
    assert _needed_parameters(dict) == []


def test_a_loss_of_the_inputs_gets_them_as_the_model_does() -> None:
    seen: list[Any] = []

    def loss(output: Any, inputs: Any) -> Any:
        seen.append(inputs)
        return output.sum()

    x, y = torch.zeros(1), torch.zeros(2)
    for inputs in (((x,), {}), ((x, y), {}), ((x,), {"y": y}), ((), {"y": y})):
        training_loss(loss, SCORES, inputs)
    assert seen == [x, (x, y), ((x,), {"y": y}), ((), {"y": y})]


@pytest.mark.parametrize(
    ("shape", "target", "dtype"),
    [
        ((2, 4), (2,), torch.int64),
        ((2, 4, 5), (2, 5), torch.int64),
        ((2, 1), (2, 1), torch.float32),  # one value each
        ((2,), (2,), torch.float32),
        ((2, 2), (2,), torch.int64),
    ],
)
def test_the_target_of_a_loss(shape: tuple[int, ...], target: tuple[int, ...], dtype: torch.dtype) -> None:
    seen: list[torch.Tensor] = []

    def loss(output: Any, target: torch.Tensor) -> Any:
        seen.append(target)
        return output.sum()

    def refuses(output: Any, target: torch.Tensor) -> Any:
        seen.append(target)
        if len(seen) == 2:
            raise ValueError("another, please")
        return output[0].sum()

    scores = torch.zeros(shape, requires_grad=True)
    training_loss(loss, scores, INPUTS)
    training_loss(refuses, [scores], INPUTS)
    assert [(tuple(one.shape), one.dtype) for one in seen[:2]] == [(target, dtype)] * 2
    assert seen[2].is_floating_point() != dtype.is_floating_point


@dataclasses.dataclass
class Output:
    logits: Any
    past_key_values: Any
    hidden_states: Any = None


def test_outputs_with_a_gradient_once_and_without_caches() -> None:
    a, b, plain = SCORES * 1, SCORES * 2, torch.zeros(2)
    for output, expected in (
        (Output(a, b), [a]),
        (Output(plain, b), [b]),
        (Output(a, None, [b]), [a]),
        ({"encoder_hidden_states": b, "logits": a}, [a]),
        ({"decoder_attentions": b, "cache": b, "mems": b, "logits": a}, [a]),
        ([a, plain, a, b], [a, b]),
        ((a, {"past_key_values": b}), [a, b]),  # not a field of the output itself
    ):
        assert [id(one) for one in differentiable(output)] == [id(one) for one in expected]


# -- optimizers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "size"),
    [(4095, 4 * 4095), (4096, 4096 + 4 * 16), (4097, 4097 + 4 * 17), (4352, 4352 + 4 * 17), (4353, 4353 + 4 * 18)],
)
def test_states_of_eight_bits_from_4096_elements_with_a_scale_for_each_256(elements: int, size: int) -> None:
    assert state_bytes("momentum_8bit", (elements,), 2) == size
    assert state_bytes("lion_8bit", (elements,), 2) == size
    assert state_bytes("adamw_8bit", (elements,), 2) == 2 * size


def test_adafactors_rows_and_columns() -> None:
    assert state_bytes("adafactor", (7,), 4) == 28
    assert state_bytes("adafactor", (7, 3), 4) == 4 * 10
    assert state_bytes("adafactor", (5, 7, 3), 2) == 5 * 2 * 10


def test_sides_of_one_and_above_ten_thousand_have_no_preconditioner() -> None:
    def products(*shape: int) -> list[str]:
        return [op.name for op in update_ops("shampoo", "a", shape, 4, "float32")[1:]]

    side = ["statistics", "precondition", "inverse_root"]
    assert products(2, 3) == side * 2
    assert products(1, 3) == side
    assert products(10_000, 3) == side * 2
    assert products(10_001, 3) == side
    assert state_bytes("shampoo", (2, 3), 4) == 4 * (6 + 2 * 4 + 2 * 9)


def test_an_optimizer_by_its_class_and_options() -> None:
    weights = [nn.Parameter(torch.zeros(2))]
    assert optimizer_of(torch.optim.SGD(weights, 0.1)) == "sgd"
    assert optimizer_of(torch.optim.SGD(weights, 0.1, momentum=0.9)) == "momentum"
    assert optimizer_of(torch.optim.RMSprop(weights, momentum=0.9)) == "rmsprop_momentum"
    assert optimizer_of(torch.optim.RMSprop(weights)) == "rmsprop"
    assert optimizer_of(torch.optim.Adam(weights, amsgrad=True)) == "amsgrad"
    assert optimizer_of(torch.optim.AdamW(weights, amsgrad=True)) == "amsgrad"
    assert optimizer_of(torch.optim.Adam(weights)) == "adam"
    assert optimizer_of("Lion") == "lion"
    assert optimizer_of(object()) == "adamw"


# -- fused layers ------------------------------------------------------------------------------------


def test_experts_wait_for_the_busiest() -> None:
    def op(name: str, flops: int, m: int) -> Op:
        return Op(name, "matmul", "forward", "", flops, 1, 1, dims={"b": 4, "m": m, "k": 8, "n": 8})

    ops = [op(GROUPED, 100, 16), op("mm", 100, 16)]
    assert with_imbalance(ops, 1.5) == [op(GROUPED, 150, 24), op("mm", 100, 16)]
    assert with_imbalance(ops, 1.0) == ops


def test_heads_lie_inside_positions() -> None:
    four = _heads_inside(meta(2, 3, 5, 8), 6)
    assert (tuple(four.shape), four.stride()) == ((2, 3, 5, 6), (5 * 3 * 6, 6, 3 * 6, 1))
    assert four.transpose(1, 2).is_contiguous()
    three = _heads_inside(meta(3, 5, 8), 6)
    assert (tuple(three.shape), three.is_contiguous()) == ((3, 5, 6), True)


@pytest.mark.parametrize(
    ("data", "states", "both", "batch", "first", "output", "dims"),
    [
        (meta(7, 2, 3), [meta(1, 2, 5)], False, 2, False, (7, 2, 5), (7, 2)),
        (meta(2, 7, 3), [meta(1, 2, 5)], False, 2, True, (2, 7, 5), (7, 2)),
        (meta(7, 2, 3), [meta(2, 2, 5)], True, 2, False, (7, 2, 10), (7, 2)),
        (meta(7, 3), [meta(1, 5)], False, 0, True, (7, 5), (1, 7)),
        (meta(7, 1, 3), [meta(1, 1, 5)], False, 1, False, (7, 1, 5), (7, 1)),
        (meta(0, 2, 3), [meta(1, 2, 5)], False, 2, False, (0, 2, 5), (1, 2)),
        (meta(0, 3), [meta(1, 5)], False, 0, False, (0, 5), (1, 0)),
        (meta(7, 2, 3), [meta(1, 2, 4), meta(1, 2, 5)], False, 2, False, (7, 2, 4), (7, 2)),  # projected to 4
    ],
)
def test_shapes_of_recurrent_layers(
    data: Any, states: Any, both: bool, batch: int, first: bool, output: tuple[int, ...], dims: tuple[int, int]
) -> None:
    shape = _RecurrentShape("lstm", data, states, [], 1, both, True, batch, first)
    assert tuple(shape.output(data).shape) == output
    steps, samples = dims
    assert shape.dims == {
        "steps": steps,
        "n": samples,
        "input": 3,
        "hidden": 5,
        "layers": 1,
        "directions": 2 if both else 1,
    }
    projection = 4 if len(states) == 2 else 0
    assert shape.projection == projection
    each = 4 * 5 * (3 + (projection or 5)) + projection * 5
    assert shape.flops == data.numel() // 3 * each * (2 if both else 1)
    if first and data.dim() == 3:
        assert shape.output(data).stride() == (5, 2 * 5, 1)  # time first in memory


def test_a_recurrent_layer_of_one_input_and_of_none() -> None:
    for width, tokens in ((1, 14), (0, 0)):
        shape = _RecurrentShape("gru", meta(7, 2, width), [meta(1, 2, 5)], [], 1, False, True, 2, False)
        assert shape.tokens == tokens


# -- fvcore ------------------------------------------------------------------------------------------


def test_zeros_of_one_sample() -> None:
    given = (torch.ones(6, 3, dtype=torch.int32), {"a": meta(3, 6), "b": "text", "c": torch.ones(()), "d": meta(7, 2)})
    (first, named) = zeros_for(given, cut_from=6)
    assert (tuple(first.shape), first.dtype, first.any().item()) == ((1, 3), torch.int32, False)
    assert (tuple(named["a"].shape), named["a"].device.type) == ((3, 6), "cpu")
    assert (named["b"], tuple(named["c"].shape), tuple(named["d"].shape)) == ("text", (), (7, 2))
    assert tuple(zeros_for(given, cut_from=None)[0].shape) == (6, 3)


def counts(model: nn.Module, *args: Any, **kwargs: Any) -> int:
    return fvcore_forward_flops(model, args, kwargs)[""]


def test_fvcores_counts_of_what_it_has_no_handle_for() -> None:
    x = torch.zeros(2, 7, 3)
    assert counts(nn.LSTM(3, 5, batch_first=True), x) == 14 * 4 * 5 * (3 + 5)
    assert counts(nn.GRU(3, 5, num_layers=2, bidirectional=True), x) == 14 * 2 * 3 * 5 * ((3 + 5) + (10 + 5))
    assert counts(nn.RNN(3, 5), x) == 14 * 5 * (3 + 5)
    assert counts(nn.LSTM(3, 5, proj_size=2), x) == 14 * (4 * 5 * (3 + 2) + 2 * 5)
    assert counts(nn.RNN(3, 5, nonlinearity="relu"), x) == 14 * 5 * (3 + 5)
    padded = nn.Conv2d(4, 6, 3, padding="same", groups=2, bias=False)
    assert counts(padded, torch.zeros(2, 4, 5, 5)) == 2 * 6 * 25 * 2 * 9

    class Attends(nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return nn.functional.scaled_dot_product_attention(q, k, v)

    q, k, v = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 7, 16)
    assert counts(Attends(), q, k=k, v=v) == 6 * 5 * 7 * (8 + 16)
    assert counts(Attends(), q[0], k=k[0], v=v[0]) == 3 * 5 * 7 * (8 + 16)


def test_fvcore_leaves_the_modes_of_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Dropout())
    model[1].eval()
    assert fvcore_forward_flops(model, (torch.zeros(1, 3),), {}) == {"": 12, "0": 12, "1": 0}
    assert [module.training for module in model.modules()] == [True, True, False]


# -- devices, shapes and compiled models ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", None, torch.bfloat16),
        ("cuda", None, torch.float16),
        ("cuda", torch.bfloat16, torch.bfloat16),
        ("cpu", torch.float16, torch.float16),
    ],
)
def test_autocast_of_any_device_acts_on_the_cpu(device: str, dtype: Any, expected: torch.dtype) -> None:
    x, w = torch.zeros(2, 3), torch.zeros(3, 4)
    with autocast.any_device():
        with torch.autocast(device, dtype=dtype):
            assert (x @ w).dtype == expected
        with torch.autocast(device, dtype=dtype, enabled=False):
            assert (x @ w).dtype == torch.float32
        with torch.device("meta"):
            with pytest.raises(autocast.NeedsAutocastError, match=rf"autocast\('{device}'\)"):
                torch.autocast(device, dtype=dtype).__enter__()
            with torch.autocast(device, dtype=dtype, enabled=False):
                pass
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ w).dtype == torch.bfloat16


def test_shapes_of_what_a_method_returns() -> None:
    model = nn.Linear(3, 4)
    shapes = output_shapes(model, lambda x, n: {"out": [model(x)], "n": n}, {"x": torch.zeros(2, 3), "n": 5})
    assert shapes == {"out": [(2, 4)], "n": 5}
    assert (model.weight.is_meta, model.training) == (False, True)


def test_compiled_models() -> None:
    class Steps(nn.Linear):
        def training_step(self, batch: Any) -> Any:
            return self(batch).sum()

    plain, compiled = Steps(3, 4), Steps(3, 4)
    compiled._compiled_call_impl = lambda *args: None
    wrapped = nn.Module()
    wrapped._orig_mod = plain
    assert not _is_compiled(plain)
    assert not _is_compiled(TrainingStep(plain))
    assert _is_compiled(compiled)
    assert _is_compiled(TrainingStep(compiled))
    assert _is_compiled(wrapped)
