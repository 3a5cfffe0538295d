"""Records as a pandas table with a row for each window, and as CSV, JSON and Parquet files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...estimator.base.errors import JoulecastError
from .records import MeasuredWindow, Record, hardware_name
from .store import Store

if TYPE_CHECKING:
    import pandas

FORMATS = ("csv", "json", "parquet")

# The columns and their pandas types. The nullable ones keep whole numbers whole where a value is missing.
_COLUMNS = {
    **dict.fromkeys(("record", "run", "kind", "name", "family"), "string"),
    "created": "string",  # ISO 8601, UTC
    **dict.fromkeys(("status", "hardware", "window"), "string"),
    "steps": "int64",
    "seconds": "float64",
    "energy_j": "Float64",  # missing where the energy is unknown
    "energy_label": "string",  # "measured", "modelled", "ambiguous" or "missing"
    "meter": "string",
    "batch_size": "Int64",
    "optimizer": "string",
    **dict.fromkeys(("parameters", "flops_per_step", "bytes_per_step"), "Int64"),
    "flags": "string",  # what disturbed the window, separated by "; "
}


def records(store: Path | str | None = None) -> pandas.DataFrame:
    """The measurements in a store as a table: one row for each window, oldest record first.

    `store`: a folder; None is $JOULECAST_STORE or the user's data folder. `energy_label` says whether `energy_j` was
    measured or modelled. A record that cannot be read is left out with a warning.

    >>> import joulecast as jc
    >>> jc.records("/no/such/folder").empty
    True
    """
    import warnings

    place = Store(None if store is None else Path(store))
    return to_frame(place.records(lambda problem: warnings.warn(problem, stacklevel=2)))


def to_frame(found: Iterable[Record]) -> pandas.DataFrame:
    """A row for each window of the records, with the columns of `measure export`."""
    import pandas

    rows = [_row(record, window) for record in found for window in record.windows]
    return pandas.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


def exported(found: Sequence[Record], form: str) -> bytes:
    """The records in one of `FORMATS`; JSON has everything, the others a row for each window.

    Raises JoulecastError for Parquet without pyarrow.
    """
    if form == "json":
        return (json.dumps([record.to_json() for record in found], indent=1, allow_nan=False) + "\n").encode()
    if form == "csv":
        return str(to_frame(found).to_csv(index=False, lineterminator="\n")).encode()
    buffer = io.BytesIO()
    try:
        to_frame(found).to_parquet(buffer, engine="pyarrow", index=False)
    except ImportError as error:
        raise JoulecastError(
            "writing Parquet needs pyarrow, which is not installed: pip install 'joulecast[parquet]'"
        ) from error
    return buffer.getvalue()


def _row(record: Record, window: MeasuredWindow) -> dict[str, Any]:
    work, reading = record.workload, window.reading
    return {
        "record": record.id,
        "run": record.run,
        "kind": record.kind,
        "name": record.name,
        "family": record.family,
        "created": record.created,
        "status": record.status,
        "hardware": hardware_name(record.host),
        "window": window.name,
        "steps": window.steps,
        "seconds": window.seconds,
        "energy_j": None if reading is None else reading.energy_j,
        "energy_label": "missing" if reading is None else reading.label,
        "meter": record.meter.get("name", ""),
        "batch_size": None if work is None else work.batch_size,
        "optimizer": None if work is None else work.optimizer,
        "parameters": None if work is None else work.parameters,
        "flops_per_step": None if work is None else work.flops,
        "bytes_per_step": None if work is None else work.bytes_moved,
        "flags": "; ".join(dict.fromkeys((*record.flags, *window.flags))),
    }
