"""Experts that compute too much, as training stacks compute them; by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import joulecast as jc
from joulecast.estimator.cost.parallel.experts import experts_of
from joulecast.estimator.cost.parallel.routed import with_routed_experts
from joulecast.estimator.trace.workload import Op, Workload

TOKENS, EXPERTS, WIDTH, INNER = 16, 4, 8, 32


class Every(nn.Module):
    """Each of the experts computes all tokens, multiplied by 0 for all but its own (as Llama 4 in transformers)."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = Products()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        best, index = torch.topk(self.router(x), 1, dim=1)
        gates = torch.zeros(TOKENS, EXPERTS, device=x.device).scatter(1, index, best)
        sent = x.repeat(EXPERTS, 1) * gates.transpose(0, 1).reshape(-1, 1)
        return self.experts(sent).reshape(EXPERTS, TOKENS, WIDTH).sum(0)


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(EXPERTS, WIDTH, INNER))
        self.down = nn.Parameter(torch.zeros(EXPERTS, INNER, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(torch.relu(torch.bmm(x.view(EXPERTS, -1, WIDTH), self.up)), self.down)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = Every()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x)


def traced() -> Workload:
    with torch.device("meta"):
        return jc.trace(Network(), torch.zeros(TOKENS, WIDTH), layers=False)


def of_experts(work: Workload, phase: str) -> list[Op]:
    return [op for op in work.ops if op.kind == "matmul" and op.layer == "mlp.experts" and op.phase == phase]


def test_each_expert_computes_the_tokens_that_its_router_chose() -> None:
    before, after = traced(), with_routed_experts(traced())
    assert [op.dims["m"] for op in of_experts(before, "forward")] == [TOKENS, TOKENS]
    first, second = of_experts(after, "forward")
    assert (first.dims["b"], first.dims["m"], first.dims["k"], first.dims["n"]) == (EXPERTS, 4, WIDTH, INNER)
    assert (second.dims["m"], second.dims["k"], second.dims["n"]) == (4, INNER, WIDTH)
    assert first.flops == TOKENS * WIDTH * INNER
    for one in of_experts(after, "backward"):  # gradients of inputs have fewer tokens, those of weights sum over fewer
        assert 4 in (one.dims["m"], one.dims["k"])
        assert TOKENS not in (one.dims["m"], one.dims["k"])
    assert experts_of(after.ops)["mlp.experts"].sent_elements == TOKENS * WIDTH


def test_what_is_not_of_all_experts_stays() -> None:
    before, after = traced(), with_routed_experts(traced())
    for one, other in zip(before.ops, after.ops, strict=True):
        sizes = [one.dims.get(name, 0) for name in ("elements", "elements_in", "elements_out")]
        if one.phase == "optimizer" or (one.kind != "matmul" and max(sizes) < EXPERTS * TOKENS * WIDTH):
            assert other == one
        elif one.kind != "matmul":
            assert max(other.dims.values()) == max(sizes) // EXPERTS
            assert other.bytes_moved < one.bytes_moved


def test_products_in_32_bits_run_in_those_of_the_run() -> None:
    layer, weight = "blocks.0.experts", 4 * 16 * 32
    dims = {"b": 4, "m": 16, "k": 16, "n": 32}
    product = Op("_grouped_mm", "matmul", "forward", layer, 4 * 16 * 16 * 32, 800, 400, dtype="float32", dims=dims)
    update = Op("adam", "optimizer", "optimizer", layer, 0, 9, 9, dtype="float32", dims={"elements": weight})
    last = Op("mm", "matmul", "forward", "head", 16 * 16 * 16, 9, 9, dtype="bfloat16", dims={**dims, "b": 1})
    work = replace(traced(), ops=(product, update, last), precision="bfloat16")
    found = with_routed_experts(work).ops[0]
    assert (found.dtype, found.bytes_read, found.bytes_written) == ("bfloat16", 400, 200)
    assert with_routed_experts(replace(work, precision="float8")).ops[0].dtype == "float8_e4m3fn"
    assert with_routed_experts(replace(work, precision="float32")).ops[0] == product
    assert with_routed_experts(replace(work, ops=(last,))).ops == (last,)
