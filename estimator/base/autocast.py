"""The number format of autocast, as the settings of trainers state it; None where the parameters' own is used."""

from __future__ import annotations

from typing import Any

_OF_LIGHTNING = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}


def lightning_autocast(trainer: Any) -> str | None:
    """Of Lightning's `Trainer`."""
    return _OF_LIGHTNING.get(str(trainer.precision))


def transformers_autocast(arguments: Any) -> str | None:
    """Of `TrainingArguments`."""
    return "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else None
