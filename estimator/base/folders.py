"""Folders of this user: calibrations, and caches that can be deleted."""

from __future__ import annotations

import os
from pathlib import Path

STORE_VARIABLE = "JOULECAST_STORE"
CACHE_VARIABLE = "JOULECAST_CACHE"


def store_folder() -> Path:
    """`$JOULECAST_STORE`, otherwise the platform's folder for user data. It need not exist."""
    if folder := os.environ.get(STORE_VARIABLE):
        return Path(folder).expanduser()
    from platformdirs import user_data_path

    return user_data_path("joulecast", appauthor=False)


def cache_folder() -> Path:
    """`$JOULECAST_CACHE`, otherwise the platform's folder for caches. It need not exist."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("joulecast", appauthor=False)


def profiles_folder(store: Path | None = None) -> Path:
    """The profiles that `measure` fitted, one JSON file each."""
    return (store or store_folder()) / "profiles"
