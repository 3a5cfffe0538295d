"""Published steps of many GPUs, as what joulecast would be asked: a network, a batch, a precision, software, a GPU.

Each reader takes one folder of `../shared/measured` (its SOURCE.md says what was measured) and yields `Step`s; rows
that the source itself doubts are left out. Kernels are read as single ops.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasheet_runs import IMAGENET_SAMPLES
from population_networks import GNMT_LENGTH, TACOTRON_MEL_FRAMES, TORCHVISION, WorkKey

GPU_KEYS = {
    "TITAN V": "titan-v",
    "Pascal Titan X": "titan-x-pascal",
    "TITAN X (Pascal)": "titan-x-pascal",
    "TITAN Xp": "titan-xp",
    "TITAN RTX": "titan-rtx",
    "M40": "m40",
    "P4": "p4",
    "V100 (DGX-1, SXM2)": "v100-sxm2-16gb",
    "P100 (DGX-1, SXM2)": "p100-sxm2",
    "P100-PCIE-16GB": "p100-pcie",
    "V100-PCIE-32GB": "v100-pcie-32gb",
    "V100-SXM3-32GB (DGX-2)": "v100-sxm3-32gb",
    "V100-SXM3-32GB-H (DGX-2H)": "v100-sxm3-32gb-h",
    "NVIDIA V100-SXM3-32GB (450W)": "v100-sxm3-32gb-h",
    "GTX 1080 Ti": "gtx-1080-ti",
    "T4": "t4",
    "MI100": "mi100",
    "MI210": "mi210",
    "A100-PCIE-40GB": "a100-pcie-40gb",
    "A100-PCIE-80GB": "a100-pcie-80gb",
    "RTX A4000": "rtx-a4000",
    "RTX A5000": "rtx-a5000",
    "NVIDIA RTX A5000": "rtx-a5000",
    "RTX 2060 Max-Q (Windows)": "rtx-2060-max-q",
    "RTX 2070 Max-Q": "rtx-2070-max-q",
    "RTX 2080 Max-Q": "rtx-2080-max-q",
    "RTX 2080 Super Max-Q": "rtx-2080-super-max-q",
    "RTX 3080 Laptop": "rtx-3080-laptop",
    "AMD Radeon 680M": "radeon-680m",
    "AMD Radeon RX 5700": "rx-5700",
    "AMD Radeon RX 6800": "rx-6800",
}


@dataclass(frozen=True, slots=True)
class Step:
    """`seconds` of one step of `key` on `gpu`; `watts` is the board's mean power, None where unknown.

    `tf32` says which float32 products run on TF32 units where the GPU has them: "off", "conv" or "all".
    `copied` is True where the step includes a copy of its inputs from the host.
    """

    source: str
    gpu: str
    key: WorkKey
    software: str
    seconds: float
    year: int
    tf32: str = "conv"
    watts: float | None = None
    copied: bool = False
    devices: int = 1
    fp8: bool = False
    label: str = ""
    reference_s: float | None = None  # another predictor's answer for the row
    machine: str = ""  # as the source names it


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def gpu_key(row: dict[str, str]) -> str:
    return GPU_KEYS.get(row["gpu"]) or row.get("gpu_key") or ""


def _year(row: dict[str, str]) -> int:
    return int(row.get("year") or 2020)


def torchvision_steps(measured: Path) -> Iterator[Step]:
    """ryujaehun and lamikr: batch 12 or 4, no optimizer, images copied from the host in every step."""
    for folder, file in (("ryujaehun", "torchvision_bs12.csv"), ("lamikr", "torchvision.csv")):
        for row in _rows(measured / folder / file):
            network = TORCHVISION.get(row["network"].removeprefix("torchvision "))
            if network is None or row["n_gpus"] != "1":
                continue
            tf32 = "conv" if folder == "lamikr" else "all"
            half = row["precision"].startswith("fp16")
            if row["gpu"] == "RTX 3090" and not half:
                tf32 = "all"
            yield Step(
                source=folder,
                gpu=gpu_key(row),
                key=WorkKey(
                    network, int(row["batch_per_gpu"]), "half" if half else "fp32", row["mode"] == "train", None
                ),
                software="eager",
                seconds=float(row["step_ms"]) / 1e3,
                year=_year(row),
                tf32=tf32,
                copied=True,
                label=row["network"],
            )


_LAMBDA = {
    "SSD300": ("ssd300-resnet50", 1.0),
    "BERT-base, SQuAD": ("bert-base-squad", 1.0),
    "BERT-large, SQuAD": ("bert-large-squad", 1.0),
    "GNMT": ("gnmt", 2.0 * GNMT_LENGTH),
    "ResNet-50": ("timm:resnet50", 1.0),
    "Tacotron 2": ("tacotron2", float(TACOTRON_MEL_FRAMES)),
    "Transformer-XL base": ("transformer-xl-base-full", 192.0),  # its scripts do not ask for the adaptive softmax
    "Transformer-XL large": ("transformer-xl-large-full", 256.0),
    "WaveGlow": ("waveglow", 8000.0),
}
"""Prefix of the network's name -> builder and units (tokens, frames, samples of sound) of one sample."""


