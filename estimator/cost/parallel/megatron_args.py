"""The options of Megatron-LM in a shell script, a list of options or YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

READ = (
    "tensor-model-parallel-size",
    "pipeline-model-parallel-size",
    "context-parallel-size",
    "expert-model-parallel-size",
    "num-layers",
    "num-layers-per-virtual-pipeline-stage",
    "num-virtual-stages-per-pipeline-rank",
    "micro-batch-size",
    "global-batch-size",
    "seq-length",
    "recompute-granularity",
    "transformer-impl",
    "optimizer",
    "clip-grad",
)
"""Options whose values are read."""
_SIGNS = ("tensor-model-parallel-size", "pipeline-model-parallel-size", "micro-batch-size", "global-batch-size")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_OPTION = re.compile(r"--([a-z0-9-]+)(?:(?:[ =]+|:[ ]+)(?!--)([^\s\\]+))?")
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+|local\s+)?([A-Za-z_]\w*)=(\"[^\"\n]*\"|'[^'\n]*'|[^\s;#(]+)", re.MULTILINE)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_0-9]+)(?::?-([^}]*))?\}?")
_DEPTH = 5  # variables that are set to variables


class UnsetError(Exception):
    """A variable that a script takes from elsewhere, or sets to several values."""


def is_megatron(text: str) -> bool:
    """Whether a text gives one of the options that every training with Megatron-LM has."""
    return any(re.search(rf"--{name}\b", text) for name in _SIGNS)


def of_text(text: str) -> dict[str, str]:
    """The options in `text`, by name without dashes; "" for those without a value. Comments do not count.

    Variables of the shell are replaced by what the text sets them to. Raises UnsetError for an option of `READ` whose
    variable it does not set to one value.
    """
    text = _COMMENT.sub("", text)
    variables: dict[str, set[str]] = {}
    for name, value in _ASSIGNMENT.findall(text):
        plain = value.strip("\"'")
        own = _VARIABLE.fullmatch(plain)  # NAME=${NAME:-8}
        variables.setdefault(name, set()).add(own[2] if own and own[1] == name and own[2] else plain)
    found = {}
    for name, value in _OPTION.findall(text):
        plain = value.strip("\"'(),;")
        if plain == "false":
            continue
        if name in READ and "$" in plain:
            plain = _resolved(name, plain, variables)
        found[name] = "" if plain == "true" else plain
    return found


def _resolved(option: str, value: str, variables: Mapping[str, set[str]]) -> str:
    given = value
    for _ in range(_DEPTH):
        variable = _VARIABLE.search(value)
        if variable is None:
            return value
        name, default = variable.groups()
        values = {one for one in variables.get(name, set()) if not re.fullmatch(r"\$\{?\d+\}?", one)}
        if not values and default:
            values = {default}
        if len(values) != 1:
            sets = f"sets {name} to {' and '.join(sorted(values))}" if values else f"does not set {name}"
            raise UnsetError(f"--{option} {given}, and {sets}; write the value there")
        value = value[: variable.start()] + values.pop() + value[variable.end() :]
    raise UnsetError(f"--{option} {given}, which has no value of its own; write the value there")


def of_yaml(document: Mapping[str, Any]) -> dict[str, str]:
    """The options of Megatron-LM's `--yaml-cfg`, by the names of the command line; empty for another document."""
    found = {name.replace("_", "-"): value for name, value in _leaves(document)}
    if not any(name in found for name in _SIGNS[:2]):
        return {}
    return {name: "" if value is True else str(value) for name, value in found.items() if value not in (False, None)}


def _leaves(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(name), value
