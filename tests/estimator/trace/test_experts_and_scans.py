"""Mixtures of experts, scans and number formats: traces of whole models agree with counts by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.hub import from_config_file
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

pytest.importorskip("transformers", minversion="5")

TOKENS = 1024


def of_config(tmp_path: Path, config: dict[str, Any]) -> Workload:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with torch.device("meta"):
        model = from_config_file(path, {}, None)
        ids = torch.zeros(1, TOKENS, dtype=torch.int64)
    return trace(model, {"input_ids": ids, "use_cache": False}, train=False, layers=False)


# Settings as the published config.json files have them.
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
}
QWEN3_MOE = {  # Qwen3-30B-A3B
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "dtype": "bfloat16",
    "hidden_size": 2048,
    "head_dim": 128,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_hidden_layers": 48,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "dtype": "bfloat16",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
}


def gated_mlp(width: int, hidden: int) -> int:
    return 3 * width * hidden


def mixtral_macs(tokens: int) -> int:
    attention = 4096 * (2 * 4096 + 2 * 1024) + 2 * tokens * 4096
    experts = 4096 * 8 + 2 * gated_mlp(4096, 14336)
    return tokens * (32 * (attention + experts) + 4096 * 32000)


def qwen3_moe_macs(tokens: int) -> int:
    attention = 2048 * (2 * 32 * 128 + 2 * 4 * 128) + 2 * tokens * 32 * 128
    experts = 2048 * 128 + 8 * gated_mlp(2048, 768)
    return tokens * (48 * (attention + experts) + 2048 * 151936)


def deepseek_v3_macs(tokens: int) -> int:
    queries = 7168 * 1536 + 1536 * 128 * (128 + 64)
    keys_values = 7168 * (512 + 64) + 512 * 128 * (128 + 128)
    attention = queries + keys_values + 128 * 128 * 7168 + tokens * 128 * (128 + 64 + 128)
    experts = 7168 * 256 + (8 + 1) * gated_mlp(7168, 2048)
    layers = 61 * attention + 3 * gated_mlp(7168, 18432) + 58 * experts
    return tokens * (layers + 7168 * 129280)


@pytest.mark.parametrize(
    ("config", "by_hand", "parameters"),
    [
        (MIXTRAL, mixtral_macs, 46.7e9),
        (QWEN3_MOE, qwen3_moe_macs, 30.5e9),
        (DEEPSEEK_V3, deepseek_v3_macs, 671e9),
    ],
)
def test_published_mixtures_of_experts(
    tmp_path: Path, config: dict[str, Any], by_hand: Callable[[int], int], parameters: float
) -> None:
    work = of_config(tmp_path, config)
    assert work.forward_flops == pytest.approx(by_hand(TOKENS), rel=0.01)
    assert work.precision == "bfloat16"
    assert work.parameters == pytest.approx(parameters, rel=0.01)
    assert work.parameter_bytes == pytest.approx(2 * parameters, rel=0.01)


class Grouped(nn.Module):
    """Four experts of two layers; a token goes through one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(4, 16, 32, dtype=dtype))
        self.down = nn.Parameter(torch.zeros(4, 32, 16, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ends = torch.arange(1, 5, device=x.device, dtype=torch.int32) * (x.shape[0] // 4)
        hidden = F.grouped_mm(x.to(self.up.dtype), self.up, offs=ends)
        return F.grouped_mm(hidden.relu(), self.down, offs=ends).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_active_experts_cost_time_and_all_cost_memory(dtype: torch.dtype, precision: str | None) -> None:
    work = trace(Grouped(dtype), torch.zeros(40, 16), optimizer="adam", precision=precision, layers=False)
    each = 40 * 16 * 32
    assert work.forward_flops == 2 * each
    # The data needs no gradient: up's weight, down's input and weight.
    assert sum(op.flops for op in work.ops if op.phase == "backward") == 3 * each
    products = [op for op in work.ops if op.kind == "matmul" and op.phase == "forward"]
    assert products[0].dims == {"b": 4, "m": 10, "k": 16, "n": 32}
    size = dtype.itemsize
    assert (products[0].bytes_read, products[0].bytes_written) == (size * (40 * 16 + 4 * 512), size * 40 * 32)
    assert sum(op.bytes_moved for op in work.ops if op.phase == "optimizer") == 7 * size * 4 * 1024


def test_imbalance_of_experts_is_an_option_with_a_stated_default() -> None:
    balanced = trace(Grouped(), torch.zeros(40, 16), layers=False)
    assert any("get 1 times an equal share" in note for note in balanced.warnings)
    uneven = trace(Grouped(), torch.zeros(40, 16), layers=False, expert_imbalance=1.5)
    assert uneven.flops == balanced.flops * 3 // 2
    assert uneven.parameter_bytes == balanced.parameter_bytes
    with pytest.raises(JoulecastError, match=r"expert_imbalance is 0.5; give 1 \(equal shares\) or more"):
        trace(Grouped(), torch.zeros(40, 16), expert_imbalance=0.5)


def test_a_grouped_product_has_the_shape_that_torch_gives_it() -> None:
    class Shapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 16, 32, dtype=torch.bfloat16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ends = torch.tensor([8, 16], dtype=torch.int32, device=x.device)
            rows = F.grouped_mm(x, self.weight, offs=ends)
            assert rows.shape == (16, 32)
            batched = F.grouped_mm(rows.view(2, 8, 32), self.weight.transpose(1, 2))
            assert batched.shape == (2, 8, 16)
            inner = F.grouped_mm(x.t(), rows, offs=ends)
            assert inner.shape == (2, 16, 32)
            columns = F.grouped_mm(self.weight, torch.cat([rows, rows]).view(32, 32)[:, :16], offs=ends)
            assert columns.shape == (16, 16)
            return rows.sum() + batched.sum() + inner.sum() + columns.sum()

    work = trace(Shapes(), torch.zeros(16, 16, dtype=torch.bfloat16), layers=False)
    expected = [16 * 16 * 32, 2 * 8 * 32 * 16, 16 * 16 * 32, 16 * 32 * 16]
    assert [op.flops for op in work.ops if op.kind == "matmul" and op.phase == "forward"] == expected


# -- scans ---------------------------------------------------------------------------------------


def scan_macs(work: Workload, phase: str = "forward") -> int:
    return sum(op.flops * op.count for op in work.ops if op.kind == "scan" and op.phase == phase)


def test_a_selective_scan_is_one_op_a_layer() -> None:
    from transformers import MambaConfig, MambaModel

    model = MambaModel(MambaConfig(hidden_size=32, num_hidden_layers=3, state_size=4, vocab_size=50))
    work = trace(model, {"input_ids": torch.zeros(2, 100, dtype=torch.int64)}, layers=False)
    scans = [op for op in work.ops if op.kind == "scan"]
    assert [op.phase for op in scans] == ["forward"] * 3 + ["backward"] * 3
    # The product of state and C: batch x tokens x inner width x state size.
    assert scan_macs(work) == 3 * 2 * 100 * 64 * 4
    assert scan_macs(work, "backward") == 2 * scan_macs(work)
    assert {op.layer for op in scans} == {f"layers.{index}.mixer" for index in range(3)}
    inner, weights = 2 * 64 * 100, 64 * 4 + 64
    assert scans[0].bytes_read == pytest.approx(4 * (3 * inner + 2 * 2 * 100 * 4 + weights), rel=0.05)
    assert work.tracer == "meta"


@pytest.mark.parametrize("tokens", [64, 160])
def test_the_length_of_a_sequence_changes_no_number_of_ops(tokens: int) -> None:
    from transformers import RwkvConfig, RwkvModel

    model = RwkvModel(RwkvConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50, context_length=1024))
    work = trace(model, {"input_ids": torch.zeros(2, tokens, dtype=torch.int64), "use_cache": False}, layers=False)
    assert len([op for op in work.ops if op.kind == "scan"]) == 4
    assert len(work.ops) < 600


def test_a_users_scan_is_fused_by_its_name_and_put_back() -> None:
    original = selective_scan
    work = trace(Scanned(), torch.zeros(2, 50, 8), layers=False)
    assert selective_scan is original
    (forward,) = (op for op in work.ops if op.kind == "scan" and op.phase == "forward")
    assert forward.flops == 2 * 50 * 8 * 4
    assert forward.layer == ""
    assert all(parameter.grad is None for parameter in Scanned().parameters())


def selective_scan(x: torch.Tensor, decay: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, int]:
    state, results = x.new_zeros(x.shape[0], x.shape[2]), []
    for step in range(x.shape[1]):
        state = decay * state + x[:, step]
        results.append(state @ out)
    return torch.stack(results, 1), x.shape[1]


class Scanned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decay, self.out = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result, steps = selective_scan(x, self.decay, self.out)
        return result / steps


# -- number formats ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_the_models_own_is_followed(device: str, dtype: torch.dtype) -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, dtype=dtype):
                x = self.a(x)
                with torch.autocast(device, enabled=False):
                    return self.b(x.float())

    before = torch.amp.autocast_mode.autocast.__init__
    work = trace(Halved(), torch.zeros(8, 64), layers=False)
    assert torch.amp.autocast_mode.autocast.__init__ is before
    name = str(dtype).removeprefix("torch.")
    assert [op.dtype for op in work.ops if op.kind == "matmul" and op.phase == "forward"] == [name, "float32"]
    assert work.precision == name


def test_double_precision_is_carried_to_the_ops() -> None:
    work = trace(nn.Linear(8, 8, dtype=torch.float64), torch.zeros(4, 8, dtype=torch.float64), layers=False)
    assert work.precision == "float64"
    assert {op.dtype for op in work.ops if op.kind == "matmul"} == {"float64"}


# -- rows of a table, and compiled code ------------------------------------------------------------


class Recommender(nn.Module):
    """Bags of 20 rows and single rows of two tables of 100,000 x 8."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(100_000, 8, mode="sum", sparse=sparse)
        self.users = nn.Embedding(100_000, 8, sparse=sparse)

    def forward(self, items: torch.Tensor, user: torch.Tensor) -> torch.Tensor:
        return (self.items(items) * self.users(user)).sum(1)


def test_sparse_gradients_cost_the_rows_that_they_touch() -> None:
    inputs = (torch.zeros(16, 20, dtype=torch.int64), torch.zeros(16, dtype=torch.int64))
    sparse, dense = (trace(Recommender(which), inputs, layers=False) for which in (True, False))
    bag = next(op for op in sparse.ops if op.name == "_embedding_bag")
    assert 4 * 320 * 8 <= bag.bytes_read <= 4 * 320 * 8 + 8 * (320 + 16)
    updates = [op for op in sparse.ops if op.phase == "optimizer"]
    assert [op.bytes_moved for op in updates] == [3 * 4 * 320 * 8, 3 * 4 * 16 * 8]
    assert sparse.bytes_moved < 200_000
    assert dense.bytes_moved > 2 * 4 * 100_000 * 8 * (1 + 3)


def test_compiled_code_is_traced_as_it_was_written(capfd: pytest.CaptureFixture[str]) -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 16, bias=False), nn.Linear(16, 4)

        @torch.compile
        def mix(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x).relu() * torch.sigmoid(x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.mix(x))

    for model in (Compiled(), torch.compile(Compiled())):
        work = trace(model, torch.zeros(8, 16), layers=False)
        assert (work.forward_flops, work.tracer) == (8 * 16 * (16 + 4), "meta")
    assert capfd.readouterr().err == ""