def ngc_mode(precision: str) -> tuple[str, str]:
    """Mode and TF32 setting of NVIDIA's containers."""
    if precision.startswith(("amp", "fp16", "bf16")):
        return "amp", "all"
    return "fp32", "all" if precision.startswith("tf32") else "off"


def lambda_steps(measured: Path, devices: int = 1) -> Iterator[Step]:
    for row in _rows(measured / "lambda" / "train.csv"):
        found = next((value for name, value in _LAMBDA.items() if row["network"].startswith(name)), None)
        if found is None or int(row["n_gpus"]) != devices or row["suspect"] or not row["batch_per_gpu"]:
            continue
        network, units = found
        mode, tf32 = ngc_mode(row["precision"])
        batch = int(float(row["batch_per_gpu"]))
        yield Step(
            source="lambda",
            gpu=gpu_key(row),
            key=WorkKey(network, batch, mode, True, "momentum" if "resnet" in network else "adam"),
            software="ngc",
            seconds=batch * units * devices / float(row["samples_per_s"]),
            year=_year(row),
            tf32=tf32,
            devices=devices,
            label=row["network"],
            machine=row["system"],
        )


def neusight_steps(measured: Path) -> Iterator[Step]:
    """Forward, or forward and backward, in true float32, with what NeuSight predicts."""
    names = {"gpt2_large": "gpt2-large", "gpt3_xl": "gpt3-xl", "gpt3_27": "gpt3-2.7b", "opt_13": "opt-1.3b"}
    for row in _rows(measured / "neusight" / "end_to_end.csv"):
        name = f"bert-{row['mode']}" if row["network"] == "bert_large" else names.get(row["network"])
        if row["n_gpus"] != "1" or name is None:
            continue
        yield Step(
            source="neusight",
            gpu=gpu_key(row),
            key=WorkKey(f"neusight-{name}", int(row["batch_per_gpu"]), "fp32", row["mode"] == "train", None),
            software="compiled" if "compile" in row["notes"] else "eager",
            seconds=float(row["step_ms"]) / 1e3,
            year=_year(row),
            tf32="off",
            label=row["network"],
            reference_s=float(row["neusight_ms"]) / 1e3 if row["neusight_ms"] else None,
        )


def old_framework_steps(measured: Path) -> Iterator[Step]:
    """u39kun (PyTorch 0.3 and 1.0, TensorFlow 1, Caffe2) and cnn-benchmarks (Torch7 with cuDNN)."""
    for row in _rows(measured / "u39kun" / "train_infer.csv"):
        network = TORCHVISION[row["network"].removeprefix("torchvision ")]
        half = row["precision"].startswith("fp16")
        yield Step(
            source="u39kun",
            gpu=gpu_key(row),
            key=WorkKey(network, 16, "half" if half else "fp32", row["mode"] == "train", None),
            software="eager" if row["framework"].startswith("PyTorch") else "tensorflow",
            seconds=float(row["step_ms"]) / 1e3,
            year=_year(row),
            label=row["network"],
        )
    names = {f"ResNet-{n}": f"timm:resnet{n}" for n in (18, 34, 50, 101, 152)}
    names |= {"VGG-16": TORCHVISION["vgg16"], "VGG-19": TORCHVISION["vgg19"]}
    for row in _rows(measured / "cnn-benchmarks" / "train.csv"):
        if row["network"] not in names or "CPU" in row["gpu"] or "None" in row["framework"]:
            continue
        yield Step(
            source="cnn-benchmarks",
            gpu=gpu_key(row),
            key=WorkKey(names[row["network"]], 16, "fp32", True, None),
            software="eager",
            seconds=float(row["step_ms"]) / 1e3,
            year=_year(row),
            label=row["network"],
        )


