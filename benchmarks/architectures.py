"""Networks from public packages, by family, for the benchmarks. Built without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision_stub import import_pytorchcv, import_timm

# family: library, names
_IMAGE: dict[str, tuple[str, tuple[str, ...]]] = {
    "AlexNet": ("pytorchcv", ("alexnet", "zfnet")),
    "VGG": ("timm", ("vgg11",)),
    "SqueezeNet": ("pytorchcv", ("squeezenet_v1_1", "sqnxt23_w1")),
    "ResNet": ("timm", ("resnet18", "resnet50", "wide_resnet50_2", "seresnext26d_32x4d")),
    "PreResNet": ("pytorchcv", ("preresnet18",)),
    "ResNeXt": ("timm", ("resnext50_32x4d",)),
    "Res2Net": ("timm", ("res2net50_14w_8s",)),
    "SKNet": ("timm", ("skresnet18",)),
    "DenseNet": ("timm", ("densenet121",)),
    "DPN": ("timm", ("dpn48b",)),
    "DLA": ("timm", ("dla46_c",)),
    "DarkNet": ("pytorchcv", ("darknet_tiny",)),
    "CSPNet": ("timm", ("cspresnet50",)),
    "HRNet": ("timm", ("hrnet_w18_small",)),
    "Inception": ("timm", ("inception_v3", "legacy_xception")),
    "MobileNet": ("pytorchcv", ("mobilenet_w1",)),
    "MobileNetV2": ("timm", ("mobilenetv2_100", "mnasnet_small")),
    "MobileNetV3": ("timm", ("mobilenetv3_small_100", "lcnet_050")),
    "MobileNetV4": ("timm", ("mobilenetv4_conv_small",)),
    "EfficientNet": ("timm", ("efficientnet_b0", "tinynet_e")),
    "ShuffleNet": ("pytorchcv", ("shufflenet_g3_w1", "shufflenetv2_w1")),
    "GhostNet": ("timm", ("ghostnet_100",)),
    "RegNet": ("timm", ("regnetx_002", "regnety_002")),
    "RepVGG": ("timm", ("repvgg_a0",)),
    "VoVNet": ("timm", ("ese_vovnet19b_dw",)),
    "ReXNet": ("timm", ("rexnet_100",)),
    "ConvNeXt": ("timm", ("convnext_atto", "convnextv2_atto")),
    "ConvMixer": ("timm", ("convmixer_768_32",)),
    "NFNet": ("timm", ("nf_regnet_b0",)),
    "ViT": ("timm", ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "cait_xxs24_224", "crossvit_tiny_240")),
    "Swin": ("timm", ("swin_tiny_patch4_window7_224",)),
    "XCiT": ("timm", ("xcit_nano_12_p16_224",)),
    "PiT": ("timm", ("pit_ti_224",)),
    "Twins": ("timm", ("twins_svt_small",)),
    "PVT": ("timm", ("pvt_v2_b0",)),
    "LeViT": ("timm", ("levit_128s",)),
    "MLP-Mixer": ("timm", ("mixer_s32_224", "gmlp_s16_224", "resmlp_12_224")),
    "MetaFormer": ("timm", ("poolformer_s12",)),
    "MobileViT": ("timm", ("mobilevit_xxs", "edgenext_xx_small")),
    "EfficientFormer": ("timm", ("efficientformer_l1",)),
    "CoAtNet": ("timm", ("coatnet_nano_rw_224",)),
    "FocalNet": ("timm", ("focalnet_tiny_srf",)),
    "SelecSLS": ("timm", ("selecsls42b",)),
    "FBNet": ("timm", ("fbnetc_100",)),
    "MobileOne": ("timm", ("mobileone_s0",)),
    "FastViT": ("timm", ("fastvit_t8",)),
    "GENet": ("timm", ("gernet_s",)),
    "LambdaNet": ("timm", ("lambda_resnet26t",)),
    "ResNeSt": ("timm", ("resnest14d",)),
    "StarNet": ("timm", ("starnet_s1",)),
    "RepViT": ("timm", ("repvit_m0_9",)),
    "EfficientViT": ("timm", ("efficientvit_b0",)),
    "MambaOut": ("timm", ("mambaout_femto",)),
    "InceptionNeXt": ("timm", ("inception_next_atto",)),
    "Visformer": ("timm", ("visformer_tiny",)),
    "ConViT": ("timm", ("convit_tiny",)),
    "CoaT": ("timm", ("coat_lite_tiny",)),
    "DaViT": ("timm", ("davit_tiny",)),
    "Hiera": ("timm", ("hiera_tiny_224",)),
    "PeleeNet": ("pytorchcv", ("peleenet",)),
    "IGCV3": ("pytorchcv", ("igcv3_w1",)),
    "BAM-ResNet": ("pytorchcv", ("bam_resnet18",)),
    "TNT": ("timm", ("tnt_s_patch16_224",)),
    "VOLO": ("timm", ("volo_d1_224",)),
    "Sequencer": ("timm", ("sequencer2d_s",)),
    "GCViT": ("timm", ("gcvit_xxtiny",)),
    "MaxViT": ("timm", ("maxvit_rmlp_pico_rw_256",)),
    "NesT": ("timm", ("nest_tiny",)),
    "Next-ViT": ("timm", ("nextvit_small",)),
    "TinyViT": ("timm", ("tiny_vit_5m_224",)),
    "HGNet": ("timm", ("hgnet_tiny",)),
    "MixNet": ("timm", ("mixnet_s",)),
    "MViT": ("timm", ("mvitv2_tiny",)),
    "SHViT": ("timm", ("shvit_s1",)),
    "FasterNet": ("timm", ("fasternet_t0",)),
    "SwiftFormer": ("timm", ("swiftformer_xs",)),
    "HardCoRe-NAS": ("timm", ("hardcorenas_a",)),
    "RDNet": ("timm", ("rdnet_tiny",)),
    "DiracNet": ("pytorchcv", ("diracnet18v2",)),
    "HarDNet": ("pytorchcv", ("hardnet39ds",)),
    "MENet": ("pytorchcv", ("menet108_8x1_g3",)),
    "BN-Inception": ("pytorchcv", ("bninception",)),
}
_SIDES = {"crossvit_tiny_240": 240, "inception_v3": 299, "legacy_xception": 299, "maxvit_rmlp_pico_rw_256": 256}

_SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "vocab_size": 8000,
}
_DECODER = {**_SMALL, "use_cache": False}
# family: configuration class, model class, arguments
_TEXT: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "BERT": ("BertConfig", "BertForSequenceClassification", _SMALL),
    "RoBERTa": ("RobertaConfig", "RobertaForMaskedLM", _SMALL),
    "ELECTRA": ("ElectraConfig", "ElectraForPreTraining", {**_SMALL, "embedding_size": 128}),
    "DistilBERT": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"dim": 256, "n_layers": 3, "n_heads": 4, "hidden_dim": 1024, "vocab_size": 8000},
    ),
    "ALBERT": ("AlbertConfig", "AlbertForMaskedLM", {**_SMALL, "embedding_size": 64}),
    "GPT-2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 256, "n_layer": 3, "n_head": 4, "vocab_size": 8000, "use_cache": False},
    ),
    "GPT-NeoX": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _DECODER),
    "OPT": (
        "OPTConfig",
        "OPTForCausalLM",
        {
            "hidden_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "ffn_dim": 1024,
            "vocab_size": 8000,
            "word_embed_proj_dim": 256,
            "use_cache": False,
        },
    ),
    "Llama": ("LlamaConfig", "LlamaForCausalLM", {**_DECODER, "num_key_value_heads": 2}),
    "Mistral": ("MistralConfig", "MistralForCausalLM", {**_DECODER, "num_key_value_heads": 2}),
    "Qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**_DECODER, "num_key_value_heads": 2}),
}
TOKENS = 128


@dataclass(frozen=True, slots=True)
class Architecture:
    """`build()` returns the network, `inputs(batch)` its one positional input."""

    family: str
    name: str
    library: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], torch.Tensor]


def image_networks() -> list[Architecture]:
    """Image classifiers of timm and pytorchcv, inputs of shape (batch, 3, side, side)."""
    return [
        Architecture(family, name, library, _image_builder(library, name), _images(_SIDES.get(name, 224)))
        for family, (library, names) in _IMAGE.items()
        for name in names
    ]


def text_networks() -> list[Architecture]:
    """transformers models from small configurations, inputs of shape (batch, TOKENS), int64."""
    return [
        Architecture(family, model, "transformers", _text_builder(config, model, arguments), _token_ids)
        for family, (config, model, arguments) in _TEXT.items()
    ]


def _image_builder(library: str, name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        if library == "timm":
            model = import_timm().create_model(name, pretrained=False)
        else:
            model = import_pytorchcv().get_model(name, pretrained=False)
        assert isinstance(model, nn.Module)
        return model

    return build


def _text_builder(config: str, model: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        built = getattr(transformers, model)(getattr(transformers, config)(**arguments))
        assert isinstance(built, nn.Module)
        return built

    return build


def _images(side: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.zeros(batch, 3, side, side)


def _token_ids(batch: int) -> torch.Tensor:
    return torch.zeros(batch, TOKENS, dtype=torch.int64)
