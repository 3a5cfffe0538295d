"""Forward multiply-adds of shrunk transformers models, against a real run counted by PyTorch's FLOP counter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from joulecast.estimator.trace.trace import trace

transformers = pytest.importorskip("transformers", minversion="5")

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
BARE = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
DELTA_NET = {f"linear_num_{what}_heads": count for what, count in (("key", 2), ("value", 4))} | {
    f"linear_{what}_head_dim": 16 for what in ("key", "value")
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
MODELS: dict[str, dict[str, Any]] = {
    "Llama": SMALL,
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2},
    "T5": {"d_model": 64, "d_ff": 128, "num_layers": 2, "num_heads": 4, "d_kv": 16, "vocab_size": 100},
    "Mixtral": SMALL | {"num_local_experts": 4},
    "Qwen3Moe": SMALL | EXPERTS | {"num_experts": 8, "head_dim": 16},
    "DeepseekV3": SMALL
    | EXPERTS
    | LATENT
    | {"num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "Mamba": BARE,
    "Mamba2": BARE | {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16, "chunk_size": 32},
    "FalconH1": SMALL
    | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 32},
    "Qwen3Next": SMALL
    | EXPERTS
    | DELTA_NET
    | {"num_hidden_layers": 4, "head_dim": 16, "num_experts": 4, "shared_expert_intermediate_size": 32},
    "Rwkv": BARE,
}
COUNTED = ("conv", "matmul", "attention", "rnn", "scan", "linalg")


@pytest.fixture(autouse=True)
def handles() -> Iterator[None]:
    """What the counter lacks on a CPU: grouped products, attention and triangular solves."""
    grouped, attention = torch.ops.aten._grouped_mm, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    solve = torch.ops.aten.linalg_solve_triangular
    register_flop_formula(grouped)(lambda a, b, *_, **__: 2 * a[-2] * a[-1] * b[-1])
    register_flop_formula(attention)(lambda q, k, v, *_, **__: 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3]))
    register_flop_formula(solve)(lambda a, b, *_, **__: b[-1] * a[-1] ** 2 * torch.Size(a[:-2]).numel())
    yield
    for packet in (grouped, attention, solve):
        del flop_registry[packet]


@pytest.mark.parametrize("family", MODELS)
def test_forward_multiply_adds_are_those_of_a_real_run(family: str) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**MODELS[family]))
    inputs = {"input_ids": torch.randint(3, 100, (2, 64))}
    if family == "T5":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    work = trace(model, inputs, layers=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(**inputs)
    ours = sum(op.flops * op.count for op in work.ops if op.phase == "forward" and op.kind in COUNTED)
    assert ours == pytest.approx(counter.get_total_flops() / 2, rel=0.01)
    assert work.tracer == "meta"
