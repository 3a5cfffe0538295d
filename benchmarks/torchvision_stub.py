"""A stand-in for torchvision, used while packages that build on it are imported where torchvision has no build.

Their networks (except pytorchcv's ProPainter) need none of torchvision's kernels. timm's data pipeline,
which the benchmarks do not use, names some of its classes at import. Checked with timm 1.0.31, pytorchcv 0.0.74 and
segmentation_models_pytorch 0.6.0. Where torchvision is installed, it is used.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def import_timm() -> ModuleType:
    """timm itself, with or without torchvision; raises ImportError where timm is not installed."""
    return _import("timm")


def import_pytorchcv() -> ModuleType:
    """pytorchcv's `model_provider`, with or without torchvision; raises ImportError where it is missing."""
    return _import("pytorchcv.model_provider")


def import_segmentation() -> ModuleType:
    """segmentation_models_pytorch; without torchvision, its encoders of timm and its own can be used."""
    return _import("segmentation_models_pytorch")


def _import(name: str) -> ModuleType:
    if name in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module(name)
    with torchvision_stub():
        return importlib.import_module(name)


@contextmanager
def torchvision_stub() -> Iterator[None]:
    """Inside the context `import torchvision` returns the stand-in; afterwards torchvision is absent again,

    so that other libraries (transformers) detect correctly that it is not installed.
    """
    modules = _modules()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and affine parameters: y = (x - mean) / std * w + b."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class _Placeholder:
    """Any class of torchvision's data pipeline: it can be named and inherited from, not used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("torchvision is not installed; its data pipeline cannot be used")


class _StubModule(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Placeholder,), {})


def _modules() -> dict[str, ModuleType]:
    names = [
        *("datasets", "ops", "ops.misc", "transforms", "transforms.functional"),
        *("models", "models.densenet", "models.mobilenetv2", "models.resnet", "models.vgg"),
    ]
    modules: dict[str, ModuleType] = {"torchvision": _StubModule("torchvision")}
    modules |= {f"torchvision.{name}": _StubModule(f"torchvision.{name}") for name in names}
    for name, module in modules.items():
        module.__path__ = []
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    modules["torchvision.transforms.functional"].InterpolationMode = InterpolationMode  # type: ignore[attr-defined]
    modules["torchvision.ops.misc"].FrozenBatchNorm2d = FrozenBatchNorm2d  # type: ignore[attr-defined]
    return modules
