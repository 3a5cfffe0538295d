"""`torch.autocast` for whatever device a model names, while stand-ins take the place of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.amp.autocast_mode import autocast

_DEFAULTS = {"cpu": torch.bfloat16}  # float16 on every other device


class NeedsAutocastError(RuntimeError):
    """The model switches autocast on by itself, which meta tensors do not follow."""


@contextmanager
def any_device() -> Iterator[None]:
    """Makes autocast act on the stand-ins, which lie on the CPU, for `autocast("cuda")` and any other device.

    Raises NeedsAutocastError where new tensors go to the meta device: autocast has no effect there.
    """
    original = autocast.__init__

    def redirected(
        self: Any,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if enabled and torch.get_default_device().type == "meta":
            raise NeedsAutocastError(f"autocast({device_type!r}) in the model's own code")
        chosen = dtype or _DEFAULTS.get(device_type, torch.float16)
        original(self, "cpu", dtype=chosen, enabled=enabled, cache_enabled=cache_enabled)

    autocast.__init__ = redirected  # type: ignore[method-assign]
    try:
        yield
    finally:
        autocast.__init__ = original  # type: ignore[method-assign]