_DLE = {
    "Classification/ConvNets/resnet50v1.5": ("timm:resnet50", 1.0),
    "Classification/ConvNets/resnext101-32x4d": ("timm:resnext101_32x4d", 1.0),
    "Classification/ConvNets/se-resnext101-32x4d": ("timm:seresnext101_32x4d", 1.0),
    "Classification/RN50v1.5": ("timm:resnet50", 1.0),
    "Detection/SSD (PyTorch)": ("ssd300-resnet50", 1.0),
    "LanguageModeling/BERT/biobert": ("bert-base-128", 1.0),
    "Translation/GNMT (PyTorch)": ("gnmt", 2.0 * GNMT_LENGTH),
}


def nvidia_dle_steps(measured: Path) -> Iterator[Step]:
    for row in _rows(measured / "nvidia-dle" / "train.csv"):
        if row["n_gpus"] != "1" or not row["batch_per_gpu"]:
            continue
        found = nvidia_dle_network(row)
        if found is None:
            continue
        network, units = found
        mode, tf32 = ngc_mode(row["precision"])
        batch = float(row["batch_per_gpu"]) if row["batch_per_gpu"].replace(".", "").isdigit() else 0.0
        if row["table"].count("256 (AMP)") or "/ 256" in row["batch_raw"]:
            batch = 256.0 if mode == "amp" else 128.0
        if batch != int(batch) or not 0 < batch <= 20000:
            continue
        framework = row["framework"].split()[0]
        image = network.startswith(("timm", "ssd")) and mode == "amp"
        yield Step(
            source="nvidia-dle",
            gpu=gpu_key(row),
            key=WorkKey(network, int(batch), mode, True, "momentum" if "timm" in network else "adam", image),
            software="ngc" if framework != "MxNet" else "vendor-tuned",
            seconds=batch * units / float(row["samples_per_s"]),
            year=_year(row),
            tf32=tf32,
            label=f"{row['network']} {row['input']}",
        )


def nvidia_dle_network(row: dict[str, str]) -> tuple[str, float] | None:
    name = row["network"]
    if name.startswith("Classification/ConvNets/efficientnet") and "v2" not in name:
        if "B4" in row["table"] or "b4" in row["table"].lower():
            return "timm:efficientnet_b4@380", 1.0
        return ("timm:efficientnet_b0", 1.0) if "b0" in row["table"].lower() else None
    if name.startswith("LanguageModeling/BERT ("):
        size = "base" if "base" in row["table"].lower() else "large"
        if "128" in row["input"] or "512" in row["input"]:
            if not row["batch_per_gpu"].isdigit() or int(row["batch_per_gpu"]) > 512:
                return None  # accumulated over many passes
            return f"bert-{size}-{row['input'].removeprefix('seq ').strip()}", 1.0
        return (f"bert-{size}-squad", 1.0) if "squad" in row["table"].lower() else None
    if name.startswith("LanguageModeling/Transformer-XL (PyTorch)"):
        return ("transformer-xl-large", 384.0) if "large" in row["table"].lower() else ("transformer-xl-base", 192.0)
    if name.startswith("SpeechSynthesis/Tacotron2"):
        return ("waveglow", 8000.0) if "waveglow" in row["table"].lower() else None
    return next((value for prefix, value in _DLE.items() if name.startswith(prefix)), None)


def dlperf_steps(measured: Path) -> Iterator[Step]:
    networks = {"ResNet-50 v1.5": "timm:resnet50", "BERT-base pretraining": "bert-base-128"}
    for row in _rows(measured / "dlperf" / "train.csv"):
        if row["n_gpus"] != "1" or row["network"] not in networks:
            continue
        mode, _ = ngc_mode(row["precision"])
        batch = int(row["batch_per_gpu"])
        yield Step(
            source="dlperf",
            gpu=gpu_key(row),
            key=WorkKey(
                networks[row["network"]], batch, mode, True, "adam", mode == "amp" and "ResNet" in row["network"]
            ),
            software="ngc",
            seconds=batch / float(row["samples_per_s"]),
            year=_year(row),
            label=f"{row['network']} {row['framework']}",
        )


