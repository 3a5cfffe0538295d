"""`joulecast.Cost`: what a candidate costs, as a function that searches call as an objective or a constraint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..estimator.answer.answer import Answer
from ..estimator.answer.estimate import find_profile, priced, read
from ..estimator.answer.parallel_config import config_notes, with_config
from ..estimator.answer.request import Request
from ..estimator.base.errors import JoulecastError
from .candidates import candidate
from .jobs import Kept, placed, row
from .ranking import column_name

if TYPE_CHECKING:
    from pathlib import Path

    from ..estimator.cost.profile import Profile


_WORKLOADS = 256  # that are kept


class Cost:
    """The cost of one candidate: `cost(width=64, batch_size=32)` is a number, `cost.answer(...)` the whole answer.

    >>> cost = jc.Cost("rtx-4090", model="net.py:Net", epochs=10, samples=50_000)
    >>> cost(width=64, depth=4)  # kWh

    Names that are fields of `Request` set it, all others are arguments of the model, as in `sweep`. A model is traced
    when its arguments, its batch size or another field of the trace first occur; the last 256 traces are kept, so that
    later calls only price it. A copy in another process (a search with several workers) starts without traces.

    Parameters
    ----------
    profile:
        Hardware, a profile's name or file, or a `Profile`. None: this machine.
    of:
        What a call returns: "energy" (kWh, of the machine), "co2e" (kg), "time" (s), "cost" (the currency of the
        price), each with "_low" or "_high" after its column's name ("energy_kwh_high") for an end of its interval, or
        another column of `estimate --csv`.
    fields:
        Fields of `Request` that all candidates have in common.

    Raises JoulecastError for values that cannot be used; a call raises it, and ModelError, for its candidate.
    """

    def __init__(self, profile: str | Path | Profile | None = None, /, *, of: str = "energy", **fields: Any) -> None:
        self._base = placed(Request(hardware=profile, **fields), os.getcwd())
        if profile is not None:
            find_profile(self._base)  # unknown hardware shows at once
        self._column = column_name(of)
        self._kept = Kept(_WORKLOADS, read)

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (self._base, self._column)

    def __call__(self, **candidate: Any) -> float:
        """The candidate's figure. Raises JoulecastError where the column is not a number."""
        columns = row(self.answer(**candidate))
        value = columns.get(self._column)
        if isinstance(value, bool) or not isinstance(value, int | float):
            numbers = [name for name, one in columns.items() if isinstance(one, int | float)]
            raise JoulecastError(f"`of` {self._column!r} is not a figure: give one of {', '.join(numbers)}")
        return float(value)

    def answer(self, **values: Any) -> Answer:
        """The candidate's answer, with its intervals, budgets and notes."""
        asked = candidate(0, values).request(self._base)
        request, kept = with_config(asked), self._kept
        found = priced(request, kept.workload(request), kept.profile(request), where=kept.where(request))
        return found.noting(config_notes(asked))


def _copied(base: Request, column: str) -> Cost:
    """A `Cost` as another process gets it."""
    cost = Cost.__new__(Cost)
    cost._base, cost._column, cost._kept = base, column, Kept(_WORKLOADS, read)
    return cost
