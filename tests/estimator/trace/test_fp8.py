"""Training in FP8: which products are in 8 bits, and what stays in 16."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import joulecast as jc
from joulecast.estimator.trace.fp8 import FP8_DTYPE, as_fp8
from joulecast.estimator.trace.workload import Op


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.odd = nn.Linear(64, 24)  # 24 is no multiple of 16
        self.second = nn.Linear(24, 32)
        self.third = nn.Linear(32, 48)
        self.head = nn.Linear(48, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.third(self.second(self.odd(self.first(x)))))


def test_layers_of_whole_sixteens_but_the_last_are_in_8_bits_in_both_directions() -> None:
    work = jc.trace(Net(), torch.zeros(16, 32), precision="fp8")
    assert work.precision == "float8"
    eight = [(op.layer, op.phase) for op in work.ops if op.dtype == FP8_DTYPE]
    # The first layer's input needs no gradient; forward, gradient of the input and of the weight otherwise.
    assert eight.count(("first", "forward")) == eight.count(("third", "forward")) == 1
    assert eight.count(("first", "backward")) == 1
    assert eight.count(("third", "backward")) == 2
    assert {layer for layer, _ in eight} == {"first", "third"}


def test_all_else_is_that_of_bfloat16() -> None:
    plain, eight = (jc.trace(Net(), torch.zeros(16, 32), precision=name) for name in ("bf16", "fp8"))
    assert (eight.flops, eight.bytes_moved, eight.activation_bytes) == (
        plain.flops,
        plain.bytes_moved,
        plain.activation_bytes,
    )
    assert as_fp8(plain) == eight


@pytest.mark.parametrize(
    ("name", "sizes", "eight"),
    [
        ("_grouped_mm", {"b": 8, "m": 37, "k": 32, "n": 64}, True),  # tokens of an expert
        ("_grouped_mm", {"b": 8, "m": 32, "k": 37, "n": 64}, True),  # in the gradient of its weight
        ("_grouped_mm", {"b": 8, "m": 37, "k": 24, "n": 64}, False),
        ("bmm", {"b": 8, "m": 32, "k": 32, "n": 64}, False),  # attention
    ],
)
def test_products_of_experts_are_in_8_bits_and_those_of_attention_are_not(
    name: str, sizes: dict[str, int], eight: bool
) -> None:
    plain = jc.trace(Net(), torch.zeros(16, 32), precision="bf16")
    op = Op(name, "matmul", "forward", "mlp.experts", 100, 100, 100, dims=sizes, dtype="bfloat16")
    found = as_fp8(replace(plain, ops=(op, *plain.ops))).ops[0]
    assert found.dtype == (FP8_DTYPE if eight else "bfloat16")


def test_a_batch_that_is_no_multiple_of_16_stays_in_16_bits() -> None:
    work = jc.trace(Net(), torch.zeros(4, 32), precision="fp8")
    assert not any(op.dtype == FP8_DTYPE for op in work.ops)


def test_float32_products_stay_as_they_are() -> None:
    assert not any(op.dtype == FP8_DTYPE for op in as_fp8(jc.trace(Net(), torch.zeros(16, 32))).ops)


def test_an_unknown_precision_names_the_choices() -> None:
    with pytest.raises(jc.JoulecastError, match="'int4' is not known; choose float32, bfloat16, float16 or fp8"):
        jc.trace(Net(), torch.zeros(16, 32), precision="int4")
