"""Where this user's calibrations lie."""

from __future__ import annotations

import os
from pathlib import Path

STORE_VARIABLE = "JOULECAST_STORE"


def store_folder() -> Path:
    """`$JOULECAST_STORE`, else the platform's folder for user data. It need not exist."""
    if folder := os.environ.get(STORE_VARIABLE):
        return Path(folder).expanduser()
    from platformdirs import user_data_path

    return user_data_path("joulecast", appauthor=False)


def profiles_folder(store: Path | None = None) -> Path:
    """The profiles that `measure` fitted, one JSON file each."""
    return (store or store_folder()) / "profiles"
