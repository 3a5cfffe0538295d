"""`flex_attention`: multiply-adds, computed scores, bytes and gradients by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from joulecast.estimator.cost.features import _pieces
from joulecast.estimator.cost.fusion import needed_share
from joulecast.estimator.trace.flex import _spread
from joulecast.estimator.trace.fused import _uncompiled
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Op, Workload

F4, BLOCK = 4, 128


def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q >= k


def window(width: int) -> Callable[..., Any]:
    return lambda b, h, q, k: (q >= k) & (q - k < width)


class Attention(nn.Module):
    """Queries, keys and values of separate layers; `options` gives what flex_attention takes besides."""

    def __init__(
        self,
        heads: int = 2,
        kv_heads: int = 2,
        d: int = 8,
        dv: int = 8,
        options: Any = None,
        call: Any = flex_attention,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.query = nn.Linear(4, heads * d, bias=False)
        self.key, self.value = nn.Linear(4, kv_heads * d, bias=False), nn.Linear(4, kv_heads * dv, bias=False)
        self.options, self.call = options or (lambda model, x: {}), call

    def forward(self, x: torch.Tensor) -> Any:
        parts = (self.query(x), self.heads), (self.key(x), self.kv_heads), (self.value(x), self.kv_heads)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part, heads in parts)
        return self.call(q, k, v, enable_gqa=self.heads != self.kv_heads, **self.options(self, x))


def masked(mask_mod: Any, batch: int | None = None, **options: Any) -> Callable[..., Any]:
    def made(model: Any, x: torch.Tensor) -> dict[str, Any]:
        size = x.shape[1]
        return {"block_mask": create_block_mask(mask_mod, batch, None, size, size, device=x.device, **options)}

    return made


def attention_ops(model: nn.Module, positions: int = 256, batch: int = 3, **options: Any) -> list[Op]:
    work = trace(model, torch.zeros(batch, positions, 4), layers=False, **options)
    return [op for op in work.ops if op.kind == "attention"]


def test_without_a_mask_all_scores_are_counted_and_computed() -> None:
    forward, backward = attention_ops(Attention(dv=16))
    scores, narrow, wide = 3 * 2 * 256 * 256, F4 * 3 * 2 * 256 * 8, F4 * 3 * 2 * 256 * 16
    assert (forward.name, forward.phase, forward.flops) == ("flex_attention", "forward", scores * (8 + 16))
    assert (forward.bytes_read, forward.bytes_written) == (2 * narrow + wide, wide)
    dims = {"b": 6, "q": 256, "s": 256, "d": 8, "dv": 16, "causal": 0, "dropped": 0, "scores": 256 * 256}
    assert forward.dims == backward.dims == dims
    # The scores again, then the gradients of values, probabilities, queries and keys: five products for two.
    assert (backward.name, backward.phase) == ("flex_attention_backward", "backward")
    assert backward.flops == scores * (8 + 16) * 5 // 2
    assert backward.bytes_read == 2 * narrow + wide + 2 * wide  # the output and its gradient
    assert backward.bytes_written == 2 * narrow + wide


@pytest.mark.parametrize(
    ("mask_mod", "positions", "scores"),
    [
        (causal, 512, 10 * BLOCK**2),  # 1 + 2 + 3 + 4 blocks of 128 x 128
        (window(64), 512, 7 * BLOCK**2),  # a band: 1 + 2 + 2 + 2
        (window(BLOCK + 2), 512, 9 * BLOCK**2),  # 1 + 2 + 3 + 3
        (causal, 300, 128 * 128 + 128 * 256 + 44 * 300),  # the last block is cut
        (lambda b, h, q, k: q < 0, 256, 0),
    ],
)
def test_a_mask_leaves_out_whole_blocks_and_the_count_is_of_all_scores(
    mask_mod: Any, positions: int, scores: int
) -> None:
    forward, backward = attention_ops(Attention(options=masked(mask_mod)), positions)
    assert forward.flops == 3 * 2 * positions**2 * (8 + 8)
    assert forward.dims["scores"] == backward.dims["scores"] == scores
    assert forward.computed_flops == pytest.approx(3 * 2 * scores * 16)
    assert backward.computed_flops == pytest.approx(3 * 2 * scores * 40)


def test_blocks_of_another_size() -> None:
    options = masked(causal, BLOCK_SIZE=(64, 32))
    (forward, _) = attention_ops(Attention(options=options), 128)
    assert forward.dims["scores"] == 64 * 64 + 64 * 128
    (forward, _) = attention_ops(Attention(options=masked(causal, BLOCK_SIZE=64, separate_full_blocks=False)), 128)
    assert forward.dims["scores"] == 3 * 64 * 64


def test_documents_of_each_sample() -> None:
    """Samples of 1 and of 2 documents: all blocks of the first, half of the second."""

    def options(model: Any, x: torch.Tensor) -> dict[str, Any]:
        documents = torch.stack([torch.zeros(512, dtype=torch.int64), torch.arange(512) // 256])
        return masked(lambda b, h, q, k: documents[b, q] == documents[b, k], 2)(model, x)

    forward, _ = attention_ops(Attention(options=options), 512, batch=2)
    assert forward.dims["scores"] == (512 * 512 + 2 * 256 * 256) / 2


def test_grouped_heads() -> None:
    forward, backward = attention_ops(Attention(heads=8, kv_heads=2))
    assert forward.flops == 3 * 8 * 256 * 256 * 16
    heads = F4 * 3 * 256 * 8
    assert (forward.bytes_read, forward.bytes_written) == (12 * heads, 8 * heads)
    assert backward.bytes_written == 12 * heads


@pytest.mark.parametrize("options", [None, masked(causal)], ids=["all", "masked"])
def test_a_compiled_call_is_the_same(options: Any) -> None:
    plain = trace(Attention(options=options), torch.zeros(3, 256, 4), layers=False)
    called = trace(Attention(options=options, call=torch.compile(flex_attention)), torch.zeros(3, 256, 4), layers=False)
    assert called.ops == plain.ops


def test_without_a_mask_nothing_else_is_listed() -> None:
    work = trace(Attention(), torch.zeros(3, 256, 4), layers=False)
    assert [op.name for op in work.ops if op.phase == "forward" and op.layer != "(loss)"] == [
        *["mm"] * 3,
        "flex_attention",
    ]


@pytest.mark.parametrize("precision", ["bfloat16", None])
def test_a_step_in_another_number_format_and_in_inference(precision: str | None) -> None:
    (forward,) = attention_ops(Attention(options=masked(causal)), 256, precision=precision, train=False)
    assert forward.dims["scores"] == 3 * BLOCK**2
    assert forward.dtype == (precision or "float32")


# -- functions of the scores -------------------------------------------------------------------------


def with_score(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda model, x: {"score_mod": function(model, x)}


def biased(model: Any, x: torch.Tensor) -> Any:
    return lambda score, b, h, q, k: score * 0.5 + model.bias[h, q - k] + 1


def has_gradient(work: Workload, elements: int) -> bool:
    return any(op.phase == "optimizer" and op.dims["elements"] == elements for op in work.ops)


@pytest.mark.parametrize("learnt", [True, False])
def test_a_learnable_bias_gets_a_gradient(learnt: bool) -> None:
    model = Attention(options=with_score(biased))
    model.bias = nn.Parameter(torch.zeros(2, 511), requires_grad=learnt)
    work = trace(model, torch.zeros(3, 256, 4), layers=False)
    forward, backward = [op for op in work.ops if op.kind == "attention"]
    part, bias = F4 * 3 * 2 * 256 * 8, F4 * 2 * 511
    assert forward.bytes_read == 3 * part + bias
    assert backward.bytes_read == 5 * part + bias
    assert backward.bytes_written == 3 * part + bias * learnt
    assert has_gradient(work, 2 * 511) is learnt
    assert has_gradient(work, 4 * 16)  # of the queries' layer, and all others


def test_a_gradient_reaches_the_layer_that_made_a_bias() -> None:
    def from_layer(model: Any, x: torch.Tensor) -> Any:
        slopes = model.slopes(x.mean(1))  # (3, 2)
        return lambda score, b, h, q, k: score + slopes[b, h] * (q - k)

    model = Attention(options=with_score(from_layer))
    model.slopes = nn.Linear(4, 2, bias=False)
    work = trace(model, torch.zeros(3, 256, 4), layers=False)
    assert has_gradient(work, 8)
    assert [op.layer for op in work.ops if op.phase == "backward" and op.name == "mm"].count("slopes") == 1


def test_a_gradient_of_the_bias_alone() -> None:
    model = Attention(options=with_score(biased)).requires_grad_(False)
    model.bias = nn.Parameter(torch.zeros(2, 511))
    _, backward = attention_ops(model)
    assert backward.bytes_written == F4 * 2 * 511


def test_a_table_in_a_function_is_not_taken_twice() -> None:
    """What the function makes itself is no input of the kernel."""

    def capped(model: Any, x: torch.Tensor) -> Any:
        return lambda score, b, h, q, k: torch.tanh(score / 20) * 20 + torch.arange(256, device=x.device)[k]

    forward, _ = attention_ops(Attention(options=with_score(capped)))
    assert forward.bytes_read == 3 * F4 * 3 * 2 * 256 * 8


def test_the_sums_of_each_row_can_be_asked_for() -> None:
    def summed(q: Any, k: Any, v: Any, enable_gqa: bool) -> Any:
        output, aux = flex_attention(q, k, v, return_aux=flex.AuxRequest(lse=True, max_scores=True))
        assert aux.lse.shape == aux.max_scores.shape == (3, 2, 256)
        assert not aux.max_scores.requires_grad
        return output + aux.lse[..., None]

    _, backward = attention_ops(Attention(call=summed))
    sums = F4 * 3 * 2 * 256
    assert backward.bytes_read == 5 * 8 * sums + sums  # and the gradient of the sums


def test_the_output_lies_as_the_queries_do() -> None:
    """Joining the heads again is a view: no copy is listed."""

    def joined(*args: Any, **kwargs: Any) -> Any:
        return flex_attention(*args, **kwargs).transpose(1, 2).flatten(2)

    work = trace(Attention(call=joined), torch.zeros(3, 256, 4), layers=False)
    assert not [op for op in work.ops if op.kind == "copy" and op.phase == "forward"]


# -- masks that are too large to be made -------------------------------------------------------------


def share(mask_mod: Any, positions: int, batch: int | None = None, **options: Any) -> float:
    (forward,) = attention_ops(
        Attention(heads=1, kv_heads=1, options=masked(mask_mod, batch, **options)), positions, 2, train=False
    )
    return forward.dims["scores"] / positions**2


def test_large_masks_are_estimated_from_points() -> None:
    blocks = 2**17 // BLOCK
    assert share(causal, 2**17) == pytest.approx((blocks + 1) / 2 / blocks, rel=0.01)
    # 32 blocks and the one that is cut
    assert share(window(32 * BLOCK), 2**17) == pytest.approx(33 / blocks, rel=0.05)
    assert share(lambda b, h, q, k: q < 0, 2**13) == 0
    assert share(lambda b, h, q, k: k < 2**12, 2**13) == 0.5


def test_the_last_blocks_of_a_large_mask_are_cut() -> None:
    """Positions of 23 blocks and a half; the mask needs the last column only."""
    size = 23 * BLOCK + 64
    assert share(lambda b, h, q, k: k == size - 1, size, batch=2) == 64 / size
    assert share(lambda b, h, q, k: q == size - 1, size, batch=2) == pytest.approx(64 / size, rel=1e-3)


def test_large_masks_of_several_samples() -> None:
    """One sample of 2 keeps everything."""
    assert share(lambda b, h, q, k: (b == 1) | (q < 0), 2**13, batch=2) == 0.5


def test_positions_are_spread_evenly() -> None:
    assert _spread(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert _spread(100, 4).tolist() == [12, 37, 62, 87]


# -- around the trace --------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_mask_that_the_model_keeps_is_left_as_it_was(device: str) -> None:
    """One on the meta device has no values: the user's function is asked again."""
    model = Attention(options=lambda model, x: {"block_mask": model.mask})
    model.mask = create_block_mask(causal, None, None, 512, 512, device=device)
    before = model.mask.kv_num_blocks
    forward, _ = attention_ops(model, 512)
    assert forward.dims["scores"] == 10 * BLOCK**2
    assert model.mask.kv_num_blocks is before


