"""A sweep: candidates to priced rows, with their total, the cheapest ones and the Pareto front."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..estimator.answer.request import Request
from ..estimator.base.errors import JoulecastError, RequestError
from ..estimator.base.interval import Interval
from ..estimator.place.budget import BudgetVerdict, End, Limit, parse_limit, verdict_of
from .candidates import Candidates, from_python
from .engine import Engine, make_engine
from .jobs import Job, Result, make_jobs
from .journal import Journal
from .ranking import Ranking, columns_of, parse_merits
from .table import check_format, write_table

if TYPE_CHECKING:
    import pandas

SCHEMA = "joulecast.sweep/1"
_TOTAL_OF = {"energy": "facility_energy_kwh", "co2e": "co2e_kg", "time": "seconds", "cost": "cost"}
_REASONS = 5  # of failures, in the JSON document
Watch = Callable[[int, int | None, int], None]
Each = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What all candidates cost together, and which are best.

    Each total is the sum of the candidates' figures, as if they ran one after another. Its bounds are the sums of their
    bounds: candidates share the errors of a profile, so they are wrong in the same direction. `top` and `front` are
    rows, best first.
    """

    candidates: int
    failed: int
    over_budget: int
    totals: Mapping[str, Interval]
    sources: tuple[str, ...]
    """What the profiles are based on: "measured", "datasheet"..., as in `time_source` and `power_source`."""
    currency: str
    verdicts: tuple[BudgetVerdict, ...]
    top: tuple[dict[str, Any], ...]
    top_by: str
    front: tuple[dict[str, Any], ...]
    front_by: tuple[str, ...]
    failures: tuple[tuple[str, int], ...]
    """The reasons of failures, most frequent first, with how many candidates have each."""
    output: Path | None

    @property
    def exceeded(self) -> bool:
        return any(verdict.exceeded for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "candidates": self.candidates,
            "failed": self.failed,
            "over_budget": self.over_budget,
            **{name: total.to_json() for name, total in self.totals.items()},
            "sources": list(self.sources),
            "currency": self.currency,
            "budget": [verdict.to_json() for verdict in self.verdicts],
            "top_by": self.top_by,
            "top": list(self.top),
            "pareto": list(self.front_by),
            "front": list(self.front),
            "failures": [{"error": error, "candidates": number} for error, number in self.failures[:_REASONS]],
            "output": None if self.output is None else str(self.output),
        }

    def front_frame(self) -> pandas.DataFrame:
        """The Pareto front, a row for each candidate."""
        import pandas

        return pandas.DataFrame(list(self.front))


def sweep(
    candidates: Any,
    base: Request | None = None,
    *,
    output: Path | str | None = None,
    top: int = 5,
    by: str = "energy",
    pareto: str | None = None,
    columns: Sequence[str] = (),
    budget: str | Sequence[str] = (),
    budget_at: End = "high",
    engine: str = "local",
    address: str | None = None,
    jobs: int | None = None,
    watch: Watch | None = None,
    each: Each | None = None,
) -> SweepReport:
    """The cost of every candidate, and of all together, before any of them trains.

    >>> report = jc.sweep({"width": [64, 128], "batch_size": [32, 64]}, jc.Request(model="net.py:Net", epochs=10))
    >>> report.totals["energy_kwh"].value, report.front

    Parameters
    ----------
    candidates:
        `Candidates`, a mapping of names to lists (a grid), an iterable of mappings or a function that yields them, an
        Optuna study or a Ray Tune search space. A name that is a field of `Request` sets it, any other is an argument
        of the model.
    base:
        What all candidates have in common.
    output:
        A .csv, .parquet or .jsonl file, written when all candidates are done. Until then the results are in a journal
        in the same folder (`results.csv.partial`); the same call resumes it after a stop. None: nothing is kept.
    top, by, pareto:
        How many of the best candidates to report, by which column, and the columns of the Pareto front
        ("energy,accuracy"). See `parse_merits`.
    columns:
        Names of the candidates that set nothing, such as an accuracy that is known.
    budget, budget_at:
        Limits of the whole sweep. A candidate may have a budget of its own in `base` or as its `budget`.
    engine, address, jobs:
        Where candidates are read: "local", "dask" or "ray", the cluster's address, and the number of processes.
    watch:
        Called with the candidates done, their number (None: not known) and those that failed.
    each:
        Called with each candidate's result when all are done, in their order: a mapping with its `index`, what was
        `asked`, and a `row` of figures or an `error`.

    Raises JoulecastError for options that cannot be used, and where a cluster is gone. A candidate that fails is a row
    with its reason.
    """
    limits = [parse_limit(text) for text in ([budget] if isinstance(budget, str) else budget)]
    base = base or Request()
    currency = base.site.currency
    _check(base, limits, currency)
    path = None if output is None else Path(output)
    if path is not None:
        check_format(path)
    ranking = Ranking(parse_merits(pareto) if pareto else (), parse_merits(by)[0] if top else None)
    source = from_python(candidates)
    source = replace(source, columns=(*source.columns, *columns))
    with contextlib.ExitStack() as stack:
        partial = _partial(path, stack)
        journal = stack.enter_context(Journal(partial, source, base))
        with make_engine(engine, address=address, jobs=jobs) as processes:
            _fill(journal, source, base, processes, watch)
        for result in journal:
            ranking.add(result)
            if each is not None:
                each(result)
        if path is not None and len(journal):
            write_table(path, journal)
        report = _report(ranking, journal, top, currency, limits, budget_at, path)
    if path is not None:
        partial.unlink(missing_ok=True)
    return report


