"""Fixtures of several files."""

import pytest

from joulecast.estimator.trace.repeats import EqualBlocks


@pytest.fixture
def left_out(monkeypatch):
    """How many blocks each run of a step has left out."""
    found = []
    finish = EqualBlocks.finish

    def finished(self):
        finish(self)
        found.append(self.left_out)

    monkeypatch.setattr(EqualBlocks, "finish", finished)
    return found
