"""A store at an address that many machines write to: a shared folder, S3 or another address of fsspec.

Each record is an object of its own whose name no other machine uses, so writers need no lock. The store is mirrored in
a folder of this machine: a record is written there first and sent then, and one that cannot be sent is sent by the next
use.

    ADDRESS/records/ID.json     a record
    ADDRESS/records/ID.csv      its power trace
    ADDRESS/profiles/NAME.json  a profile
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...estimator.base.errors import JoulecastError
from ...estimator.base.files import write_bytes
from ...estimator.base.folders import cache_folder
from ...estimator.cost.profile import Profile
from ..meters.reading import PowerTrace
from .records import Record
from .store import Store

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.I)
_FOLDERS = ("records", "profiles")


def open_store(place: str | Path | None) -> Store:
    """The store in a folder (None: that of this user) or at an address such as "s3://bucket/energy"."""
    if isinstance(place, str) and _SCHEME.match(place):
        return SharedStore(place)
    return Store(None if place is None else Path(place))


class SharedStore(Store):
    """The store at `address`, mirrored in `folder` (None: in the cache folder of this user).

    Raises JoulecastError for an address that cannot be used. A record that cannot be sent raises nothing:
    `on_problem` gets a line, and the record is kept.
    """

    def __init__(
        self, address: str, folder: Path | None = None, on_problem: Callable[[str], None] = lambda _: None
    ) -> None:
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        super().__init__(folder or cache_folder() / "stores" / name)
        self.address = address
        self.on_problem = on_problem
        self._files, self._root = _file_system(address)
        self._there: set[str] | None = None  # what the address is known to have

    def write(self, record: Record, trace: PowerTrace | None = None) -> Path:
        path = super().write(record, trace)
        self._send()
        return path

    def save_profile(self, profile: Profile) -> Path:
        path = super().save_profile(profile)
        self._send(again=path)
        return path

    def records(self, on_problem: Callable[[str], None] | None = None) -> Iterator[Record]:
        """All records of all machines, oldest first."""
        self.fetch()
        return super().records(on_problem)

    def read(self, name: str) -> Record:
        self.fetch()
        return super().read(name)

    def fetch(self) -> None:
        """Fetches the records that the mirror lacks. Raises JoulecastError where the address does not answer."""
        self._send()
        try:
            lacking = [path for path in sorted(self._listed()) if not (self.folder / path).exists()]
            for start in range(0, len(lacking), _AT_ONCE):
                some = {f"{self._root}/{path}": path for path in lacking[start : start + _AT_ONCE]}
                for full, content in self._files.cat(list(some)).items():
                    write_bytes(self.folder / some[_alike(full, some)], content)
        except Exception as error:  # every file system has its own
            raise _unreachable(self.address, error) from error

    def _send(self, again: Path | None = None) -> None:
        """Sends the files of the mirror that the address lacks, traces before the records that they belong to."""
        try:
            there = self._listed() if self._there is None else self._there
            for path in sorted(self._local(), key=lambda path: (path.suffix != ".csv", path.name)):
                name = path.relative_to(self.folder).as_posix()
                if name not in there or path == again:
                    self._put(path, f"{self._root}/{name}")
                    there.add(name)
        except Exception as error:
            self.on_problem(
                f"{_unreachable(self.address, error)}; records are kept in {self.folder} and sent next time"
            )

    def _put(self, path: Path, target: str) -> None:
        """One file, whole or not at all: written under another name, then renamed."""
        folder, _, name = target.rpartition("/")
        self._files.makedirs(folder, exist_ok=True)
        part = f"{folder}/.{name}.{secrets.token_hex(4)}"
        self._files.pipe_file(part, path.read_bytes())
        self._files.mv(part, target)

    def _local(self) -> Iterator[Path]:
        for name in _FOLDERS:
            folder = self.folder / name
            yield from (path for path in folder.glob("*.*") if not path.name.startswith(".")) if folder.is_dir() else ()

    def _listed(self) -> set[str]:
        """The names of all complete files at the address, below its root; they are remembered."""
        found: set[str] = set()
        for name in _FOLDERS:
            folder = f"{self._root}/{name}"
            self._files.invalidate_cache(folder)
            if self._files.exists(folder):
                names = (str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(folder, detail=False))
                found |= {f"{name}/{one}" for one in names if one and not one.startswith(".")}
        self._there = found
        return found


_AT_ONCE = 256  # files that are asked for together


def _alike(full: str, names: dict[str, str]) -> str:
    """The name that was asked for; some file systems answer with a slash more or less."""
    return full if full in names else next(name for name in names if name.strip("/") == full.strip("/"))


def _file_system(address: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise JoulecastError(
            "a store at an address needs fsspec, which is not installed: pip install 'joulecast[fleet]'"
        ) from None
    try:
        files, root = url_to_fs(address)
    except ValueError as error:
        raise JoulecastError(f"store {address!r} is not an address that fsspec supports ({error})") from None
    except Exception as error:  # a package of the protocol that is missing or cannot start
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise JoulecastError(f"store {address!r} cannot be opened: {reason}") from None
    return files, str(root).rstrip("/")


def _unreachable(address: str, error: Exception) -> JoulecastError:
    why = " ".join(str(error).split()) or type(error).__name__
    return JoulecastError(f"the store {address} does not answer ({type(error).__name__}: {why[:200]})")
