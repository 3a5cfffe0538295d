"""A meter's background reader ends with its test."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_reader_left() -> Iterator[None]:
    before = threading.enumerate()
    yield
    assert not [one for one in threading.enumerate() if one.name == "joulecast-meter" and one not in before]
