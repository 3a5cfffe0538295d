"""Networks, recipes, and the order and crops of the images of a training run.

Order and crops depend only on seed, epoch and step, so a run that continues in another process sees the same images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...estimator.base.errors import JoulecastError
from .cifar10 import ImageArray, Images, LabelArray

# Per channel over CIFAR-10's training set, of pixels in 0..1 (computed from the images).
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
_PAD = 4
_ORDER, _CROPS, _TEST = 0, 1, 2  # seeds of the three independent draws of a run

NETWORKS = ("simplenet", "alexnet")
FRAMEWORKS = ("pytorch", "tensorflow")
OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    `optimizer`: "sgd" (Nesterov, `momentum`) or "adam" (its paper's betas). The learning rate rises
    linearly over `warmup_steps` and then stays. `weight_decay` is the L2 kind for "sgd" and decoupled
    (AdamW) for "adam". `augment`: shifts by up to four pixels and left-right flips. Kernels start from
    He's normal distribution, biases from zero.
    """

    optimizer: str
    learning_rate: float
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_steps: int = 100
    augment: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise JoulecastError(f"optimizer is {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
        if not (0 < self.learning_rate < float("inf")) or self.batch_size < 1:
            raise JoulecastError(
                f"learning rate {self.learning_rate} with batch size {self.batch_size} cannot train; give both above 0"
            )

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def __str__(self) -> str:
        kind = f"SGD with momentum {self.momentum:g}" if self.optimizer == "sgd" else "AdamW"
        crops = "shifts and flips" if self.augment else "no augmentation"
        return (
            f"{kind}, learning rate {self.learning_rate:g} after {self.warmup_steps} steps of warm-up,"
            f" weight decay {self.weight_decay:g}, batch {self.batch_size}, {crops}, He initialisation"
        )


# These recipes are not the thesis's. It states no learning rate, and starts AlexNet from a truncated normal
# distribution with deviation 0.1 (convolutions) and 1 (hidden layers), which took 6 h to 60 %.
DEFAULT_RECIPES: Mapping[str, Recipe] = {
    "simplenet": Recipe("sgd", 0.02, batch_size=64),
    "alexnet": Recipe("adam", 1e-3, batch_size=128, augment=False),
}


@dataclass(frozen=True, slots=True)
class Order:
    """Which images each step of a run uses. The last step of an epoch may have fewer."""

    samples: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.batch_size)

    def epoch_order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """All images in the order of that epoch, counted from 0."""
        return np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.samples)

    def rows(self, epoch_order: np.ndarray[Any, np.dtype[np.int64]], step: int) -> Any:
        """The images of a step of the run, given the order of its epoch."""
        start = step % self.steps_per_epoch * self.batch_size
        return epoch_order[start : start + self.batch_size]


def augmented(images: ImageArray, seed: int, step: int) -> ImageArray:
    """Each image shifted by up to four pixels, filled with black, and half of them mirrored."""
    random = np.random.default_rng([seed, _CROPS, step])
    count, _, height, width = images.shape
    padded = np.pad(images, [(0, 0), (0, 0), (_PAD, _PAD), (_PAD, _PAD)])
    top = random.integers(0, 2 * _PAD + 1, (count,))
    left = random.integers(0, 2 * _PAD + 1, (count,))
    across = left[:, None] + np.arange(width)
    mirrored = random.random((count,)) < 0.5
    across = np.where(mirrored[:, None], across[:, ::-1], across)
    down = top[:, None] + np.arange(height)
    picked: ImageArray = padded[
        np.arange(count)[:, None, None, None],
        np.arange(images.shape[1])[None, :, None, None],
        down[:, None, :, None],
        across[:, None, None, :],
    ]
    return picked


def drawn_test_images(images: Images, count: int, seed: int) -> tuple[ImageArray, LabelArray]:
    """`count` test images drawn without replacement, the same for one seed; all where there are fewer."""
    total = len(images.test_labels)
    if count >= total:
        return images.test_images, images.test_labels
    rows = np.random.default_rng([seed, _TEST]).choice(total, count, replace=False)
    return images.test_images[rows], images.test_labels[rows]
