"""What runs a network on a device, by the names that `--software` takes."""

from __future__ import annotations

from ..base.errors import ProfileError
from ..base.suggest import near

SOFTWARE = (
    "eager",
    "channels-last",
    "compiled",
    "fused",
    "megatron",
    "megatron-core",
    "ngc",
    "vendor-tuned",
    "tensorflow",
)
"""PyTorch as installed, with channels-last tensors, or with torch.compile; stacks for language models with flash
attention, fused norms, optimizers and losses (llm-foundry, torchtitan); Megatron-LM before flash attention;
Megatron-Core with Transformer Engine, which computes while tensor-parallel devices exchange (NeMo since 2023);
NVIDIA's containers and examples; MLPerf submissions; TensorFlow and Keras."""
VENDOR_TUNED = "vendor-tuned"
TRAINING_STACKS = ("fused", "megatron", "megatron-core")
WRITTEN_SCORES = "megatron"
"""Software whose attention writes its scores to memory."""
FLASH_STACKS = frozenset({"fused", "megatron-core"})
"""Training stacks with flash attention. Their selective checkpointing keeps the results of products and of attention,
and computes norms and activations again (torchtitan, XLA's policies for products, Megatron-Core's `--recompute-modules
layernorm mlp_act`; DeepSeek-AI 2024, "DeepSeek-V3", section 3.2.3). That of Megatron-LM computes attention again."""
WHOLE_BLOCKS = frozenset({"megatron", "megatron-core"})
"""Software that recomputes a checkpointed block to its end. PyTorch (without reentry) and XLA stop where the backward
pass has all that it needs."""
OVERLAPPED_TENSORS = "megatron-core"
"""Software that computes a product while devices exchange parts of its operands or results."""


def check_software(software: str) -> None:
    """Raises ProfileError for software that is not one of `SOFTWARE`."""
    if software not in SOFTWARE:
        raise ProfileError(f"`software` {software!r} is not one of {', '.join(SOFTWARE)}{near(software, SOFTWARE)}")
