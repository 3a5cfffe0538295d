"""Numbers of a transformers config that contradict each other, which the model's own error does not name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def config_fault(config: Any) -> str:
    """The first contradiction in a transformers config or in one inside it, and what to do; "" for none."""
    if not hasattr(config, "to_dict"):
        return ""
    for part, one in _parts(config, ""):
        try:
            width, heads = _count(one, "hidden_size"), _count(one, "num_attention_heads")
            own = getattr(one, "head_dim", None)
        except Exception:  # numbers that differ from layer to layer raise an error of transformers' own
            continue
        if width and heads and own is None and width % heads:
            where = f"the {part} of the config" if part else "the config"
            return (
                f"{where} does not fit together: hidden_size {width} is not a multiple of num_attention_heads "
                f"{heads}, and it has no head_dim; name a config.json in which these fit"
            )
    return ""


def _parts(config: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, config
    for inner, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _parts(value, inner)


def _count(config: Any, name: str) -> int:
    """The whole number of that name; 0 where there is none."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