def test_a_mask_without_a_device() -> None:
    def options(model: Any, x: torch.Tensor) -> dict[str, Any]:
        return {"block_mask": create_block_mask(causal, None, None, 256, 256)}

    forward, _ = attention_ops(Attention(options=options))
    assert forward.dims["scores"] == 3 * BLOCK**2


def test_pytorchs_functions_are_back_afterwards() -> None:
    names = ("flex_attention_hop", "create_mask", "_validate_device", "_create_empty_block_mask")
    before = [getattr(flex, name) for name in names], torch.compile

    def failing(model: Any, x: torch.Tensor) -> Any:
        raise ValueError("no")

    for options in (masked(causal), failing):
        with nullcontext() if options is not failing else pytest.raises(Exception, match="no"):
            attention_ops(Attention(options=options))
        assert ([getattr(flex, name) for name in names], torch.compile) == before
    out = flex_attention(*[torch.ones(1, 1, 16, 8)] * 3)
    assert torch.equal(out, torch.ones(1, 1, 16, 8))


def test_pytorchs_own_checks_stay() -> None:
    with pytest.raises(Exception, match="same number of heads"):
        attention_ops(Attention(heads=4, kv_heads=4, call=lambda q, k, v, **_: flex_attention(q, k[:, :2], v[:, :2])))


