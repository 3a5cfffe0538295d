"""What the configuration of a training states, in the fields of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...base.errors import JoulecastError


@dataclass(frozen=True, slots=True)
class StatedRun:
    """What a configuration of `kind` states, by the names of a request's fields; None: not stated.

    `parallel` is the text of the option. `global_batch` counts the samples of a step on all devices.
    """

    kind: str
    parallel: str | None = None
    zero: int | None = None
    activation_checkpointing: str | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    global_batch: int | None = None
    sequence_length: int | None = None
    precision: str | None = None
    optimizer: str | None = None
    clip_gradients: bool | None = None
    software: str | None = None
    devices: int | None = None
    not_modelled: tuple[str, ...] = ()
    """Settings that change the time of a step and that joulecast leaves out, in the file's words."""
    unknown_optimizer: str | None = None
    """The file's optimizer where joulecast knows none of its name."""
    trains_adapters: bool | None = None
    """Whether the file trains adapters (LoRA) alone."""


_IMPLEMENTATION = re.compile(
    r"_torch(?=_\d)|(?:_(?:torch|fused|apex|hf|npu|xla))+$|^(?:distributed_)?fused_?|^deepspeedcpu|^onebit|^zeroone"
)


class OutOfRangeError(Exception):
    """What is wrong with a value of a file."""


def part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def count(value: Any) -> int | None:
    """A whole number of at least 1; None for "auto", -1 and what is missing."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and value >= 1 else None


def level(value: Any) -> int | None:
    """The ZeRO stage; None for "auto", -1 and what is missing. Raises OutOfRangeError for one above 3."""
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return None
    if value > 3:
        raise OutOfRangeError(f"ZeRO stage {value}; give one from 0 to 3")
    return value


def sizes(**sizes: int | None) -> str:
    """The text of `parallel`; "tp=1,pp=1" states that the model is not divided."""
    always = ("tp", "pp", "sp", "eo", "a2a")
    kept = {name: size for name, size in sizes.items() if size is not None and (size > 1 or name in always)}
    return ",".join(f"{name}={size}" for name, size in kept.items())


def precision(bf16: Any, fp16: Any) -> str | None:
    return "bf16" if bf16 is True else "fp16" if fp16 is True else None


def optimizer_of(name: Any) -> str | None:
    """The optimizer by joulecast's name; None where it has none."""
    if not isinstance(name, str):
        return None
    from ...trace.optimizers import optimizer_name

    plain = _IMPLEMENTATION.sub("", name.lower())
    try:
        return optimizer_name(plain)
    except JoulecastError:
        return None


def unknown_optimizer(name: Any) -> str | None:
    return name if isinstance(name, str) and name and optimizer_of(name) is None else None


def over(first: StatedRun, second: StatedRun) -> StatedRun:
    """`second` with what `first` states in its place."""
    values = {name: getattr(first, name) for name in StatedRun.__dataclass_fields__}
    return StatedRun(**{name: getattr(second, name) if value is None else value for name, value in values.items()})
