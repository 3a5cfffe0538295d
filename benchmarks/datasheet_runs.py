"""Published runs on named hardware, each as the workload that joulecast would be asked about.

Every function reads one source of `../shared/measured` or `../shared/reference` and yields `PublishedRun`s;
what each source measured and where it is uncertain stands beside it.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from nasbench import NasBench
from population_networks import cifar_shufflenet
from torch import nn
from torchvision_stub import import_pytorchcv, import_timm

from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

IMAGENET_SAMPLES = 1_281_167


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """`seconds` and `joules` were measured over `steps` steps of `work()`; joules None: not published.

    `devices` run a step together; seconds are those of the run, joules those of all devices.
    `validation` is the number of forward passes beside.
    """

    source: str
    hardware: str
    network: str
    work: Callable[[], Workload]
    steps: float
    seconds: float | None
    joules: float | None
    devices: int = 1
    validation: float = 0.0


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def _image_work(
    library: str, name: str, batch: int, side: int, train: bool = True, optimizer: str = "momentum"
) -> Workload:
    with torch.device("meta"):
        if library == "timm":
            model = import_timm().create_model(name, pretrained=False)
        else:
            model = import_pytorchcv().get_model(name, pretrained=False)
    inputs = torch.empty(batch, 3, side, side, device="meta")
    return trace(model, inputs, train=train, optimizer=optimizer, layers=False)


# -- EC-NAS: NAS-Bench-101 networks, CIFAR-10, TensorFlow, batch 256, 40,000 images ---------------------

_ECNAS_GPUS = {
    "quadrortx6000": "quadro-rtx-6000",
    "rtx3060": "rtx-3060",
    "rtx3090": "rtx-3090",
    "titanxp": "titan-xp",
}
_ECNAS_STEPS_PER_EPOCH = 40_000 / 256
_EVERY = 11  # of 91 networks


@cache
def _nasbench_work(adjacency: str, ops: str) -> Workload:
    with torch.device("meta"):
        model = NasBench(json.loads(adjacency), ops.split(","))
    return trace(model, torch.empty(256, 3, 32, 32, device="meta"), optimizer="momentum", layers=False)


def ec_nas(measured: Path) -> Iterator[PublishedRun]:
    """Seconds of training alone; joules as the board's mean watts over the whole process times those.

    Set-up and evaluation draw less and last long beside 4 epochs, so that those joules are too few; the
    RTX 6000 is therefore taken from its 108-epoch runs.
    """
    folder = measured / "ec-nas"
    long_runs = {
        row["model_hash"]: row
        for row in _rows(folder / "ecnas_4v_rtx6000_4-12-36-108epochs_x3.csv")
        if row["epochs"] == "108"
    }
    by_gpu: dict[str, int] = defaultdict(int)
    for row in _rows(folder / "ecnas_4v_4gpus_4epochs.csv"):
        gpu = row["hw"]
        by_gpu[gpu] += 1
        if (by_gpu[gpu] - 1) % _EVERY:
            continue
        epochs, seconds, watts = 4, float(row["e4_time_s"]), float(row["gpu_avg_power_W"])
        if gpu == "quadrortx6000" and row["model_hash"] in long_runs:
            longer = long_runs[row["model_hash"]]
            epochs, seconds, watts = 108, float(longer["eN_time_s"]), float(longer["gpu_avg_power_W"])
        adjacency, ops = row["adjacency"], row["ops"]
        yield PublishedRun(
            source="EC-NAS",
            hardware=_ECNAS_GPUS[gpu],
            network=f"nasbench {row['model_hash'][:6]}",
            work=lambda a=adjacency, o=ops: _nasbench_work(a, o),  # type: ignore[misc]
            steps=epochs * _ECNAS_STEPS_PER_EPOCH,
            seconds=seconds,
            joules=seconds * watts,
        )


# -- Zeus: one epoch at the highest power limit ---------------------------------------------------------

_ZEUS_GPUS = {
    "v100": "v100-pcie-16gb",
    "a40": "a40",
    "p100": "p100-pcie",
    "rtx6000": "quadro-rtx-6000",
}
_ZEUS_BATCHES = {"resnet50": (32, 128), "shufflenetv2": (32, 128, 1024), "bert_base_uncased": (8, 16)}
# SQuAD 1.1 in windows of 384 tokens, 128 apart: 88,524 training examples (Hugging Face's run_qa).
_SAMPLES = {"imagenet": IMAGENET_SAMPLES, "cifar100": 50_000, "squad": 88_524}


@cache
def _bert_work(batch: int) -> Workload:
    import transformers

    with torch.device("meta"):
        model = transformers.BertForQuestionAnswering(transformers.BertConfig())
    ids = torch.empty(batch, 384, dtype=torch.int64, device="meta")

    def loss(output: Any) -> torch.Tensor:
        total: torch.Tensor = output.start_logits.square().mean() + output.end_logits.square().mean()
        return total

    return trace(model, ids, optimizer="adamw", layers=False, loss=loss)


@cache
def _cifar_shufflenet_work(batch: int) -> Workload:
    model, inputs = cifar_shufflenet(batch)
    return trace(model, inputs, layers=False)


def _zeus_work(network: str, batch: int) -> Workload:
    if network == "resnet50":
        return _image_work("timm", "resnet50", batch, 224)
    return _cifar_shufflenet_work(batch) if network == "shufflenetv2" else _bert_work(batch)


def zeus(measured: Path) -> Iterator[PublishedRun]:
    """PyTorch in float32. Runs with a data pipeline that is slower than the network are among them."""
    for gpu, hardware in _ZEUS_GPUS.items():
        rows = _rows(measured / "zeus-trace" / f"summary_power_{gpu}.csv")
        highest = max(float(row["power_limit"]) for row in rows)
        seen: set[tuple[str, int]] = set()
        for row in rows:
            network, batch = row["network"], int(row["batch_size"])
            known = batch in _ZEUS_BATCHES.get(network, ()) and row["dataset"] in _SAMPLES
            if not known or float(row["power_limit"]) != highest or (network, batch) in seen:
                continue
            seen.add((network, batch))
            seconds = float(row["time_per_epoch"])
            yield PublishedRun(
                source="Zeus",
                hardware=hardware,
                network=f"{network} {batch}",
                work=lambda n=network, b=batch: _zeus_work(n, b),  # type: ignore[misc]
                steps=_SAMPLES[row["dataset"]] / batch,
                seconds=seconds,
                joules=seconds * float(row["average_power"]),
            )


# -- Fischer et al.: ImageNet, batch 32 a GPU -----------------------------------------------------------

_FISCHER_NETS = {
    "VGG16": ("timm", "vgg16", 224),
    "ResNet50": ("timm", "resnet50", 224),
    "ResNet152": ("timm", "resnet152", 224),
    "MobileNetV2": ("timm", "mobilenetv2_100", 224),
    "MobileNetV3Small": ("timm", "mobilenetv3_small_100", 224),
    "MobileNetV3Large": ("timm", "mobilenetv3_large_100", 224),
    "EfficientNetB0": ("timm", "efficientnet_b0", 224),
    "EfficientNetB2": ("timm", "efficientnet_b2", 260),
    "EfficientNetB4": ("timm", "efficientnet_b4", 380),
    "DenseNet121": ("timm", "densenet121", 224),
    "InceptionV3": ("timm", "inception_v3", 299),
    "ResNext50": ("timm", "resnext50_32x4d", 224),
    "RegNetX8GF": ("timm", "regnetx_080", 224),
}
_FISCHER_GPUS = {"Quadro RTX 5000": "quadro-rtx-5000", "NVIDIA A100-SXM4-40GB": "a100-sxm4-40gb"}


def fischer_training(measured: Path) -> Iterator[PublishedRun]:
    """10 epochs, pictures decoded on the way: small networks wait for them (49,000 s whatever the net)."""
    for row in _rows(measured / "fischer-imagenet" / "runs.csv"):
        hardware = _FISCHER_GPUS.get(row["gpu"])
        if row["task"] != "train" or row["model"] not in _FISCHER_NETS or hardware is None:
            continue
        library, name, side = _FISCHER_NETS[row["model"]]
        devices, batch = int(row["n_gpu"]), int(row["batch_size"])
        yield PublishedRun(
            source="Fischer, training",
            hardware=hardware,
            network=f"{row['model']} {row['backend']}",
            work=lambda a=(library, name, batch, side): _image_work(*a),  # type: ignore[misc]
            steps=float(row["epochs_done"] or 10) * IMAGENET_SAMPLES / batch / devices,
            seconds=float(row["duration_s"]),
            joules=float(row["gpu_energy_J"]),
            devices=devices,
        )


def fischer_cpu(measured: Path) -> Iterator[PublishedRun]:
    """Inference of 50,000 pictures on the CPU alone, package energy by RAPL."""
    for row in _rows(measured / "fischer-imagenet" / "runs.csv"):
        on_cpu = row["task"] == "infer" and row["rapl_energy_J"] and not row["gpu_energy_J"]
        if not on_cpu or row["model"] not in _FISCHER_NETS or "W-2155" not in row["cpu"]:
            continue
        library, name, side = _FISCHER_NETS[row["model"]]
        batch = int(row["batch_size"])
        yield PublishedRun(
            source="Fischer, CPU inference",
            hardware="xeon-w-2155",
            network=f"{row['model']} {row['backend']}",
            work=lambda a=(library, name, batch, side, False): _image_work(*a),  # type: ignore[misc]
            steps=50_000 / batch,
            seconds=float(row["duration_s"]),
            joules=float(row["rapl_energy_J"]),
        )


# -- del Rey et al.: Keras networks on 128 x 128 pictures, batch 32 -------------------------------------

_DELREY_NETS = {
    "mobilenet_v2": ("timm", "mobilenetv2_050"),  # GFLOPs of the source are those of half width
    "resnet50": ("timm", "resnet50"),
    "vgg16": ("pytorchcv", "vgg16"),
    "xception": ("timm", "legacy_xception"),
}
_DELREY_GPUS = {"RTX 3090": "rtx-3090", "RTX 3070": "rtx-3070", "GTX 750 Ti": "gtx-750-ti"}


@cache
def _delrey_work(architecture: str) -> Workload:
    library, name = _DELREY_NETS[architecture]
    if architecture != "vgg16":
        return _image_work(library, name, 32, 128, True, "adam")
    with torch.device("meta"):  # without the dense layers of 4,096, as a Keras base has none
        model = import_pytorchcv().get_model(name, pretrained=False)
        model.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1))
        head = nn.Sequential(model.features, model.output)
    return trace(head, torch.empty(32, 3, 128, 128, device="meta"), optimizer="adam", layers=False)


def del_rey(measured: Path) -> Iterator[PublishedRun]:
    """Medians of some 30 trainings. The first 10 epochs train the new head alone, later ones a part of the
    base: what is predicted is a training of everything, somewhat more work than was done."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in _rows(measured / "delrey-seaa2023" / "runs.csv"):
        epochs = float(row["trained epochs"])
        per_epoch = (float(row["training duration (h)"]) * 3600 / epochs, float(row["energy (MJ)"]) * 1e6 / epochs)
        groups[row["gpu model"], row["architecture"]].append(per_epoch)
    for (gpu, architecture), runs in groups.items():
        if architecture not in _DELREY_NETS:
            continue
        hardware = next(key for name, key in _DELREY_GPUS.items() if name in gpu)
        yield PublishedRun(
            source="del Rey",
            hardware=hardware,
            network=architecture,
            work=lambda a=architecture: _delrey_work(a),  # type: ignore[misc]
            steps=23_807 / 32,
            seconds=statistics.median(run[0] for run in runs),
            joules=statistics.median(run[1] for run in runs),
            validation=10_203 / 32,
        )


