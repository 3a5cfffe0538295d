"""Do models of other packages trace? timm, diffusers, torch_geometric, PEFT, Lightning, segmentation_models_pytorch.

    python benchmarks/packages.py [NAME ...] [--every 10] [--jsonl FILE]

One row a model, as in breadth.py: each in a process of its own, on one core, with limits of time and memory. timm's
models are every tenth of its names; the others are those below. A package that is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from breadth import Row, described, run, show, summary
from torchvision_stub import import_segmentation, import_timm

Made = tuple[Any, Any]  # a model and the inputs of a batch of 4


def timm_models(every: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for name in import_timm().list_models()[::every]:
        yield name, functools.partial(trace_timm, name)


def trace_timm(name: str) -> dict[str, Any]:
    from joulecast.estimator.model.read_model import TraceOptions, read_model

    return caught(lambda: read_model("timm:create_model", TraceOptions(args={"model_name": name}, batch_size=4)))


# Architecture -> its encoders, which need no kernel of torchvision.
SEGMENTATION: dict[str, tuple[str, ...]] = {
    "unet": ("tu-resnet34", "efficientnet-b0", "mit_b0", "tu-convnext_tiny"),
    **dict.fromkeys(("unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan"), ("tu-resnet34",)),
    **dict.fromkeys(("deeplabv3", "deeplabv3plus", "upernet", "segformer"), ("tu-resnet34",)),
    "dpt": ("tu-vit_base_patch16_224.augreg_in21k",),
}


def trace_segmentation(architecture: str, encoder: str) -> dict[str, Any]:
    from joulecast.estimator.model.input_spec import InputSpec
    from joulecast.estimator.model.read_model import TraceOptions, read_model

    args = {"arch": architecture, "encoder_name": encoder, "encoder_weights": "None", "classes": "5"}
    specs = [InputSpec((3, 224, 224), "float32")]
    options = TraceOptions(args=args, specs=specs, batch_size=4)
    return caught(lambda: read_model("segmentation_models_pytorch:create_model", options))


def caught(work: Callable[[], Any]) -> dict[str, Any]:
    from joulecast.estimator.base.errors import JoulecastError

    try:
        return described(work())
    except JoulecastError as error:
        return {"outcome": "error", "reason": str(error)}
    except Exception:
        return {"outcome": "traceback", "reason": traceback.format_exc().splitlines()[-1]}


def trace_made(make: Callable[[], Made]) -> dict[str, Any]:
    import torch

    import joulecast as jc

    with torch.device("meta"):
        model, inputs = make()
    return caught(lambda: jc.trace(model, inputs, batch_size=4, layers=False))


# -- diffusers -----------------------------------------------------------------------------------


def diffuser(name: str, inputs: dict[str, tuple[int, ...] | str], **settings: Any) -> Made:
    import diffusers
    import torch

    made = {
        key: torch.zeros(shape) if isinstance(shape, tuple) else torch.zeros(int(shape), dtype=torch.int64)
        for key, shape in inputs.items()
    }
    return getattr(diffusers, name)(**settings), made


LATENTS, TEXT = (4, 4, 64, 64), (4, 77, 768)
DIFFUSERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "UNet2DModel": ({"sample": (4, 3, 64, 64), "timestep": "4"}, {"sample_size": 64}),
    "UNet2DConditionModel": (
        {"sample": LATENTS, "timestep": "4", "encoder_hidden_states": TEXT},
        {"cross_attention_dim": 768},
    ),
    "UNet3DConditionModel": (
        {"sample": (4, 4, 4, 32, 32), "timestep": "4", "encoder_hidden_states": (4, 77, 1024)},
        {},
    ),
    "UNet1DModel": ({"sample": (4, 2, 65536), "timestep": "4"}, {"extra_in_channels": 64}),
    "AutoencoderKL": ({"sample": (4, 3, 64, 64)}, {}),
    "VQModel": ({"sample": (4, 3, 64, 64)}, {}),
    "DiTTransformer2DModel": (
        {"hidden_states": (4, 4, 32, 32), "timestep": "4", "class_labels": "4"},
        {"num_layers": 4, "in_channels": 4, "out_channels": 8},
    ),
    "PixArtTransformer2DModel": (
        {"hidden_states": (4, 4, 64, 64), "timestep": "4", "encoder_hidden_states": (4, 120, 4096)},
        {"num_layers": 4, "caption_channels": 4096, "sample_size": 64},
    ),
    "SD3Transformer2DModel": (
        {
            "hidden_states": (4, 16, 64, 64),
            "timestep": "4",
            "encoder_hidden_states": (4, 154, 4096),
            "pooled_projections": (4, 2048),
        },
        {"num_layers": 4},
    ),
    "FluxTransformer2DModel": (
        {
            "hidden_states": (4, 256, 64),
            "timestep": (4,),
            "encoder_hidden_states": (4, 128, 4096),
            "pooled_projections": (4, 768),
            "img_ids": (256, 3),
            "txt_ids": (128, 3),
            "guidance": (4,),
        },
        {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True},
    ),
    "SanaTransformer2DModel": (
        {"hidden_states": (4, 32, 32, 32), "timestep": "4", "encoder_hidden_states": (4, 77, 2304)},
        {"num_layers": 2},
    ),
    "ControlNetModel": (
        {
            "sample": LATENTS,
            "timestep": "4",
            "encoder_hidden_states": TEXT,
            "controlnet_cond": (4, 3, 512, 512),
        },
        {"cross_attention_dim": 768},
    ),
}

# -- graphs: 4 graphs of 25 nodes and 100 edges -----------------------------------------------------

GRAPHS: dict[str, dict[str, Any]] = {
    **{
        name: {"hidden_channels": 32, "num_layers": 3, "out_channels": 7} for name in ("GCN", "GraphSAGE", "GIN", "GAT")
    },
    "EdgeCNN": {"hidden_channels": 32, "num_layers": 3, "out_channels": 7},
    "PNA": {
        "hidden_channels": 32,
        "num_layers": 3,
        "out_channels": 7,
        "aggregators": ["mean", "max"],
        "scalers": ["identity", "amplification"],
        "deg": [0, 1, 3, 12, 30, 40, 14],
    },
    "GraphUNet": {"hidden_channels": 32, "out_channels": 7, "depth": 3},
    "SchNet": {},
    "DimeNetPlusPlus": {
        "hidden_channels": 32,
        "out_channels": 1,
        "num_blocks": 2,
        "int_emb_size": 16,
        "basis_emb_size": 8,
        "out_emb_channels": 32,
        "num_spherical": 3,
        "num_radial": 4,
    },
    "AttentiveFP": {
        "hidden_channels": 32,
        "out_channels": 1,
        "edge_dim": 4,
        "num_layers": 2,
        "num_timesteps": 2,
    },
}


def graph_net(name: str) -> Made:
    import torch
    from torch_geometric.nn import models

    generator = torch.Generator(device="cpu").manual_seed(0)
    batch = torch.arange(4, device="cpu").repeat_interleave(25)
    ends = torch.randint(25, (2, 400), generator=generator, device="cpu")
    edges = ends + 25 * torch.arange(4, device="cpu").repeat_interleave(100)
    settings = dict(GRAPHS[name])
    if "deg" in settings:
        settings["deg"] = torch.tensor(settings["deg"], device="cpu")
    with torch.device("cpu"):
        if name in ("SchNet", "DimeNetPlusPlus"):
            numbers = torch.randint(1, 9, (100,), generator=generator)
            return getattr(models, name)(**settings), (numbers, 3 * torch.rand(100, 3, generator=generator), batch)
        x = torch.rand(100, 16, generator=generator)
        net = getattr(models, name)(in_channels=16, **settings)
        if name == "AttentiveFP":
            return net, (x, edges, torch.rand(400, 4, generator=generator), batch)
        return net, (x, edges)


# -- adapters and Lightning ------------------------------------------------------------------------


def adapted(kind: str) -> Made:
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, **sizes))
    settings: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if kind in ("LoraConfig", "LoHaConfig", "AdaLoraConfig", "VeraConfig", "OFTConfig"):
        settings["target_modules"] = ["q_proj", "v_proj"]
    if kind == "AdaLoraConfig":
        settings["total_step"] = 100
    if kind in ("PromptTuningConfig", "PrefixTuningConfig"):
        settings["num_virtual_tokens"] = 8
    return peft.get_peft_model(model, getattr(peft, kind)(**settings)), {
        "input_ids": torch.zeros(4, 128, dtype=torch.int64)
    }


ADAPTERS = (
    *("LoraConfig", "LoHaConfig", "AdaLoraConfig", "VeraConfig", "OFTConfig"),
    *("IA3Config", "PromptTuningConfig", "PrefixTuningConfig"),
)


def lightning_module() -> Made:
    import lightning
    import torch
    from torch import nn

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.log("mean", x.mean())
            return self.net(x)  # type: ignore[no-any-return]

    return Net(), torch.zeros(4, 1, 28, 28)


PACKAGES = ("timm", "diffusers", "torch_geometric", "peft", "lightning", "segmentation_models_pytorch")


def models(every: int) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """Package, model and what traces it."""
    there = set(filter(_has, PACKAGES))
    made: list[tuple[str, str, Callable[[], Made]]] = [
        *(("diffusers", name, functools.partial(diffuser, name, a, **b)) for name, (a, b) in DIFFUSERS.items()),
        *(("torch_geometric", name, functools.partial(graph_net, name)) for name in GRAPHS),
        *(("peft", name, functools.partial(adapted, name)) for name in ADAPTERS),
        ("lightning", "LightningModule", lightning_module),
    ]
    for package, name, make in made:
        if package in there:
            yield package, name, functools.partial(trace_made, make)
    if "segmentation_models_pytorch" in there:
        import_segmentation()
        for architecture, encoders in SEGMENTATION.items():
            for encoder in encoders:
                traced = functools.partial(trace_segmentation, architecture, encoder)
                yield "segmentation_models_pytorch", f"{architecture} {encoder}", traced
    if "timm" in there:
        for name, traced in timm_models(every):
            yield "timm", name, traced


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="packages or models; all without one")
    parser.add_argument("--every", type=int, default=10, help="every Nth of timm's names")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--jsonl", type=Path, help="rows are appended to this file, and models in it left out")
    options = parser.parse_args()
    rows = []
    if options.jsonl and options.jsonl.exists():
        rows = [Row(**json.loads(line)) for line in options.jsonl.read_text().splitlines()]
    known = {(row.model_type, row.model_class) for row in rows}

    import torch

    import joulecast.estimator.model.read_model
    import joulecast.estimator.trace.trace  # noqa: F401

    torch.set_num_threads(1)
    for package in (
        "diffusers",
        "torch_geometric.nn.models",
        "peft",
        "transformers",
    ):  # once, here, not in each process
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    for package, name, traced in models(options.every):
        wanted = not options.names or package in options.names or name in options.names
        if not wanted or (package, name) in known:
            continue
        row = run(package, name, traced, options.seconds, options.gigabytes)
        rows.append(row)
        show(row)
        if options.jsonl:
            with options.jsonl.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    for package in Counter(row.model_type for row in rows):
        print(f"{package}: {summary([row for row in rows if row.model_type == package])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
