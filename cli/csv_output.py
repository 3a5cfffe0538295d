"""The answers as CSV: a row per model, per model and region, or per layer."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Any

from ..estimator.answer.answer import Answer


def print_csv(answers: Sequence[Answer], *, layers: bool) -> None:
    rows = [row for answer in answers for row in (_layer_rows(answer) if layers else answer.rows())]
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _layer_rows(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"model": answer.model, **row, "output_shape": "x".join(map(str, row["output_shape"]))}
        for row in answer.layer_rows()
    ]