_MLPERF = {
    "ResNet-50 v1.5": ("timm:resnet50", 1.0),
    "BERT-large, MLPerf pre-training": ("bert-large-512-fused", 0.5),
    "SSD300 ResNet-34": ("ssd300-resnet34", 1.0),
    "RetinaNet ResNeXt50-32x4d FPN": ("retinanet", 1.0),
}
"""Network -> builder and the share of its full-length samples that is computed (BERT's padding is removed)."""


def mlperf_steps(measured: Path, most: int = 8) -> Iterator[Step]:
    """Rows of closed submissions on up to `most` devices.

    Suspect rows of SSD300 are read, too: the flag compares with the median of a benchmark, and that of SSD300 was
    later one of RetinaNet, which takes twelve times as long.
    """
    for row in _rows(measured / "mlperf-training" / "results.csv"):
        known = row["network"] in _MLPERF and row["division"] == "closed" and row["samples_per_s"]
        devices = int(row["n_gpus"] or 0)
        suspect = row["suspect"] and row["network"] != "SSD300 ResNet-34"
        if not known or suspect or not 0 < devices <= most or not gpu_key(row):
            continue
        network, share = _MLPERF[row["network"]]
        if row["round"] == "v0.7" and share < 1.0:
            network, share = "bert-large-512", 1.0  # padding was removed and attention fused from the next round on
        batch = int(row["global_batch"] or 0) // devices // max(int(float(row["grad_accum"] or 1)), 1)
        if not 4 <= batch <= 1024:
            continue
        yield Step(
            source="mlperf",
            gpu=gpu_key(row),
            key=WorkKey(network, max(int(batch * share), 1), "amp", True, "momentum"),
            software="vendor-tuned",
            seconds=batch * devices / float(row["samples_per_s"]),
            year=_year(row),
            devices=devices,
            fp8="BERT" in row["network"] and gpu_key(row) in ("h100-sxm", "h100-pcie", "h200"),
            label=row["network"],
        )


def timm_steps(measured: Path, every: int = 6) -> Iterator[Step]:
    for position, row in enumerate(_rows(measured / "timm" / "infer_rtx3090.csv")):
        side = int(row["input"].split("x")[1])
        if position % every or side > 384:
            continue
        network = f"timm:{row['network'].removeprefix('timm ').split('.')[0]}@{side}"
        yield Step(
            source="timm",
            gpu="rtx-3090",
            key=WorkKey(network, int(row["batch_per_gpu"]), "amp", False, None, row["layout"] == "nhwc"),
            software="channels-last" if row["layout"] == "nhwc" else "eager",
            seconds=float(row["step_ms"]) / 1e3,
            year=int(re.findall(r"PyTorch (\d)", row["framework"])[0]) + 2021,
            label=row["network"],
        )


# -- With power -------------------------------------------------------------------------------------------

_ECNAS_GPUS = {
    "quadrortx6000": "quadro-rtx-6000",
    "rtx3060": "rtx-3060",
    "rtx3090": "rtx-3090",
    "titanxp": "titan-xp",
}


_OUTSIDE_TRAINING = 0.35
"""Watts outside of training over those in it: median on the RTX 6000, from its runs of 4 and of 108 epochs."""


def ecnas_steps(measured: Path) -> Iterator[Step]:
    """NAS-Bench-101 networks in TensorFlow, batch 256. Seconds of training alone.

    The board's mean watts are over the whole process; what set-up and evaluation draw is taken off. The RTX 6000's
    are those of its 108-epoch runs.
    """
    folder = measured / "ec-nas"
    long_runs = {
        row["model_hash"]: row
        for row in _rows(folder / "ecnas_4v_rtx6000_4-12-36-108epochs_x3.csv")
        if row["epochs"] == "108"
    }
    for row in _rows(folder / "ecnas_4v_4gpus_4epochs.csv"):
        network = "nasbench:" + json.dumps([json.loads(row["adjacency"]), row["ops"].split(",")])
        epochs, seconds, whole = 4, float(row["e4_time_s"]), float(row["total_time_s"])
        watts = float(row["gpu_avg_power_W"]) * whole / (seconds + _OUTSIDE_TRAINING * (whole - seconds))
        if row["hw"] == "quadrortx6000" and row["model_hash"] in long_runs:
            longer = long_runs[row["model_hash"]]
            epochs, seconds, watts = 108, float(longer["eN_time_s"]), float(longer["gpu_avg_power_W"])
        yield Step(
            source="ec-nas",
            gpu=_ECNAS_GPUS[row["hw"]],
            key=WorkKey(network, 256, "fp32", True, "momentum"),
            software="tensorflow",
            seconds=seconds / (epochs * 40_000 / 256),
            year=2022,
            tf32="all",
            watts=watts,
            label=row["model_hash"],
        )


