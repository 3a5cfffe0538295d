"""Attention and element-wise ops as training stacks run them; truth by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import joulecast as jc
from joulecast.estimator.cost.fusion import as_fused, needed_share, with_written_scores
from joulecast.estimator.trace.workload import Op, Workload

HEADS, POSITIONS, WIDTH, BATCH = 4, 32, 8, 2


def attention(phase: str = "forward", **dims: int) -> Op:
    sizes = {"b": BATCH * HEADS, "q": POSITIONS, "s": POSITIONS, "d": WIDTH, "dv": WIDTH, "causal": 0, **dims}
    return Op("attention", "attention", phase, "attn", 0, 0, 0, "bfloat16", sizes)


@pytest.mark.parametrize(
    ("dims", "share"),
    [
        ({}, 1.0),
        ({"causal": 1}, (32 * 33 / 2) / 32**2),
        ({"causal": 1, "window": 8}, (8 * 9 / 2 + 24 * 8) / 32**2),
        ({"causal": 1, "window": 100}, (32 * 33 / 2) / 32**2),
        ({"causal": 1, "chunk": 8}, 4 * (8 * 9 / 2) / 32**2),
        ({"causal": 1, "chunk": 12}, (2 * 12 * 13 / 2 + 8 * 9 / 2) / 32**2),  # the last chunk is cut
        ({"causal": 1, "chunk": 100}, (32 * 33 / 2) / 32**2),
        ({"causal": 1, "chunk": 8, "window": 4}, 4 * (4 * 5 / 2 + 4 * 4) / 32**2),
        ({"causal": 1, "q": 1}, 1.0),  # one query sees all keys
    ],
)
def test_share_of_the_scores_that_a_mask_leaves(dims: dict[str, int], share: float):
    assert needed_share(attention(**dims)) == pytest.approx(share)


def test_written_scores_are_products_and_traffic():
    products = list(with_written_scores(attention(), 2.0))
    scores = BATCH * HEADS * POSITIONS * POSITIONS
    assert [op.dims.get("k") for op in products] == [WIDTH, POSITIONS, None]
    assert sum(op.flops for op in products) == 2 * scores * WIDTH
    assert products[-1].bytes_moved == 2 * 2 * scores
    backward = list(with_written_scores(attention("backward"), 3.0))
    assert sum(op.flops for op in backward) == 4 * scores * WIDTH


class ByHand(nn.Module):
    is_causal = True
    sliding_window = 8

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = torch.matmul(q, k.transpose(-1, -2)) * WIDTH**-0.5
        return torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2).flatten(2)


class Fused(ByHand):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def work(module: nn.Module) -> Workload:
    with torch.device("meta"):
        model = nn.Sequential(module)
        return jc.trace(model, torch.zeros(BATCH, POSITIONS, HEADS * WIDTH), layers=False)


def test_attention_by_hand_is_the_fused_op():
    by_hand, fused = work(ByHand()), work(Fused())
    found = [op for op in as_fused(by_hand.ops) if op is not None and op.kind == "attention"]
    wanted = [op for op in fused.ops if op.kind == "attention"]
    assert [op.phase for op in found] == [op.phase for op in wanted] == ["forward", "backward"]
    for one, other in zip(found, wanted, strict=True):
        assert one.flops == other.flops
        assert {name: one.dims[name] for name in ("b", "q", "s", "d", "dv", "causal", "window")} == {
            name: other.dims[name] for name in ("b", "q", "s", "d", "dv", "causal", "window")
        }
        assert (one.bytes_read, one.bytes_written) == (other.bytes_read, other.bytes_written)
    scores = BATCH * HEADS * POSITIONS * POSITIONS
    rest = [op for op in as_fused(by_hand.ops) if op is not None and op.kind != "attention"]
    assert not any(scores in op.dims.values() for op in rest)


def test_the_mask_of_a_module_is_in_its_ops_and_not_in_the_layer_table():
    traced = work(Fused())
    op = next(op for op in traced.ops if op.kind == "attention")
    assert (op.dims["causal"], op.dims["window"]) == (1, 8)
    assert op.flops == 2 * BATCH * HEADS * POSITIONS * POSITIONS * WIDTH  # all scores: the convention of fvcore


def test_element_wise_ops_of_a_module_are_one_kernel():
    def op(name: str, kind: str, layer: str, size: int, phase: str = "forward") -> Op:
        return Op(name, kind, phase, layer, 0, size, size, "bfloat16", {"elements_in": size})

    ops = [
        op("pow", "elementwise", "act", 10),
        op("mul", "elementwise", "act", 30),
        op("tanh", "activation", "act", 20),
        op("mm", "matmul", "act", 10),
        op("mul", "elementwise", "act", 10, "backward"),
        op("mul", "elementwise", "norm", 10),
        op("adam", "optimizer", "act", 10, "optimizer"),
    ]
    assert [one.name if one else None for one in as_fused(ops)] == [None, "mul", None, "mm", "mul", "mul", "adam"]


def test_fused_software_is_faster_and_knows_both_kinds_of_attention():
    gpu = jc.load_profile("a100-sxm4-80gb")
    by_hand, fused = work(ByHand()), work(Fused())
    assert gpu.for_software("fused").predict(by_hand).seconds.value < gpu.predict(by_hand).seconds.value
    one, other = (gpu.for_software("megatron").predict(each).seconds.value for each in (by_hand, fused))
    assert one == pytest.approx(other, rel=0.25)  # transposes differ


def test_copies_of_weights_under_autocast_are_gone():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 32))
        traced = jc.trace(model, torch.zeros(8, 64), precision="bf16", layers=False)
    weights = [index for index, op in enumerate(traced.ops) if op.kind == "copy" and op.dims["elements_in"] == 64 * 32]
    assert weights  # float32 to bfloat16
    kept = as_fused(traced.ops)
    assert all(kept[index] is None for index in weights)


@pytest.mark.parametrize(("b", "fused"), [(1, False), (2, True), (8, True)])
def test_a_softmax_between_products_of_batches_is_attention(b: int, fused: bool):
    def product(m: int, k: int, n: int) -> Op:
        dims = {"b": b, "m": m, "k": k, "n": n}
        return Op("bmm", "matmul", "forward", "attn", b * m * k * n, 8, 8, "bfloat16", dims)

    scores = b * 5 * 7
    softmax = Op(
        "softmax", "softmax", "forward", "attn", 0, 8, 8, "bfloat16", {"elements_in": scores, "elements_out": scores}
    )
    found = as_fused([product(5, 3, 7), softmax, product(5, 7, 4)])
    if not fused:  # a product with a weight has no batch
        assert not any(op is not None and op.kind == "attention" for op in found)
        return
    (one,) = [op for op in found if op is not None]
    assert (one.kind, one.flops) == ("attention", scores * (3 + 4))
    assert (one.bytes_read, one.bytes_written) == (2 * b * (5 * 3 + 7 * (3 + 4)), 2 * b * 5 * 4)
    assert {name: one.dims[name] for name in ("b", "q", "s", "d", "dv")} == {"b": b, "q": 5, "s": 7, "d": 3, "dv": 4}


@pytest.mark.parametrize(
    ("phase", "shapes"),
    [
        ("forward", [(3, 5, 4), (3, 4, 7)]),  # queries x keys, probabilities x values
        ("backward", [(4, 3, 7), (3, 7, 4), (3, 4, 5), (4, 3, 5)]),
    ],
)
def test_written_scores_by_hand(phase: str, shapes: list[tuple[int, int, int]]):
    *products, softmax = with_written_scores(attention(phase, b=2, q=3, s=4, d=5, dv=7), 2.5)
    assert [op.dims for op in products] == [{"b": 2, "m": m, "k": k, "n": n} for m, k, n in shapes]
    assert [op.flops for op in products] == [2 * m * k * n for m, k, n in shapes]
    assert [op.bytes_read for op in products] == [2 * 2 * (m * k + k * n) for m, k, n in shapes]
    assert [op.bytes_written for op in products] == [2 * 2 * m * n for m, k, n in shapes]
    assert (softmax.kind, softmax.flops, softmax.bytes_read, softmax.bytes_written) == ("softmax", 0, 60, 60)


def part(kind: str, **dims: int) -> Op:
    return Op(kind, kind, "forward", "attn", 0, 8, 8, "bfloat16", dims)


FIRST, SECOND = part("matmul", b=2, m=5, k=3, n=7), part("matmul", b=2, m=5, k=7, n=4)
SOFTMAX = part("softmax", elements_in=70)


def fused_attention(*ops: Op) -> list[Op]:
    return [op for op in as_fused(ops) if op is not None and op.kind == "attention"]


@pytest.mark.parametrize(
    "ops",
    [
        (FIRST, SECOND),
        (FIRST, SOFTMAX),
        (SOFTMAX, SECOND),
        (FIRST, SOFTMAX, part("matmul", b=2, m=5, k=8, n=4)),
        (FIRST, SOFTMAX, part("matmul", b=2, m=6, k=7, n=4)),
        (FIRST, SOFTMAX, part("matmul", b=4, m=5, k=7, n=4)),
    ],
)
def test_what_is_no_attention(ops: tuple[Op, ...]):
    assert fused_attention(*ops) == []


def test_the_products_next_to_the_softmax_are_attentions():
    before, after = part("matmul", b=2, m=9, k=9, n=9), part("matmul", b=2, m=5, k=4, n=9)
    found = as_fused((before, FIRST, SOFTMAX, SECOND, after))
    assert [op.kind if op else None for op in found] == ["matmul", "attention", None, None, "matmul"]
    other = part("matmul", b=3, m=5, k=7, n=1)  # of another batch
    assert as_fused((FIRST, SOFTMAX, SECOND, other))[3] == other


@pytest.mark.parametrize(("kind", "dropped"), [("dropout", 70), ("activation", 0), ("elementwise", 0)])
def test_probabilities_that_a_dropout_draws_for(kind: str, dropped: int):
    (found,) = fused_attention(FIRST, SOFTMAX, part(kind, elements_in=70), SECOND)
    assert found.dims["dropped"] == dropped


class WithSink(ByHand):
    """A learned column takes part in the softmax and is then left out (gpt-oss)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = torch.matmul(q, k.transpose(2, 3)) * WIDTH**-0.5
        scores = torch.cat([scores, scores.new_zeros(*scores.shape[:3], 1)], -1)
        weights = torch.softmax(scores - scores.amax(-1, keepdim=True), -1)[..., :-1]
        return torch.matmul(weights, v).transpose(1, 2).flatten(2)


def test_scores_with_a_sink_are_those_of_the_fused_op():
    traced = work(WithSink())
    found = [op for op in as_fused(traced.ops) if op is not None]
    rows = BATCH * HEADS * POSITIONS
    assert [op.phase for op in found if op.kind == "attention"] == ["forward", "backward"]
    sizes = {rows * POSITIONS, rows * (POSITIONS + 1)}
    rest = [op for op in found if op.kind != "attention" and op.phase != "optimizer"]
    assert not any(sizes & set(op.dims.values()) for op in rest)
