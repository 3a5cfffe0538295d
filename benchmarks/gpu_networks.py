"""Networks that people train on GPUs, with their usual batches, for `gpu_steps.py` and `gpu_profile.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from architectures import import_timm
from torch import Tensor, nn

Inputs = Tensor | dict[str, Tensor]

OPTIMIZERS: Mapping[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-4),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-4, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-5),
}
_ADAMW = ("bert", "gpt", "llama", "qwen", "opt-", "mamba", "vit", "swin", "deit")
_OTHERS = ("adamw", "momentum", "adamw", "sgd")


@dataclass(frozen=True, slots=True)
class Network:
    """`build()` makes it on the current device; `full` and `half` are its batches in float32 and in 16 bits."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    full: int
    half: int


@dataclass(frozen=True, slots=True)
class Setting:
    """How a network trains. `precision`: "float32", "bfloat16" (autocast) or "pure-bfloat16" (of the weights)."""

    model: str
    batch: int
    precision: str
    software: str = "eager"
    optimizer: str = "adamw"


class _UNet(nn.Module):
    def __init__(self, channels: int = 64, depth: int = 4) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(depth + 1)]
        pairs = list(itertools.pairwise(widths))
        self.stem, self.head = _double(3, channels), nn.Conv2d(channels, 21, 1)
        self.down = nn.ModuleList(_double(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairs)
        self.join = nn.ModuleList(_double(2 * a, a) for a in widths[:-1])

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.stem(x)]
        for down in self.down:
            kept.append(down(nn.functional.max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([kept.pop(), up(x)], 1))
        result: Tensor = self.head(x)
        return result


def _double(a: int, b: int) -> nn.Module:
    first = (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(True))
    return nn.Sequential(*first, nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(True))


class _Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], hidden: int, layers: int, vocabulary: int = 10_000) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, 512)
        self.cell = cell(512, hidden, layers, batch_first=True)
        self.scores = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.scores(self.cell(self.tokens(x))[0])
        return result


def _images_of_32() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for c in (64, 128, 256):
        if c > 64:
            layers += [nn.Conv2d(c // 2, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
        for _ in range(4):
            layers += [nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def _perceptron() -> nn.Module:
    hidden = [layer for _ in range(2) for layer in (nn.Linear(4096, 4096), nn.ReLU())]
    return nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), *hidden, nn.Linear(4096, 1000))


def _images(build: Callable[[], nn.Module], *shape: int) -> tuple[Callable[[], nn.Module], Callable[[int], Inputs]]:
    return build, lambda batch: torch.randn(batch, *shape)


def _timm(name: str, side: int = 224) -> tuple[Callable[[], nn.Module], Callable[[int], Inputs]]:
    def build() -> nn.Module:
        model: nn.Module = import_timm().create_model(name)
        return model

    return _images(build, 3, side, side)


def _tokens(build: Callable[[], nn.Module], length: int) -> tuple[Callable[[], nn.Module], Callable[[int], Inputs]]:
    return build, lambda batch: torch.randint(10_000, (batch, length))


def _text(
    config: str, model: str, length: int, **sizes: Any
) -> tuple[Callable[[], nn.Module], Callable[[int], Inputs]]:
    def build() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**sizes))
        return made

    def inputs(batch: int) -> Inputs:
        ids = torch.randint(2, 7999, (batch, length))
        labelled = any(part in model for part in ("CausalLM", "LMHead", "MaskedLM"))
        return {"input_ids": ids, "labels": ids} if labelled else {"input_ids": ids}

    return build, inputs


_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_LLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "use_cache": False,
}
_ROBERTA = {"vocab_size": 50_265, "max_position_embeddings": 514, "pad_token_id": 1}
_QWEN = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "use_cache": False,
}
_QWEN_MOE = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "use_cache": False,
}
_OPT = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "ffn_dim": 4096,
    "word_embed_proj_dim": 1024,
    "vocab_size": 50_272,
    "use_cache": False,
}
_DEBERTA = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 128_100,
    "relative_attention": True,
    "position_buckets": 256,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pad_token_id": 0,
}
_MAMBA = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_heads": 24,
    "head_dim": 64,
    "n_groups": 1,
    "use_cache": False,
}
_GPT2_MEDIUM = {"n_embd": 1024, "n_layer": 24, "n_head": 16, "use_cache": False}

