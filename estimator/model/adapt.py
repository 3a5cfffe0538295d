"""Changes to a model before it is traced: frozen parts, LoRA adapters, activation checkpointing.

The model is the one that `load_model` built, so it may be changed.
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from ..base.suggest import near

if TYPE_CHECKING:
    from torch import nn

INSTALL_PEFT = "pip install 'joulecast[lora]'"


@dataclass(frozen=True, slots=True)
class Lora:
    """Adapters of rank `rank` on the modules whose names end with one of `targets`; none: PEFT's own choice."""

    rank: int
    targets: tuple[str, ...] = ()


def parse_lora(text: str) -> Lora:
    """`r=16` or `r=16,targets=q_proj+v_proj`. Raises JoulecastError."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    rank = fields.pop("r", "")
    targets = tuple(filter(None, fields.pop("targets", "").split("+")))
    if fields or not rank.isascii() or not rank.isdigit() or len(rank) > 6 or int(rank) < 1:
        raise JoulecastError(f"`lora` {text!r} is not r=RANK[,targets=NAME+NAME], as in r=16,targets=q_proj+v_proj")
    return Lora(int(rank), targets)


def adapt(
    model: nn.Module, *, lora: Lora | None = None, freeze: Sequence[str] = (), checkpointing: bool = False
) -> tuple[str, ...]:
    """Changes `model` in place; the notes say what was done. Raises JoulecastError for what cannot be done."""
    notes: list[str] = []
    if lora is not None:
        notes.append(_add_lora(model, lora))
    for pattern in freeze:
        notes.append(_freeze(model, pattern))
    if checkpointing:
        notes.append(_checkpoint(model))
    return tuple(notes)


def _add_lora(model: nn.Module, lora: Lora) -> str:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise JoulecastError(f"`lora` needs PEFT ({error}); {INSTALL_PEFT}") from None
    targets: Any = list(lora.targets) or "all-linear"
    try:
        with warnings.catch_warnings(action="ignore"):  # PEFT's settings that it corrects itself
            inject_adapter_in_model(LoraConfig(r=lora.rank, target_modules=targets), model)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _has_weights(module)})
        known = ", ".join(name for name in names if not name.isdigit())
        raise JoulecastError(f"`lora` cannot be added ({' '.join(str(error).split())}); layers are {known}") from None
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"LoRA of rank {lora.rank} adds {trained:,} parameters, and only those are trained"


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _freeze(model: nn.Module, pattern: str) -> str:
    """Freezes the parameters whose name, or whose module's name, matches a shell pattern."""
    names: Mapping[str, Any] = dict(model.named_parameters())
    chosen = [name for name in names if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")]
    if not chosen:
        parts = dict.fromkeys(part for name in names for part in (name, name.partition(".")[0]))
        hint = near(pattern, parts) or f"; its parts are {', '.join(dict.fromkeys(n.partition('.')[0] for n in names))}"
        raise JoulecastError(f"`freeze` {pattern!r} matches no parameter{hint}")
    for name in chosen:
        names[name].requires_grad_(False)
    return f"frozen by {pattern}: {sum(names[name].numel() for name in chosen):,} parameters"


def _checkpoint(model: nn.Module) -> str:
    """Uses the model's own method of checkpointing if it has one, otherwise checkpoints every repeated block."""
    if callable(enable := getattr(model, "gradient_checkpointing_enable", None)):
        try:
            enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except (TypeError, ValueError) as error:
            raise JoulecastError(f"activation checkpointing is not supported by the model ({error})") from None
        return "activations are checkpointed by the model's own method"
    if callable(enable := getattr(model, "set_grad_checkpointing", None)):
        enable(True)
        return "activations are checkpointed by the model's own method"
    blocks = _repeated_blocks(model)
    if not blocks:
        raise JoulecastError(
            f"{type(model).__name__} has no repeated blocks to checkpoint; call torch.utils.checkpoint in its forward"
        )
    from torch.utils.checkpoint import checkpoint

    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return f"activations of {len(blocks)} {type(blocks[0]).__name__} blocks are checkpointed"


def _repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The modules of the class that occurs most often side by side, outermost first, with submodules of their own."""
    level: list[nn.Module] = [model]
    while level:
        for parent in level:
            kinds: dict[type[nn.Module], list[nn.Module]] = {}
            for child in parent.children():
                if any(True for _ in child.children()):
                    kinds.setdefault(type(child), []).append(child)
            blocks = max(kinds.values(), key=len, default=[])
            if len(blocks) > 1:
                return blocks
        level = [child for parent in level for child in parent.children()]
    return []
