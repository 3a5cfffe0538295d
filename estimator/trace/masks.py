"""Which scores attention layers need: a causal mask leaves half of them, a window a band, chunks their triangles.

The FLOPs of the layer table count all scores, fvcore's convention and that of papers. What the mask leaves is noted in
the dims of the ops ("causal", "window", "chunk"), for those who price the ops; "whole" is 1 where a window or chunk is
a tensor for PyTorch's own attention, which then computes all scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .workload import Op

_PRODUCTS = ("attention", "matmul", "softmax")


def with_masks(ops: Sequence[Op], model: nn.Module) -> list[Op]:
    """The ops, those of attention with the mask that their module states.

    transformers' modules have `is_causal`, and `sliding_window` or a config with it. Models whose attention does not
    say it are causal where their name says so (BloomForCausalLM).
    """
    modules = dict(model.named_modules())
    decoder = any(word in type(model).__name__ for word in ("ForCausalLM", "LMHeadModel"))
    masks: dict[str, dict[str, int]] = {}
    found = []
    for op in ops:
        if op.kind not in _PRODUCTS:
            found.append(op)
            continue
        if op.layer not in masks:
            masks[op.layer] = _mask(modules.get(op.layer), decoder)
        mask = masks[op.layer]
        if not mask or not _is_attention(op):
            found.append(op)
            continue
        whole = op.kind == "attention" and _windows_are_tensors(modules.get(op.layer))
        whole = whole and op.dims["s"] > min(mask.get("window", op.dims["s"]), mask.get("chunk", op.dims["s"]))
        found.append(replace(op, dims={**op.dims, **mask, **({"whole": 1} if whole else {})}))
    return found


def _windows_are_tensors(module: Any) -> bool:
    """Whether a transformers module gives its mask to `scaled_dot_product_attention`, which knows no windows."""
    return getattr(getattr(module, "config", None), "_attn_implementation", None) == "sdpa"


def _is_attention(op: Op) -> bool:
    """Fused attention of as many queries as keys, or a part of attention by hand: products of batches and softmax."""
    if op.kind == "attention":
        return op.dims.get("q") == op.dims.get("s") and "scores" not in op.dims  # which are counted
    return op.kind == "softmax" or op.dims.get("b", 1) > 1


def _mask(module: Any, decoder: bool) -> dict[str, int]:
    if module is None or not getattr(module, "is_causal", decoder):
        return {}
    window = getattr(module, "sliding_window", None)
    if window is None and not hasattr(module, "sliding_window"):
        window = _window_of_config(module)
    chunk = _of_config(module, "attention_chunk_size") if _kind(module) == "chunked_attention" else None
    return {"causal": 1, **({"window": int(window)} if window else {}), **({"chunk": chunk} if chunk else {})}


def _window_of_config(module: Any) -> int | None:
    return _of_config(module, "sliding_window") if _kind(module) in (None, "sliding_attention") else None


def _kind(module: Any) -> str | None:
    """The kind of a layer's attention in its config; None where that does not tell layers apart."""
    kinds, index = getattr(getattr(module, "config", None), "layer_types", None), getattr(module, "layer_idx", None)
    return kinds[index] if kinds and isinstance(index, int) and index < len(kinds) else None


def _of_config(module: Any, name: str) -> int | None:
    size = getattr(getattr(module, "config", None), name, None)
    return size if isinstance(size, int) else None