def _check(base: Request, limits: Sequence[Limit], currency: str) -> None:
    """Raises JoulecastError for what the candidates cannot have in common."""
    for limit in limits:
        if limit.quantity == "cost" and limit.unit != currency:
            raise JoulecastError(f"budget {limit.text!r} is in {limit.unit}, the price in {currency}: use one")
    if base.model is not None and not isinstance(base.model, str | Path):
        raise JoulecastError('`model` of a sweep is read in other processes: give a text, such as "net.py:Net"')
    if base.regions:
        raise RequestError("`regions` compares places of one run: vary `region` in the candidates")


def _partial(path: Path | None, stack: contextlib.ExitStack) -> Path:
    """The journal's file: in the folder of the table, or one that is deleted at the end."""
    if path is not None:
        return path.with_name(f"{path.name}.partial")
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="joulecast-sweep-"))) / "journal"


def _fill(journal: Journal, source: Candidates, base: Request, engine: Engine, watch: Watch | None) -> None:
    """Prices the candidates that the journal lacks."""
    lost = 0

    def keep(results: Sequence[Result]) -> None:
        nonlocal lost
        journal.write(results)
        lost += sum("error" in result for result in results)
        if watch is not None:
            watch(len(journal), source.total, lost)

    def waiting() -> Iterator[Job]:
        """The jobs; candidates that no request can be built for are kept at once."""
        given = ((index, values) for index, values in enumerate(source.given) if journal.lacks(index, values))
        for made in make_jobs(given, base, source.columns):
            if "error" in made:
                refused.append(dict(made))
            else:
                yield made

    refused: list[Result] = []
    for results in engine.run(waiting()):
        keep([*results, *refused])
        del refused[:]
    if refused:
        keep(refused)


def _report(
    ranking: Ranking,
    journal: Journal,
    top: int,
    currency: str,
    limits: Sequence[Limit],
    at: End,
    output: Path | None,
) -> SweepReport:
    verdicts = tuple(
        verdict_of(limit, ranking.totals[_TOTAL_OF[limit.quantity]], at) for limit in limits if ranking.totals
    )
    return SweepReport(
        candidates=ranking.done,
        failed=ranking.failed,
        over_budget=ranking.over_budget,
        totals=ranking.totals,
        sources=tuple(sorted(ranking.sources)),
        currency=currency,
        verdicts=verdicts,
        top=tuple(columns_of(journal[index]) for index in ranking.top(top)),
        top_by="" if ranking.top_by is None else str(ranking.top_by),
        front=tuple(columns_of(journal[index]) for index in ranking.front()),
        front_by=tuple(str(merit) for merit in ranking.front_by),
        failures=tuple(ranking.failures.most_common()),
        output=output,
    )
