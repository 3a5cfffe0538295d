"""The number format of autocast, as the settings of trainers state it; None where the parameters' own is used."""

from __future__ import annotations

from typing import Any

_OF_LIGHTNING = {"bf16-mixed": "bfloat16", "16-mixed": "float16", "bf16": "bfloat16", "16": "float16"}
_OF_ACCELERATE = {"bf16": "bfloat16", "fp16": "float16"}


def lightning_autocast(precision: Any) -> str | None:
    """Of the `precision` of Lightning's `Trainer`."""
    return _OF_LIGHTNING.get(str(precision))


def transformers_autocast(arguments: Any) -> str | None:
    """Of `TrainingArguments`."""
    return "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else None


def accelerate_autocast(accelerator: Any) -> str | None:
    """Of an `Accelerator`, which has no autocast region in float16 on a machine without a GPU."""
    return _OF_ACCELERATE.get(str(accelerator.mixed_precision))
