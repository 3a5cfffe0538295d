"""Which scores a module's attention needs: causal flags, windows and names, each by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from joulecast.estimator.trace.masks import with_masks
from joulecast.estimator.trace.workload import Op


class Attention(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class Model(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention


class TinyForCausalLM(Model):
    pass


class TinyLMHeadModel(Model):
    pass


def op(kind: str, layer: str = "attention", **dims: int) -> Op:
    return Op(kind, kind, "forward", layer, 0, 0, 0, dims=dims)


def added(one: Op, model: nn.Module) -> dict[str, int]:
    """The dims that the mask adds to an op."""
    (masked,) = with_masks([one], model)
    assert masked.dims.items() >= one.dims.items()
    return {name: size for name, size in masked.dims.items() if name not in one.dims}


SCORES = op("matmul", b=4, m=8, k=2, n=8)
CAUSAL = {"causal": 1}


@pytest.mark.parametrize(
    ("one", "masked"),
    [
        (op("attention", q=8, s=8, b=1), True),
        (op("attention", q=8, s=9, b=4), False),  # cross-attention, or one token after a cache
        (op("attention", q=9, s=8), False),
        (SCORES, True),
        (op("matmul", b=2), True),
        (op("matmul", b=1, m=8, k=2, n=8), False),  # a projection
        (op("matmul", m=8, k=2, n=8), False),
        (op("softmax", elements=64), True),
        (op("elementwise", b=4), False),
        (op("dropout"), False),
    ],
)
def test_the_mask_is_for_products_of_a_batch_and_softmax_in_attention(one: Op, masked: bool) -> None:
    model = Model(Attention(is_causal=True))
    assert added(one, model) == (CAUSAL if masked else {})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model(Attention()), {}),
        (Model(Attention(is_causal=False)), {}),
        (Model(Attention(is_causal=True)), CAUSAL),
        (TinyForCausalLM(Attention()), CAUSAL),  # by the model's name
        (TinyLMHeadModel(Attention()), CAUSAL),
        (TinyForCausalLM(Attention(is_causal=False)), {}),  # the module's own flag is first
        (Model(Attention(sliding_window=4)), {}),  # a window of both sides is no causal mask
    ],
)
def test_a_module_is_causal_by_its_flag_or_its_models_name(model: nn.Module, expected: dict[str, int]) -> None:
    assert added(SCORES, model) == expected


def test_an_op_of_no_module_has_no_mask() -> None:
    assert added(op("softmax", layer="(loss)"), TinyForCausalLM(Attention())) == {}


KINDS = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("attributes", "window"),
    [
        ({"sliding_window": 4}, 4),
        ({"sliding_window": None, "config": SimpleNamespace(sliding_window=4)}, None),  # this layer sees everything
        ({"config": SimpleNamespace(sliding_window=4)}, 4),
        ({"config": SimpleNamespace(sliding_window=None)}, None),
        ({"config": SimpleNamespace()}, None),
        ({"config": SimpleNamespace(sliding_window=4.0)}, None),
        ({"config": SimpleNamespace(sliding_window=4, layer_types=KINDS), "layer_idx": 0}, None),
        ({"config": SimpleNamespace(sliding_window=4, layer_types=KINDS), "layer_idx": 1}, 4),
        ({"config": SimpleNamespace(sliding_window=4, layer_types=KINDS), "layer_idx": 2}, 4),  # beyond the list
        ({"config": SimpleNamespace(sliding_window=4, layer_types=KINDS), "layer_idx": 5}, 4),
        ({"config": SimpleNamespace(sliding_window=4, layer_types=["whole"]), "layer_idx": 0}, None),
        ({"config": SimpleNamespace(sliding_window=4, layer_types=KINDS)}, 4),  # no position in the list
        ({"config": SimpleNamespace(sliding_window=4, layer_types=[]), "layer_idx": 0}, 4),
    ],
)
def test_a_window_is_that_of_the_module_or_of_its_configuration(attributes: dict[str, Any], window: int | None) -> None:
    model = Model(Attention(is_causal=True, **attributes))
    assert added(SCORES, model) == (CAUSAL if window is None else {"causal": 1, "window": window})


@pytest.mark.parametrize(("layer", "chunk"), [(0, 4), (1, None), (2, None)])
def test_layers_of_chunked_attention_see_their_chunk(layer: int, chunk: int | None) -> None:
    """Llama 4: some layers see the tokens of their chunk that came before, others all."""
    kinds = ["chunked_attention", "full_attention"]
    config = SimpleNamespace(attention_chunk_size=4, sliding_window=None, layer_types=kinds)
    model = Model(Attention(is_causal=True, config=config, layer_idx=layer))
    assert added(SCORES, model) == (CAUSAL if chunk is None else {"causal": 1, "chunk": chunk})


def test_ops_stay_in_their_order_and_each_gets_its_own_layers_mask() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Attention(is_causal=True), Attention(is_causal=False)

    ops = [op("copy", "one"), op("softmax", "one"), op("softmax", "two"), op("softmax", "one")]
    masked = with_masks(ops, Two())
    assert [(one.kind, one.layer) for one in masked] == [(one.kind, one.layer) for one in ops]
    assert [dict(one.dims) for one in masked] == [{}, CAUSAL, {}, CAUSAL]


@pytest.mark.parametrize(
    ("implementation", "window", "whole"),
    [
        ("sdpa", 4, True),
        ("sdpa", 8, False),
        ("sdpa", None, False),
        ("flash_attention_2", 4, False),
        ("eager", 4, False),
    ],
)
def test_a_window_given_as_a_tensor_leaves_all_scores_to_compute(
    implementation: str, window: int | None, whole: bool
) -> None:
    config = SimpleNamespace(_attn_implementation=implementation)
    model = Model(Attention(is_causal=True, sliding_window=window, config=config))
    assert ("whole" in added(op("attention", q=8, s=8, b=1), model)) is whole
    assert "whole" not in added(SCORES, model)
