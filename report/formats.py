"""The answers in the formats of papers, model cards and dashboards (docs/papers.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import bibtex, codecarbon, latex, modelcard

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer

_RENDERERS = {
    "modelcard": modelcard.model_card,
    "bibtex": bibtex.bibliography,
    "latex": latex.table,
    "codecarbon": codecarbon.emissions_csv,
}


def render(name: str, answers: Sequence[Answer]) -> str:
    """The answers as "modelcard", "bibtex", "latex" or "codecarbon", text that ends in a newline."""
    return _RENDERERS[name](answers)
