"""`joulecast sweep --report`: collects the candidates while they are ranked, and writes the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .report_output import check_writable, command_line, write_file

if TYPE_CHECKING:
    from ..sweeps.run import SweepReport

_LONGEST = 300  # characters of where the candidates come from


def page_writer(path: Path | None) -> SweepPageWriter | None:
    """The writer of the page `path`. Raises JoulecastError where it cannot be written, before a model is read."""
    if path is None:
        return None
    check_writable("--report", path)
    return SweepPageWriter(path)


class SweepPageWriter:
    """The page of a sweep. Give each result to `table.add`, then call `write`."""

    def __init__(self, path: Path) -> None:
        from ..report.sweep_page import SweepTable

        self._path = path
        self.table = SweepTable()

    def write(self, report: SweepReport, source: str, pareto: str | None) -> None:
        """Writes the page atomically. The chart starts with the first column of `pareto` that is not the energy."""
        from datetime import datetime

        from joulecast import __version__

        from ..report.sweep_page import ENERGY, SweepPage, render_sweep
        from ..sweeps.ranking import parse_merits

        merits = parse_merits(pareto) if pareto else ()
        page = SweepPage(
            table=self.table,
            totals=report.totals,
            verdicts=report.verdicts,
            failures=report.failures,
            sources=report.sources,
            currency=report.currency,
            front_column=next((merit.column for merit in merits if merit.column != ENERGY), "parameters"),
            more_is_better={merit.column: merit.more_is_better for merit in merits},
            candidates_from=source if len(source) <= _LONGEST else f"{source[:_LONGEST]}...",
            command=command_line(),
            version=__version__,
            made=datetime.now().astimezone().date(),
        )
        write_file("--report", self._path, render_sweep(page).encode())
