"""The exception classes. A message is one line: what is wrong, the value seen and the fix.

Messages name fields in backticks, as Python spells them: "`batch_size` 0 cannot be used". A surface with other names
(the command line, a configuration file) replaces them with `name_fields`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIELD = re.compile(r"`([a-z][a-z0-9_]*)`")


class JoulecastError(Exception):
    """An input that cannot be used; the command line prints it as one line and exits with 1."""


class RequestError(JoulecastError):
    """Fields of a request that contradict each other or have no meaning together; the command line exits with 2."""


class ModelError(JoulecastError):
    """The user's own model code failed. `frames` is the traceback cut to the user's files.

    `is_final` says that the model fails in the same way with real tensors: the error depends on shapes alone.
    """

    def __init__(self, message: str, frames: str = "", *, is_final: bool = False) -> None:
        super().__init__(message)
        self.frames = frames
        self.is_final = is_final


class InternalError(ModelError):
    """A mistake of joulecast's own while it read a model. `frames` is its traceback."""


class NoModelError(JoulecastError):
    """A file holds nothing that is a model or builds one."""


class UndeclaredInputsError(JoulecastError):
    """Nothing says what a model takes."""


class ProfileError(JoulecastError):
    """A profile that is missing, corrupt or of a newer schema, or that does not fit the workload."""


class HardwareError(JoulecastError):
    """Hardware that cannot be used."""


class UnknownHardwareError(HardwareError):
    """Hardware that is not in the table."""


class FitError(JoulecastError):
    """Observations that a profile cannot be fitted on."""


class MeterError(JoulecastError):
    """No energy counter is readable, or one failed."""


def name_fields(message: str, names: Mapping[str, str]) -> str:
    """`message` with each field by its name on one surface: {"batch_size": "--batch-size"}. Others stay as they are."""
    return _FIELD.sub(lambda found: names.get(found[1], found[0]), message)
