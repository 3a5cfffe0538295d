"""The one error base: a message that says what, the value seen and the fix, in one line."""

from __future__ import annotations


class JoulecastError(Exception):
    """An input that cannot be used; the command line prints it as one line and exits with 1."""


class ModelError(JoulecastError):
    """The user's own model code failed. `frames` holds the traceback cut to the user's files."""

    def __init__(self, message: str, frames: str = "") -> None:
        super().__init__(message)
        self.frames = frames


class ProfileError(JoulecastError):
    """A profile that is missing, corrupt, of a newer schema, or that does not fit the workload."""


class HardwareError(JoulecastError):
    """Hardware that is not in the table."""


class FitError(JoulecastError):
    """Observations that cannot carry a fit."""


class MeterError(JoulecastError):
    """No counter that can be read, or one that failed."""