def test_nothing_is_compiled_where_the_compiler_is_loaded_during_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    stances: list[str] = []
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    original = lambda model: ("compiled", model)  # noqa: E731
    monkeypatch.setattr(torch, "compile", original)
    monkeypatch.setattr(
        torch, "compiler", SimpleNamespace(set_stance=lambda name: stances.append(name) or nullcontext())
    )
    with _uncompiled():
        assert stances == []
        compiled = torch.compile
        assert compiled("model") == (*torch.compile("another")[:1], "model")
        assert compiled("model") == ("compiled", "model")
        assert stances == ["force_eager"]
    assert torch.compile is original
    with _uncompiled():
        pass
    assert torch.compile is original


# -- what the computed scores cost -------------------------------------------------------------------


def test_the_computed_scores_are_priced() -> None:
    dims = {"b": 4, "q": 100, "s": 200, "d": 8, "dv": 8, "scores": 5000, "causal": 0, "dropped": 0}
    op = Op("flex_attention", "attention", "forward", "", 4 * 100 * 200 * 16, 10, 10, dims=dims)
    assert op.computed_flops == 4 * 5000 * 16
    assert needed_share(op) == 0.25
    (piece,) = _pieces(op)
    assert piece.macs == 4 * 5000 * 16
    assert Op("mm", "matmul", "forward", "", 7, 1, 1).computed_flops == 7


def test_a_stated_mask_of_a_module_is_not_applied_again() -> None:
    model = Attention()
    model.is_causal = True
    for op in attention_ops(model):
        assert op.dims["causal"] == 0
