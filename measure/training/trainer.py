"""The interface of a trainer, and the function that makes one."""

from __future__ import annotations

from typing import Protocol

from .cifar10 import ImageArray, LabelArray
from .errors import TrainingError
from .recipe import FRAMEWORKS, NETWORKS, Recipe


class Trainer(Protocol):
    """A network with its optimizer in one framework. Images are uint8 (batch, 3, 32, 32)."""

    @property
    def framework(self) -> str:
        """As in "pytorch 2.13.0"."""
        ...

    @property
    def device(self) -> str:
        """ "cpu", or the name of the GPU."""
        ...

    @property
    def threads(self) -> int:
        """How many threads the framework computes with."""
        ...

    def step(self, images: ImageArray, labels: LabelArray, learning_rate: float) -> float:
        """One update; returns the batch's mean loss (cross-entropy, in nats) before it."""
        ...

    def count_correct(self, images: ImageArray, labels: LabelArray) -> int:
        """How many images are classified correctly; nothing is learnt."""
        ...

    def state(self) -> bytes:
        """Weights, statistics, optimizer state and random state: everything that the next step depends on."""
        ...

    def restore(self, state: bytes) -> None:
        """Restores what `state` returned. Raises TrainingError for anything else."""
        ...


def make_trainer(
    network: str,
    framework: str,
    recipe: Recipe,
    *,
    width: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> Trainer:
    """A new network with weights drawn by `seed`, ready for its first step.

    `network`: "simplenet" or "alexnet"; `framework`: "pytorch" or "tensorflow"; `device`: "cpu", "gpu",
    or "auto" for a GPU if the framework sees one. Raises TrainingError for anything that is not available.
    """
    if network not in NETWORKS:
        raise TrainingError(f"network is {network!r}; choose one of {', '.join(NETWORKS)}")
    if device not in ("auto", "cpu", "gpu"):
        raise TrainingError(f"device is {device!r}; choose one of auto, cpu, gpu")
    if framework == "pytorch":
        from .trainer_torch import build_network, make_torch_trainer

        return make_torch_trainer(build_network(network, width, seed), recipe, seed=seed, device=device)
    if framework == "tensorflow":
        from .trainer_keras import make_keras_trainer

        return make_keras_trainer(network, recipe, width=width, seed=seed, device=device)
    raise TrainingError(f"framework is {framework!r}; choose one of {', '.join(FRAMEWORKS)}")
