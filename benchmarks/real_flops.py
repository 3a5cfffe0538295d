"""Forward multiply-adds of shrunk transformers models, beside a real run counted by torch's FLOP counter.

    python benchmarks/real_flops.py [NAME ...] [--jsonl FILE]

`CASES` is the table of `tests/estimator/trace/test_real_flops.py` too, which runs a part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

BATCH, TOKENS = 2, 64
COUNTED = ("conv", "matmul", "attention", "rnn", "scan", "linalg")

# What makes any config small; a config takes the settings that it has.
SMALL: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "emb_dim", "embedding_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "hidden_dim"), 128),
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 2,
    "d_kv": 16,
    "head_dim": 16,
}
DELTA_NET = {f"linear_num_{what}_heads": count for what, count in (("key", 2), ("value", 4))} | {
    f"linear_{what}_head_dim": 16 for what in ("key", "value")
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
IMAGES = {"image_size": 32, "patch_size": 8}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 40]}
SPEECH = {"conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2} | {
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
VISION = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TEXT = {**VISION, "num_key_value_heads": 2, "vocab_size": 100}
PAIR = {"text_config": TEXT | {"max_position_embeddings": TOKENS}, "vision_config": VISION | IMAGES}

CASES: dict[str, dict[str, Any]] = {
    # encoders
    **{name: {} for name in ("Bert", "Roberta", "Electra", "MPNet", "RoFormer", "Nystromformer", "Splinter", "Ernie")},
    **{
        name: {} for name in ("Camembert", "DistilBert", "Deberta", "DebertaV2", "XLNet", "Flaubert", "XLM", "ConvBert")
    },
    "Albert": {"num_hidden_groups": 1},
    "ModernBert": {"cls_token_id": 1, "sep_token_id": 2},
    # decoders
    **{name: {} for name in ("Llama", "GPT2", "GPTNeoX", "GPTJ", "OPT", "Bloom", "Mistral", "Qwen2", "Qwen3", "Gemma")},
    **{
        name: {}
        for name in ("Gemma2", "Phi", "Phi3", "StableLm", "Olmo2", "Cohere", "Granite", "Starcoder2", "CodeGen")
    },
    "GPTNeo": {"attention_types": [[["global", "local"], 1]]},
    "OPT": {"word_embed_proj_dim": 64},
    "GPTJ": {"rotary_dim": 8},
    "CodeGen": {"rotary_dim": 8},
    "CTRL": {"dff": 128},
    # encoders with a decoder
    **{name: {} for name in ("T5", "MT5", "Bart", "MBart", "Pegasus", "Marian", "M2M100", "BlenderbotSmall", "UMT5")},
    # mixtures of experts
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {"num_experts": 8},
    "Qwen2Moe": {"num_experts": 8, "shared_expert_intermediate_size": 32},
    "Olmoe": {"num_experts": 8},
    "GraniteMoe": {"num_local_experts": 4},
    "DeepseekV3": LATENT
    | {
        "head_dim": 8,
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    # state-space models and their hybrids
    "Mamba": {},
    "Mamba2": {"num_heads": 8, "n_groups": 2, "state_size": 16, "chunk_size": 32},
    "FalconH1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 32,
    },
    "Qwen3Next": DELTA_NET | {"num_hidden_layers": 4, "num_experts": 4, "shared_expert_intermediate_size": 32},
    "Rwkv": {},
    "Jamba": {
        "num_hidden_layers": 8,
        "num_experts": 4,
        "mamba_dt_rank": 4,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
    },
    # images
    **dict.fromkeys(("ViT", "DeiT", "Beit", "Dinov2", "ViTMSN"), IMAGES),
    "Swin": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "ConvNext": {"image_size": 64, **STAGES},
    "ConvNextV2": {"image_size": 64, **STAGES},
    "ResNet": {"image_size": 32, "embedding_size": 16} | STAGES,
    "RegNet": {"image_size": 32, "embedding_size": 16, "groups_width": 8} | STAGES,
    "PoolFormer": {"image_size": 32} | STAGES,
    "Segformer": {"image_size": 64, **STAGES, "hidden_sizes": [16, 32, 40, 64], "num_attention_heads": [1, 2, 5, 8]},
    # objects in images
    "Yolos": {"image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 10},
    "RTDetrV2": {
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 64,
        "decoder_in_channels": [32, 32, 32],
        "num_queries": 20,
        "decoder_ffn_dim": 64,
        "decoder_layers": 1,
    },
    # audio
    **dict.fromkeys(("Wav2Vec2", "Hubert", "WavLM", "UniSpeech"), SPEECH),
    "Whisper": {"num_mel_bins": 16, "max_source_positions": 32, "decoder_start_token_id": 1},
    "AST": {"max_length": 64, "num_mel_bins": 32},
    # images and texts
    "CLIP": PAIR,
    "Siglip": PAIR,
    "Blip": PAIR,
    "Llava": {
        "vision_config": PAIR["vision_config"] | {"model_type": "clip_vision_model"},
        "text_config": TEXT | {"model_type": "llama"},
        "image_token_id": 90,
    },
    "Qwen2VL": {
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
        "text_config": TEXT
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}},
        "image_token_id": 90,
    },
}
AS_THEY_ARE = ("ConvNext", "ConvNextV2", "CLIP", "Siglip", "Blip", "Llava", "Qwen2VL", "RTDetrV2")


def build(name: str) -> torch.nn.Module:
    import transformers

    config_class = getattr(transformers, f"{name}Config")
    settings = CASES[name]
    if name not in AS_THEY_ARE:
        default = config_class()
        own = {*default.to_dict(), *config_class.attribute_map}
        small = {key: value for key, value in SMALL.items() if key in own}
        for alias, key in config_class.attribute_map.items():  # each setting once, by its own name
            if alias in small and key in {**small, **settings}:
                small.pop(alias)
        settings = {**small, **settings}
    torch.manual_seed(0)
    model: torch.nn.Module = getattr(transformers, f"{name}Model")(config_class(**settings))
    return model


@contextmanager
def handles() -> Iterator[None]:
    """What the counter lacks on a CPU: grouped products, attention and triangular solves."""
    grouped, attention = torch.ops.aten._grouped_mm, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    solve = torch.ops.aten.linalg_solve_triangular
    register_flop_formula(grouped)(lambda a, b, *_, **__: 2 * a[-2] * a[-1] * b[-1])
    register_flop_formula(attention)(lambda q, k, v, *_, **__: 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3]))
    register_flop_formula(solve)(lambda a, b, *_, **__: b[-1] * a[-1] ** 2 * torch.Size(a[:-2]).numel())
    try:
        yield
    finally:
        for packet in (grouped, attention, solve):
            del flop_registry[packet]


def compare(name: str) -> tuple[float, float, str]:
    """Forward multiply-adds by `trace` and by the counter, and the kind of tensors that `trace` used."""
    from joulecast.estimator.model.config_inputs import from_config
    from joulecast.estimator.model.inputs import make_inputs
    from joulecast.estimator.trace.trace import trace

    model = build(name)
    specs, _ = from_config(model, TOKENS, name, "float32")
    typed = [replace(spec, dtype=spec.dtype or "float32") for spec in specs]
    _, inputs = make_inputs(typed, BATCH, vocab_size=80, device="cpu")
    work = trace(model, dict(inputs), batch_size=BATCH, layers=False)
    with handles(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(**inputs)
    ours = sum(op.flops * op.count for op in work.ops if op.phase == "forward" and op.kind in COUNTED)
    return ours, counter.get_total_flops() / 2, work.tracer


def summary(rows: list[dict[str, Any]]) -> str:
    off = [abs(row["off"]) for row in rows if "off" in row]
    return f"{sum(one <= 0.01 for one in off)} of {len(rows)} models within 1 %, worst {max(off, default=0):.2%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of CASES; all without one")
    parser.add_argument("--jsonl", type=Path, help="rows are appended to this file, and models in it left out")
    options = parser.parse_args()
    rows = []
    if options.jsonl and options.jsonl.exists():
        rows = [json.loads(line) for line in options.jsonl.read_text().splitlines()]
    known = {row["name"] for row in rows}
    torch.set_num_threads(1)
    for name in options.names or CASES:
        if name in known:
            continue
        try:
            ours, counted, tracer = compare(name)
            row = {"name": name, "ours": ours, "counted": counted, "tracer": tracer, "off": ours / counted - 1}
        except Exception as error:
            row = {"name": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.jsonl:
            with options.jsonl.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
