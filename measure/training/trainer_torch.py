"""Training with PyTorch."""

from __future__ import annotations

import importlib
import io

import numpy as np
import torch
from torch import Tensor, nn

from .cifar10 import ImageArray, LabelArray
from .errors import TrainingError
from .recipe import MEAN, STD, Recipe


def build_network(network: str, width: float, seed: int) -> nn.Module:
    """SimpleNet or AlexNet with He's initialisation, drawn by `seed`."""
    module = importlib.import_module(f"joulecast.models.{network}")
    classes = {"simplenet": "SimpleNet", "alexnet": "AlexNet"}
    model: nn.Module = getattr(module, classes[network])(width=width)
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def make_torch_trainer(model: nn.Module, recipe: Recipe, *, seed: int = 0, device: str = "auto") -> TorchTrainer:
    """A trainer of `model`, which maps float32 (batch, 3, 32, 32) to logits (batch, classes)."""
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise TrainingError("`device` is gpu and torch sees no CUDA device; give cpu, or install torch's CUDA build")
    torch.manual_seed(seed)
    return TorchTrainer(model, recipe, torch.device("cuda" if has_gpu and device != "cpu" else "cpu"))


class TorchTrainer:
    """A `Trainer` of any torch module that classifies images."""

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self._device = device
        self._model = model.to(device)
        self._optimizer = _optimizer(model, recipe)
        self._loss = nn.CrossEntropyLoss()
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(STD, device=device).view(1, 3, 1, 1) * 255

    @property
    def framework(self) -> str:
        return f"pytorch {torch.__version__}"

    @property
    def device(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def step(self, images: ImageArray, labels: LabelArray, learning_rate: float) -> float:
        self._model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._loss(self._model(self._inputs(images)), torch.from_numpy(labels).to(self._device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.item())

    def count_correct(self, images: ImageArray, labels: LabelArray) -> int:
        self._model.eval()
        with torch.inference_mode():
            found = self._model(self._inputs(images)).argmax(dim=1)
            return int((found == torch.from_numpy(labels).to(self._device)).sum().item())

    def state(self) -> bytes:
        buffer = io.BytesIO()
        document = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            document["random_cuda"] = torch.cuda.get_rng_state(self._device)
        torch.save(document, buffer)
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        try:
            document = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
            self._model.load_state_dict(document["model"])
            self._optimizer.load_state_dict(document["optimizer"])
            torch.set_rng_state(document["random"])
            if self._device.type == "cuda" and "random_cuda" in document:
                torch.cuda.set_rng_state(document["random_cuda"], self._device)
        except Exception as error:  # torch raises many types for a damaged file
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(f"checkpoint does not fit the network ({reason}); start a new run") from error

    def _inputs(self, images: ImageArray) -> Tensor:
        pixels = torch.from_numpy(np.require(images, requirements="W")).to(self._device)
        return (pixels - self._mean) / self._std


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        model.parameters(), lr=rate, momentum=recipe.momentum, weight_decay=decay, nesterov=recipe.momentum > 0
    )
