"""Where candidates come from: a grid, a JSONL file, or a Python file that makes them.

A candidate is a mapping of names to values. A name that is a field of `Request` sets it; any other is an argument of
the model. Columns, such as an accuracy that is already known, are kept with the figures and set nothing.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..estimator.answer.request import Request
from ..estimator.base.errors import JoulecastError, RequestError
from ..estimator.base.suggest import near

_FIELDS = frozenset(field.name for field in fields(Request))
_FIXED = frozenset(["regions", "live", "layers", "budget_at", "currency"])  # one value for the whole sweep
_TEXTS = frozenset(
    [
        *("model", "inputs", "dataset", "optimizer", "precision", "lora", "freeze", "hardware", "cluster", "parallel"),
        *("activation_checkpointing", "software", "region", "budget", "loss"),
    ]
)
_FLAGS = frozenset(["train", "clip_gradients", "ema"])
# Names of options of `estimate` whose field has another name.
_OPTIONS = {"input": "inputs", "time_limit": "time_limit_s"}
_LINE_LIMIT = 2**20  # characters of one candidate


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a candidate sets, by field; what its model is called with; and the columns that it brings along."""

    index: int
    fields: Mapping[str, Any]
    model_args: Mapping[str, str]
    asked: Mapping[str, Any]
    """All names and values as they were given, columns too."""

    def request(self, base: Request) -> Request:
        """`base` with what the candidate sets. Raises JoulecastError for values that cannot be used."""
        return replace(base, **self.fields, model_args={**base.model_args, **self.model_args})


def candidate(index: int, given: Mapping[str, Any], columns: Sequence[str] = ()) -> Candidate:
    """The candidate of these names and values. Raises JoulecastError for a name that cannot vary."""
    own: dict[str, Any] = {}
    arguments: dict[str, str] = {}
    for name, value in given.items():
        field = _OPTIONS.get(name, name)
        if name in columns:
            continue
        if field in _FIXED:
            raise RequestError(f"`{field}` is one for the whole sweep: leave it out of the candidates")
        if field == "model_args":
            if not isinstance(value, Mapping):
                raise JoulecastError(f"`model_args` {value!r} is not an object of names and values")
            arguments |= {str(key): repr(one) for key, one in value.items()}
        elif field in _FIELDS:
            own[field] = _value(field, value)
        else:
            arguments[name] = repr(value)
    return Candidate(index, own, arguments, dict(given))


def _value(field: str, value: Any) -> Any:
    """A field's value: texts where the field is one, since `hardware=4090` reads as a number."""
    if field in _TEXTS and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if field in _FLAGS and not isinstance(value, bool):
        raise JoulecastError(f"`{field}` {value!r} is not true or false")
    return value


def literal(text: str) -> Any:
    """The Python value that `text` spells (64, 0.5, True, None), or the text itself ("relu")."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


# -- sources -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidates:
    """Names and values of each candidate, in order; `given` can be read again and again.

    `name` says in the journal where they come from; `total` is their number, None where it is not known; `columns` are
    names that set nothing.
    """

    name: str
    given: Iterable[Mapping[str, Any]]
    total: int | None
    columns: tuple[str, ...] = ()


def grid(axes: Mapping[str, Sequence[Any]]) -> Candidates:
    """All combinations; the last axis varies fastest. Raises JoulecastError for an axis without values."""
    for name, values in axes.items():
        if not values:
            raise JoulecastError(f"{name} has no values: give at least one")
    text = " x ".join(f"{name}={','.join(map(str, values))}" for name, values in axes.items())
    return Candidates(f"grid {text}", _Product(dict(axes)), math.prod(len(values) for values in axes.values()))


class _Product:
    def __init__(self, axes: dict[str, Sequence[Any]]) -> None:
        self._axes = axes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self._axes, values, strict=True)) for values in itertools.product(*self._axes.values()))


def parse_axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """{"width": [64, 128]} for ["width=64,128"]. Raises RequestError."""
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (equals and name and values.strip()):
            raise RequestError(f"axis {text!r} is not NAME=VALUE,VALUE: give the values, as in width=64,128")
        if name in axes:
            raise RequestError(f"{name} is given twice: give all its values in one list, {name}=A,B,C")
        axes[name] = [literal(value.strip()) for value in dict.fromkeys(values.split(",")) if value.strip()]
    return axes


def read_candidates(source: str) -> Candidates:
    """The candidates of FILE.jsonl (one object a line) or FILE.py:NAME.

    NAME is a function that yields mappings, a list of mappings, an Optuna study (its trials) or a Ray Tune search space
    (a mapping; its grid, and one draw of each sampled value). Raises JoulecastError.
    """
    place, colon, name = source.rpartition(":")
    if colon and place.endswith(".py"):
        return from_python(_load(Path(place), name), source)
    path = Path(source)
    if path.suffix == ".py":
        raise JoulecastError(f"{source} does not say what makes the candidates: give {source}:NAME")
    if not path.is_file():
        raise JoulecastError(f"{source} is not a file: give a JSONL file or FILE.py:NAME")
    with path.open("rb") as stream:
        total = sum(1 for line in stream if line.strip())
    return Candidates(str(path), _Lines(path), total)


class _Lines:
    """The objects of a JSONL file, one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._path.open(encoding="utf-8-sig") as stream:
            for number in itertools.count(1):
                line = stream.readline(_LINE_LIMIT)
                if not line:
                    return
                if line.strip():
                    yield self._object(line, number)

    def _object(self, line: str, number: int) -> dict[str, Any]:
        place = f"{self._path.name}:{number}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise JoulecastError(f"{place} is not JSON ({str(error)[:80]}); give one object a line") from None
        if not isinstance(found, dict):
            raise JoulecastError(f"{place} is a {type(found).__name__}: give one object of names and values a line")
        return found


