"""The fitted time model: seconds of an op = sum of features times non-negative seconds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..base.errors import ProfileError
from ..trace.workload import Op
from .features import ANY, COMPUTE, FEATURES, LAUNCH, MEMORY, OTHERS, Array, Mask, Pieces, pieces


@dataclass(frozen=True, slots=True)
class Term:
    """Pieces of `kind` and `role` (`*` is any) take `seconds` s for each unit of `feature`.

    The role `others` is any that no other term of the kind and feature names.
    """

    kind: str
    role: str
    feature: str
    seconds: float

    @property
    def component(self) -> str:
        return FEATURES[self.feature].component


@dataclass(frozen=True, slots=True)
class Curves:
    """Additive over ops and monotone in their sizes, whatever the terms: none is negative."""

    terms: tuple[Term, ...]

    form: ClassVar[str] = "curves"
    components: ClassVar[tuple[str, ...]] = (COMPUTE, MEMORY, LAUNCH)

    def __post_init__(self) -> None:
        for term in self.terms:
            if term.feature not in FEATURES:
                raise ProfileError(f"time model has feature {term.feature!r}, which is not known; update joulecast")
            if not 0 <= term.seconds < float("inf"):
                raise ProfileError(f"time model prices {term.kind} {term.feature} at {term.seconds} s; fit it again")

    def seconds(self, ops: Sequence[Op]) -> Array:
        """Shape (ops, components): seconds of each op record, its count included."""
        parts = pieces(ops)
        result = np.zeros((len(ops), len(self.components)))
        values = {name: parts.values(name) for name in {term.feature for term in self.terms}}
        for term in self.terms:
            mask = self._covered(term, parts)
            column = self.components.index(term.component)
            np.add.at(result[:, column], parts.op[mask], values[term.feature][mask] * term.seconds)
        return result

    def _covered(self, term: Term, parts: Pieces) -> Mask:
        if term.role != OTHERS:
            return parts.mask(term.kind, term.role)
        named = {one.role for one in self.terms if (one.kind, one.feature) == (term.kind, term.feature)} - {ANY}
        unnamed: Mask = np.array([role not in named for role in parts.role], dtype=bool)
        return parts.mask(term.kind, ANY) & unnamed

    def to_json(self) -> dict[str, Any]:
        return {"terms": [[term.kind, term.role, term.feature, term.seconds] for term in self.terms]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Curves:
        return cls(tuple(Term(str(k), str(r), str(f), float(s)) for k, r, f, s in document["terms"]))
