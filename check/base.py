"""The project at another commit, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .config import ConfigError

# Variables that a git hook sets for its git commands; ours find the repository by its folder.
_HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


@contextlib.contextmanager
def exported(ref: str, root: Path) -> Iterator[tuple[Path, Path]]:
    """The files of `ref` of the repository around `root`, in a temporary folder that is deleted afterwards.

    Yields the folder that corresponds to `root`, and the top of the tree. The files are checked out from a separate
    index: unlike `git worktree`, this does not change the repository, and unlike `git archive`, it leaves out no file
    (`export-ignore`). Raises ConfigError if there is no repository or no such ref.
    """
    top = Path(_git(root, "rev-parse", "--show-toplevel", what=f"`base` {ref} needs a git repository"))
    commit = _commit(ref, top)
    with tempfile.TemporaryDirectory(prefix="joulecast-base-") as folder:
        tree, index = Path(folder, "tree"), {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        _git(top, "read-tree", commit, what=f"`base` {ref} cannot be read", own=index)
        _git(top, "checkout-index", "--all", f"--prefix={tree}/", what=f"`base` {ref} cannot be read", own=index)
        yield tree / root.resolve().relative_to(top.resolve()), tree


def _commit(ref: str, top: Path) -> str:
    if ref.startswith("-"):
        raise ConfigError(f"`base` {ref!r} is not a git ref; give a branch, tag or commit")
    return _git(
        top,
        *("rev-parse", "--verify", f"{ref}^{{commit}}"),
        what=f"`base` {ref} is not a commit of this repository (a shallow clone must fetch it first)",
    )


def _git(folder: Path, *arguments: str, what: str, own: dict[str, str] | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _HOOK_VARIABLES} | (own or {})
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise ConfigError(f"{what}: git cannot be run ({error.strerror})") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"git {arguments[0]} ended with status {done.returncode}"]
        raise ConfigError(f"{what}: {said[-1]}")
    return done.stdout.strip()
