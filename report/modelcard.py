"""The `co2_eq_emissions` metadata of Hugging Face model cards.

Keys and unit after https://huggingface.co/docs/hub/model-cards-co2: `emissions` is a number of grams
of CO2e; `source`, `training_type` ("pre-training" or "fine-tuning"), `geographical_location` and
`hardware_used` are text. Fields that joulecast does not know are comments to fill in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..estimator.answer import figures
from ..estimator.base.units import GRAMS_PER_KG
from .wording import carbon_of, hardware, one_line, origin, place, plain_number, summary

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer


def model_card(answers: Sequence[Answer]) -> str:
    """A YAML document per model, to be put between the `---` lines of its README.md."""
    return "---\n".join(_document(answer) for answer in answers)


def _document(answer: Answer) -> str:
    where, frozen = place(answer), answer.workload.trainable_parameters < answer.workload.parameters
    low, high = (figures.number(end * GRAMS_PER_KG) for end in (answer.co2e_kg.low, answer.co2e_kg.high))
    lines = [
        f"# {one_line(answer.model)}",
        f"# {summary(answer)}",
        f"# {carbon_of(answer)}",
        *(f"# note: {one_line(note)}" for note in answer.estimate.warnings),
        "co2_eq_emissions:",
        f"  emissions: {plain_number(answer.co2e_kg.value * GRAMS_PER_KG)} # g CO2e; 90 % interval {low} to {high}",
        f"  source: {_quoted(origin(answer))}",
        # Frozen parameters come from an earlier training; a network without them may be either.
        f"  training_type: {_quoted('fine-tuning')}" if frozen else "  # training_type: pre-training or fine-tuning",
        f"  geographical_location: {_quoted(where)}" if where else "  # geographical_location: not given (--region)",
        f"  hardware_used: {_quoted(hardware(answer))}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A double-quoted YAML scalar on one line."""
    return '"' + one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
