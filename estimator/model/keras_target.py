"""Which texts of `--model` name a Keras model: told from the source, without importing it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from ..sandbox.source import SOURCE_SUFFIXES, is_source, parsed_source

_KERAS_ROOTS = frozenset({"keras", "tensorflow"})


def is_keras_target(target: str) -> bool:
    """Whether `target` (FILE.py[:name] or package.module:callable) is a Keras model, without importing it."""
    location, _ = split_target(target)
    if is_source(location):
        return is_keras_source(location)
    if location.partition(".")[0] in _KERAS_ROOTS:
        return True
    try:
        spec = importlib.util.find_spec(location)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and is_keras_source(spec.origin)


def split_target(target: str) -> tuple[str, str]:
    """FILE.py or module, and the name in it ("" for none)."""
    location, colon, name = target.rpartition(":")
    return (location, name) if colon and not target.endswith(SOURCE_SUFFIXES) else (target, "")


def is_keras_source(path: str | Path) -> bool:
    """Whether a file imports Keras or TensorFlow but not torch; False for a file that is not Python."""
    tree = parsed_source(Path(path))
    if tree is None:
        return False
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    return bool(roots & _KERAS_ROOTS) and "torch" not in roots
