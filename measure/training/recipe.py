"""What a training run does with the data: networks, recipes, and the order and crops of the images.

Order and crops follow from seed, epoch and step alone, so that a run that goes on in another process
sees the very images that it would have seen.
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
_ORDER, _CROPS, _TEST = 0, 1, 2  # so that the three draws of a run are independent

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
                f"learning rate {self.learning_rate} with batch size {self.batch_size} trains nothing;"
                " give both above 0"
            )

    def learning_rate_at(self, step: int) -> float:
        """Of the step with that number, the first being 0."""
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def __str__(self) -> str:
        kind = f"SGD with momentum {self.momentum:g}" if self.optimizer == "sgd" else "AdamW"
        crops = "shifts and flips" if self.augment else "no augmentation"
        return (
            f"{kind}, learning rate {self.learning_rate:g} after {self.warmup_steps} steps of warm-up,"
            f" weight decay {self.weight_decay:g}, batch {self.batch_size}, {crops}, He initialisation"
        )


# Ours, not the thesis's, which gives no learning rate and starts AlexNet from a truncated normal
# distribution of deviation 0.1 (convolutions) and 1 (hidden layers), which took it 6 h to 60 %.
DEFAULT_RECIPES: Mapping[str, Recipe] = {
    "simplenet": Recipe("sgd", 0.02, batch_size=64),
    "alexnet": Recipe("adam", 1e-3, batch_size=128, augment=False),
}


@dataclass(frozen=True, slots=True)
class Order:
    """Which images the steps of a run are made of. The last step of an epoch may have fewer."""

    samples: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.batch_size)

    def epoch_order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """All images in the order of that epoch, the first being 0."""
        return np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.samples)

    def rows(self, epoch_order: np.ndarray[Any, np.dtype[np.int64]], step: int) -> Any:
        """The images of the run's step with that number, given the order of its epoch."""
        start = step % self.steps_per_epoch * self.batch_size
        return epoch_order[start : start + self.batch_size]


def augmented(images: ImageArray, seed: int, step: int) -> ImageArray:
    """Each image shifted by up to four pixels, black coming in, and half of them mirrored."""
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