# -- Language models: accelerator hours of whole trainings ----------------------------------------------


def _llm_work(row: dict[str, str]) -> Workload:
    """One sequence a pass, 32 passes an update, in bfloat16, on one device that holds it all."""
    import transformers

    sequence, common = int(row["sequence"]), {"vocab_size": int(row["vocab"]), "use_cache": False}
    hidden, layers, heads = int(row["hidden"]), int(row["layers"]), int(row["heads"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            if row["model"].startswith("BLOOM"):
                config = transformers.BloomConfig(hidden_size=hidden, n_layer=layers, n_head=heads, **common)
                model: nn.Module = transformers.BloomForCausalLM(config)
            else:
                config = transformers.LlamaConfig(
                    hidden_size=hidden,
                    num_hidden_layers=layers,
                    num_attention_heads=heads,
                    num_key_value_heads=int(row["kv_heads"]),
                    intermediate_size=int(row["ffn"]),
                    max_position_embeddings=sequence,
                    **common,
                )
                model = transformers.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    ids = torch.empty(1, sequence, dtype=torch.int64, device="meta")
    return trace(model, ids, optimizer="adamw", accumulate=32, layers=False)


def language_models(reference: Path) -> Iterator[PublishedRun]:
    """Accelerator seconds of all devices together; energy only where it was published."""
    for row in _rows(reference / "llm_runs.csv"):
        yield PublishedRun(
            source="language models",
            hardware="a100-sxm4-80gb",
            network=row["model"],
            work=lambda r=row: _llm_work(r),  # type: ignore[misc]
            steps=float(row["tokens_b"]) * 1e9 / int(row["sequence"]) / 32,
            seconds=float(row["accelerator_hours"]) * 3600,
            joules=float(row["energy_mwh"]) * 3.6e9 if row["energy_mwh"] else None,
        )
