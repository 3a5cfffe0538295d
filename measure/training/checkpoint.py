"""Checkpoints of one run. Each is written whole or not at all, and one process at a time trains a run.

    STORE/checkpoints/RUN/000400.state   the trainer's state after 400 steps
    STORE/checkpoints/RUN/lock           locked by the process that trains

The record names its checkpoint; other files are left over from a run that was killed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..records.lock import locked
from .errors import TrainingError

_SUFFIX = ".state"


class Checkpoints:
    """The checkpoints of one run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process.

        Raises TrainingError when another process trains this run already or the folder cannot be written,
        JoulecastError where the file system has no locks.
        """

        def refuse() -> None:
            raise TrainingError(
                f"run {self.folder.name} is being trained by another process; wait until it ends, or give another `run`"
            )

        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / "lock", refuse))
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            yield

    def write(self, step: int, state: bytes) -> str:
        """Writes the state after `step` steps and returns its name. Raises TrainingError if it cannot be written."""
        name = f"{step:06d}{_SUFFIX}"
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{name}.")
            with os.fdopen(handle, "wb") as stream:
                stream.write(state)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self.folder / name)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise _unwritable(self.folder / name, error) from error
        return name

    def read(self, name: str) -> bytes:
        """Raises TrainingError if the file cannot be read."""
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            why = error.strerror or str(error)
            raise TrainingError(f"checkpoint {self.folder / name} cannot be read ({why}); start a new run") from error

    def keep_only(self, name: str | None) -> None:
        """Removes all other checkpoints, including incomplete ones."""
        for path in (*self.folder.glob(f"*{_SUFFIX}"), *self.folder.glob(f".*{_SUFFIX}.*")):
            if path.name != name:
                path.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> TrainingError:
    why = error.strerror or str(error)
    return TrainingError(
        f"checkpoint {path} cannot be written ({why}); free space and continue this run,"
        " or start a new one in another `store` folder"
    )
