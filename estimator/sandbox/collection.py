"""Code that makes very many objects, without the collector, which walks all of them again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Nothing is collected meanwhile. Afterwards what was made counts as old: it is not walked at once.

    Imports of PyTorch and transformers, and traces, make hundreds of thousands of objects, few of them garbage.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # `unfreeze` would undo what a caller has frozen
            gc.freeze()  # all objects, into the generation that is never collected,
            gc.unfreeze()  # and from there into the oldest
        gc.enable()
