"""torchtitan's recipes in Python: functions that return a configuration. They are read, not run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from .stated_run import OutOfRangeError

_SECTIONS = ("training", "parallelism", "activation_checkpoint", "optimizer")
_MODES = {"FullAC": "full", "SelectiveAC": "selective"}
_MOST_NAMED = 8


def titan_recipe(text: str, name: str) -> dict[str, dict[str, Any]]:
    """The sections of torchtitan's TOML that the function `name` states; "" for the only one.

    Raises SyntaxError for text that is not Python, and OutOfRangeError where the file has no such function.
    """
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    recipes = {key: found for key, node in functions.items() if (found := _sections(node, functions))}
    if name not in recipes and (name or len(recipes) != 1):
        listed = ", ".join(sorted(recipes, key=lambda one: "debug" in one)[:_MOST_NAMED])
        wrong = f"no recipe {name!r}" if name else "several recipes" if recipes else "no recipe of torchtitan"
        raise OutOfRangeError(f"{wrong}; name one after a colon, as FILE.py:NAME: {listed}" if recipes else wrong)
    found = recipes[name or next(iter(recipes))]
    return {key: dict(section) for key, section in _as_toml(found).items()}


def _sections(function: ast.FunctionDef, functions: Mapping[str, ast.FunctionDef]) -> dict[str, dict[str, Any]]:
    """By section, what a function's calls and assignments state as literals; those of a recipe it starts from too."""
    found: dict[str, dict[str, Any]] = {}
    for node in function.body:
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
            for keyword in node.value.keywords:
                if keyword.arg in _SECTIONS:
                    found[keyword.arg] = _stated(keyword.value)
        if not isinstance(node, ast.Assign):
            continue
        start = functions.get(_called(node.value))
        if start is not None and start is not function:
            found = {**_sections(start, functions), **found}
        match node.targets:
            case [ast.Attribute(value=ast.Attribute(attr=section), attr=field)] if section in _SECTIONS:
                found.setdefault(section, {})[field] = _literal(node.value)
            case [ast.Attribute(attr=section)] if section in _SECTIONS:
                found[section] = _stated(node.value)
    if found and "Float8" in ast.unparse(function):
        found["model"] = {"converters": ["float8"]}
    return found


def _stated(value: ast.expr) -> dict[str, Any]:
    """The keywords of a call, and its name."""
    keywords = value.keywords if isinstance(value, ast.Call) else []
    return {"": _called(value), **{one.arg: _literal(one.value) for one in keywords if one.arg}}


def _called(value: ast.expr) -> str:
    return ast.unparse(value.func) if isinstance(value, ast.Call) else ""


def _literal(value: ast.expr) -> Any:
    """A literal, or a product of some; None for what has to be computed."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
        left, right = _literal(value.left), _literal(value.right)
        return left * right if isinstance(left, int) and isinstance(right, int) else None
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


def _as_toml(found: Mapping[str, dict[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The sections under the names of a TOML file. Tokens of a micro-batch and of a step become sequences."""
    training, parallel = dict(found.get("training", {})), dict(found.get("parallelism", {}))
    length = training.get("max_context_length")
    tokens, whole = (training.get(f"num_tokens_per_{name}") for name in ("microbatch_per_dp_rank", "train_step"))
    if isinstance(length, int) and length > 0:
        training["seq_len"] = length
        if isinstance(tokens, int):
            micro, passes = max(tokens // length, 1), parallel.get("num_pp_microbatches") or 1
            training["local_batch_size"] = micro * (passes if parallel.get("pipeline_parallel_degree", 1) != 1 else 1)
            parallel["pipeline_parallel_microbatch_size"] = micro
        if isinstance(whole, int) and whole > 0:
            training["global_batch_size"] = whole // length
    kind = str(found.get("activation_checkpoint", {}).get("", "")).partition(".")[0]
    optimizer = "AdamW" if "adamw" in str(found.get("optimizer", {}).get("", "")) else None
    return {
        "training": training or {"seq_len": None},
        "parallelism": parallel,
        "activation_checkpoint": {"mode": _MODES.get(kind, "not stated")},
        "optimizer": {"name": optimizer},
        "model": found.get("model", {}),
    }
