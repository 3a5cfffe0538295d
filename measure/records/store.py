"""The folder of measurements: a JSON document and a power trace for each run, and fitted profiles.

    STORE/records/ID.json    the record; ID.csv is its power trace, if the meter kept one
    STORE/profiles/NAME.json what `measure` fitted

Every file is written whole or not at all, so a kill at any moment leaves no unreadable file. Two runs at once never
write the same file, because their ids differ.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ...estimator.base.errors import JoulecastError
from ...estimator.base.files import write_text
from ...estimator.base.folders import profiles_folder, store_folder
from ...estimator.cost.profile import Profile
from ..meters.reading import PowerTrace
from .lock import locked
from .records import Record

# A temporary file this old belongs to a writer that was killed.
_STALE_S = 3600


class Store:
    """The records and profiles in `folder` (None: $JOULECAST_STORE, or the user's data folder)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or store_folder()
        self.records_folder = self.folder / "records"
        self.profiles_folder = profiles_folder(self.folder)

    @staticmethod
    def new_id(name: str) -> str:
        """A unique id that starts with the time, so that ids sort by time, and contains the name."""
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
        return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{slug}-{secrets.token_hex(3)}"

    def write(self, record: Record, trace: PowerTrace | None = None) -> Path:
        """Writes the power trace and then the record, replacing a record with the same id.

        Raises JoulecastError when the folder cannot be written or is full.
        """
        path = self.records_folder / f"{record.id}.json"
        text = json.dumps(record.to_json(), allow_nan=False) + "\n"
        try:
            if trace is not None:
                rows = io.StringIO()
                trace.write_csv(rows)
                write_text(path.with_suffix(".csv"), rows.getvalue())
            write_text(path, text)
        except OSError as error:
            raise _unwritable(path, error) from error
        return path

    def read(self, name: str) -> Record:
        """The record with this id, or the only one whose id ends or starts with it."""
        every = self._paths()
        paths = [path for path in every if path.stem == name]
        paths = paths or [path for path in every if path.stem.rpartition("-")[2] == name]
        paths = paths or [path for path in every if path.stem.startswith(name)]
        if len(paths) != 1:
            found = f"{len(paths)} records start with" if paths else "there is no record"
            raise JoulecastError(f"{found} {name!r} in {self.records_folder}; `measure list` shows the ids")
        return _read(paths[0])

    def records(self, on_problem: Callable[[str], None] | None = None) -> Iterator[Record]:
        """All records, oldest first; `on_problem` gets a line for each one that cannot be read."""
        for path in self._paths():
            try:
                yield _read(path)
            except JoulecastError as error:
                if on_problem is not None:
                    on_problem(str(error))

    def trace_path(self, record: Record) -> Path | None:
        path = self.records_folder / f"{record.id}.csv"
        return path if path.is_file() else None

    def save_profile(self, profile: Profile) -> Path:
        path = self.profiles_folder / f"{profile.name}.json"
        try:
            return profile.save(path)
        except OSError as error:
            raise _unwritable(path, error) from error

    @contextmanager
    def measuring(self, on_wait: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """One suite at a time on a store, since two would disturb each other: the second waits.

        `on_wait` gets the process id of the first. Raises JoulecastError where the folder cannot be written or locked.
        """
        holder = self.folder / "measuring.pid"

        def wait() -> None:
            on_wait(holder.read_text().strip() if holder.is_file() else "unknown")

        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / "measuring.lock", wait))
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            with suppress(OSError):  # a full disk: the process id is only information
                holder.write_text(f"{os.getpid()}\n")
            self.sweep()
            yield

    def sweep(self) -> None:
        """Removes the incomplete files of writers that were killed."""
        for folder in (self.records_folder, self.profiles_folder):
            for path in folder.glob(".*.*") if folder.is_dir() else ():
                try:
                    if time.time() - path.stat().st_mtime > _STALE_S:
                        path.unlink(missing_ok=True)
                except OSError:
                    continue

    def _paths(self) -> list[Path]:
        if not self.records_folder.is_dir():
            return []
        return sorted(path for path in self.records_folder.glob("*.json") if not path.name.startswith("."))


def _read(path: Path) -> Record:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JoulecastError(f"record {path} cannot be read ({error}); delete it and measure again") from error
    return Record.from_json(document, origin=f"record {path}")


def _unwritable(path: Path, error: OSError) -> JoulecastError:
    why = error.strerror or str(error)
    return JoulecastError(f"cannot write {path} ({why}); free space or give another `store` folder")
