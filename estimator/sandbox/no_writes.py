"""Code that runs on tensors without values writes no files: a checkpoint of them would replace the user's own."""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import torch

_CHANGES = (
    *("remove", "unlink", "rename", "replace", "rmdir", "mkdir", "makedirs", "removedirs", "renames"),
    *("truncate", "symlink", "link", "chmod", "utime"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Functions of compiled libraries, which open files themselves; each where its callers look it up.
_WRITERS = {
    "safetensors": ("serialize_file",),
    "safetensors.torch": ("serialize_file", "save_file"),
    "safetensors.numpy": ("serialize_file", "save_file"),
}


@contextmanager
def nothing_written() -> Iterator[None]:
    """Files that this thread opens to write are the null device; it removes, renames and makes none."""
    thread = threading.get_ident()

    def here(original: Callable[..., Any], replaced: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (replaced if threading.get_ident() == thread else original)(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for owner, name, replaced in _replacements():
            stack.enter_context(mock.patch.object(owner, name, here(getattr(owner, name), replaced)))
        yield


def _replacements() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    yield builtins, "open", _opened
    yield io, "open", _opened
    yield os, "open", _opened_descriptor
    for name in _CHANGES:
        if hasattr(os, name):
            yield os, name, _nothing
    for module, names in _WRITERS.items():
        with suppress(ImportError):
            owner = importlib.import_module(module)
            yield from ((owner, name, _nothing) for name in names if hasattr(owner, name))
    for owner in (torch, torch.serialization, torch.jit):
        yield owner, "save", _saved(owner.save)
    yield torch.jit._script.RecursiveScriptModule, "save", _nothing


_open, _open_descriptor = io.open, os.open


def _opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    if not isinstance(file, int) and set(mode) & set("wax+"):
        return _open(os.devnull, mode.replace("x", "w"), *args, **kwargs)
    return _open(file, mode, *args, **kwargs)


def _opened_descriptor(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
    if flags & _WRITING:
        return _open_descriptor(os.devnull, flags & (os.O_WRONLY | os.O_RDWR))
    return _open_descriptor(path, flags, *args, **kwargs)


def _saved(save: Callable[..., Any]) -> Callable[..., Any]:
    """Objects are saved to buffers, which copy them, and not to paths."""

    def call(*args: Any, **kwargs: Any) -> Any:
        to = kwargs.get("f", args[1] if len(args) > 1 else None)
        return None if isinstance(to, (str, os.PathLike)) else save(*args, **kwargs)

    return call


def _nothing(*args: Any, **kwargs: Any) -> None: ...
