"""Reading files that users name, within limits; writing files whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZE_LIMIT_BYTES = 64 * 2**20  # far above any profile, table or configuration


def read_bytes(path: Path, limit_bytes: int = SIZE_LIMIT_BYTES) -> bytes:
    """The content of a regular file of at most `limit_bytes`.

    Raises OSError at once for a directory, device, pipe or socket, and for a larger file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character in the path
        raise OSError(str(error)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a directory")
        raise OSError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise OSError(f"{path} is larger than {limit_bytes / 2**20:g} MiB")
    return content


def read_text(path: Path, limit_bytes: int = SIZE_LIMIT_BYTES) -> str:
    """The UTF-8 text of a regular file of at most `limit_bytes`, without a byte order mark.

    Raises OSError as `read_bytes` does, and UnicodeDecodeError.
    """
    return read_bytes(path, limit_bytes).decode("utf-8-sig")


def write_json(path: Path, document: Mapping[str, Any]) -> Path:
    """Writes `document` to `path` atomically."""
    return write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Writes `text` to `path` atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes `content` to `path` atomically, with the permissions of the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    """The process's umask; the system call can only read it by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