_ZEUS_GPUS = {"v100": "v100-pcie-16gb", "a40": "a40", "p100": "p100-pcie", "rtx6000": "quadro-rtx-6000"}
_ZEUS = {"resnet50": "timm:resnet50", "shufflenetv2": "cifar-shufflenet", "bert_base_uncased": "bert-base-squad"}
_SAMPLES = {"imagenet": IMAGENET_SAMPLES, "cifar100": 50_000, "squad": 88_524}


def zeus_steps(measured: Path) -> Iterator[Step]:
    """One epoch at the highest power limit, PyTorch in float32, with its data pipeline."""
    for gpu, key in _ZEUS_GPUS.items():
        rows = _rows(measured / "zeus-trace" / f"summary_power_{gpu}.csv")
        highest = max(float(row["power_limit"]) for row in rows)
        seen: set[tuple[str, int]] = set()
        for row in rows:
            network, batch = _ZEUS.get(row["network"]), int(row["batch_size"])
            if network is None or row["dataset"] not in _SAMPLES or float(row["power_limit"]) != highest:
                continue
            if (network, batch) in seen:
                continue
            seen.add((network, batch))
            yield Step(
                source="zeus",
                gpu=key,
                key=WorkKey(network, batch, "fp32", True, "momentum" if network[:4] != "bert" else "adam"),
                software="eager",
                seconds=float(row["time_per_epoch"]) * batch / _SAMPLES[row["dataset"]],
                year=2021,
                tf32="all",  # PyTorch's default until 1.12
                watts=float(row["average_power"]),
                label=row["network"],
            )


_FISCHER = {
    "VGG16": TORCHVISION["vgg16"],
    "ResNet50": "timm:resnet50",
    "ResNet152": "timm:resnet152",
    "MobileNetV2": "timm:mobilenetv2_100",
    "MobileNetV3Small": "timm:mobilenetv3_small_100",
    "MobileNetV3Large": "timm:mobilenetv3_large_100",
    "EfficientNetB0": "timm:efficientnet_b0",
    "EfficientNetB2": "timm:efficientnet_b2@260",
    "EfficientNetB4": "timm:efficientnet_b4@380",
    "DenseNet121": "timm:densenet121",
    "InceptionV3": "timm:inception_v3@299",
    "ResNext50": "timm:resnext50_32x4d",
    "RegNetX8GF": "timm:regnetx_080",
}
_FISCHER_GPUS = {"Quadro RTX 5000": "quadro-rtx-5000", "NVIDIA A100-SXM4-40GB": "a100-sxm4-40gb"}


def fischer_steps(measured: Path) -> Iterator[Step]:
    """10 epochs of ImageNet, batch 32 a GPU; small networks wait for their pictures."""
    for row in _rows(measured / "fischer-imagenet" / "runs.csv"):
        gpu = _FISCHER_GPUS.get(row["gpu"])
        if row["task"] != "train" or row["model"] not in _FISCHER or gpu is None:
            continue
        devices, batch = int(row["n_gpu"]), int(row["batch_size"])
        steps = float(row["epochs_done"] or 10) * IMAGENET_SAMPLES / batch / devices
        seconds = float(row["duration_s"])
        yield Step(
            source="fischer",
            gpu=gpu,
            key=WorkKey(_FISCHER[row["model"]], batch, "fp32", True, "momentum"),
            software="eager" if row["backend"] == "pytorch" else "tensorflow",
            seconds=seconds / steps,
            year=2022,
            watts=float(row["gpu_energy_J"]) / seconds / devices,
            devices=devices,
            label=row["model"],
        )


def all_steps(measured: Path) -> list[Step]:
    readers = (
        torchvision_steps,
        lambda_steps,
        neusight_steps,
        old_framework_steps,
        nvidia_dle_steps,
        dlperf_steps,
        mlperf_steps,
        timm_steps,
        ecnas_steps,
        zeus_steps,
        fischer_steps,
    )
    return [step for reader in readers for step in reader(measured)]