NETWORKS = tuple(
    Network(name, *parts, full, half)
    for name, parts, full, half in (
        ("resnet50", _timm("resnet50"), 64, 128),
        ("bert-base-128", _text("BertConfig", "BertForSequenceClassification", 128), 64, 64),
        ("gpt2-small-1024", _text("GPT2Config", "GPT2LMHeadModel", 1024, use_cache=False), 4, 8),
        ("vit_base_patch16_224", _timm("vit_base_patch16_224"), 64, 128),
        ("efficientnet_b0", _timm("efficientnet_b0"), 64, 128),
        ("convnext_tiny", _timm("convnext_tiny"), 64, 128),
        ("swin_tiny_patch4_window7_224", _timm("swin_tiny_patch4_window7_224"), 64, 128),
        ("densenet121", _timm("densenet121"), 64, 128),
        ("resnet18", _timm("resnet18"), 128, 256),
        ("mobilenetv3_large_100", _timm("mobilenetv3_large_100"), 128, 256),
        ("vgg16", _timm("vgg16"), 32, 64),
        ("regnety_032", _timm("regnety_032"), 64, 128),
        ("unet-256", _images(_UNet, 3, 256, 256), 4, 8),
        ("cifar-resnet", _images(_images_of_32, 3, 32, 32), 512, 1024),
        ("lstm-1024", _tokens(lambda: _Recurrent(nn.LSTM, 1024, 2), 64), 64, 64),
        ("mlp-4096", _images(_perceptron, 1024), 1024, 4096),
        ("llama-1b-2048", _text("LlamaConfig", "LlamaForCausalLM", 2048, **_LLAMA), 1, 4),
        ("bert-large-512", _text("BertConfig", "BertForMaskedLM", 512, **_LARGE), 8, 16),
        ("inception_v3", _timm("inception_v3", 299), 64, 128),
        ("resnext50_32x4d", _timm("resnext50_32x4d"), 64, 128),
        ("vit_tiny_patch16_224", _timm("vit_tiny_patch16_224"), 128, 256),
        ("deit3_small_patch16_224", _timm("deit3_small_patch16_224"), 64, 128),
        ("mixer_b16_224", _timm("mixer_b16_224"), 64, 128),
        ("maxvit_tiny_tf_224", _timm("maxvit_tiny_tf_224"), 32, 64),
        ("coatnet_0_rw_224", _timm("coatnet_0_rw_224"), 32, 64),
        ("efficientnet_b4", _timm("efficientnet_b4", 320), 16, 32),
        ("wide_resnet50_2", _timm("wide_resnet50_2"), 64, 128),
        ("resnet152", _timm("resnet152"), 32, 64),
        ("convnext_base", _timm("convnext_base"), 32, 64),
        ("swin_base_patch4_window7_224", _timm("swin_base_patch4_window7_224"), 32, 64),
        ("roberta-base-512", _text("RobertaConfig", "RobertaForMaskedLM", 512, **_ROBERTA), 8, 16),
        ("qwen3-0.6b-1024", _text("Qwen3Config", "Qwen3ForCausalLM", 1024, **_QWEN), 2, 4),
        ("qwen3-moe-small-1024", _text("Qwen3MoeConfig", "Qwen3MoeForCausalLM", 1024, **_QWEN_MOE), 4, 8),
        ("gpt2-medium-1024", _text("GPT2Config", "GPT2LMHeadModel", 1024, **_GPT2_MEDIUM), 2, 4),
        ("poolformer_s12", _timm("poolformer_s12"), 64, 128),
        ("mobilevit_s", _timm("mobilevit_s", 256), 64, 128),
        ("hrnet_w18", _timm("hrnet_w18"), 32, 64),
        ("resnest50d", _timm("resnest50d"), 32, 64),
        ("dm_nfnet_f0", _timm("dm_nfnet_f0", 192), 32, 64),
        ("repvgg_b0", _timm("repvgg_b0"), 64, 128),
        ("xcit_small_12_p16_224", _timm("xcit_small_12_p16_224"), 32, 64),
        ("efficientformer_l1", _timm("efficientformer_l1"), 64, 128),
        ("volo_d1_224", _timm("volo_d1_224"), 32, 64),
        ("convmixer_768_32", _timm("convmixer_768_32"), 16, 32),
        ("gmlp_s16_224", _timm("gmlp_s16_224"), 64, 128),
        ("pvt_v2_b2", _timm("pvt_v2_b2"), 32, 64),
        ("tf_efficientnetv2_s", _timm("tf_efficientnetv2_s", 300), 32, 64),
        ("ghostnet_100", _timm("ghostnet_100"), 128, 256),
        ("mobilenetv2_100", _timm("mobilenetv2_100"), 64, 128),
        ("gru-512", _tokens(lambda: _Recurrent(nn.GRU, 512, 1), 128), 64, 64),
        ("vit_large_patch16_224", _timm("vit_large_patch16_224"), 16, 32),
        ("mamba2-small-1024", _text("Mamba2Config", "Mamba2ForCausalLM", 1024, **_MAMBA), 2, 2),
        ("opt-350m-1024", _text("OPTConfig", "OPTForCausalLM", 1024, **_OPT), 2, 4),
        ("deberta-base-256", _text("DebertaV2Config", "DebertaV2ForSequenceClassification", 256, **_DEBERTA), 16, 32),
    )
)
_LLAMA_8B = {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 4} | {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "use_cache": False,
}
_LLAMA_70B = (
    _LLAMA_8B | {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 2} | {"num_attention_heads": 64}
)
_QWEN_7B = (
    _LLAMA_8B
    | {"vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944}
    | {
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
)
_OLMO_7B = _LLAMA_8B | {"vocab_size": 100_352, "intermediate_size": 11_008, "num_key_value_heads": 32}
_MISTRAL_7B = _LLAMA_8B | {"vocab_size": 32_768, "sliding_window": 4096, "max_position_embeddings": 32_768}
_PHI3_MINI = (
    _LLAMA_8B
    | {"vocab_size": 32_064, "hidden_size": 3072, "intermediate_size": 8192}
    | {
        "num_key_value_heads": 32,
        "pad_token_id": 0,
    }
)
_GPT3_7B = {"n_embd": 4096, "n_layer": 4, "n_head": 32, "n_positions": 2048, "use_cache": False}
_PYTHIA_7B = {"vocab_size": 50_432, "hidden_size": 4096, "intermediate_size": 16_384, "num_hidden_layers": 4} | {
    "num_attention_heads": 32,
    "use_cache": False,
}
_GEMMA2_2B = (
    _LLAMA_8B
    | {"vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256}
    | {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }
)
_MIXTRAL = _LLAMA_8B | {"vocab_size": 32_000, "num_hidden_layers": 2, "num_local_experts": 8, "num_experts_per_tok": 2}
_QWEN3_30B = (
    _QWEN_MOE
    | {"vocab_size": 151_936, "hidden_size": 2048, "num_hidden_layers": 4, "head_dim": 128}
    | {
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    }
)
_GPT_OSS_20B = {"num_hidden_layers": 2, "num_local_experts": 32, "use_cache": False}
_DEEPSEEK_V2_LITE = {
    "vocab_size": 102_400,
    "hidden_size": 2048,
    "intermediate_size": 10_944,
    "num_hidden_layers": 4,
} | {
    "moe_intermediate_size": 1408,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "n_group": 1,
    "topk_group": 1,
    "use_cache": False,
}
# A few layers of large language models: "4 of 32" layers, the whole vocabulary, and the length of a sequence.
LANGUAGE = tuple(
    Network(name, *parts, 0, batch)
    for name, parts, batch in (
        ("llama3-8b-4of32-8192", _text("LlamaConfig", "LlamaForCausalLM", 8192, **_LLAMA_8B), 1),
        ("llama3-70b-2of80-4096", _text("LlamaConfig", "LlamaForCausalLM", 4096, **_LLAMA_70B), 1),
        ("qwen3-30b-a3b-4of48-4096", _text("Qwen3MoeConfig", "Qwen3MoeForCausalLM", 4096, **_QWEN3_30B), 1),
        ("gpt3-7b-4of32-2048", _text("GPT2Config", "GPT2LMHeadModel", 2048, **_GPT3_7B), 4),
        ("mixtral-8x7b-2of32-4096", _text("MixtralConfig", "MixtralForCausalLM", 4096, **_MIXTRAL), 1),
        ("llama3-8b-4of32-2048", _text("LlamaConfig", "LlamaForCausalLM", 2048, **_LLAMA_8B), 2),
        ("qwen2-7b-4of28-4096", _text("Qwen2Config", "Qwen2ForCausalLM", 4096, **_QWEN_7B), 1),
        ("mistral-7b-4of32-8192", _text("MistralConfig", "MistralForCausalLM", 8192, **_MISTRAL_7B), 1),
        ("gpt-oss-20b-2of24-4096", _text("GptOssConfig", "GptOssForCausalLM", 4096, **_GPT_OSS_20B), 1),
        ("pythia-7b-4of32-2048", _text("GPTNeoXConfig", "GPTNeoXForCausalLM", 2048, **_PYTHIA_7B), 4),
        (
            "deepseek-v2-lite-4of27-4096",
            _text("DeepseekV2Config", "DeepseekV2ForCausalLM", 4096, **_DEEPSEEK_V2_LITE),
            1,
        ),
        ("gemma2-2b-4of26-4096", _text("Gemma2Config", "Gemma2ForCausalLM", 4096, **_GEMMA2_2B), 1),
        ("olmo2-7b-4of32-4096", _text("Olmo2Config", "Olmo2ForCausalLM", 4096, **_OLMO_7B), 2),
        ("phi3-mini-4of32-4096", _text("Phi3Config", "Phi3ForCausalLM", 4096, **_PHI3_MINI), 2),
    )
)
BY_NAME = {network.name: network for network in (*NETWORKS, *LANGUAGE)}
_FIRST = 18  # of these, both precisions are measured before the others
_ALSO_CHANNELS_LAST = (
    *("resnet18", "mobilenetv3_large_100", "vgg16", "inception_v3", "resnext50_32x4d", "efficientnet_b4"),
    *("wide_resnet50_2", "convnext_base", "poolformer_s12", "mobilevit_s", "resnest50d", "dm_nfnet_f0"),
    *("repvgg_b0", "convmixer_768_32", "tf_efficientnetv2_s", "ghostnet_100", "mobilenetv2_100"),
)


def optimizer_of(index: int, name: str) -> str:
    return "adamw" if any(part in name for part in _ADAMW) else _OTHERS[index % len(_OTHERS)]


def settings() -> Iterator[Setting]:
    """What is measured, the most informative first."""
    optimizers = {one.name: optimizer_of(index, one.name) for index, one in enumerate(NETWORKS)}
    full = [Setting(one.name, one.full, "float32", optimizer=optimizers[one.name]) for one in NETWORKS]
    half = [Setting(one.name, one.half, "bfloat16", optimizer=optimizers[one.name]) for one in NETWORKS]
    for pair in zip(full[:_FIRST], half[:_FIRST], strict=True):
        yield from pair
    for name in ("resnet50", "efficientnet_b0", "convnext_tiny", "regnety_032", "unet-256", "densenet121"):
        yield Setting(name, BY_NAME[name].half, "bfloat16", "channels-last", optimizers[name])
    for name in ("llama-1b-2048", "qwen3-0.6b-1024", "qwen3-moe-small-1024", "gpt2-small-1024"):
        yield Setting(name, BY_NAME[name].half, "pure-bfloat16")
    yield from half[_FIRST:]
    for name in ("resnet50", "vit_base_patch16_224", "bert-base-128", "efficientnet_b0", "densenet121"):
        yield Setting(name, 4, "bfloat16", optimizer=optimizers[name])  # these wait for the host
    yield from full[_FIRST:]
    for name in _ALSO_CHANNELS_LAST:
        yield Setting(name, BY_NAME[name].half, "bfloat16", "channels-last", optimizers[name])


_IN_MIXED_PRECISION = ("llama3-8b-4of32-8192", "gpt3-7b-4of32-2048", "qwen3-30b-a3b-4of48-4096", "olmo2-7b-4of32-4096")


def language_settings(software: str = "eager") -> Iterator[Setting]:
    """Layers of large language models, with weights in 16 bits first."""
    for one in LANGUAGE:
        yield Setting(one.name, one.half, "pure-bfloat16", software)
    for name in _IN_MIXED_PRECISION:
        yield Setting(name, BY_NAME[name].half, "bfloat16", software)
