"""Checkpoints of one run: written whole or not at all, and one process at a time on a run.

    STORE/checkpoints/RUN/000400.state   the trainer's state after 400 steps
    STORE/checkpoints/RUN/lock           held by the process that trains

The record names the checkpoint that belongs to it; any other file is what a killed run left behind.
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
                f"run {self.folder.name} is being trained by another process;"
                " wait until it ends, or start a run with another --run ID"
            )

        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / "lock", refuse))
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            yield

    def write(self, step: int, state: bytes) -> str:
        """Writes the state after `step` steps; returns its name. Raises TrainingError where it does not fit."""
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
        """Raises TrainingError when the file is gone."""
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            why = error.strerror or str(error)
            raise TrainingError(f"checkpoint {self.folder / name} cannot be read ({why}); start a new run") from error

    def keep_only(self, name: str | None) -> None:
        """Removes all other checkpoints, half-written ones too."""
        for path in (*self.folder.glob(f"*{_SUFFIX}"), *self.folder.glob(f".*{_SUFFIX}.*")):
            if path.name != name:
                path.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> TrainingError:
    why = error.strerror or str(error)
    return TrainingError(
        f"checkpoint {path} cannot be written ({why}); free space and go on with this run,"
        " or begin a new one with --store DIR"
    )
