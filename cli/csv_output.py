"""The answers as CSV: one row a model, or one a layer."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Any

from .answer import Answer

_INTERVALS = ("seconds", "energy_kwh", "facility_energy_kwh", "co2e_kg", "cost")
_PLAIN = ("profile", "hardware", "time_source", "power_source", "steps", "devices", "currency")
_WORKLOAD = ("batch_size", "optimizer", "precision", "parameters", "forward_flops_per_sample")


def print_csv(answers: Sequence[Answer], *, layers: bool) -> None:
    rows = [row for answer in answers for row in (_layer_rows(answer) if layers else [_row(answer)])]
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _row(answer: Answer) -> dict[str, Any]:
    document = answer.to_json()
    row: dict[str, Any] = {"model": document["model"]}
    for name in _INTERVALS:
        for end in ("value", "low", "high"):
            row[name if end == "value" else f"{name}_{end}"] = document[name][end]
    row.update({name: document[name] for name in _PLAIN})
    row.update({name: document["workload"][name] for name in _WORKLOAD})
    row["warnings"] = "; ".join(document["warnings"])
    return row


def _layer_rows(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"model": answer.model, **row, "output_shape": "x".join(map(str, row["output_shape"]))}
        for row in answer.layer_rows()
    ]
