"""The answers as CSV: one row a model, one a model and region, or one a layer."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Any

from ..estimator.answer.answer import Answer
from ..estimator.place.regions import Place

_INTERVALS = ("seconds", "energy_kwh", "facility_energy_kwh", "co2e_kg", "cost")
_PLAIN = ("profile", "hardware", "time_source", "power_source", "steps", "devices", "currency")
_WORKLOAD = ("batch_size", "optimizer", "precision", "parameters", "forward_flops_per_sample")


def print_csv(answers: Sequence[Answer], *, layers: bool) -> None:
    rows = [row for answer in answers for row in (_layer_rows(answer) if layers else _rows(answer))]
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _rows(answer: Answer) -> list[dict[str, Any]]:
    row = _row(answer)
    return [{**row, **_of_place(place)} for place in answer.places] or [row]


def _row(answer: Answer) -> dict[str, Any]:
    document = answer.to_json()
    row: dict[str, Any] = {"model": document["model"]}
    for name in _INTERVALS:
        row.update(_ends(name, document[name]))
    row.update({name: document[name] for name in _PLAIN})
    row.update({name: document["workload"][name] for name in _WORKLOAD})
    row.update({name: document["site"][name] for name in ("carbon_g_per_kwh", "carbon_source")})
    row["warnings"] = "; ".join(document["warnings"])
    return row


def _of_place(place: Place) -> dict[str, Any]:
    """What a region changes in a model's row: its CO2e and where that comes from."""
    return {
        **_ends("co2e_kg", place.co2e_kg.to_json()),
        "carbon_g_per_kwh": place.region.carbon_g_per_kwh,
        "carbon_source": place.region.label,
        "region": place.region.code,
        "ratio_to_first": place.ratio,
        "cleanest": place.cleanest,
    }


def _ends(name: str, interval: dict[str, float]) -> dict[str, float]:
    return {name if end == "value" else f"{name}_{end}": interval[end] for end in ("value", "low", "high")}


def _layer_rows(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"model": answer.model, **row, "output_shape": "x".join(map(str, row["output_shape"]))}
        for row in answer.layer_rows()
    ]
