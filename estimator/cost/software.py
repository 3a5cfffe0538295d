"""What runs a network on a device, by the names that `--software` takes."""

from __future__ import annotations

from ..base.errors import ProfileError
from ..base.suggest import near

SOFTWARE = ("eager", "channels-last", "compiled", "fused", "megatron", "ngc", "vendor-tuned", "tensorflow")
"""PyTorch as installed, with channels-last tensors, or with torch.compile; stacks for language models with flash
attention, fused norms, optimizers and losses (llm-foundry, NeMo, torchtitan); Megatron-LM before flash attention;
NVIDIA's containers and examples; MLPerf submissions; TensorFlow and Keras."""
TRAINING_STACKS = ("fused", "megatron")
WRITTEN_SCORES = "megatron"
"""Software whose attention writes its scores to memory."""


def check_software(software: str) -> None:
    """Raises ProfileError for software that is not one of `SOFTWARE`."""
    if software not in SOFTWARE:
        raise ProfileError(f"`software` {software!r} is not one of {', '.join(SOFTWARE)}{near(software, SOFTWARE)}")
