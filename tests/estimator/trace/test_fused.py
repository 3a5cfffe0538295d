"""Attention, recurrent layers, grouped products and scans as one op each: multiply-adds, bytes and sizes by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from joulecast.estimator.trace.fused import GROUPED, FusedLayers, with_imbalance
from joulecast.estimator.trace.recorder import Recorder
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Op, Workload

F4 = 4


def fused(work: Workload, kind: str) -> list[Op]:
    return [op for op in work.ops if op.kind == kind]


class Projected(nn.Module):
    """A layer before the function, so that every input of it has a gradient."""

    def __init__(self, function: Callable[..., Any], *widths: int) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(nn.Linear(4, width, bias=False) for width in widths)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(*(layer(x) for layer in self.layers))


def test_attentions_bytes_forward_and_backward() -> None:
    # 2 samples of 5 queries, keys and values in 3 heads of width 8, and 16 for the values
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        heads = (part.view(2, 5, 3, -1).transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(*heads, is_causal=True)

    forward, backward = fused(trace(Projected(attention, 24, 24, 48), torch.zeros(2, 5, 4), layers=False), "attention")
    scores, small, large = 2 * 3 * 5 * 5, F4 * 2 * 5 * 24, F4 * 2 * 5 * 48
    assert (forward.name, forward.flops) == ("attention", scores * (8 + 16))
    assert (forward.bytes_read, forward.bytes_written) == (2 * small + large, large)
    assert forward.dims == {"b": 6, "q": 5, "s": 5, "d": 8, "dv": 16, "causal": 1, "dropped": 0}
    assert (backward.name, backward.flops) == ("attention_backward", scores * (8 + 16) * 5 // 2)
    assert backward.bytes_read == 2 * small + large + 2 * large  # the output and its gradient
    assert backward.bytes_written == 2 * small + large
    assert backward.dims == forward.dims


def test_attention_with_other_keys_than_queries_and_without_heads() -> None:
    def attention(x: torch.Tensor) -> torch.Tensor:
        keys, values = torch.ones(2, 7, 8, device=x.device), torch.ones(2, 7, 6, device=x.device)
        return F.scaled_dot_product_attention(x, keys, values)

    work = trace(Projected(attention, 8), torch.zeros(2, 5, 4), layers=False)
    forward = fused(work, "attention")[0]
    assert forward.dims == {"b": 2, "q": 5, "s": 7, "d": 8, "dv": 6, "causal": 0, "dropped": 0}
    assert forward.bytes_written == F4 * 2 * 5 * 6


@pytest.mark.parametrize(
    ("layer", "dims", "macs", "weights", "output"),
    [
        # 10 positions of 3 samples, 4 inputs and 5 states
        (
            nn.LSTM(4, 5),
            {"steps": 10, "n": 3, "input": 4, "hidden": 5, "layers": 1, "directions": 1},
            30 * 4 * 5 * (4 + 5),
            20 * (4 + 5) + 2 * 20,
            30 * 5 + 2 * 15,
        ),
        (
            nn.GRU(4, 5, batch_first=True, bias=False),
            {"steps": 3, "n": 10, "input": 4, "hidden": 5, "layers": 1, "directions": 1},
            30 * 3 * 5 * (4 + 5),
            15 * (4 + 5),
            30 * 5 + 10 * 5,
        ),
        (
            nn.RNN(4, 5, num_layers=2, bidirectional=True),
            {"steps": 10, "n": 3, "input": 4, "hidden": 5, "layers": 2, "directions": 2},
            30 * 2 * 5 * ((4 + 5) + (10 + 5)),
            2 * 5 * ((4 + 5) + (10 + 5)) + 4 * 2 * 5,
            30 * 10 + 4 * 15,
        ),
        (
            nn.LSTM(4, 5, proj_size=2),
            {"steps": 10, "n": 3, "input": 4, "hidden": 5, "layers": 1, "directions": 1},
            30 * (4 * 5 * (4 + 2) + 2 * 5),
            20 * (4 + 2) + 2 * 20 + 2 * 5,
            30 * 2 + 3 * 2 + 3 * 5,
        ),
    ],
)
def test_recurrent_layers_bytes_forward_and_backward(
    layer: nn.Module, dims: dict[str, int], macs: int, weights: int, output: int
) -> None:
    class Layered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rnn = nn.Linear(4, 4, bias=False), layer

        def forward(self, x: torch.Tensor) -> Any:
            return self.rnn(self.first(x))[0]

    forward, backward = fused(trace(Layered(), torch.zeros(10, 3, 4), layers=False), "rnn")
    states = output - 30 * (2 if "proj_size" in repr(layer) else 10 if dims["directions"] == 2 else 5)
    assert (forward.dims, forward.flops, backward.flops) == (dims, macs, 2 * macs)
    assert forward.bytes_read == F4 * (30 * 4 + states + weights)
    assert forward.bytes_written == F4 * output
    # read: what went in, and the gradient of the output alone; written: the gradients of data and weights
    assert backward.bytes_read == F4 * (30 * 4 + states + weights + (output - states))
    assert backward.bytes_written == F4 * (30 * 4 + weights)
    assert (forward.phase, backward.phase, backward.name) == ("forward", "backward", f"{forward.name}_backward")


def test_a_sequence_without_a_batch() -> None:
    forward = fused(trace(nn.LSTM(4, 5), torch.zeros(10, 4), layers=False, train=False), "rnn")[0]
    assert forward.flops == 10 * 4 * 5 * 9
    assert forward.bytes_written == F4 * (10 * 5 + 2 * 5)


class Experts(nn.Module):
    """3 experts of 16 x 32; `x` is sorted by expert."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
        self.weight = nn.Parameter(torch.zeros(3, 16, 32, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ends = torch.tensor([4, 8, 12], dtype=torch.int32, device=x.device)
        return torch._grouped_mm(self.first(x), self.weight, offs=ends)


def test_a_grouped_products_gradients_are_two_products() -> None:
    work = trace(Experts(), torch.zeros(12, 16, dtype=torch.bfloat16), layers=False)
    forward, of_data, of_weight = (op for op in work.ops if op.name == GROUPED)
    macs, data, weight, result = 12 * 16 * 32, 2 * 12 * 16, 2 * 3 * 16 * 32, 2 * 12 * 32
    assert [op.flops for op in (forward, of_data, of_weight)] == [macs] * 3
    assert (forward.bytes_read, forward.bytes_written) == (data + weight, result)
    assert (of_data.bytes_read, of_data.bytes_written) == (result + weight, data)
    assert (of_weight.bytes_read, of_weight.bytes_written) == (result + data, weight)
    assert forward.dims == {"b": 3, "m": 4, "k": 16, "n": 32}
    assert of_data.dims == {"b": 3, "m": 4, "k": 32, "n": 16}  # grad x right^T
    assert of_weight.dims == {"b": 3, "m": 16, "k": 4, "n": 32}  # left^T x grad
    assert {op.dtype for op in (forward, of_data, of_weight)} == {"bfloat16"}


def test_a_grouped_product_of_data_has_the_weights_gradient_alone() -> None:
    model = Experts()
    model.first = nn.Identity()
    work = trace(model, torch.zeros(12, 16, dtype=torch.bfloat16), layers=False)
    assert [(op.phase, op.dims["m"]) for op in work.ops if op.name == GROUPED] == [("forward", 4), ("backward", 16)]
    model.weight.requires_grad_(False)
    model.first = nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
    work = trace(model, torch.zeros(12, 16, dtype=torch.bfloat16), layers=False)
    backward = [op for op in work.ops if op.name == GROUPED][1:]
    assert [(op.dims["k"], op.dims["n"]) for op in backward] == [(32, 16)]


@pytest.mark.parametrize(
    ("left", "right", "ends", "shape", "groups"),
    [
        ((12, 16), (3, 16, 32), 3, (12, 32), 3),  # tokens by expert
        ((3, 6, 16), (16, 12), 3, (6, 12), 3),  # columns by expert
        ((6, 12), (12, 8), 3, (3, 6, 8), 3),  # inner size by expert
        ((3, 6, 16), (3, 16, 8), None, (3, 6, 8), 3),
        ((6, 16), (16, 8), None, (1, 6, 8), 1),
    ],
)
def test_shapes_of_grouped_products(
    left: tuple[int, ...], right: tuple[int, ...], ends: int | None, shape: tuple[int, ...], groups: int
) -> None:
    recorder = Recorder(nn.Identity())
    offs = None if ends is None else torch.zeros(ends, dtype=torch.int32, device="meta")
    one, other = torch.zeros(left, device="meta"), torch.zeros(right, device="meta")
    made = FusedLayers(recorder)._grouped(one, other, offs)
    assert (tuple(made.shape), made.dtype) == (shape, torch.float32)
    assert recorder.ops[0].dims["b"] == groups
    half = FusedLayers(recorder)._grouped(one, other, offs, torch.zeros(shape[-1], device="meta"), torch.bfloat16)
    assert tuple(half.shape) == shape
    assert recorder.ops[1].bytes_written == recorder.ops[0].bytes_written // 2


def test_the_busiest_expert_makes_the_others_wait() -> None:
    grouped = Op(GROUPED, "matmul", "forward", "", 100, 1, 1, dims={"b": 3, "m": 4, "k": 16, "n": 32})
    plain = Op("mm", "matmul", "forward", "", 100, 1, 1, dims={"b": 1, "m": 4, "k": 16, "n": 32})
    slower, same = with_imbalance([grouped, plain], 1.5)
    assert (slower.flops, slower.dims) == (150, {"b": 3, "m": 6, "k": 16, "n": 32})
    assert same == plain


# -- scans ------------------------------------------------------------------------------------------------------

home = ModuleType("joulecast_made_up_scan")
sys.modules[home.__name__] = home


def pscan(x: torch.Tensor, gate: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A walk over time: a product of 4 x 4 for each of the positions."""
    state = torch.zeros(x.shape[0], 4, device=x.device)
    for position in range(x.shape[1]):
        state = state @ gate + x[:, position] * scale
    return state, torch.zeros(2, dtype=torch.int64, device=x.device)


home.pscan = pscan  # type: ignore[attr-defined]


class Scans(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.gate = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, _ = home.pscan(self.first(x), self.gate)
        again, _ = home.pscan(self.first(x), self.gate)
        out: torch.Tensor = state + again
        return out


Scans.__module__ = home.__name__


def test_a_scan_is_one_op_that_reads_its_inputs_and_writes_its_outputs() -> None:
    work = trace(Scans(), torch.zeros(2, 7, 4), layers=False)
    scans = fused(work, "scan")
    assert [op.name for op in scans] == ["pscan"] * 2 + ["pscan_backward"] * 2
    data, gate, state = F4 * 2 * 7 * 4, F4 * 16, F4 * 2 * 4
    for forward in scans[:2]:
        assert forward.flops == 7 * 2 * 16  # a second call of the same shape counts as much
        assert (forward.bytes_read, forward.bytes_written) == (data + gate, state + 8 * 2)
        assert (forward.phase, forward.dims) == ("forward", {"elements": 2 * 7 * 4})
    for backward in scans[2:]:
        assert backward.flops == 2 * 7 * 2 * 16
        assert (backward.bytes_read, backward.bytes_written) == (data + gate + state, data + gate)
        assert backward.phase == "backward"
    assert home.pscan is pscan  # the user's function is back


@pytest.mark.parametrize(
    ("device", "autocast", "dtype"),
    [("cpu", False, "float32"), ("cpu", True, "bfloat16"), ("meta", True, "float32"), ("meta", False, "float32")],
)
def test_autocast_acts_on_fused_calls_of_tensors_on_the_cpu(device: str, autocast: bool, dtype: str) -> None:
    model = nn.LSTM(4, 8, device=device)
    recorder = Recorder(model)
    x, heads = torch.zeros(5, 2, 4, device=device), torch.zeros(2, 3, 5, 8, device=device)
    with FusedLayers(recorder):
        torch.set_autocast_enabled("cpu", autocast)
        try:
            model(x)
            F.scaled_dot_product_attention(heads, heads, heads)
        finally:
            torch.set_autocast_enabled("cpu", False)
    assert {op.name: op.dtype for op in recorder.ops} == {"lstm": dtype, "attention": dtype}


class Positions(nn.Module):
    """Attention with a learnt bias for each pair of positions, as T5 has."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2, 6, 6))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(data, data, data, attn_mask=self.bias)


def test_a_learnt_bias_gets_a_gradient() -> None:
    work = trace(Positions(), torch.zeros(3, 2, 6, 4), layers=False)
    assert not any("no gradient" in note for note in work.warnings)
    backward = next(op for op in work.ops if op.name == "attention_backward")
    # gradients of queries, keys and values, and of the bias
    assert backward.bytes_written == 4 * (3 * 3 * 2 * 6 * 4 + 2 * 6 * 6)
