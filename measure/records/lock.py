"""A lock file: one process at a time. The operating system releases it when its holder ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...estimator.base.errors import JoulecastError


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock; where another process holds it, calls `on_wait` (which may raise) and then waits.

    Raises OSError where the file cannot be written, JoulecastError where the file system has no locks.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise JoulecastError(f"cannot lock {path} ({why}); give a `store` folder on a local disk") from error
    try:
        yield
    finally:
        lock.release()