def _load(path: Path, name: str) -> Any:
    """The value `name` of the Python file `path`, which runs in this process as `python FILE` would run it."""
    if not path.is_file():
        raise JoulecastError(f"{path} is not a file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise JoulecastError(f"{path}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        known = [one for one in vars(module) if not one.startswith("_")]
        raise JoulecastError(f"{path} has no {name}{near(name, known)}")
    return getattr(module, name)


def from_python(value: Any, name: str = "candidates") -> Candidates:
    """The candidates of a Python value: a function, an iterable of mappings, a study or a search space."""
    if isinstance(value, Candidates):
        return value
    if _is_study(value):
        return from_study(value, name)
    if isinstance(value, Mapping):
        return from_space(value, name)
    if callable(value):
        return Candidates(name, _Calls(value, name), None)
    if isinstance(value, Iterator):
        value = list(value)  # it can be read once only, and a sweep may start again
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        total = len(value) if isinstance(value, Sized) else None
        return Candidates(name, _Checked(value, name), total)
    raise JoulecastError(f"{name} is a {type(value).__name__}: give a function that yields mappings, or a list of them")


class _Checked:
    """The items of an iterable, each a mapping."""

    def __init__(self, items: Iterable[Any], name: str) -> None:
        self._items, self._name = items, name

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for number, item in enumerate(self._items):
            if not isinstance(item, Mapping):
                raise JoulecastError(f"{self._name}: candidate {number} is a {type(item).__name__}: give a mapping")
            yield item


class _Calls:
    """What a function returns, called again for every reading."""

    def __init__(self, function: Any, name: str) -> None:
        self._function, self._name = function, name

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            yield from _Checked(self._function(), self._name)
        except JoulecastError:
            raise
        except Exception as error:
            raise JoulecastError(f"{self._name}: {type(error).__name__}: {error}") from error


def _is_study(value: Any) -> bool:
    """Without importing Optuna: a study exists only where it has been imported."""
    optuna = sys.modules.get("optuna")
    return optuna is not None and isinstance(value, optuna.study.Study)


def from_study(study: Any, name: str) -> Candidates:
    """The trials of an Optuna study, finished or waiting; the values of finished ones are columns.

    A study with one objective has the column `value`, with several `value_0`, `value_1`...
    """
    given: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for trial in study.get_trials(deepcopy=False):
        values = trial.values or []
        columns = {"value": values[0]} if len(values) == 1 else {f"value_{i}": one for i, one in enumerate(values)}
        names |= dict.fromkeys(columns)
        waiting = trial.system_attrs.get("fixed_params", {}) if hasattr(trial, "system_attrs") else {}
        given.append({**waiting, **trial.params, **columns})
    if not given:
        raise JoulecastError(f"{name}: the study {study.study_name} has no trials: enqueue or run some")
    return Candidates(f"{name} ({study.study_name})", given, len(given), tuple(names))


def from_space(space: Mapping[str, Any], name: str) -> Candidates:
    """The grid of a Ray Tune search space; values that it samples are drawn once for each point of the grid.

    A mapping of lists is a grid too. Raises JoulecastError where Ray is needed and not installed.
    """
    if all(isinstance(values, list | tuple) for values in space.values()):
        return grid(space)
    try:
        from ray.tune.search.variant_generator import generate_variants
    except ImportError:
        raise JoulecastError(f"{name} is a Ray Tune search space: pip install 'ray[tune]'") from None
    given = [config for _, config in generate_variants(dict(space), random_state=0)]
    return Candidates(name, given, len(given))
