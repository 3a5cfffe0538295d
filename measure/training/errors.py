"""Errors of trainings under meters."""

from __future__ import annotations

from ...estimator.base.errors import JoulecastError


class TrainingError(JoulecastError):
    """A training that failed, diverged, or cannot be continued."""
