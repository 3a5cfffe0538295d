"""A check: every model of the configuration is traced, priced and compared with its budgets and the base."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..estimator.answer.answer import Answer
from ..estimator.answer.estimate import priced
from ..estimator.base.errors import JoulecastError
from ..estimator.model.reader import Reading, ReadRequest
from .base import exported
from .cache import Cache, trace_key
from .compare import Change, compare
from .config import OWN_FILE, SHARED_FILE, Config, ConfigError, Entry, config_in, read_config, with_keys
from .reading import Failure, read_all

SCHEMA = "joulecast.check/1"
FITS, FAILED, EXCEEDED = 0, 1, 3  # exit status: an exceeded budget takes precedence over a failure


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model: its answer, or why there is none; with a base, also what changed."""

    name: str
    model: str
    answer: Answer | None
    failure: Failure | None
    seconds: float = 0.0  # spent on tracing; 0 if the workload came from the cache
    change: Change | None = None
    is_new: bool = False  # the base has no model of this name

    @property
    def verdict(self) -> str:
        """One of "failed", "exceeded" and "kept"; "none" where the model has no budget."""
        if self.answer is None:
            return "failed"
        if self.answer.exceeded:
            return "exceeded"
        return "kept" if self.answer.verdicts else "none"

    def to_json(self) -> dict[str, Any]:
        failure = self.failure
        return {
            "name": self.name,
            "model": self.model,
            "verdict": self.verdict,
            "error": {"kind": failure.kind, "message": failure.message} if failure else None,
            "estimate": self.answer.to_json() if self.answer else None,
            "new": self.is_new,
            "change": self.change.to_json() if self.change else None,
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a check. `notes` say what it could not do, one line each."""

    config: Path
    outcomes: tuple[Outcome, ...]
    base: str | None = None
    removed: tuple[str, ...] = ()  # models that only the base contains
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        verdicts = {outcome.verdict for outcome in self.outcomes}
        return EXCEEDED if "exceeded" in verdicts else FAILED if "failed" in verdicts else FITS

    def count(self, verdict: str) -> int:
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "config": str(self.config),
            "status": self.status,
            "base": self.base,
            "models": [outcome.to_json() for outcome in self.outcomes],
            "removed": list(self.removed),
            "notes": list(self.notes),
        }


def check(
    config: Config, cache: Cache, *, names: Sequence[str] = (), base: str | None = None, jobs: int | None = None
) -> CheckReport:
    """Checks the models of `config` (those in `names`, all for none), against the git ref `base` if one is given.

    Models whose workload is not in `cache` are read in `jobs` processes (None: one per core).
    Raises ConfigError for unknown names and for a base that cannot be read. The outcome of a model records its failure.
    """
    entries = config.named(names)
    with exported(base, config.root) if base else contextlib.nullcontext() as folders:
        report = CheckReport(config.path, tuple(_outcomes(config, entries, cache, jobs)), base)
        if base and folders:
            report = _compared(report, base, folders, config.top, names, cache, jobs)
    cache.prune()
    return replace(report, notes=(*report.notes, cache.problem)) if cache.problem else report


def _outcomes(
    config: Config, entries: Sequence[Entry], cache: Cache, jobs: int | None, checkout: Path | None = None
) -> list[Outcome]:
    keys = {entry.name: trace_key(entry.model, entry.request.trace_options) for entry in entries}
    kept = {key: cache.find(key, config.root) for key in dict.fromkeys(keys.values())}
    lacking = {keys[entry.name]: entry for entry in entries if kept[keys[entry.name]] is None}
    where = (config.root, config.top, checkout)
    asked = [ReadRequest(entry.model, entry.request.trace_options, *where) for entry in lacking.values()]
    found = dict(zip(lacking, read_all(asked, jobs), strict=True))
    for key, result in found.items():
        if isinstance(result, Reading):
            cache.store(key, config.root, result.work, result.sources)
    found |= {key: Reading(work, (), 0.0) for key, work in kept.items() if work is not None}
    return [_priced(entry, found[keys[entry.name]]) for entry in entries]


def _priced(entry: Entry, found: Reading | Failure) -> Outcome:
    if isinstance(found, Reading):
        try:
            answer = priced(entry.request, found.work, entry.profile).noting(entry.notes)
            return Outcome(entry.name, entry.model, answer, None, found.seconds)
        except JoulecastError as error:
            found = Failure.of(error)
    failure = replace(found, message=with_keys(found.message))
    return Outcome(entry.name, entry.model, None, failure)


# -- the base ------------------------------------------------------------------------------------


def _compared(
    report: CheckReport,
    base: str,
    folders: tuple[Path, Path],
    checkout: Path,
    names: Sequence[str],
    cache: Cache,
    jobs: int | None,
) -> CheckReport:
    """`report` with what changed since `base`, whose files are in `folders` (the configuration's and the top)."""
    try:
        config = _base_config(report.config.name, folders)
    except ConfigError as error:
        return replace(report, notes=(f"no comparison with {base}: {error}",))
    entries = [entry for entry in config.entries if not names or entry.name in names]
    before = {outcome.name: outcome for outcome in _outcomes(config, entries, cache, jobs, checkout)}
    here = {outcome.name for outcome in report.outcomes}
    notes = [
        f"{name} is not compared: at {base}, {outcome.failure.message}"
        for name, outcome in before.items()
        if name in here and outcome.failure
    ]
    outcomes = tuple(_against(outcome, before.get(outcome.name)) for outcome in report.outcomes)
    removed = tuple(name for name in before if name not in here)
    return replace(report, outcomes=outcomes, removed=removed, notes=tuple(notes))


def _base_config(name: str, folders: tuple[Path, Path]) -> Config:
    """The configuration of the base: the file of the same name, or if it was searched for, the one found there."""
    root, top = folders
    path: Path | None = root / name
    if name in (OWN_FILE, SHARED_FILE):
        path = config_in(root)
    if path is None or not path.is_file():
        raise ConfigError("it has no configuration")
    return read_config(path, top)


def _against(outcome: Outcome, before: Outcome | None) -> Outcome:
    if before is None:
        return replace(outcome, is_new=True)
    if outcome.answer is None or before.answer is None:
        return outcome
    return replace(outcome, change=compare(before.answer, outcome.answer))
