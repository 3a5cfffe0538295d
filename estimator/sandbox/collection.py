"""Imports of large libraries without the collector, which walks all that they have made again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Nothing is collected meanwhile. Afterwards what was made counts as old: it is not walked at once.

    PyTorch and transformers make hundreds of thousands of objects, none of them garbage.
    """
    if not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # all objects, into the generation that is never collected,
        gc.unfreeze()  # and from there into the oldest
        gc.enable()
